import pytest
import torch

from models.quantize import GroupedFSQ

GROUPS = [(8, 5, 5, 5), (15, 9, 5, 5), (3, 2)]


@pytest.fixture
def latents() -> torch.Tensor:
    """[2, 50, dims] latents over the whole range."""
    return torch.randn(2, 50, GroupedFSQ(GROUPS).dims, generator=torch.Generator().manual_seed(0)) * 3


def test_codes_and_levels_round_trip(latents: torch.Tensor) -> None:
    """Levels to codes and back is the identity, and codes stay inside their alphabet."""
    fsq = GroupedFSQ(GROUPS)
    levels = fsq.indices(latents)
    codes = fsq.to_codes(levels)
    assert torch.equal(fsq.to_indices(codes), levels)
    assert (codes >= 0).all()
    assert (codes < torch.tensor(fsq.sizes)).all()


def test_every_code_is_reached() -> None:
    """All codes of a group stand for different levels."""
    fsq = GroupedFSQ([(3, 2)])
    levels = fsq.to_indices(torch.arange(6)[:, None])
    assert len({tuple(row) for row in levels.tolist()}) == 6
    assert torch.equal(fsq.to_codes(levels)[:, 0], torch.arange(6))


def test_quantised_values_are_those_of_the_codes(latents: torch.Tensor) -> None:
    """Training sees exactly what the decoder will get from codes."""
    fsq = GroupedFSQ(GROUPS)
    values = fsq(latents)
    torch.testing.assert_close(values, fsq.dequantize(fsq.to_codes(fsq.indices(latents))))
    assert values.abs().max() <= 1.0


def test_gradient_passes_straight_through(latents: torch.Tensor) -> None:
    """The rounding has the gradient of the squashing alone."""
    fsq = GroupedFSQ(GROUPS)
    hard, soft = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    fsq(hard, True).sum().backward()
    fsq(soft, False).sum().backward()
    assert hard.grad is not None
    assert soft.grad is not None
    torch.testing.assert_close(hard.grad, soft.grad)
    assert (hard.grad > 0).all()


def test_rows_choose_their_own_hardness(latents: torch.Tensor) -> None:
    """A mask quantises some rows of a batch and only squashes the others."""
    fsq = GroupedFSQ(GROUPS)
    mixed = fsq(latents, torch.tensor([True, False])[:, None, None])
    torch.testing.assert_close(mixed[0], fsq(latents)[0])
    torch.testing.assert_close(mixed[1], fsq(latents, False)[1])
    assert not torch.allclose(mixed[1], fsq(latents)[1])


def test_a_level_of_one_is_refused() -> None:
    """A dimension with a single level would divide by zero."""
    with pytest.raises(AssertionError, match="at least 2"):
        GroupedFSQ([(8, 1)])
