import dataclasses
from typing import Any

import pytest
import torch

from models.s2s import S2S, FrameInput, FrameOutput, S2SConfig, agent_cross_entropy, evaluating
from tests.tiny import GPT2, LLAMA, new_s2s, random_frames

BLOCKED = -1e9


@pytest.fixture(params=["llama", "gpt2"])
def backbone(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Rotary and absolute positions."""
    return {"llama": LLAMA, "gpt2": GPT2}[request.param]


def _piece(frame: FrameInput, rows: slice, steps: slice) -> FrameInput:
    assert frame.recent is not None
    parts = (frame.mode, frame.user, frame.text, frame.transcript, frame.agent, frame.recent)
    return FrameInput(*(part[rows, steps] for part in parts))


def _ring(model: S2S, frame: FrameInput) -> FrameOutput:
    """Step by step through a ring of ``window`` slots, as the runtime does it."""
    batch, steps = frame.mode.shape
    layers, heads, size = model.cache_shape
    window = model.config.window
    keys, values = torch.zeros(2, layers, batch, heads, window, size)
    mask = torch.full((batch, 1, 1, window + 1), BLOCKED)
    mask[..., -1] = 0.0
    outputs = []
    for position in range(steps):
        now = _piece(frame, slice(None), slice(position, position + 1))
        out, new_keys, new_values = model.step(now, keys, values, mask, torch.full((batch, 1), position))
        outputs.append(out)
        slot = position % window
        keys[:, :, :, slot], values[:, :, :, slot], mask[..., slot] = new_keys[:, :, :, 0], new_values[:, :, :, 0], 0.0
    names = ("text", "transcript", "turn")
    return FrameOutput(*(torch.cat([getattr(out, name) for out in outputs], dim=1) for name in names))


def _banded(steps: int, window: int) -> torch.Tensor:
    """Additive mask [1, 1, T, T]: this step and the ``window`` before it."""
    distance = torch.arange(steps)[:, None] - torch.arange(steps)
    return torch.where((distance >= 0) & (distance <= window), 0.0, BLOCKED)[None, None]


def _same(made: FrameOutput, expected: FrameOutput) -> None:
    for name in ("text", "transcript", "turn"):
        torch.testing.assert_close(getattr(made, name), getattr(expected, name), atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_steps_equal_the_whole(backbone: dict[str, Any]) -> None:
    """Inside the window the ring gives what training computes on the whole sequence."""
    model = new_s2s(24, backbone)
    frame = random_frames(model, 2, 20)
    _same(_ring(model, frame), model(frame))


@torch.no_grad()
def test_steps_equal_the_whole_past_the_window(backbone: dict[str, Any]) -> None:
    """Past the window, slots are used again and each step sees exactly the last ``window`` steps."""
    model = new_s2s(8, backbone)
    frame = random_frames(model, 2, 30)
    ring = _ring(model, frame)
    _same(ring, model(frame, _banded(30, 8)))
    assert not torch.allclose(ring.text[:, -1], model(frame).text[:, -1], atol=1e-2)


@torch.no_grad()
def test_only_the_past_matters(backbone: dict[str, Any]) -> None:
    """The output of a prefix is the prefix of the output."""
    model = new_s2s(24, backbone)
    frame = random_frames(model, 1, 20)
    whole = model(frame)
    prefix = model(_piece(frame, slice(None), slice(0, 9)))
    torch.testing.assert_close(prefix.text, whole.text[:, :9], atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_padding_changes_nothing(backbone: dict[str, Any]) -> None:
    """A short row of a padded batch gives what it gives alone."""
    model = new_s2s(24, backbone)
    frame = random_frames(model, 2, 20)
    padding = torch.ones(2, 20, dtype=torch.int64)
    padding[1, 12:] = 0
    together = model(frame, padding)
    alone = model(_piece(frame, slice(1, 2), slice(0, 12)))
    torch.testing.assert_close(together.text[1:, :12], alone.text, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_user_codes_are_not_heard_while_speaking() -> None:
    """In SPEAK steps whatever stands in ``user`` is ignored; in LISTEN steps it matters."""
    model = new_s2s()
    frame = random_frames(model, 1, 6)
    other = dataclasses.replace(frame, user=(frame.user + 7) % 1000)
    listening = frame.mode == 0
    changed = (model.embed(frame) - model.embed(other)).abs().sum(-1) > 1e-6
    assert torch.equal(changed, listening)
    assert 0 < int(listening.sum()) < 6


@torch.no_grad()
def test_no_agent_audio_is_its_own_input() -> None:
    """A negative code means that there is no audio yet, whatever the other groups hold."""
    model = new_s2s()
    frame = random_frames(model, 1, 4)
    none, zero = torch.full_like(frame.agent, -1), torch.zeros_like(frame.agent)
    half = none.clone()
    half[..., 1:] = 5
    embedded = [model.embed(dataclasses.replace(frame, agent=a)) for a in (none, half, zero)]
    torch.testing.assert_close(embedded[0], embedded[1])
    assert not torch.allclose(embedded[0], embedded[2])


def test_agent_cross_entropy_is_that_of_every_dimension() -> None:
    """Logits certain of the right levels cost nothing; uniform ones cost the logarithm of the level count."""
    model = new_s2s()
    fsq = model.agent_fsq
    codes = random_frames(model, 2, 5).agent.clamp_min(0)
    levels = fsq.to_indices(codes)
    sure = torch.cat(
        [torch.nn.functional.one_hot(levels[..., d], int(n)).float() * 50 for d, n in enumerate(fsq.levels)], -1
    )
    assert agent_cross_entropy(sure, codes, fsq).max() < 1e-5
    uniform = agent_cross_entropy(torch.zeros_like(sure), codes, fsq)
    assert uniform.shape == levels.shape
    torch.testing.assert_close(uniform, fsq.levels.float().log().expand_as(uniform))


def test_evaluating_restores_the_mode_after_an_error() -> None:
    """An exception inside leaves the model in training mode, as it was."""
    model = new_s2s().train()
    with pytest.raises(RuntimeError, match="inside"), evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise RuntimeError("inside")
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"window": 0}, "window"), ({"lead_frames": 0}, "lead_frames"), ({"backbone": {}}, "model_type")],
    ids=str,
)
def test_bad_configs_name_the_key(change: dict[str, Any], message: str) -> None:
    """The error says which setting is wrong."""
    with pytest.raises(ValueError, match=message):
        S2SConfig(**{"vocabulary": 9, "user_levels": ((2,),), "agent_levels": ((2,),), **change})
