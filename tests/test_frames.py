import numpy as np
import pytest

from streaming.frames import FRAME_SAMPLES, Frame, Framer, ms_to_samples, samples_to_ms


def ramp(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32)


def test_sizes_follow_from_the_rate() -> None:
    """An 80 ms frame at 24 kHz has 1920 samples, and times convert both ways."""
    assert FRAME_SAMPLES == 1920
    assert ms_to_samples(80) == 1920
    assert samples_to_ms(1919) == 79


@pytest.mark.parametrize("chunk", [1, 3, 10, 7, 25, 1000])
def test_chunked_equals_whole(chunk: int) -> None:
    """Frames do not depend on how the audio was cut."""
    pcm = ramp(103)
    framer = Framer(10)
    frames = [frame for i in range(0, len(pcm), chunk) for frame in framer.push(pcm[i : i + chunk])]
    assert [frame.start for frame in frames] == list(range(0, 100, 10))
    assert np.array_equal(np.concatenate([frame.pcm for frame in frames]), pcm[:100])
    assert framer.pending_samples == 3


def test_flush_pads_with_zeros() -> None:
    """The partial frame comes out padded, once, and the clock counts the padding."""
    framer = Framer(4)
    framer.push(ramp(4))
    framer.push(np.ones(1, np.float32))
    frame = framer.flush()
    assert frame is not None
    assert frame.start == 4 and frame.end == 8
    assert frame.pcm.tolist() == [1, 0, 0, 0]
    assert framer.flush() is None
    assert framer.position == 8


def test_frames_do_not_share_memory() -> None:
    """A later push leaves earlier frames alone."""
    framer = Framer(2)
    (first,) = framer.push(np.ones(2, np.float32))
    framer.push(np.zeros(2, np.float32))
    assert first.pcm.tolist() == [1, 1]


def test_a_gap_shows_in_start() -> None:
    """Missing audio drops the partial frame, counts it, and moves the clock."""
    framer = Framer(4)
    assert framer.push(ramp(3), start=0) == []
    (frame,) = framer.push(ramp(4), start=10)
    assert frame.start == 10
    assert framer.dropped_samples == 3


def test_audio_from_the_past_is_refused() -> None:
    """A start before audio already taken is an error."""
    framer = Framer(4)
    framer.push(ramp(5))
    with pytest.raises(ValueError, match="sample 2 arrived after sample 5"):
        framer.push(ramp(4), start=2)


def test_reset_equals_fresh() -> None:
    """After a reset nothing of the past is left."""
    framer = Framer(4)
    framer.push(ramp(7))
    framer.reset(100)
    frames = framer.push(ramp(4))
    assert [frame.start for frame in frames] == [100]
    assert frames[0].pcm.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("pcm", [np.zeros((2, 2), np.float32), np.zeros(4, np.float64)], ids=["stereo", "float64"])
def test_only_float32_mono_is_accepted(pcm: np.ndarray) -> None:
    """Other shapes and types are errors that say what was expected."""
    with pytest.raises(ValueError, match="expected"):
        Framer(4).push(pcm)


def test_frame_size_must_be_positive() -> None:
    """A frame of no samples is an error."""
    with pytest.raises(ValueError, match="frame_size"):
        Framer(0)


def test_a_frame_knows_its_end() -> None:
    """The end is one past the last sample."""
    assert Frame(np.zeros(5, np.float32), 7).end == 12
