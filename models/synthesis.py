"""Source-filter synthesis, the part of the codec decoder that stays outside ONNX (numpy, streaming).

A band-limited pulse train at the decoded F0 and a fixed, steady noise (:mod:`training.make_noise`) are filtered in the
short-time Fourier domain with the decoded responses and overlap-added (the harmonic prior of DDSP, arXiv 2001.04643,
and Wavehax, 2506.03554). The network learns spectral envelopes only; pitch and phase coherence come from the source.
Output lags input by one hop.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.features import F0_REF_HZ, HOP, SAMPLE_RATE

WINDOW = 2 * HOP
N_BINS = WINDOW // 2 + 1
BAND_LIMIT_HZ = 11_500.0
NOISE_PERIOD = 1 << 16
HALF_HANN = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)  # power sums to 1


NOISE: np.ndarray = np.load(Path(__file__).parent / "pretrained" / "noise.npy", allow_pickle=False).astype(np.float32)
"""The noise source, float32 [NOISE_PERIOD]: fixed, so that chunked output equals offline output."""


@dataclass(slots=True)
class SynthesisState:
    """What synthesis carries from hop to hop."""

    octave: float  # last F0, octaves above F0_REF_HZ
    voicing: float
    phase: float  # cycles, wrapped to [0, 1)
    clock: int  # samples made so far, modulo NOISE_PERIOD
    source: np.ndarray  # float32 [2, HOP]: last hop of the pulse train and of the noise
    tail: np.ndarray  # float32 [HOP] overlap waiting for the next hop


def new_synthesis_state() -> SynthesisState:
    """Silence before the first hop."""
    return SynthesisState(0.0, 0.0, 0.0, 0, np.zeros((2, HOP), np.float32), np.zeros(HOP, np.float32))


def _glide(values: np.ndarray, last: float) -> np.ndarray:
    """Per-hop values [T] -> per-sample [T * HOP], linear from the previous hop's value."""
    before = np.concatenate([[last], values[:-1]])
    ramp = np.arange(1, HOP + 1) / HOP
    return (before[:, None] + (values - before)[:, None] * ramp).ravel()


def pulse_train(f0_hz: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Sum of all harmonics below the band limit, unit power: Dirichlet kernel of ``phase`` (cycles)."""
    count = np.floor(BAND_LIMIT_HZ / f0_hz)
    bottom = np.sin(np.pi * phase)
    near = np.abs(bottom) < 1e-4
    top = np.sin((2 * count + 1) * np.pi * phase)
    kernel = np.where(near, 2 * count + 1, top / np.where(near, 1.0, bottom))
    return (kernel - 1.0) / 2.0 / np.sqrt(count / 2.0)


def synthesise(
    octave: np.ndarray, voicing: np.ndarray, harmonic: np.ndarray, noise: np.ndarray, state: SynthesisState
) -> np.ndarray:
    """Turn T hops of decoder output into audio; ``state`` advances in place.

    Args:
        octave: [T] F0 in octaves above F0_REF_HZ.
        voicing: [T] in [0, 1].
        harmonic: complex64 [T, N_BINS] response on the pulse train.
        noise: float32 [T, N_BINS] magnitude response on the noise.
        state: from :func:`new_synthesis_state`.

    Returns:
        float32 [T * HOP], one hop behind.
    """
    hops = len(octave)
    f0 = F0_REF_HZ * 2.0 ** _glide(octave.astype(np.float64), state.octave)
    phase = state.phase + np.cumsum(f0 / SAMPLE_RATE)
    pulses = pulse_train(f0, phase) * _glide(voicing.astype(np.float64), state.voicing)
    index = (state.clock + np.arange(hops * HOP)) % NOISE_PERIOD
    fresh = np.stack([pulses.astype(np.float32), NOISE[index]]).reshape(2, hops, HOP)
    before = np.concatenate([state.source[:, None], fresh[:, :-1]], axis=1)
    spectra = np.fft.rfft(np.concatenate([before, fresh], axis=2) * HALF_HANN, axis=2)  # [2, T, N_BINS]
    shaped = np.fft.irfft(spectra[0] * harmonic + spectra[1] * noise, WINDOW, axis=1).astype(np.float32) * HALF_HANN
    tails = np.concatenate([state.tail[None], shaped[:-1, HOP:]])
    state.octave, state.voicing = float(octave[-1]), float(voicing[-1])
    state.phase, state.clock = float(phase[-1] % 1.0), int((state.clock + hops * HOP) % NOISE_PERIOD)
    state.source[:], state.tail[:] = fresh[:, -1], shaped[-1, HOP:]
    return (tails + shaped[:, :HOP]).ravel()
