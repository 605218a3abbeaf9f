from typing import Any

import numpy as np
import pytest
import torch

from models import source_filter
from models.features import HOP
from models.synthesis import N_BINS, new_synthesis_state, pulse_train, synthesise
from tests.tiny import cuts

HOPS = 64
Tracks = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
streaming: Any = synthesise  # called with unpacked tracks
offline: Any = source_filter.synthesise


@pytest.fixture
def tracks(rng: np.random.Generator) -> Tracks:
    """Octave, voicing, harmonic and noise responses of HOPS hops."""
    octave = 0.4 * np.sin(np.arange(HOPS) / 9) + 0.1
    voicing = np.clip(np.sin(np.arange(HOPS) / 5) + 0.5, 0, 1)
    harmonic = 0.05 * (rng.standard_normal((HOPS, N_BINS)) + 1j * rng.standard_normal((HOPS, N_BINS)))
    noise = 0.02 * rng.random((HOPS, N_BINS))
    return (
        octave.astype(np.float32),
        voicing.astype(np.float32),
        harmonic.astype(np.complex64),
        noise.astype(np.float32),
    )


def _streamed(tracks: Tracks, sizes: tuple[int, ...]) -> np.ndarray:
    state = new_synthesis_state()
    return np.concatenate([streaming(*(part[piece] for part in tracks), state) for piece in cuts(HOPS, sizes)])


@pytest.mark.parametrize("sizes", [(1,), (8,), (5, 1, 11)], ids=str)
def test_chunked_equals_whole(tracks: Tracks, sizes: tuple[int, ...]) -> None:
    """Any cut gives the same audio, so the phase of the pulses runs on across cuts."""
    whole = _streamed(tracks, (HOPS,))
    assert whole.dtype == np.float32
    assert np.abs(whole).max() > 0.01
    np.testing.assert_allclose(_streamed(tracks, sizes), whole, atol=2e-5)


def test_streamed_equals_torch(tracks: Tracks) -> None:
    """Training hears what the runtime will play."""
    made = offline(*(torch.from_numpy(part)[None] for part in tracks))
    np.testing.assert_allclose(_streamed(tracks, (8,)), made[0].numpy(), atol=5e-5)


def test_torch_rows_do_not_meet(tracks: Tracks) -> None:
    """A batch row is what it is alone."""
    first = [torch.from_numpy(part) for part in tracks]
    second = [part.flip(0) for part in first]
    both = offline(*(torch.stack(pair) for pair in zip(first, second, strict=True)))
    torch.testing.assert_close(both[1:], offline(*(part[None] for part in second)))


def test_output_lags_by_one_hop() -> None:
    """A response on for one hop sounds in that hop and the next one only."""
    noise = np.zeros((6, N_BINS), np.float32)
    noise[2] = 1.0
    zeros = np.zeros(6, np.float32)
    pcm = synthesise(zeros, zeros, np.zeros((6, N_BINS), np.complex64), noise, new_synthesis_state())
    loud = np.abs(pcm.reshape(6, HOP)).max(axis=1) > 1e-3
    assert loud.tolist() == [False, False, True, True, False, False]


def test_flat_response_gives_the_source_back_one_hop_late() -> None:
    """With response one everywhere the analysis and overlap-add are the identity, delayed."""
    octave, voicing = np.zeros(20, np.float32), np.ones(20, np.float32)
    flat = np.ones((20, N_BINS), np.complex64)
    pcm = synthesise(octave, voicing, flat, np.zeros((20, N_BINS), np.float32), new_synthesis_state())
    phase = np.cumsum(np.full(20 * HOP, 120.0 / 24_000))
    pulses = pulse_train(np.full(20 * HOP, 120.0), phase)
    np.testing.assert_allclose(pcm[3 * HOP :], pulses[2 * HOP : -HOP], atol=2e-3)


@pytest.mark.parametrize("hz", [60.0, 120.0, 400.0])
def test_pulse_train_has_unit_power_and_no_alias(hz: float) -> None:
    """Equal power at every pitch, harmonics only, nothing above the band limit."""
    pulses = pulse_train(np.full(24_000, hz), np.cumsum(np.full(24_000, hz / 24_000)))
    assert np.mean(pulses**2) == pytest.approx(1.0, rel=0.02)
    power = np.abs(np.fft.rfft(pulses)) ** 2
    harmonics = np.arange(int(hz), 11_501, int(hz))
    assert power[harmonics].sum() > 0.999 * power.sum()


def test_gradient_reaches_the_responses_only(tracks: Tracks) -> None:
    """F0 gets no gradient through the source; the responses do."""
    octave, voicing, harmonic, noise = (torch.from_numpy(part)[None].requires_grad_() for part in tracks)
    source_filter.synthesise(octave, voicing, harmonic, noise).square().sum().backward()
    assert octave.grad is None
    assert harmonic.grad is not None
    assert harmonic.grad.abs().sum() > 0
    assert noise.grad is not None
