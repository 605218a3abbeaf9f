import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from training.losses import SpectralLoss, pitch_loss
from training.run import Budget, Run, cosine, read_jsonl, read_section, seed_everything


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that is moved by hand: seconds in its only element."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_budget_is_the_larger_share(clock: list[float]) -> None:
    """Steps and minutes both count; what is further on decides; zero means no limit."""
    budget = Budget(100, 10.0, started=clock[0])
    clock[0] += 60.0
    assert budget.progress(5) == pytest.approx(0.1)
    assert budget.progress(50) == pytest.approx(0.5)
    assert budget.progress(300) == 1.0
    assert Budget(0, 0.0, started=clock[0]).progress(10**6) == 0.0


def test_learning_rate_rises_then_falls() -> None:
    """Warm-up to the peak, cosine to the floor, never zero and no jump."""
    rates = [cosine(p, 1e-3) for p in np.linspace(0, 1, 501)]
    assert 0 < rates[0] < 1e-4
    assert max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates[-1] == pytest.approx(5e-5)
    assert all(a >= b for a, b in pairwise(rates[11:]))
    assert np.abs(np.diff(rates)).max() < 2e-4


def _net() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    net = torch.nn.Linear(2, 1)
    return net, torch.optim.AdamW(net.parameters(), lr=0.1)


def _walk(net: torch.nn.Linear, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 2)).square().sum().backward()
        optimizer.step()


def test_resumed_run_equals_uninterrupted(tmp_path: Path, clock: list[float]) -> None:
    """Weights, optimiser, random numbers, step and used time all come back."""
    seed_everything(3)
    whole, optimizer = _net()
    _walk(whole, optimizer, 10)

    seed_everything(3)
    net, optimizer = _net()
    first = Run(tmp_path, {}, Budget(10, 1.0, clock[0]))
    assert first.resume(net, optimizer) == 0
    _walk(net, optimizer, 4)
    clock[0] += 30.0
    first.save(net, optimizer, 4)
    first.close()

    seed_everything(99)
    clock[0] += 5000.0  # the pause is not counted
    net, optimizer = _net()
    second = Run(tmp_path, {}, Budget(10, 1.0, clock[0]))
    assert second.resume(net, optimizer) == 4
    assert second.budget.progress(0) == pytest.approx(0.5)
    _walk(net, optimizer, 6)
    second.close()
    assert torch.equal(net.weight, whole.weight)
    assert not list(tmp_path.glob("*.part"))


def test_workers_follow_the_first_ones_state(tmp_path: Path) -> None:
    """A second worker's directory is its own, its state the first one's."""
    net, optimizer = _net()
    first = Run(tmp_path / "run", {}, Budget(1, 0))
    first.save(net, optimizer, 3)
    second = Run(tmp_path / "run_1", {}, Budget(1, 0))
    second.resume_from(tmp_path / "run")
    assert second.resume(*_net()) == 3
    first.close()
    second.close()


def test_steps_end_with_the_budget(tmp_path: Path) -> None:
    """Numbers go on from where they are; a finished run has none left."""
    run = Run(tmp_path, {}, Budget(5, 0))
    assert list(run.steps(2)) == [2, 3, 4]
    assert list(run.steps(5)) == []
    run.close()


def test_checkpoints_are_due_by_the_clock(tmp_path: Path, clock: list[float]) -> None:
    """Every ``save_minutes`` after the last one."""
    run = Run(tmp_path, {}, Budget(5, 0), save_minutes=1.0)
    clock[0] += 59.0
    assert not run.due
    clock[0] += 2.0
    assert run.due
    run.save(*_net(), 1)
    assert not run.due
    run.close()


def test_progress_is_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    """Terminal line with loss, elapsed and remaining time; TensorBoard file; settings with commit and command."""
    run = Run(tmp_path, {"lr": "0.1"}, Budget(10, 0, clock[0]))
    clock[0] += 60.0
    run.log(5, {"loss": 0.25})
    run.close()
    assert capsys.readouterr().out == "step      5  loss 0.25  elapsed 1.0 min  left 1.0 min\n"
    assert list((tmp_path / "tensorboard").glob("events*"))
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["lr"] == "0.1"
    assert settings["commit"]
    assert settings["command"].startswith("python -m ")


def test_sections_are_read_strictly(tmp_path: Path) -> None:
    """Known keys with lists as tuples; unknown keys, other types and broken files are named."""
    path = tmp_path / "c.yaml"
    path.write_text("codec:\n  levels: [[8, 5], [3]]\nother:\n  x: 1\n")
    assert read_section(path, "codec", ["levels"]) == {"levels": ((8, 5), (3,))}
    assert read_section(path, "absent", ["levels"]) == {}
    assert read_section(None, "codec", []) == {}
    with pytest.raises(ValueError, match=r"c\.yaml: codec: unknown keys levels; known: level"):
        read_section(path, "codec", ["level"])
    for content in ("codec: 3", "[1]", "codec: {"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"c\.yaml"):
            read_section(path, "codec", [])
    with pytest.raises(ValueError, match=r"absent\.yaml"):
        read_section(tmp_path / "absent.yaml", "codec", [])


def test_json_lines_name_the_bad_line(tmp_path: Path) -> None:
    """File and line number."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(ValueError, match=r"m\.jsonl:2"):
        read_jsonl(path)
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


def test_spectral_loss_is_zero_for_the_same_and_grows_with_difference() -> None:
    """Identity costs nothing; more noise costs more; the gradient is finite, for silence too."""
    torch.manual_seed(0)
    loss, wave = SpectralLoss(), torch.sin(torch.arange(9600) * 0.05)[None].repeat(2, 1)
    assert all(value == 0 for value in loss(wave, wave).values())
    noise = torch.randn_like(wave)
    little, much = (sum(loss(wave + scale * noise, wave).values()) for scale in (0.01, 0.3))
    assert 0 < little < much
    made = torch.zeros(1, 9600, requires_grad=True)
    sum(loss(made, torch.zeros(1, 9600)).values()).backward()  # type: ignore[union-attr]
    assert made.grad is not None
    assert torch.isfinite(made.grad).all()


def test_pitch_loss_counts_voiced_hops_only() -> None:
    """F0 where nobody speaks is free; voicing is asked everywhere."""
    pitch = torch.tensor([[[0.5, 1.0], [0.5, 0.0]]])
    losses = pitch_loss(torch.tensor([[0.7, 9.0]]), torch.tensor([[9.0, 9.0]]), pitch)
    assert losses["f0"].item() == pytest.approx(0.2)
    assert losses["voicing"].item() == pytest.approx(4.5, rel=0.01)
    assert pitch_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2, 2))["f0"] == 0.0
