import threading

import numpy as np
import pytest

from streaming.ring import Ring


def ramp(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.float32)


def test_samples_come_out_in_order_across_the_seam() -> None:
    """Blocks wrap around the end of the storage and keep their order and positions."""
    ring = Ring(10)
    expected = 0
    for block in range(50):
        assert ring.write(ramp(block * 7, 7))
        chunk = ring.read()
        assert chunk is not None
        assert chunk.start == expected
        assert np.array_equal(chunk.pcm, ramp(expected, 7))
        expected += 7


def test_read_honours_its_limit() -> None:
    """A limited read leaves the rest for the next one."""
    ring = Ring(10)
    ring.write(ramp(0, 5))
    first, second = ring.read(3), ring.read(3)
    assert first is not None and second is not None
    assert first.pcm.tolist() == [0, 1, 2]
    assert second.start == 3 and second.pcm.tolist() == [3, 4]
    assert ring.read() is None


def test_read_into_fills_the_front_only() -> None:
    """What is not available is left to the caller."""
    ring = Ring(10)
    ring.write(ramp(1, 2))
    out = np.full(4, 9, np.float32)
    assert ring.read_into(out) == 2
    assert out.tolist() == [1, 2, 9, 9]


def test_a_full_ring_refuses_and_counts() -> None:
    """A block that does not fit is refused whole, and so is everything until the reader has noticed."""
    ring = Ring(10)
    assert ring.write(ramp(0, 8))
    assert not ring.write(ramp(8, 4))
    assert not ring.write(ramp(12, 1))
    assert ring.refused_samples == 5
    assert ring.overflows == 1


def test_the_reader_skips_to_the_newest_and_the_gap_shows() -> None:
    """After an overflow the next audio read is what arrived afterwards, at its true position."""
    ring = Ring(10)
    ring.write(ramp(0, 8))
    ring.write(ramp(8, 4))
    assert ring.read() is None
    assert ring.skipped_samples == 8
    ring.write(ramp(12, 3))
    chunk = ring.read()
    assert chunk is not None
    assert chunk.start == 12 and chunk.pcm.tolist() == [12, 13, 14]


def test_audio_refused_after_the_reader_looked_counts_in_the_position() -> None:
    """Positions stay true over several overflows."""
    ring = Ring(4)
    position = 0
    for count in (4, 3, 2, 4, 4, 1, 4, 2):
        ring.write(ramp(position, count))
        position += count
        chunk = ring.read() if count != 3 else None
        if chunk is not None:
            assert np.array_equal(chunk.pcm, ramp(chunk.start, len(chunk.pcm)))
    assert ring.overflows >= 1


def test_a_block_larger_than_the_ring_is_refused() -> None:
    """A block that can never fit does not damage what is inside."""
    ring = Ring(4)
    assert not ring.write(ramp(0, 5))
    assert ring.read() is None
    assert ring.write(ramp(5, 4))
    chunk = ring.read()
    assert chunk is not None and chunk.start == 5


def test_capacity_must_be_positive() -> None:
    """A ring of nothing is an error."""
    with pytest.raises(ValueError, match="at least one sample"):
        Ring(0)


def test_two_threads_never_see_a_wrong_sample() -> None:
    """With a producer far ahead of the reader, every sample read is the one of its position."""
    ring = Ring(257)
    blocks = 3000

    def produce() -> None:
        for block in range(blocks):
            ring.write(ramp(block * 31, 31))

    producer = threading.Thread(target=produce)
    producer.start()
    wrong, read, end = 0, 0, 0
    while producer.is_alive() or ring.available:
        chunk = ring.read(100)
        if chunk is None:
            continue
        assert chunk.start >= end
        end = chunk.start + len(chunk.pcm)
        wrong += int((chunk.pcm != ramp(chunk.start, len(chunk.pcm))).sum())
        read += len(chunk.pcm)
    producer.join()
    assert wrong == 0
    assert read + ring.refused_samples + ring.skipped_samples == blocks * 31


def test_what_is_dropped_is_not_read() -> None:
    """Only what is written afterwards; until the reader has passed over it, it can still be looked at."""
    ring = Ring(10)
    ring.write(np.arange(4, dtype=np.float32))
    ring.drop()
    assert (ring.available, ring.free, ring.dropping) == (0, 6, True)
    ring.write(np.arange(4, 7, dtype=np.float32))
    out = np.zeros(3, np.float32)
    assert ring.peek_into(out) == 3
    assert out.tolist() == [0, 1, 2]
    chunk = ring.read()
    assert chunk is not None
    assert (chunk.start, chunk.pcm.tolist()) == (4, [4, 5, 6])
    assert (ring.available, ring.free, ring.dropping) == (0, 10, False)
    assert ring.peek_into(out) == 0
