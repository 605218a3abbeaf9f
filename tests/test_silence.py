import numpy as np
import pytest

from streaming.silence import HELD_FRAMES, QUIETER_DB, LevelSilence

FRAME = 480  # 20 ms at 24 kHz


def sound(*levels_db: float) -> np.ndarray:
    """Frames of a square wave at these levels."""
    wave = np.tile([1.0, -1.0], FRAME // 2)
    return np.concatenate([10 ** (level / 20) * wave for level in levels_db]).astype(np.float32)


def quiet_after(*levels_db: float) -> int:
    level = LevelSilence()
    level.push(sound(*levels_db))
    return level.samples // FRAME


def test_frames_far_under_the_loudest_are_counted() -> None:
    assert quiet_after(-20, -20, -20, -55, -60) == 2


def test_sound_less_far_under_the_loudest_starts_over() -> None:
    assert quiet_after(-20, -20, -20, -55, -49, -55) == 1


def test_noise_that_stays_is_never_quiet() -> None:
    assert quiet_after(-20, -20, -20, *[-20 - QUIETER_DB + 1] * 50) == 0


def test_a_click_is_not_the_loudest_level() -> None:
    """Speech after it is 35 dB under a click, and not quiet."""
    assert quiet_after(-40, -40, -40, *[-5] * (HELD_FRAMES - 1), -40, -40) == 0
    assert quiet_after(-40, -40, -40, *[-5] * HELD_FRAMES, -40, -40) == 2


def test_what_was_loud_before_the_turn_does_not_count() -> None:
    level = LevelSilence()
    level.push(sound(-10, -10, -10, -45, -45, -45))
    assert level.samples == 3 * FRAME
    level.begin()
    assert level.samples == 0
    level.push(sound(-45, -45, -45))
    assert level.samples == 0


def test_digital_silence_is_quiet_from_the_start() -> None:
    level = LevelSilence()
    level.push(np.zeros(3 * FRAME, np.float32))
    assert level.samples == 3 * FRAME


def test_missing_audio_is_as_quiet_as_what_was_before() -> None:
    level = LevelSilence()
    level.push(sound(-20, -20, -20))
    level.skip(FRAME)
    assert level.samples == 0
    level.push(sound(-60))
    level.skip(FRAME)
    assert level.samples == 2 * FRAME


def test_a_reset_forgets_everything() -> None:
    level = LevelSilence()
    level.push(sound(-20, -20, -20, -60)[:-100])
    level.reset()
    level.push(sound(-60, -60, -60))
    assert level.samples == 0


@pytest.mark.parametrize("size", [1, 100, 481, 5_000])
def test_cutting_the_audio_changes_nothing(size: int) -> None:
    pcm = sound(-20, -30, -20, -25, -20, -20, -60, -60, -60, -60)
    level = LevelSilence()
    for start in range(0, len(pcm), size):
        level.push(pcm[start : start + size])
    assert level.samples == 4 * FRAME
