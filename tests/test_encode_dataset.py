import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.errors import ArtefactError
from models.features import FRAME_SIZE, SAMPLE_RATE
from models.lexicon import Lexicon
from models.tokenizer import FIRST_PIECE, Tokenizer
from tests.tiny import CODEC, run_main, speech_like, tokenizer, write_checkpoints
from training import encode_dataset
from training.audio_data import audio_files, crop, held_pitch, load_clips, make_clip, read_audio
from training.conversation import AssistantTurn, Conversation, Span, Turn, UserTurn, write_conversation
from training.encode_dataset import EncodedTurn, encode_folder, load_codes, save_codes
from training.encoders import CodecEncoders
from training.replies import HEAD_S, place_sounds, reply_audio, spread_words
from training.train_tokenizer import main as tokenizer_main
from training.user_features import FrontEnd, UserFeatures, save_features

REPLY = AssistantTurn("Sure, latte.", start_s=1.5, end_s=2.5, words=(Span("Sure,", 1.5, 2.0), Span("latte.", 2.0, 2.5)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec with features, and one conversation of one turn."""
    folder = tmp_path_factory.mktemp("data")
    write_checkpoints(folder)
    user = UserTurn("large latte", start_s=0.2, end_s=1.2)
    conversation = Conversation("conv_000001", "coffee", "valid", (Turn(user, REPLY),))
    write_conversation(folder / "conv", conversation, speech_like(3.21), speech_like(3.21, 1))
    embedding = FrontEnd()(speech_like(2.4)).astype(np.float16)
    turn = UserFeatures(embedding, np.zeros(120, np.uint8), "large latte", 6.0, 18.0, [("large", None, None)] * 2)
    (folder / "codec" / "features").mkdir()
    save_features(folder / "codec" / "features" / "conv_000001.npz", [turn], {"split": "valid"})
    return folder


def test_command_writes_what_training_reads(data: Path, tmp_path: Path) -> None:
    """Codes inside their alphabets, words on their frames, the split of the conversation."""
    run_main(
        encode_dataset.main, "--data_dir", data / "conv", "--codec", data / "codec", "--output", tmp_path / "codes"
    )
    splits = load_codes(tmp_path / "codes" / "codes_0.npz")
    assert [len(splits[name]) for name in ("train", "valid")] == [0, 1]
    turn = splits["valid"][0][0]
    assert turn.user.shape == (30, len(CODEC.semantic_levels))
    assert turn.agent.shape == (14, len(CODEC.agent_levels))  # 1.12 s
    assert turn.user.max() < 1000
    assert turn.agent[:, 1:].max() < 1000
    assert turn.speech == (6.0, 18.0)
    assert [frame for _, frame in turn.user_words] == [12.0, 18.0]  # spread evenly, by their ends
    pieces = tokenizer()
    assert [ids for ids, _ in turn.agent_words] == [pieces.encode("Sure,"), pieces.encode("latte.")]
    assert [frame for _, frame in turn.agent_words] == pytest.approx([HEAD_S / 0.08, (0.5 + HEAD_S) / 0.08])
    assert not list((tmp_path / "codes").glob("*.part"))


def test_codes_round_trip(tmp_path: Path) -> None:
    """Turns of any length come back in order, under their split."""
    turns = [
        EncodedTurn(
            np.full((n, 2), n, np.uint16), (1.0, 2.5), [([4, 5], 1.5)], np.full((n + 1, 3), n, np.uint16), [], "B"
        )
        for n in (3, 1, 2)
    ]
    rows = [{"id": "a", "split": "train", "turns": turns[:2]}, {"id": "b", "split": "valid", "turns": turns[2:]}]
    save_codes(tmp_path / "x" / "codes_0.npz", rows)
    splits = load_codes(tmp_path / "x" / "codes_0.npz")
    made = [*splits["train"][0], *splits["valid"][0]]
    for one, other in zip(made, turns, strict=True):
        np.testing.assert_array_equal(one.user, other.user)
        np.testing.assert_array_equal(one.agent, other.agent)
        assert (one.speech, one.user_words, one.agent_text) == (other.speech, other.user_words, other.agent_text)


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "empty"])
def test_bad_code_files_are_named(tmp_path: Path, damage: str) -> None:
    """A file cut short (a bad zip archive once was another kind of error) is named, and so are all others."""
    path = tmp_path / "codes_0.npz"
    turn = EncodedTurn(np.zeros((900, 2), np.uint16), (0, 1), [], np.zeros((5, 3), np.uint16), [], "")
    save_codes(path, [{"id": "a", "split": "train", "turns": [turn]}])
    content = {"truncated": path.read_bytes()[:-40], "garbage": b"PK\x03\x04 no", "empty": b""}.get(damage)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"codes_0\.npz"):
        load_codes(path)


def test_replies_start_on_a_frame() -> None:
    """Wherever a sentence lies on the track, it is cut at the same offset: it has the same codes everywhere."""
    voice = speech_like(1.0, 3)
    cut = []
    for start in (1000, 40_321):
        track = np.zeros(96_000, np.float32)
        track[start : start + len(voice)] = voice
        turn = AssistantTurn("a", start_s=start / SAMPLE_RATE, end_s=(start + len(voice)) / SAMPLE_RATE)
        pcm, start_s = reply_audio(track, turn)
        assert start_s == pytest.approx(start / SAMPLE_RATE - HEAD_S)
        assert len(pcm) % FRAME_SIZE == 0
        cut.append(pcm)
    np.testing.assert_array_equal(cut[0], cut[1])
    early, _ = reply_audio(voice, AssistantTurn("a", start_s=0.0, end_s=0.5))
    np.testing.assert_array_equal(early[480:4000], voice[: 4000 - 480])


def test_words_without_times_are_spread() -> None:
    """People's own recordings need no times."""
    words = spread_words(AssistantTurn("Sure, a latte", start_s=1.0, end_s=1.72), tokenizer(), 1.0)
    assert [frame for _, frame in words] == pytest.approx([0.0, 3.0, 6.0])


def test_tokens_stand_ahead_of_what_they_change() -> None:
    """A pause at the end of the word before it, others right before their word, which keeps its frame."""
    pieces = tokenizer()
    spans = tuple(Span(word, at, at + 0.3) for word, at in (("a", 1.0), ("large", 1.4), ("latte.", 2.6)))
    turn = AssistantTurn("a large latte.", start_s=1.0, end_s=2.9, words=spans)
    words = spread_words(turn, pieces, 1.0, "a <pitch_low>large <pause_long><pitch_rising><emph>latte.")
    assert [ids for ids, _ in words] == [
        pieces.encode(text) for text in ("a", "<pitch_low><pitch_rising>large", "<pause_long>", "<emph>latte.")
    ]
    assert [frame for _, frame in words] == pytest.approx([0.0, 0.4 / 0.08 - 2, 0.7 / 0.08, 1.6 / 0.08 - 1])
    with pytest.raises(ValueError, match="does not have the words 'a large latte"):
        spread_words(turn, pieces, 1.0, "a <emph>latte.")


def test_replies_are_spoken_anew_with_their_tokens(data: Path, tmp_path: Path) -> None:
    """With --prosody the reply is hibari's, its tokens are in the text stream, and the pause is in the audio."""
    meta = data / "conv" / "conv_000001" / "meta.json"
    marked = json.loads(meta.read_text("utf8"))
    marked["turns"][0]["assistant"]["marked_text"] = "Sure,<pause_long> <emph>latte."
    folder = tmp_path / "conv" / "conv_000001"
    shutil.copytree(meta.parent, folder)
    turns = {}
    for text in ("Sure, latte.", "Sure,<pause_long> <emph>latte."):
        marked["turns"][0]["assistant"]["marked_text"] = text
        (folder / "meta.json").write_text(json.dumps(marked), "utf8")
        flags = ["--data_dir", tmp_path / "conv", "--codec", data / "codec", "--output", tmp_path / "codes"]
        run_main(encode_dataset.main, *flags, "--features", data / "codec" / "features", "--prosody")
        turns[text] = load_codes(tmp_path / "codes" / "codes_0.npz")["valid"][0][0]
    plain, paused = turns.values()
    pieces = tokenizer()
    assert [ids for ids, _ in paused.agent_words] == [
        pieces.encode("Sure,"), pieces.encode("<pause_long>"), pieces.encode("<emph>latte.")
    ]  # fmt: skip
    assert paused.agent_text == plain.agent_text == "Sure, latte."
    assert 6 <= len(paused.agent) - len(plain.agent) <= 12  # 600 to 750 ms, and a longer word
    np.testing.assert_array_equal(paused.user, plain.user)


def test_lines_with_wrong_tokens_are_named(data: Path, tmp_path: Path) -> None:
    """A line of text to speak may hold tokens, but only known ones."""
    (tmp_path / "lines.txt").write_text("a latte\n\nan <emp>espresso\n", "utf8")
    flags = ["--open_text", tmp_path / "lines.txt", "--codec", data / "codec", "--output", tmp_path]
    with pytest.raises(ValueError, match=r"lines\.txt:3: unknown prosody tag <emp>"):
        run_main(encode_dataset.main, *flags)


def test_folder_of_recordings_is_encoded(data: Path) -> None:
    """One file beside the recordings, a code row a frame."""
    path = encode_folder(data / "conv" / "conv_000001", data / "codec")
    frames = -(-soundfile.info(path.parent / "user.wav").frames // FRAME_SIZE)
    with np.load(path) as codes:
        assert codes["user"].shape == (frames, len(CODEC.semantic_levels))
        assert codes["agent"].shape == (frames, len(CODEC.agent_levels))
    path.unlink()


def test_missing_parts_are_named(data: Path, tmp_path: Path) -> None:
    """A codec that is not trained yet, and conversations without features."""
    with pytest.raises(ArtefactError, match=r"semantic\.json"):
        CodecEncoders(tmp_path)
    flags = ["--data_dir", data / "conv", "--codec", data / "codec", "--features", tmp_path, "--output", tmp_path]
    with pytest.raises(ValueError, match=r"run training\.user_features first"):
        run_main(encode_dataset.main, *flags)


def test_tokenizer_of_a_data_set(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every word said on either side is a piece of its own."""
    run_main(tokenizer_main, "--data_dir", data / "conv", "--output", tmp_path / "t.json")
    pieces = Tokenizer.load(tmp_path / "t.json")
    assert [len(pieces.encode(word)) for word in ("large", "latte", "Sure")] == [1, 1, 1]
    assert "t.json" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no conv_"):
        run_main(tokenizer_main, "--data_dir", tmp_path, "--output", tmp_path / "t.json")


def test_audio_is_read_as_mono_24_khz(tmp_path: Path) -> None:
    """Other rates and channels are converted; what is no audio is named."""
    time = np.arange(16_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], axis=1), 16_000)
    pcm = read_audio(tmp_path / "a.wav")
    assert pcm.shape == (24_000,)
    assert pcm.dtype == np.float32
    assert np.sqrt(np.mean(pcm**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    (tmp_path / "b.wav").write_text("no audio")
    with pytest.raises(ValueError, match=r"b\.wav"):
        read_audio(tmp_path / "b.wav")
    assert [path.name for path in audio_files(tmp_path)] == ["a.wav", "b.wav"]
    assert len(load_clips([tmp_path / "a.wav"] * 5, 1.5)) == 2


def test_crops_are_of_whole_frames_and_in_step(rng: np.random.Generator) -> None:
    """Sound and analysis of a crop belong together; a short clip is padded with silence."""
    clip = make_clip(speech_like(2.0))
    pcm, mel, pitch, held = crop(clip, 6, rng)
    starts = [i for i in range(len(clip.mel64)) if np.array_equal(clip.mel64[i].astype(np.float32), mel[0])]
    assert [i % 8 for i in starts] == [0]
    expected = clip.pcm[starts[0] * 240 :][: len(pcm)].astype(np.float32) / 32767
    np.testing.assert_array_equal(pcm, expected)
    assert (len(pcm), mel.shape, pitch.shape, held.shape) == (6 * FRAME_SIZE, (48, 64), (48, 3), (48, 2))
    pcm, mel, pitch, _ = crop(clip, 40, rng)
    assert (pcm[25 * FRAME_SIZE :] == 0).all()
    assert (mel[200:] == -7.0).all()
    assert (pitch[200:, 1] == 0.0).all()


def test_pitch_is_held_through_unvoiced_hops() -> None:
    """The last voiced value stays; before the first there is zero."""
    pitch = np.array([[9, 0.1, -2], [0.5, 0.9, -2], [9, 0.1, -2], [0.7, 0.9, -6.5], [0.2, 0.8, -3]], np.float32)
    expected = np.array([[0, 0], [0.5, 1], [0.5, 0], [0.5, 0], [0.2, 1]])
    np.testing.assert_allclose(held_pitch(pitch), expected, atol=1e-6)


def test_first_code_is_of_the_first_frame(data: Path) -> None:
    """Silence is put before a reply only to warm the encoder up: its codes are not the reply's."""
    encoders = CodecEncoders(data / "codec")
    sound, silence = speech_like(0.4, 1), np.zeros(FRAME_SIZE * 5, np.float32)
    made, quiet = encoders.acoustic(sound), encoders.acoustic(silence)
    assert len(made) == len(sound) // FRAME_SIZE
    assert (made[0] != quiet[0]).any()


def test_sounds_stand_where_they_are_heard() -> None:
    """A word is spread over its time by its phones; its token and its comma stay with their neighbours."""
    lexicon = Lexicon({"tree": "tɹˈi"})
    singles = [lead + phone for phone in "tɹˈi" for lead in ("", " ")]
    pieces = Tokenizer.train(["a latte,"], sounds=[*singles, " tɹˈ"], lexicon=lexicon)
    first = FIRST_PIECE + len(pieces.pieces)
    tree = [first + pieces.sounds.index(sound) for sound in (" tɹˈ", "i")]
    assert [pieces.phones(token) for token in (*tree, pieces.encode("a")[0])] == [2, 1, 0]
    assert place_sounds(pieces, "tree,", 10.0, 16.0) == [([tree[0]], 10.0), ([tree[1], pieces.encode("a,")[1]], 14.0)]
    emph = pieces.encode("<emph>")
    assert place_sounds(pieces, "<emph>tree", 10.0, 16.0) == [([*emph, tree[0]], 10.0), ([tree[1]], 14.0)]
    assert place_sounds(pieces, "latte,", 3.0, 9.0) == [(pieces.encode("latte,"), 3.0)]
