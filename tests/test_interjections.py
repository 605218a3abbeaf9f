from pathlib import Path

import numpy as np
import pytest

from models.features import FRAME_SIZE
from training.interjections import AROUND_FRAMES, cut_noise, load_sounds, save_sounds, surround


def test_a_sound_is_surrounded_by_near_silence() -> None:
    """Whole frames; the sound keeps its shape, at a level in range, and its edges do not click."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(60_000).astype(np.float32)
    piece = cut_noise(noise, rng)
    assert abs(piece[0]) < 1e-6
    assert abs(piece[-1]) < 1e-6
    pcm = surround(piece, rng)
    assert len(pcm) % FRAME_SIZE == 0
    before = AROUND_FRAMES[0] * FRAME_SIZE
    assert np.abs(pcm[:before]).max() < 1e-3
    assert np.abs(pcm[-before:]).max() < 1e-3
    assert 10 ** (-35 / 20) < np.abs(pcm).max() < 10 ** (-7 / 20)


def test_sounds_come_back_as_they_were_saved(tmp_path: Path) -> None:
    """Of any lengths; no file is no sounds, and another file is named."""
    sounds = [np.arange(size * 2, dtype=np.uint16).reshape(size, 2) for size in (3, 1, 5)]
    save_sounds(tmp_path / "sounds.npz", sounds)
    for codes, sound in zip(load_sounds(tmp_path / "sounds.npz"), sounds, strict=True):
        np.testing.assert_array_equal(codes, sound)
    assert load_sounds(tmp_path / "none.npz") == []
    (tmp_path / "other.npz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"other\.npz"):
        load_sounds(tmp_path / "other.npz")
