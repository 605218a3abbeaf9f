"""The speaker's samples on the microphone's clock."""

import numpy as np
import pytest

from streaming.far_end import FarEnd, between

RATE, BLOCK = 24_000, 240


def ramp(start: int, count: int) -> np.ndarray:
    return (np.arange(start, start + count) / 1e6).astype(np.float32)


def test_without_drift_the_samples_pass_through_in_order() -> None:
    """What is read goes on where it stopped, whatever the sizes of the blocks."""
    far, given, out = FarEnd(), 0, []
    for size in (240, 480, 100, 380, 240) * 40:
        far.play(ramp(given, size))
        given += size
        far.line_up(size)
        out.append(far.read(size))
    steps = np.diff(np.concatenate(out)[BLOCK + 2 :])
    assert steps == pytest.approx(np.full(len(steps), 1e-6), abs=1e-8)
    assert far.moved == 0


@pytest.mark.parametrize("ppm", [-150, 150])
def test_drift_is_made_good(ppm: int) -> None:
    """In ten minutes the clocks part by 90 ms; the reference stays within 30, without a jump."""
    far, given, due, leftover = FarEnd(), 0, 0.0, []
    second = np.zeros(RATE // 4, np.float32)
    for _ in range(600 * 4):
        due += len(second) * (1 + ppm * 1e-6)
        count = int(due - given) // BLOCK * BLOCK
        far.play(second[:1].repeat(count))
        given += count
        far.line_up(len(second))
        far.read(len(second))
        leftover.append(given - far.position)
    assert max(leftover[40:]) - min(leftover[40:]) < 0.03 * RATE
    assert far.moved == 0
    assert 0.3 < 1e6 * far.drift / ppm < 2.0


def test_lost_audio_is_lined_up_anew() -> None:
    """When a fifth of a second of the speaker's audio was never heard, the reference jumps, once, and says so."""
    far, told = FarEnd(), 0
    for block in range(500):
        far.play(ramp(block * BLOCK, BLOCK))
        if block == 200:
            far.play(ramp(0, RATE // 5))
        told += far.line_up(BLOCK)
        far.read(BLOCK)
    assert told == far.moved == 1


def test_a_speaker_that_stops_for_a_moment_leaves_no_hole_behind() -> None:
    """After 120 ms in which nothing was played the reference is whole again at once, not at the end of a second."""
    far, given, out = FarEnd(), 0, []
    for block in range(400):
        if not 200 <= block < 212:
            far.play(np.ones(BLOCK, np.float32))
            given += BLOCK
        far.line_up(BLOCK)
        out.append(far.read(BLOCK))
    assert far.moved
    assert (np.concatenate(out)[BLOCK:] == 0).sum() <= 12 * BLOCK
    assert given - far.position <= 2 * BLOCK


def test_a_known_stumble_is_put_right_in_one_step() -> None:
    """20 ms are no drift when a device stumbled: a third of a second later they are gone, and the pace is as before."""
    far, given = FarEnd(), 0
    for block in range(400):
        far.play(np.zeros(BLOCK, np.float32))
        given += BLOCK
        if block == 200:
            far.play(np.zeros(2 * BLOCK, np.float32))
            given += 2 * BLOCK
            far.stumbled()
        far.line_up(BLOCK)
        far.read(BLOCK)
        assert (far.moved == 1) == (block >= 229)
    assert given - far.position == pytest.approx(BLOCK, abs=2)
    assert abs(far.drift) < 1e-6


def test_a_late_callback_moves_nothing() -> None:
    """40 ms of the speaker that come late, but come, are no loss."""
    far = FarEnd()
    for block in range(600):
        far.play(np.zeros(0 if 300 <= block < 304 else 5 * BLOCK if block == 304 else BLOCK, np.float32))
        far.line_up(BLOCK)
        far.read(BLOCK)
    assert far.moved == 0


def test_a_speaker_that_hangs_is_silent() -> None:
    """What it played before does not sound again and again; when it is back the two are lined up once."""
    far, out = FarEnd(), []
    for block in range(500):
        if not 200 <= block < 400:
            far.play(np.ones(BLOCK, np.float32))
        far.line_up(BLOCK)
        out.append(far.read(BLOCK).max())
    assert not any(out[203:400])
    assert all(out[403:])
    assert far.moved == 1


def test_a_device_that_stumbles_on_and_on_is_kept_up_with() -> None:
    """The microphone loses 10 ms every 200 ms for a minute: the reference is never late by more than 50 ms."""
    far, given, late = FarEnd(), 0, []
    for block in range(6_000):
        lost = block % 20 == 0
        far.play(np.zeros(2 * BLOCK if lost else BLOCK, np.float32))
        given += 2 * BLOCK if lost else BLOCK
        if lost:
            far.stumbled()
        far.line_up(BLOCK)
        far.read(BLOCK)
        late.append(given - far.position)
    assert max(late) < 5 * BLOCK


def test_between_samples_is_interpolated() -> None:
    """A sine is met between its samples to a thousandth, and outside there is silence."""
    sine = np.sin(2 * np.pi * 1_000 * np.arange(480) / RATE).astype(np.float32)
    at = np.arange(10, 400) + 0.37
    assert between(sine, at) == pytest.approx(np.sin(2 * np.pi * 1_000 * at / RATE), abs=2e-3)
    assert not between(sine, np.array([-5.0, 600.0])).any()
