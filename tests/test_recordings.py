import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.bench.figures import loud_span
from training.recordings import Background, RecordingError, find_recordings, loudest_power


def tone(seconds: float, level: float, rate_hz: int = 24_000) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def test_manifest_commands_are_single_turns(tmp_path: Path) -> None:
    """Each line is one recording with its labels, resampled to 24 kHz."""
    soundfile.write(tmp_path / "a.wav", tone(1.0, 0.5, 16_000), 16_000)
    rows = [{"audio": "a.wav", "intent": "orderDrink", "slots": {"size": "small"}}, {"audio": "b.wav"}]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = find_recordings(tmp_path)
    assert first.turns[0].slots == {"size": "small"}
    assert len(first.turns[0].load()) == 24_000
    with pytest.raises(RecordingError, match=r"b\.wav"):
        second.turns[0].load()


def test_conversation_turns_are_cut_from_the_user_side(tmp_path: Path) -> None:
    """Turn times select the audio, with a margin of 100 ms where the file has it."""
    folder = tmp_path / "conv_000001"
    folder.mkdir()
    pcm = np.concatenate([np.zeros(24_000, np.float32), tone(1.0, 0.5), np.zeros(24_000, np.float32)])
    soundfile.write(folder / "user.wav", pcm, 24_000)
    turn = {"user": {"text": "hi", "intent": "greet", "start_s": 1.0, "end_s": 2.0}, "assistant": {"text": "Hello!"}}
    (folder / "meta.json").write_text(json.dumps({"id": "conv_000001", "split": "valid", "turns": [turn]}))
    (recording,) = find_recordings(tmp_path, split="valid")
    loaded = recording.turns[0].load()
    assert (recording.name, recording.turns[0].reply, len(loaded)) == ("conv_000001", "Hello!", 28_800)
    assert loud_span(loaded)[1] == pytest.approx(26_400, abs=480)


def test_conversations_of_the_other_split_are_left_out(tmp_path: Path) -> None:
    """Held-out figures come from held-out conversations."""
    for number, split in enumerate(["train", "valid"]):
        folder = tmp_path / f"conv_{number}"
        folder.mkdir()
        turn = {"user": {"text": "hi", "start_s": 1.0, "end_s": 2.0}, "assistant": {"text": "Hello!"}}
        (folder / "meta.json").write_text(json.dumps({"split": split, "turns": [turn]}))
    assert [r.name for r in find_recordings(tmp_path, split="valid")] == ["conv_1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.jsonl", '{"audio": "a.wav"}\n[1]\n', r"manifest\.jsonl:2"),
        ("manifest.jsonl", '{"audio"', r"manifest\.jsonl:1"),
        ("conv_1/meta.json", '{"turns": 3}', r"conv_1/meta\.json"),
        ("conv_1/meta.json", '{"turns": [{"user": {"text": "a"}, "assistant": {"text": "b"}}]}', "no times"),
        ("other.txt", "", "neither manifest"),
    ],
)
def test_bad_folders_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    """What is wrong with a folder is said with the file's name, and the line where there is one."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(RecordingError, match=message):
        find_recordings(tmp_path)


def test_limit_takes_the_first(tmp_path: Path) -> None:
    """A limit keeps the order."""
    (tmp_path / "manifest.jsonl").write_text("".join(f'{{"audio": "{i}.wav"}}\n' for i in range(5)))
    assert [r.name for r in find_recordings(tmp_path, 2)] == ["0", "1"]


@pytest.mark.parametrize("snr_db", [0.0, 12.0])
@pytest.mark.parametrize("noise_s", [1.0, 20.0], ids=["short", "long"])
def test_background_has_the_ratio_of_the_loudest_frames(tmp_path: Path, snr_db: float, noise_s: float) -> None:
    """Loudest 128 ms of speech over loudest 128 ms of noise, whatever the levels and lengths were."""
    speech = np.concatenate([tone(2.0, 0.01), tone(0.5, 0.3), tone(4.0, 0.01)])
    level = np.linspace(0.01, 0.9, round(noise_s * 24_000))
    soundfile.write(tmp_path / "n.wav", tone(noise_s, 1.0) * level, 24_000)
    noise = Background(tmp_path / "n.wav", 0.4, snr_db).load(speech)
    assert len(noise) == len(speech)
    assert 10 * np.log10(loudest_power(speech) / loudest_power(noise)) == pytest.approx(snr_db, abs=0.01)


def test_background_of_a_short_clip_still_lasts(tmp_path: Path) -> None:
    """A spoken digit does not hear a buzz of its own length."""
    soundfile.write(tmp_path / "n.wav", tone(8.0, 0.1), 24_000)
    assert len(Background(tmp_path / "n.wav", 0.0, 6.0).load(tone(0.3, 0.5))) == 5 * 24_000


def test_silent_background_is_an_error(tmp_path: Path) -> None:
    """No level makes silence loud enough."""
    soundfile.write(tmp_path / "n.wav", np.zeros(24_000), 24_000)
    with pytest.raises(RecordingError, match=r"n\.wav: it is silent"):
        Background(tmp_path / "n.wav", 0.0, 6.0).load(tone(0.3, 0.5))


def test_loudest_frame_is_128_ms() -> None:
    """A burst of half a frame counts half."""
    burst = np.zeros(24_000, np.float32)
    burst[:1_536] = 1.0
    assert loudest_power(burst) == pytest.approx(0.5)
