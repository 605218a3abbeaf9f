import numpy as np
import pytest

from tests.tiny import speech_like
from training.codec_baselines import BASELINES, BaselineError, codec2, ogg_payload_bytes
from training.codec_metrics import RATE_HZ, common_delay


def _page(granule: int, *packets: bytes) -> bytes:
    sizes = [len(packet) for packet in packets]
    assert max(sizes) < 255
    head = b"OggS\0\0" + granule.to_bytes(8, "little", signed=True) + bytes(12) + bytes([len(sizes), *sizes])
    return head + b"".join(packets)


def test_ogg_container_and_headers_do_not_count() -> None:
    """Only packets of audio are bits of the codec."""
    headers = _page(0, b"OpusHead") + _page(0, b"OpusTags" + bytes(80))
    assert ogg_payload_bytes(headers + _page(960, bytes(15), bytes(20)) + _page(-1, bytes(7))) == 42
    assert ogg_payload_bytes(headers) == 0
    with pytest.raises(ValueError, match="no Ogg page at byte 0"):
        ogg_payload_bytes(b"RIFF" + bytes(40))


@pytest.mark.parametrize(("name", "kbps"), [("opus-6k", 6.0), ("codec2-3200", 3.2), ("codec2-1300", 1.3)])
def test_baselines_carry_sound_at_their_rate(name: str, kbps: float) -> None:
    """What comes back is the same length, little late, and cost about what the name says."""
    if BASELINES[name].missing:
        pytest.skip(f"{BASELINES[name].package} is not installed")
    pcm = speech_like(4.0)
    made, bits = BASELINES[name].round_trip(pcm)
    assert abs(len(made) - len(pcm)) < 0.05 * 24_000
    assert bits / 4.0 / 1000 == pytest.approx(kbps, rel=0.35 if name == "opus-6k" else 0.01)
    assert 0.0 <= common_delay([pcm[::2]], [made[::2]]) * RATE_HZ / 12_000 < 0.05  # half of 24 kHz
    assert np.abs(made).max() <= 1.01


def test_a_failing_program_says_why() -> None:
    """The error names the program."""
    if BASELINES["codec2-1300"].missing:
        pytest.skip("codec2 is not installed")
    with pytest.raises(BaselineError, match="c2enc failed"):
        codec2("31415").round_trip(speech_like(1.0))


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline says what it lacks."""
    monkeypatch.setenv("PATH", "")
    assert BASELINES["opus-6k"].missing == ["opusenc", "opusdec"]
