from itertools import pairwise

import numpy as np
import pytest
import torch
from pystoi import stoi

from models.features import FFT_SIZE, HOP, SAMPLE_RATE, analyse_mel32, new_history
from tests.tiny import speech_like
from training.losses import HearingLoss, IntelligibilityLoss


def _sound(seed: int) -> torch.Tensor:
    return torch.from_numpy(speech_like(1.6, seed))[None]


def test_mel_is_that_of_the_runtime() -> None:
    """Of the same spans of the same sound; the first spans of a stream look back into silence."""
    sound = _sound(0)
    late = HOP - FFT_SIZE % HOP  # a stream's spans end where hops end
    made = HearingLoss().mel(sound[:, late:])[0].numpy()
    np.testing.assert_allclose(made, analyse_mel32(sound[0].numpy(), new_history())[3 : 3 + len(made)], atol=2e-3)


def test_other_sounds_are_heard_as_farther_away() -> None:
    """Nothing for the same sound, more for more noise, most for another sound; the gradient pulls towards the true."""
    loss = HearingLoss()
    true, other = _sound(1), _sound(2)
    assert loss(true, true).item() == 0.0
    torch.manual_seed(0)
    noise = torch.randn_like(true) * true.std()
    far = [loss(true + share * noise, true).item() for share in (0.01, 0.1, 0.5)]
    assert 0.0 < far[0] < far[1] < far[2]
    assert far[1] < loss(other, true).item()
    made = (true + 0.1 * noise).requires_grad_()
    loss(made, true).backward()
    assert made.grad is not None
    step = 1e-3 * made.grad / made.grad.abs().max()
    assert loss(made.detach() - step, true).item() < far[1]


def test_intelligibility_is_that_of_the_measure() -> None:
    """Within two hundredths of pystoi, at another rate, for little and much noise; the same at any level."""
    loss, true = IntelligibilityLoss(), _sound(1)
    torch.manual_seed(0)
    noise = torch.randn_like(true) * true.std()
    made = [true + share * noise for share in (0.0, 0.3, 1.0, 3.0)]
    found = [1.0 - loss(one, true).item() for one in made]
    expected = [stoi(true[0].numpy(), one[0].numpy(), SAMPLE_RATE) for one in made]
    assert found == pytest.approx(expected, abs=0.02)
    assert all(first > second for first, second in pairwise(found))
    assert loss(3.0 * made[1], true).item() == pytest.approx(1.0 - found[1], abs=1e-4)


def test_silence_and_sound_out_of_nothing_have_a_finite_loss() -> None:
    """And a finite gradient: a crop may hold no speech, a decoder may make none."""
    loss, true = IntelligibilityLoss(), _sound(1)
    for made, heard in ((torch.zeros_like(true), true), (true.clone(), torch.zeros_like(true))):
        found = loss(made.requires_grad_(), heard)
        found.backward()
        assert torch.isfinite(found)
        assert made.grad is not None
        assert torch.isfinite(made.grad).all()


def test_the_pull_is_towards_the_true_sound() -> None:
    """A step against the gradient makes a noisy sound more intelligible."""
    loss, true = IntelligibilityLoss(), _sound(1)
    torch.manual_seed(0)
    made = (true + 0.5 * torch.randn_like(true) * true.std()).requires_grad_()
    before = loss(made, true)
    before.backward()
    assert made.grad is not None
    assert loss(made.detach() - 1e-2 * made.grad / made.grad.abs().max(), true).item() < before.item()
