"""The synthesis of :mod:`models.synthesis` over whole batches in torch, differentiable in its spectral responses."""

import math

import numpy as np
import torch
from torch import Tensor

from models.features import F0_REF_HZ, HOP, SAMPLE_RATE
from models.synthesis import BAND_LIMIT_HZ, HALF_HANN, NOISE, NOISE_PERIOD, WINDOW

_NOISE = torch.from_numpy(NOISE)
_WINDOW = torch.from_numpy(np.asarray(HALF_HANN))


def _glide(values: Tensor) -> Tensor:
    """[B, T] -> [B, T * HOP], linear from the previous hop's value, zero before the first."""
    before = torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)
    ramp = torch.arange(1, HOP + 1, device=values.device) / HOP
    return (before[..., None] + (values - before)[..., None] * ramp).flatten(1)


def pulse_train(octave: Tensor, voicing: Tensor) -> Tensor:
    """F0 (octaves) and voicing [B, T] -> voiced pulse train [B, T * HOP]; no gradient reaches the F0."""
    with torch.no_grad():
        f0 = F0_REF_HZ * torch.exp2(_glide(octave.double()))
        phase = torch.cumsum(f0 / SAMPLE_RATE, dim=1)
        count = torch.floor(BAND_LIMIT_HZ / f0)
        bottom = torch.sin(math.pi * phase)
        near = bottom.abs() < 1e-4
        top = torch.sin((2 * count + 1) * math.pi * phase)
        kernel = torch.where(near, 2 * count + 1, top / torch.where(near, torch.ones_like(bottom), bottom))
        pulses = ((kernel - 1) / 2 / torch.sqrt(count / 2)).float()
    return pulses * _glide(voicing)


def synthesise(octave: Tensor, voicing: Tensor, harmonic: Tensor, noise: Tensor, start: int = 0) -> Tensor:
    """Audio [B, T * HOP], one hop behind its input, from [B, T] tracks and [B, T, N_BINS] responses.

    Args:
        octave: F0 in octaves above F0_REF_HZ.
        voicing: in [0, 1].
        harmonic: complex response on the pulse train.
        noise: magnitude response on the noise.
        start: position in the noise table.
    """
    batch, hops = octave.shape
    index = (start + torch.arange(hops * HOP, device=octave.device)) % NOISE_PERIOD
    hiss = _NOISE.to(octave.device)[index].expand(batch, -1)
    source = torch.stack([pulse_train(octave, voicing), hiss], dim=1)
    spans = torch.nn.functional.pad(source, (HOP, 0)).unfold(2, WINDOW, HOP)  # [B, 2, T, WINDOW]
    window = _WINDOW.to(octave.device)
    spectra = torch.fft.rfft(spans * window)
    shaped = torch.fft.irfft(spectra[:, 0] * harmonic + spectra[:, 1] * noise, WINDOW) * window  # [B, T, WINDOW]
    tails = torch.nn.functional.pad(shaped[:, :-1, HOP:], (0, 0, 1, 0))
    return (tails + shaped[..., :HOP]).flatten(1)
