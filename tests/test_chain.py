import numpy as np
import pytest
import torch

from models.chain import CodeChain
from models.quantize import GroupedFSQ
from models.sampling import CodeSampler

FSQ = GroupedFSQ(((5, 4), (3, 3, 3)))


@pytest.fixture
def chain() -> CodeChain:
    """A chain that has something to say."""
    torch.manual_seed(4)
    made = CodeChain(16, 12, FSQ)
    torch.nn.init.normal_(made.leave)
    return made


def weights(chain: CodeChain) -> tuple[np.ndarray, np.ndarray]:
    """As they are exported."""
    return (chain.told * chain.before).detach().numpy(), chain.leave.detach().numpy()


def test_a_dimension_is_told_only_those_before_it(chain: CodeChain) -> None:
    """Changing one changes the logits of all later ones, and of no others."""
    states, values = chain.enter(torch.randn(6, 16)), torch.rand(6, FSQ.dims) * 2 - 1
    for dim in range(FSQ.dims):
        other = values.clone()
        other[:, dim] *= -1
        changed = (chain(states, values) != chain(states, other)).any(0)
        edge = int(FSQ.levels[: dim + 1].sum())
        assert not changed[:edge].any()
        assert changed[edge:].all()


def test_a_new_chain_changes_nothing() -> None:
    """A model without one can be gone on from."""
    fresh = CodeChain(16, 12, FSQ)
    assert not fresh(fresh.enter(torch.randn(3, 16)), torch.rand(3, FSQ.dims)).any()


def test_the_sampler_takes_the_median_level_after_those_before(chain: CodeChain) -> None:
    """The codes it draws in numpy are, dimension by dimension, the medians that torch finds given the codes."""
    sampler = CodeSampler(FSQ.groups, weights(chain))
    told, leave = weights(chain)
    plain = CodeSampler(FSQ.groups, (np.zeros_like(told), np.zeros_like(leave)))
    different = 0
    for _ in range(40):
        logits, hidden = torch.randn(1, int(FSQ.levels.sum())), torch.randn(1, 16)
        state = chain.enter(hidden)
        codes = sampler(logits.numpy(), state.detach().numpy())
        given = logits + chain(state, FSQ.dequantize(torch.from_numpy(codes)[None]))
        parts = [part.softmax(0).cumsum(0) for part in torch.split(given[0], FSQ.levels.tolist())]
        assert [int((part < 0.5).sum()) for part in parts] == FSQ.to_indices(torch.from_numpy(codes)).tolist()
        different += (plain(logits.numpy(), state.detach().numpy()) != codes).any()
    assert different > 20


def test_weights_of_another_quantiser_are_refused(chain: CodeChain) -> None:
    """With both shapes in the message."""
    told, leave = weights(chain)
    with pytest.raises(ValueError, match=r"\(5, 5, 12\) and \(17, 12\) do not fit"):
        CodeSampler(FSQ.groups, (told, leave[:-1]))
