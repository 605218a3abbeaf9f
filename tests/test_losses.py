import numpy as np
import torch

from models.features import FFT_SIZE, HOP, analyse_mel32, new_history
from tests.tiny import speech_like
from training.losses import HearingLoss


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
