from collections.abc import Callable
from typing import Any

import pytest
import torch

from models.conv import CausalConv1d, CausalGRU, Chain, ConvNeXtBlock
from tests.tiny import cuts, stream

DIM = 6
MAKERS: dict[str, Callable[[], Any]] = {
    "conv": lambda: CausalConv1d(DIM, 5, 7),
    "conv_strided": lambda: CausalConv1d(DIM, 5, 4, stride=2),
    "conv_no_overlap": lambda: CausalConv1d(DIM, 5, 2, stride=2),
    "conv_grouped": lambda: CausalConv1d(DIM, DIM, 3, groups=DIM),
    "convnext": lambda: ConvNeXtBlock(DIM, 12),
    "gru": lambda: CausalGRU(DIM, 2),
    "chain": lambda: Chain([ConvNeXtBlock(DIM, 12), CausalGRU(DIM, 1), ConvNeXtBlock(DIM, 12, kernel=3)]),
}


@pytest.fixture(params=list(MAKERS))
def module(request: pytest.FixtureRequest) -> Any:
    """One stateful module of each kind, random weights."""
    torch.manual_seed(1)
    return MAKERS[request.param]().eval()


@pytest.fixture
def x() -> torch.Tensor:
    """[2, 48, DIM] input."""
    return torch.randn(2, 48, DIM, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(2,), (4, 2, 10), (48,)], ids=str)
def test_chunked_equals_whole(module: Any, x: torch.Tensor, sizes: tuple[int, ...]) -> None:
    """Any cut into multiples of the stride gives the same output."""
    whole, _ = module(x, module.init_state(2))
    chunked = torch.cat(stream(module, [x], cuts(48, sizes)), dim=1)
    torch.testing.assert_close(chunked, whole)


@torch.no_grad()
def test_output_of_a_prefix_is_the_prefix_of_the_output(module: Any, x: torch.Tensor) -> None:
    """Nothing of the future reaches the present."""
    whole, _ = module(x, module.init_state(2))
    prefix, _ = module(x[:, :20], module.init_state(2))
    torch.testing.assert_close(prefix, whole[:, : prefix.shape[1]])


@torch.no_grad()
def test_streams_of_a_batch_do_not_meet(module: Any, x: torch.Tensor) -> None:
    """Each row is what it would be alone, over several calls."""
    pieces = cuts(48, (16,))
    together = torch.cat(stream(module, [x], pieces), dim=1)
    alone = torch.cat(stream(module, [x[1:]], pieces), dim=1)
    torch.testing.assert_close(together[1:], alone)


@torch.no_grad()
def test_states_are_not_changed_in_place(module: Any, x: torch.Tensor) -> None:
    """A state may be used twice: stepping it makes a new one of the same shapes."""
    _, state = module(x, module.init_state(2))
    before = [part.clone() for part in state]
    first, new = module(x, state)
    again, _ = module(x, state)
    torch.testing.assert_close(state, before)
    torch.testing.assert_close(first, again)
    assert [part.shape for part in new] == [part.shape for part in state]


def test_kernel_below_stride_is_refused() -> None:
    """It would skip samples."""
    with pytest.raises(AssertionError, match="must not be below"):
        CausalConv1d(1, 1, 2, stride=3)
