from pathlib import Path

import numpy as np
import torch

from models.synthesis import NOISE, NOISE_PERIOD
from tests.tiny import run_main
from training import make_noise

GAUSSIAN = torch.randn(NOISE_PERIOD, generator=torch.Generator().manual_seed(1))


def test_shipped_noise_is_steady_and_white() -> None:
    """Band levels deviate a third as much as those of Gaussian noise, wherever one looks; no band is louder."""
    shipped = torch.from_numpy(NOISE)
    for start in (0, 101, NOISE_PERIOD - 300):  # the last looks over the seam
        for window in make_noise.WINDOWS:
            bands, white = make_noise.fluctuation(shipped, window, start)
            gaussian_bands, _ = make_noise.fluctuation(GAUSSIAN, window, start)
            assert bands < gaussian_bands / 3**2
            assert white < 0.01
    assert abs(float(np.square(NOISE).mean()) - 1.0) < 1e-3


def test_noise_file_is_made(tmp_path: Path) -> None:
    """The command writes noise that is steadier than what it began with, the same for the same seed."""
    files = [tmp_path / name for name in ("a.npy", "b.npy")]
    for file in files:
        run_main(make_noise.main, "--output", file, "--steps", 10)
    first, second = (np.load(file) for file in files)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (NOISE_PERIOD,) and first.dtype == np.float16
    made = torch.from_numpy(first.astype(np.float32))
    assert make_noise.fluctuation(made, 614, 0)[0] < 0.7 * make_noise.fluctuation(GAUSSIAN, 614, 0)[0]
    assert sorted(tmp_path.iterdir()) == files
