"""Runtime model directories: ``config.json`` beside the ONNX graphs it names. No torch here."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from models.errors import ArtefactError

VERSION = 4
SHIPPED = Path(__file__).resolve().parent / "pretrained" / "coffee-en"
"""The models that come with the program: directories ``codec`` and ``s2s``."""


def read_config(directory: Path, kind: str) -> dict[str, Any]:
    """The ``config.json`` of an exported model.

    Raises:
        ArtefactError: missing, not JSON, of another kind or version.
    """
    path = directory / "config.json"
    if not path.exists():
        raise ArtefactError(f"{path}: not found; expected a directory written by training.export")
    try:
        config = json.loads(path.read_text("utf8"))
    except (OSError, ValueError) as exc:
        raise ArtefactError(f"{path}: cannot be read ({exc})") from exc
    if not isinstance(config, dict) or config.get("format") != kind:
        raise ArtefactError(f"{path}: expected format {kind!r}")
    if config.get("version") != VERSION:
        raise ArtefactError(
            f"{path}: version {config.get('version')}, this program reads version {VERSION}; export the model again"
        )
    return config


def read_chain(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The weights told and leave that :class:`models.sampling.CodeSampler` takes.

    Raises:
        ArtefactError: missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return data["told"], data["leave"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise ArtefactError(f"{path}: not the chain of an S2S model ({exc})") from exc


def open_graph(path: Path) -> ort.InferenceSession:
    """A single-threaded CPU session.

    Raises:
        ArtefactError: missing, truncated or not a graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    if not path.exists():
        raise ArtefactError(f"{path}: not found")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime has no common base class for what loading can raise
        raise ArtefactError(f"{path}: not a usable ONNX graph ({str(exc).splitlines()[0]})") from exc
