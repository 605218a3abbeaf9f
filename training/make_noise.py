"""Make the noise source of the codec's synthesis: noise whose band levels hardly fluctuate.

``python -m training.make_noise --output models/pretrained/noise.npy``

The result is part of the repository; this is how it was made. Level that comes and goes by chance in a band is heard as
a rise or fall that nobody spoke; low-noise noise has little of it (Pumplin, J. Acoust. Soc. Am. 78 (1), 1985; by
gradient here). What is finer than a third of an octave stays as random as before: with steady bins speech is
predicted to be liked less.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.features import SAMPLE_RATE
from models.synthesis import NOISE_PERIOD
from training.losses import third_octaves
from training.run import cosine

WINDOWS = (480, 614, 768)  # 20, 25.6 and 32 ms: what synthesis, intelligibility and recognisers look at
WHITE = 3.0  # weight of a white spectrum over time
BANDS = 19  # thirds of an octave, up to 10 kHz


def fluctuation(noise: Tensor, window: int, start: int) -> tuple[Tensor, Tensor]:
    """How far noise [N], which repeats, is from steady, as mean squares, seen by Hann windows from ``start`` on.

    Returns:
        Deviation of thirds of an octave from their mean level over time, and of the bins' mean power from one.
    """
    looped = torch.cat([noise, noise[:window]]).roll(-start)
    spectra = torch.stft(
        looped, window, window // 4, window=torch.hann_window(window), center=False, return_complex=True
    )
    power = spectra.real.square() + spectra.imag.square()  # [bins, T]
    bands = torch.sqrt(third_octaves(window, SAMPLE_RATE, BANDS).T @ power + 1e-6)
    bands = bands / bands.mean(1, keepdim=True)
    white = power.mean(1)[1:-1] / (window * 3 / 8)
    return (bands - 1).square().mean(), (white - 1).square().mean()


def make(steps: int, seed: int, lr: float = 0.02) -> np.ndarray:
    """Noise float32 [NOISE_PERIOD] of power one that repeats without a seam."""
    torch.manual_seed(seed)
    noise = torch.randn(NOISE_PERIOD).requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = cosine(step / steps, lr)
        parts = [fluctuation(noise, window, int(torch.randint(window, (1,)))) for window in WINDOWS]
        bands, white = (torch.stack(part).sum() for part in zip(*parts, strict=True))
        optimizer.zero_grad()
        (bands + WHITE * white).backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:5d}  bands {bands.item():.4f}  white {white.item():.4f}")
    made = noise.detach()
    return np.asarray((made / made.square().mean().sqrt()).numpy())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file to write, float16 [NOISE_PERIOD]")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = make(args.steps, args.seed)
    part = args.output.with_suffix(".part.npy")
    np.save(part, made.astype(np.float16))
    part.replace(args.output)


if __name__ == "__main__":
    main()
