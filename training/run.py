"""What every trainer shares: run directory, wall-clock budget, resumable state, progress line, TensorBoard."""

import dataclasses
import json
import os
import random
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from models.checkpoint import git_commit, tuplify, write_json


@dataclasses.dataclass
class Budget:
    """Training stops at ``steps`` or after ``minutes`` of wall clock, whichever comes first; 0 means no limit."""

    steps: int
    minutes: float
    started: float = dataclasses.field(default_factory=time.monotonic)

    def progress(self, step: int) -> float:
        """How much of the budget is used, in [0, 1]: drives the learning-rate schedule."""
        parts = [step / self.steps if self.steps else 0.0]
        if self.minutes:
            parts.append((time.monotonic() - self.started) / (60.0 * self.minutes))
        return min(max(parts), 1.0)


def cosine(progress: float, peak: float, warm_up: float = 0.02, floor: float = 0.05) -> float:
    """Learning rate: linear warm-up over a share of the budget, then cosine down to ``floor * peak``."""
    if progress < warm_up:
        return peak * max(progress, 1e-4) / warm_up
    fall = 0.5 * (1.0 + np.cos(np.pi * (progress - warm_up) / (1.0 - warm_up)))
    return peak * float(floor + (1.0 - floor) * fall)


class Run:
    """A training run's directory.

    Args:
        directory: made if missing; an existing one is continued.
        settings: resolved settings, saved as ``settings.json``.
        budget: when to stop.
        save_minutes: how often ``due`` says a checkpoint should be written.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], budget: Budget, save_minutes: float = 3.0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.budget, self.save_s = directory, budget, save_minutes * 60.0
        self.provenance = {"commit": git_commit(), "command": " ".join(["python", "-m", *_command()]), **settings}
        write_json(directory / "settings.json", self.provenance)
        self._board = SummaryWriter(str(directory / "tensorboard"))
        self._saved = time.monotonic()
        self.state_path = directory / "trainer.pt"

    def resume_from(self, directory: Path) -> None:
        """Read the trainer state of another directory: workers follow the first one's."""
        self.state_path = directory / "trainer.pt"

    def resume(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the last trainer state into the module and optimiser; returns the step to go on from (0 if none)."""
        if not self.state_path.exists():
            return 0
        state = torch.load(self.state_path, weights_only=True, map_location="cpu")
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.budget.started -= state["used_s"]
        return int(state["step"])

    def save(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Write everything needed to go on, atomically."""
        part = self.state_path.with_suffix(".part")
        state = {
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "step": step,
            "used_s": time.monotonic() - self.budget.started,
        }
        torch.save(state, part)
        os.replace(part, self.state_path)
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether a checkpoint should be written now."""
        return time.monotonic() - self._saved > self.save_s

    def steps(self, first: int) -> Iterator[int]:
        """Step numbers until the budget is used up."""
        step = first
        while self.budget.progress(step) < 1.0:
            yield step
            step += 1

    def log(self, step: int, values: dict[str, float]) -> None:
        """One progress line on the terminal and one point a value on TensorBoard."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        used = time.monotonic() - self.budget.started
        share = self.budget.progress(step)
        left = f"  left {used * (1.0 - share) / share / 60:.1f} min" if share > 0 else ""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        sys.stdout.write(f"step {step:6d}  {text}  elapsed {used / 60:.1f} min{left}\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Finish the TensorBoard file."""
        self._board.close()


def _command() -> list[str]:
    module = Path(sys.argv[0])
    return [f"{module.parent.name}.{module.stem}", *sys.argv[1:]]


def read_section(path: Path | None, section: str, allowed: Collection[str]) -> dict[str, Any]:
    """Overrides of one section of a YAML settings file, lists as tuples; empty without a file.

    Raises:
        ValueError: not a mapping, or a key that is not allowed; the message names file and key.
    """
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text("utf8")) or {}
    except (OSError, yaml.YAMLError) as exc:
        raise ValueError(f"{path}: cannot be read as YAML ({exc})") from exc
    values = content.get(section, {}) if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: section {section} is not a mapping")
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise ValueError(f"{path}: {section}: unknown keys {', '.join(unknown)}; known: {', '.join(sorted(allowed))}")
    return {key: tuplify(value) for key, value in values.items()}


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All objects of a JSON-lines file.

    Raises:
        ValueError: a line is not a JSON object; the message names file and line.
    """
    rows = []
    for number, line in enumerate(path.read_text("utf8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as exc:
            raise ValueError(f"{path}:{number}: not JSON ({exc})") from exc
        rows.append(row)
    return rows
