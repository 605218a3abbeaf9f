"""Self-describing model directories: ``model.safetensors`` beside ``config.json`` (what it is, how it was made)."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.errors import ArtefactError

VERSION = 1
C = TypeVar("C")


def git_commit() -> str:
    """Commit of the working directory's repository, "-dirty" appended when it has changes; "unknown" outside one."""
    try:
        run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the file is either the old or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(data, indent=1, default=str) + "\n", "utf8")
    os.replace(part, path)


def save_model(
    directory: Path, kind: str, module: torch.nn.Module, config: Any, provenance: dict[str, Any], name: str = "model"
) -> None:
    """Write ``module`` and its frozen dataclass ``config``; existing files are replaced whole.

    Args:
        directory: made if missing.
        kind: what it is, e.g. "repartee-s2s".
        module: its whole state dict is saved.
        config: a dataclass instance.
        provenance: commit, command, data, step: whatever tells how it was made.
        name: stem of the weights file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    part = directory / f"{name}.safetensors.part"
    save_file({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}, str(part))
    os.replace(part, directory / f"{name}.safetensors")
    header = {"format": kind, "version": VERSION, "config": dataclasses.asdict(config), "provenance": provenance}
    write_json(directory / f"{name}.json", header)


def read_header(directory: Path, kind: str, name: str = "model") -> dict[str, Any]:
    """The description beside the weights.

    Raises:
        ArtefactError: missing, unreadable, of another kind or version.
    """
    path = directory / f"{name}.json"
    try:
        header = json.loads(path.read_text("utf8"))
    except (OSError, ValueError) as exc:
        raise ArtefactError(f"{path}: cannot be read ({exc})") from exc
    if not isinstance(header, dict) or header.get("format") != kind:
        raise ArtefactError(f"{path}: not a {kind} checkpoint")
    if header.get("version") != VERSION:
        raise ArtefactError(f"{path}: version {header.get('version')}, this program reads version {VERSION}")
    return header


def read_dataclass(directory: Path, kind: str, cls: type[C], name: str = "model") -> C:
    """The frozen config dataclass that was saved beside the weights.

    Raises:
        ArtefactError: as :func:`read_header`, or its keys or values are not those of ``cls``.
    """
    header = read_header(directory, kind, name)
    try:
        return cls(**{key: tuplify(value) for key, value in header["config"].items()})
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ArtefactError(f"{directory / f'{name}.json'}: config does not fit {cls.__name__} ({exc})") from exc


def load_weights(module: torch.nn.Module, directory: Path, name: str = "model") -> None:
    """Strictly load weights into ``module``.

    Raises:
        ArtefactError: missing or damaged file, or names or shapes that do not fit.
    """
    path = directory / f"{name}.safetensors"
    try:
        module.load_state_dict(_read_weights(path), strict=True)
    except RuntimeError as exc:
        raise ArtefactError(f"{path}: cannot be loaded ({exc})") from exc


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(str(path))
    except (OSError, SafetensorError, RuntimeError) as exc:
        raise ArtefactError(f"{path}: cannot be loaded ({exc})") from exc


def load_overlap(module: torch.nn.Module, directory: Path, name: str = "model") -> list[str]:
    """Start ``module`` from weights of other sizes: what overlaps at the front of every axis is copied.

    Returns:
        Names of tensors that were not taken whole: of another size, or missing in the file.

    Raises:
        ArtefactError: missing or damaged file.
    """
    weights = _read_weights(directory / f"{name}.safetensors")
    state = module.state_dict()
    partial = []
    for key, value in state.items():
        source = weights.get(key)
        if source is None or source.dim() != value.dim():
            partial.append(key)
            continue
        common = tuple(slice(0, min(pair)) for pair in zip(value.shape, source.shape, strict=True))
        value[common] = source[common].to(value.dtype)
        if value.shape != source.shape:
            partial.append(key)
    module.load_state_dict(state)
    return partial


def tuplify(value: Any) -> Any:
    """JSON lists back to the tuples that frozen configs hold."""
    return tuple(tuplify(item) for item in value) if isinstance(value, list) else value
