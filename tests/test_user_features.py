import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.tiny import run_main, speech_like
from training import user_features as module
from training.conversation import AssistantTurn, Conversation, Span, Turn, UserTurn, write_conversation
from training.phones import PHONES
from training.user_features import (
    DITHER,
    FRAME_S,
    SUB_FRAMES,
    UNKNOWN_PHONE,
    FrontEnd,
    UserFeatures,
    load_features,
    recording_jobs,
    save_features,
    spoken_text,
    turn_features,
    vary_turn,
)

TURN = UserTurn(
    text="large latte",
    start_s=1.0,
    end_s=2.0,
    words=(Span("large", 1.0, 1.5), Span("latte", 1.5, 2.0)),
    phones=(Span("L", 1.0, 1.5), Span("T", 1.5, 2.0)),
)


@pytest.fixture(scope="module")
def front() -> FrontEnd:
    """The shipped front end."""
    return FrontEnd()


def _track(seconds: float = 4.0) -> np.ndarray:
    """A tone from 1 to 2 s, another turn's louder one from 3 s on."""
    time = np.arange(round(seconds * 24_000)) / 24_000
    loud = 0.2 * ((time >= 1) & (time < 2)) + 0.8 * (time >= 3)
    return (loud * np.sin(2 * np.pi * 300 * time)).astype(np.float32)


def test_times_move_with_the_cut(front: FrontEnd, rng: np.random.Generator) -> None:
    """Words, phones and speech lie where the turn's sound lies in the cut audio."""
    made = turn_features(_track(), TURN, front, None, rng)
    assert made.end - made.start == pytest.approx(1.0 / FRAME_S)
    assert made.start * FRAME_S >= 0.4
    assert [word for word, _, _ in made.words] == ["large", "latte"]
    assert made.words[0][1] == pytest.approx(made.start)
    assert made.words[1][2] == pytest.approx(made.end)
    assert len(made.phones) == SUB_FRAMES * len(made.embedding)
    t_at = np.flatnonzero(made.phones == PHONES.index("T"))
    assert len(t_at) == pytest.approx(0.5 / FRAME_S * SUB_FRAMES, abs=1)
    assert t_at[-1] + 1 == pytest.approx(made.end * SUB_FRAMES, abs=1)
    assert (made.phones[: int(made.start * SUB_FRAMES) - 1] == PHONES.index("SIL")).all()


def test_other_turns_are_not_heard(rng: np.random.Generator) -> None:
    """What lies beyond a turn in its recording is replaced by near silence."""
    heard: list[np.ndarray] = []

    def listen(pcm: np.ndarray) -> np.ndarray:
        heard.append(pcm)
        return np.zeros((len(pcm) // 1920, 96), np.float32)

    made = turn_features(_track(), TURN, listen, None, rng)  # type: ignore[arg-type]
    pcm = heard[0]
    end = round(made.end * 1920)
    assert 0.15 < np.abs(pcm[:end]).max() < 0.25
    assert 0 < np.abs(pcm[end + 2400 :]).max() < 10 * DITHER
    assert len(pcm) - end >= 24_000


def test_recordings_without_times_are_one_turn(front: FrontEnd, rng: np.random.Generator) -> None:
    """The whole track is the turn; phones and word times are unknown."""
    made = turn_features(_track(2.0), UserTurn(text="large latte"), front, None, rng)
    assert made.end - made.start == pytest.approx(2.0 / FRAME_S)
    assert (made.phones == UNKNOWN_PHONE).all()
    assert made.words == [("large", None, None), ("latte", None, None)]


def test_varied_turns_keep_their_labels_in_step(rng: np.random.Generator) -> None:
    """Another speed changes times and sound together; without times nothing is changed."""
    track = _track()
    varied, turn = vary_turn(track, TURN, rng)
    assert turn.start_s == 0.0
    assert turn.end_s == pytest.approx(len(varied) / 24_000)
    assert [span.name for span in turn.phones] == ["L", "T"]
    assert turn.words[-1].end_s <= len(varied) / 24_000 + 1e-6
    plain = UserTurn(text="large latte")
    assert vary_turn(track, plain, rng) == (track, plain)


def test_round_trip(tmp_path: Path) -> None:
    """Saved turns and facts come back; nothing half written stays."""
    turn = UserFeatures(np.ones((3, 96), np.float16), np.zeros(12, np.uint8), "a", 0.5, 2.5, [("a", None, 2.0)])
    save_features(tmp_path / "a.npz", [turn, turn], {"split": "valid", "kind": "recording"})
    turns, meta = load_features(tmp_path / "a.npz")
    assert (meta["split"], meta["kind"], len(turns)) == ("valid", "recording", 2)
    assert (turns[1].words, turns[1].start, turns[1].end, turns[1].text) == ([("a", None, 2.0)], 0.5, 2.5, "a")
    np.testing.assert_array_equal(turns[0].embedding, turn.embedding)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_spoken_text() -> None:
    """Lower case words with apostrophes."""
    assert spoken_text("It's  a LARGE, hot-latte!") == "it's a large hot latte"


def test_speakers_are_held_out_whole(tmp_path: Path) -> None:
    """A speaker is either trained on or validated on, and clips without a text are left out."""
    rows = [{"audio": f"{s}_{i}.wav", "text": "Hi", "speaker": f"s{s:02}"} for s in range(20) for i in range(3)]
    rows.append({"audio": "x.wav", "speaker": "s00"})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs = recording_jobs(tmp_path, 0, 0)
    assert len(jobs) == 60
    split = {(job["audio"].split("/")[-1].split("_")[0], job["split"]) for job in jobs}
    assert len(split) == 20
    assert sum(job["split"] == "valid" for job in jobs) == 6
    assert len(recording_jobs(tmp_path, 7, 0)) == 7


def test_command_skips_what_is_done(tmp_path: Path) -> None:
    """Conversations and recordings become one file each; run again, they are left as they are."""
    conversation = Conversation("conv_000001", "coffee", "train", (Turn(TURN, AssistantTurn("Sure.")),))
    silence = np.zeros(96_000, np.float32)
    write_conversation(tmp_path / "conv", conversation, _track(), silence)
    (tmp_path / "people").mkdir()
    soundfile.write(tmp_path / "people" / "a.wav", speech_like(1.0), 24_000)
    (tmp_path / "people" / "manifest.jsonl").write_text('{"audio": "a.wav", "text": "Large latte."}\n')
    flags = ["--data_dir", tmp_path / "conv", "--recordings", tmp_path / "people", "--output", tmp_path / "out"]
    run_main(module.main, *flags, "--workers", 1)
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == ["conv_000001.npz", "rec_people_a.npz"]
    turns, meta = load_features(files[0])
    assert (meta["split"], meta["kind"], turns[0].text) == ("train", "conversation", "large latte")
    before = [path.stat().st_mtime_ns for path in files]
    run_main(module.main, *flags, "--workers", 1)
    assert [path.stat().st_mtime_ns for path in files] == before
