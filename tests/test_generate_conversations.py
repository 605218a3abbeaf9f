import json
import random
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from training import generate_conversations as module
from training import online, timeline, tts, voices
from training.conversation import (
    SAMPLE_RATE,
    AssistantTurn,
    Conversation,
    ConversationError,
    Turn,
    UserTurn,
    read_conversation,
    write_conversation,
)
from training.domain import load_domain
from training.generate_conversations import Job, conversation_id, estimate_bytes, generate, make_conversation, split_of
from training.timeline import hesitate, insert_pause, lay_out
from training.tts import TtsError, Utterance
from training.voices import HELD_OUT, draw_voice, read_voices


@pytest.fixture
def job(repo_root: Path, tmp_path: Path) -> Job:
    """A job on the shipped domain with a fast agent voice."""
    return Job(repo_root / "configs/domains/coffee.yaml", tmp_path / "out", tts="flite:kal16", seed=5)


def _utterance(seconds: float = 1.0, words: int = 8) -> Utterance:
    """A tone of equal words, 50 ms of silence before and 100 ms after."""
    pcm = np.zeros(round((seconds + 0.15) * SAMPLE_RATE), np.float32)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pcm[1200 : 1200 + len(time)] = 0.2 * np.sin(2 * np.pi * 300 * time)
    step = seconds / words
    spans = tuple((f"w{i}", 0.05 + i * step, 0.05 + (i + 1) * step) for i in range(words))
    phones = tuple(("AA", s, e) for _, s, e in spans)
    return Utterance(pcm, spans, tts.tile(phones, len(pcm) / SAMPLE_RATE))


def test_conversations_are_right_and_do_not_depend_on_each_other(job: Job) -> None:
    """Number 3 alone is number 3 after others; sides alternate without overlap and words lie on sound."""
    domain = load_domain(job.domain)
    for index in (0, 1, 3):
        make_conversation(job, domain, index)
    first = json.loads((job.output_dir / conversation_id(3) / "meta.json").read_text())
    make_conversation(job, load_domain(job.domain), 3)
    again = json.loads((job.output_dir / conversation_id(3) / "meta.json").read_text())
    for a, b in zip(first["turns"], again["turns"], strict=True):
        assert a["user"]["text"] == b["user"]["text"]
        assert a["user"]["voice"] == b["user"]["voice"]
        assert a["assistant"]["marked_text"] == b["assistant"]["marked_text"]
        assert a["user"]["end_s"] == pytest.approx(b["user"]["end_s"], abs=0.05)
    for index in (0, 1, 3):
        conversation = read_conversation(job.output_dir / conversation_id(index))
        user, agent = conversation.load_audio()
        assert user.shape == agent.shape
        assert soundfile.info(conversation.folder / "user.wav").subtype == "PCM_16"  # type: ignore[operator]
        now = 0.0
        for turn in conversation.turns:
            for side, pcm in ((turn.user, user), (turn.assistant, agent)):
                assert side.start_s is not None and side.end_s is not None
                assert now + 0.25 < side.start_s < side.end_s
                now = side.end_s
                assert [w.name for w in side.words] == side.text.split()
                assert side.words[0].start_s == pytest.approx(side.start_s, abs=1e-3)
                inside = pcm[round(side.start_s * SAMPLE_RATE) : round(side.end_s * SAMPLE_RATE)]
                assert np.sqrt(np.mean(inside**2)) > 0.03
            assert "<" not in turn.assistant.text
        assert len(user) / SAMPLE_RATE == pytest.approx(now + 0.8, abs=0.05)
        assert not (np.abs(user) > 0.01)[np.abs(agent) > 0.01].any()


def test_generating_again_makes_only_what_is_missing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole folder is left alone, a broken one is made again, a temporary one is removed; disk use comes first."""
    assert generate(job, 2, 1) == []
    keep, broken = (job.output_dir / conversation_id(i) for i in (0, 1))
    stamp = (keep / "meta.json").stat().st_mtime_ns
    (broken / "user.wav").unlink()
    (job.output_dir / ".conv_000009.1.tmp").mkdir()
    capsys.readouterr()
    assert generate(job, 2, 1) == []
    assert "1 there already; to make: 1, about" in capsys.readouterr().out
    assert (keep / "meta.json").stat().st_mtime_ns == stamp
    assert (broken / "user.wav").is_file()
    assert not list(job.output_dir.glob(".*"))


def test_a_full_disk_is_refused_before_anything_is_made(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(ConversationError, match="not enough room"):
        generate(job, 3, 1)
    assert not list(job.output_dir.iterdir())


def test_failures_are_returned_not_raised(job: Job) -> None:
    """One bad voice does not stop the run; each failure has its reason."""
    bad = Job(job.domain, job.output_dir, tts="flite:nobody")
    failed = generate(bad, 2, 1)
    assert sorted(index for index, _ in failed) == [0, 1]
    assert "no voice" in failed[0][1]


def test_the_estimate_is_near(job: Job) -> None:
    """Estimated disk use of 8 conversations is within a factor of two of the truth."""
    domain = load_domain(job.domain)
    for index in range(8):
        make_conversation(job, domain, index)
    real = sum(f.stat().st_size for f in job.output_dir.rglob("*.wav"))
    assert 0.5 < estimate_bytes(job, range(8)) / real < 2.0


def test_command_line_errors_are_plain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing domain and a bad number end with a sentence, not a traceback."""
    assert module.main(["--domain", str(tmp_path / "none.yaml"), "--output_dir", str(tmp_path)]) == 2
    assert "none.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        module.main(["--num_pairs", "0"])


def test_valid_voices_are_never_heard_in_training() -> None:
    """A twentieth is valid; its voices and those of training share no name; half are espeak-ng, a fifth hibari."""
    assert sum(split_of(i) == "valid" for i in range(1000)) == 50
    rng = random.Random(1)
    train = [draw_voice(rng, "train") for _ in range(1500)]
    valid = [draw_voice(rng, "valid") for _ in range(300)]

    def name(voice: str) -> str:
        spec = tts.VoiceSpec.parse(voice)
        return spec.voice.partition("+")[2] or spec.voice

    assert not {name(v) for v in train} & {name(v) for v in valid}
    assert {name(v) for v in valid} == {*HELD_OUT, "awb"}
    assert len({name(v) for v in train}) > 60
    assert sum(v.startswith("espeak") for v in train) / 1500 == pytest.approx(0.5, abs=0.05)
    assert sum(v.startswith("hibari") for v in train) / 1500 == pytest.approx(0.2, abs=0.04)
    for voice in train:
        if voice.startswith("hibari"):
            assert 0.4 <= float(tts.VoiceSpec.parse(voice).options["f0"]) <= 1.6


def test_voice_files_name_the_wrong_line(tmp_path: Path) -> None:
    """Comments and blank lines are skipped."""
    path = tmp_path / "voices.txt"
    path.write_text("# mine\n\nespeak:en-us+f3\nflite:rms\n")
    assert read_voices(path) == ("espeak:en-us+f3", "flite:rms")
    path.write_text("espeak:en-us\nnonsense\n")
    with pytest.raises(TtsError, match=r"voices\.txt:2"):
        read_voices(path)
    path.write_text("# nothing\n")
    with pytest.raises(TtsError, match="names no voice"):
        voices.read_voices(path)


def test_an_inserted_pause_is_quiet_and_moves_what_follows(rng: np.random.Generator) -> None:
    """Words before the cut stay, words after move by the pause, and the phones show a silence there."""
    said = _utterance()
    cut = said.words[4][1]
    paused = insert_pause(said, cut, 0.5, rng)
    assert paused.duration_s == pytest.approx(said.duration_s + 0.5, abs=1e-3)
    assert paused.words[3] == said.words[3]
    assert paused.words[4][1] == pytest.approx(cut + 0.5, abs=1e-3)
    silent = [(s, e) for n, s, e in paused.phones if n == "SIL" and abs(s - cut) < 1e-3]
    assert len(silent) == 1
    assert silent[0] == pytest.approx((cut, cut + 0.5), abs=1e-3)
    quiet = paused.pcm[round((cut + 0.01) * SAMPLE_RATE) : round((cut + 0.49) * SAMPLE_RATE)]
    assert 0 < np.abs(quiet).max() < 1e-3


def test_a_pause_inside_a_phone_splits_it(rng: np.random.Generator) -> None:
    """The phone goes on after the silence."""
    paused = insert_pause(_utterance(words=1), 0.5, 0.2, rng)
    assert [p[0] for p in paused.phones] == ["SIL", "AA", "SIL", "AA", "SIL"]


def test_a_pause_moves_a_word_without_length(rng: np.random.Generator) -> None:
    """A synthesiser may swallow an "a": its end once stayed behind its start, which no reader accepted."""
    said = _utterance(words=1)
    words = (("a", 0.5, 0.5), *said.words)
    paused = insert_pause(Utterance(said.pcm, words, said.phones), 0.5, 0.2, rng)
    assert paused.words[0][1:] == pytest.approx((0.7, 0.7))


def test_a_third_of_long_utterances_hesitate() -> None:
    """Short ones never do."""
    rng = random.Random(0)
    assert all(hesitate(s, rng) is s for s in [_utterance(words=3)] * 50)
    long = _utterance()
    share = sum(hesitate(long, rng) is not long for _ in range(400)) / 400
    assert share == pytest.approx(timeline.PAUSE_PROBABILITY, abs=0.07)


def test_the_timeline_has_human_gaps() -> None:
    """Every gap between end and start of speech lies in its range, and the audio is where the times say."""
    pairs = [(_utterance(1.0), _utterance(1.5)) for _ in range(4)]
    user, agent, placed = lay_out(pairs, random.Random(2))
    assert len(user) == len(agent)
    assert timeline.LEAD_S[0] - 1e-3 < placed[0][0].start_s < timeline.LEAD_S[1] + 1e-3
    for index, (mine, theirs) in enumerate(placed):
        assert 0.499 < theirs.start_s - mine.end_s < 0.901
        if index:
            assert 0.399 < mine.start_s - placed[index - 1][1].end_s < 1.001
        start = round(mine.start_s * SAMPLE_RATE)
        assert not user[start - 200 : start].any()
        assert np.abs(user[start : start + 200]).max() > 0.05


def _write_meta(folder: Path, meta: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))


def test_peoples_own_recordings_need_only_texts(tmp_path: Path) -> None:
    """Other sample rates and stereo are converted; times are absent."""
    _write_meta(tmp_path / "mine", {"turns": [{"user": {"text": "a latte"}, "assistant": {"text": "Sure."}}]})
    soundfile.write(tmp_path / "mine/user.wav", np.zeros((16000, 2)), 16000)
    soundfile.write(tmp_path / "mine/assistant.wav", np.zeros(48000 + 480), 48000)
    conversation = read_conversation(tmp_path / "mine")
    assert conversation.id == "mine"
    assert conversation.split == "train"
    assert conversation.turns[0].user.start_s is None
    assert conversation.turns[0].assistant.marked_text == "Sure."
    user, agent = conversation.load_audio()
    assert user.shape == agent.shape == (24240,)


TURN = {"user": {"text": "hi"}, "assistant": {"text": "Hello."}}


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ([], "the file: must be an object"),
        ({}, "turns: is missing or empty"),
        ({"version": 2, "turns": [TURN]}, "version: 2 is not supported"),
        ({"turns": [TURN], "spilt": "train"}, "spilt: unknown field"),
        ({"turns": [TURN], "split": "test"}, "split: 'test' must be one of"),
        ({"turns": [{"user": {"text": "hi"}}]}, r"turns\[0\].assistant: is missing"),
        ({"turns": [{**TURN, "user": {"text": 3}}]}, r"turns\[0\].user.text: must be text"),
        ({"turns": [{**TURN, "user": {"text": " "}}]}, r"turns\[0\].user.text: is empty"),
        ({"turns": [{**TURN, "user": {"text": "hi", "start_s": "0"}}]}, r"turns\[0\].user.start_s: must be seconds"),
        (
            {"turns": [{**TURN, "user": {"text": "hi", "start_s": 2, "end_s": 1}}]},
            r"turns\[0\].user.end_s: 1.0 is before",
        ),
        (
            {"turns": [{**TURN, "user": {"text": "hi", "phones": [{"phone": "Q", "start_s": 0, "end_s": 1}]}}]},
            r"turns\[0\].user.phones\[0\].phone: 'Q'",
        ),
        (
            {"turns": [{**TURN, "user": {"text": "hi", "words": [{"word": "hi", "start_s": 0}]}}]},
            r"turns\[0\].user.words\[0\].end_s",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path: Path, meta: object, reason: str) -> None:
    """Every error starts with the path of meta.json and says which field."""
    _write_meta(tmp_path / "c", meta)
    with pytest.raises(ConversationError, match=rf"meta\.json: {reason}"):
        read_conversation(tmp_path / "c")


def test_unreadable_folders_are_named(tmp_path: Path) -> None:
    """No file, no JSON, no audio, and audio of two lengths."""
    with pytest.raises(ConversationError, match="no such file"):
        read_conversation(tmp_path)
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(ConversationError, match="not readable as JSON"):
        read_conversation(tmp_path)
    _write_meta(tmp_path, {"turns": [TURN]})
    with pytest.raises(ConversationError, match=r"user\.wav: not a readable recording"):
        read_conversation(tmp_path).load_audio()
    soundfile.write(tmp_path / "user.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    soundfile.write(tmp_path / "assistant.wav", np.zeros(4 * SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(ConversationError, match="one timeline"):
        read_conversation(tmp_path).load_audio()


def test_writing_and_reading_return_the_same(tmp_path: Path) -> None:
    """All fields survive; the two sides must have one length."""
    turn = Turn(UserTurn("hi", "greet", "espeak:en-us", 0.1, 0.5), AssistantTurn("Hello.", "Hello."), {"items": []}, ())
    wanted = Conversation("conv_000001", "coffee", "valid", (turn,))
    silence = np.zeros(100, np.float32)
    read = read_conversation(write_conversation(tmp_path, wanted, silence, silence))
    assert (read.id, read.domain, read.split, read.turns) == (wanted.id, wanted.domain, wanted.split, wanted.turns)
    with pytest.raises(ConversationError, match="differ"):
        write_conversation(tmp_path, wanted, silence, silence[1:])


class _Service(BaseHTTPRequestHandler):
    answer: ClassVar[bytes] = b""
    asked: ClassVar[list[tuple[str, dict]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.path, body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(type(self).answer)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    """A local stand-in for an OpenAI-compatible service."""
    server = HTTPServer(("127.0.0.1", 0), _Service)
    _Service.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_rewording_is_taken_only_when_it_says_the_same(job: Job, service: str) -> None:
    """A reply that loses the milk is thrown away."""
    domain = load_domain(job.domain)
    reply = "Okay, a <emph>large latte with soy milk. Anything else<pitch_rising>?"
    asked = Job(job.domain, job.output_dir, text_api=service)
    for text, taken in (("Sure, a large latte with soy milk! More?", True), ("Sure, a large latte! More?", False)):
        _Service.answer = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        assert module._reply(asked, domain, "a large latte", reply, random.Random(0)) == (text if taken else reply)
    assert _Service.asked[0][0] == "/v1/chat/completions"
    _Service.answer = b"{}"
    with pytest.raises(online.OnlineError, match="holds no text"):
        online.reword(service, "m", "a", "b", 1)


def test_online_speech_needs_no_times(tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audio is trimmed by its energy; words and phones stay empty."""
    pcm = np.zeros(16000)
    pcm[4000:12000] = 0.1 * np.sin(np.arange(8000) / 5)
    soundfile.write(tmp_path / "a.wav", pcm, 16000)
    _Service.answer = (tmp_path / "a.wav").read_bytes()
    monkeypatch.delenv(online.SPEECH_URL_VARIABLE, raising=False)
    with pytest.raises(online.OnlineError, match="--speech_api"):
        tts.synthesise("hello", "openai:alloy")
    monkeypatch.setenv(online.SPEECH_URL_VARIABLE, service)
    said = tts.synthesise("hello", "openai:alloy")
    assert said.duration_s == pytest.approx(0.5, abs=0.03)
    assert (said.words, said.phones) == ((), ())
    assert _Service.asked[-1][1]["voice"] == "alloy"
    _Service.answer = b"no audio"
    with pytest.raises(online.OnlineError, match="no readable audio"):
        tts.synthesise("hello", "openai:alloy")
