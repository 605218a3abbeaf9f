import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from training import segment_audio
from training.segment_audio import SegmentError, SegmentSettings, divide, find_stretches, measure, read_manifest

RATE = 16_000


def _sound(seconds: float, level: float = 0.3, rate: int = RATE) -> np.ndarray:
    return level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)


def _silence(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(round(seconds * rate)) * 1e-4


def _write(path: Path, parts: list[np.ndarray], rate: int = RATE) -> Path:
    sf.write(path, np.concatenate(parts), rate)
    return path


def _cut(path: Path, output: Path, **settings: float) -> dict:
    return segment_audio.segment_audio(path, output, SegmentSettings(**settings))


def test_a_recording_is_cut_at_its_long_pauses(tmp_path: Path) -> None:
    """Pauses of more than 0.8 s end a segment, shorter ones do not; the sound is all there, with its margins."""
    parts = [_silence(0.5), _sound(2), _silence(0.5), _sound(1.5), _silence(1.2), _sound(3), _silence(0.4)]
    manifest = _cut(_write(tmp_path / "a.wav", parts), tmp_path / "segments")
    spans = [(row["start_s"], row["end_s"]) for row in manifest["segments"]]
    assert spans == [pytest.approx((0.4, 4.6), abs=0.11), pytest.approx((5.6, 8.8), abs=0.11)]
    assert manifest["segments"][0]["pause_after_s"] == pytest.approx(1.0, abs=0.11)
    assert manifest == read_manifest(tmp_path / "segments")
    for row in manifest["segments"]:
        info = sf.info(tmp_path / "segments" / row["audio_file"])
        assert (info.samplerate, info.channels) == (24_000, 1)
        assert info.frames == pytest.approx(row["duration"] * 24_000, abs=1)
        assert row["duration"] == pytest.approx(row["end_s"] - row["start_s"], abs=0.001)
    assert [row["audio_file"] for row in manifest["segments"]] == ["segment_001.wav", "segment_002.wav"]


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(8_000, 1, "wav"), (44_100, 2, "flac"), (48_000, 3, "ogg")])
def test_any_rate_and_channels(tmp_path: Path, rate: int, channels: int, suffix: str) -> None:
    """The same places are found in other formats; channels are mixed."""
    mono = np.concatenate([_sound(3, rate=rate), _silence(1.5, rate), _sound(4, rate=rate)])
    path = tmp_path / f"a.{suffix}"
    sf.write(path, np.stack([mono] * channels, axis=1), rate)
    rows = _cut(path, tmp_path / "segments")["segments"]
    assert [row["start_s"] for row in rows] == pytest.approx([0.0, 4.4], abs=0.11)
    assert [row["end_s"] for row in rows] == pytest.approx([3.1, 8.5], abs=0.11)


def test_quiet_recordings_are_cut_in_the_same_places(tmp_path: Path) -> None:
    """Levels count from the recording's own loud speech, and segments come out at one loudness."""
    parts = [_sound(3), _silence(1.5) / 30, _sound(4)]
    loud = _cut(_write(tmp_path / "loud.wav", parts), tmp_path / "loud")
    soft = _cut(_write(tmp_path / "soft.wav", [part / 30 for part in parts]), tmp_path / "soft")
    assert [row["start_s"] for row in soft["segments"]] == [row["start_s"] for row in loud["segments"]]
    levels = [np.abs(sf.read(tmp_path / name / "segment_002.wav")[0]).max() for name in ("loud", "soft")]
    assert levels[1] == pytest.approx(levels[0], rel=0.05)


def test_speech_without_pauses_is_cut_where_it_is_quietest(tmp_path: Path) -> None:
    """Seven seconds in one breath, softer at 3.4 s: cut there, in two pieces of 3 to 5 s that share nothing."""
    parts = [_sound(3.4), _sound(0.2, 0.05), _sound(3.6)]
    rows = _cut(_write(tmp_path / "a.wav", parts), tmp_path / "segments")["segments"]
    assert len(rows) == 2
    assert rows[0]["end_s"] == rows[1]["start_s"] == pytest.approx(3.5, abs=0.11)
    assert [row["ends_in_pause"] for row in rows] == [False, True]


def test_pieces_keep_to_their_lengths() -> None:
    """However level the sound, no piece is too long, and none too short where that can be; nothing is lost."""
    settings = SegmentSettings()
    rng = np.random.default_rng(3)
    for blocks in (51, 73, 128, 999):
        pieces = divide(rng.uniform(-20, -10, blocks), settings)
        assert [piece[0] for piece in pieces[1:]] == [piece[1] for piece in pieces[:-1]]
        assert (pieces[0][0], pieces[-1][1]) == (0, blocks)
        lengths = [end - start for start, end in pieces]
        assert max(lengths) <= 50
        assert blocks < 60 or min(lengths) >= 30


def test_the_length_of_a_pause_decides() -> None:
    """Eight quiet blocks are no pause of more than 0.8 s, nine are."""
    for quiet, expected in ((8, 1), (9, 2)):
        db = np.concatenate([np.full(20, -15.0), np.full(quiet, -60.0), np.full(20, -15.0)])
        assert len(find_stretches(db, SegmentSettings())) == expected
    assert len(find_stretches(db, SegmentSettings(pause_s=1.0))) == 1
    assert len(find_stretches(db, SegmentSettings(threshold_db=-70.0))) == 1


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    """Silence, no audio, nothing, and settings without sense: the error names the file or the setting."""
    with pytest.raises(SegmentError, match=r"quiet\.wav: holds no speech"):
        _cut(_write(tmp_path / "quiet.wav", [_silence(5)]), tmp_path / "out")
    with pytest.raises(SegmentError, match=r"empty\.wav: holds no audio"):
        _cut(_write(tmp_path / "empty.wav", [np.zeros(0)]), tmp_path / "out")
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(SegmentError, match=r"text\.wav: cannot be read as audio"):
        _cut(tmp_path / "text.wav", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"missing\.wav"):
        segment_audio.main([str(tmp_path / "missing.wav"), "--output", str(tmp_path / "out")])
    with pytest.raises(SegmentError, match=r"min_s \(6\)"):
        SegmentSettings(min_s=6.0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SegmentError, match=r"manifest\.json: not a manifest"):
        read_manifest(tmp_path)


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is kept, what is missing is written; other settings start anew and leave nothing old behind."""
    path = _write(tmp_path / "a.wav", [_sound(3), _silence(1.5), _sound(3), _silence(1.5), _sound(3)])
    output = tmp_path / "segments"
    whole = _cut(path, output)
    (output / "segment_002.wav").unlink()
    (output / segment_audio.MANIFEST).unlink()
    kept = (output / "segment_001.wav").stat().st_mtime_ns
    assert _cut(path, output) == whole
    assert (output / "segment_002.wav").exists()
    assert (output / "segment_001.wav").stat().st_mtime_ns == kept
    assert len(_cut(path, output, pause_s=2.0, max_s=20.0)["segments"]) == 1
    assert [file.name for file in sorted(output.glob("*.wav"))] == ["segment_001.wav"]

    def broken(*_: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(segment_audio, "write_segment", broken)
    with pytest.raises(OSError, match="disk full"):
        _cut(path, output)
    assert not (output / segment_audio.MANIFEST).exists()


def test_long_files_are_read_in_pieces(tmp_path: Path) -> None:
    """Levels are the same however little is held in memory at once."""
    path = _write(tmp_path / "a.wav", [_sound(2), _silence(1), _sound(2.03)])
    whole = measure(path, 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_audio, "READ_BLOCKS", 3)
        np.testing.assert_allclose(measure(path, 0.1).db, whole.db)
    assert whole.frames == round(5.03 * RATE)


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line on the recording, one on the segments, and where the manifest is."""
    path = _write(tmp_path / "a.wav", [_sound(3), _silence(1.5), _sound(4)])
    segment_audio.main([str(path), "--output", str(tmp_path / "segments"), "--min_s", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a.wav: 8.5 s at 16000 Hz")
    assert lines[1].startswith("2 segments, 7.2 s")
    settings = json.loads((tmp_path / "segments" / "manifest.json").read_text())["settings"]
    assert settings["min_s"] == 2.0
