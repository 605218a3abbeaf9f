"""Fine-tuned voices at run time: a directory of ``training.train_lora`` and the base model it belongs to. No torch.

The directory holds the adapter, and models into which it is merged already (``s2s``, and ``codec`` where the decoder
was fitted to the voice): a merged graph costs no more time a step than its base. An adapter says of which base it is by
a fingerprint of the base's weights in half precision, the same before and after export.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ArtefactError

ADAPTER_FILE = "lora.json"
ADAPTER_FORMAT = "repartee-lora"
ADAPTER_VERSION = 1
_HALF = {"F32": np.float32, "F16": np.float16}
_HEADER_LIMIT = 1 << 26


def fingerprint(tensors: Iterable[tuple[str, str, bytes]]) -> str:
    """Hash of weights given as (name, type as safetensors calls it, little-endian bytes), in the order of names.

    What is F32 counts as the F16 it becomes when a model is exported.
    """
    digest = hashlib.sha256()
    for name, kind, data in tensors:
        if kind == "F32":
            with np.errstate(over="ignore"):
                data = np.frombuffer(data, "<f4").astype("<f2").tobytes()
        digest.update(f"{name}\0{'F16' if kind in _HALF else kind}\0".encode() + data)
    return digest.hexdigest()


def fingerprint_of(directory: Path) -> str:
    """Fingerprint of the ``model.safetensors`` of a model directory, trained or exported.

    Raises:
        ArtefactError: the file is missing or damaged.
    """
    path = directory / "model.safetensors"
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size < _HEADER_LIMIT:
                raise ValueError("its header has no size")
            header = json.loads(file.read(size))
            start = file.tell()

            def tensors() -> Iterable[tuple[str, str, bytes]]:
                for name in sorted(key for key in header if key != "__metadata__"):
                    first, end = header[name]["data_offsets"]
                    file.seek(start + first)
                    data = file.read(end - first)
                    if len(data) != end - first:
                        raise ValueError("it ends too early")
                    yield name, header[name]["dtype"], data

            return fingerprint(tensors())
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtefactError(f"{path}: needed to tell whether an adapter fits, and cannot be read ({exc})") from exc


def read_adapter(directory: Path) -> dict[str, Any]:
    """The description of an adapter.

    Raises:
        ArtefactError: missing, not one, or of another version; the message names the file.
    """
    path = directory / ADAPTER_FILE
    if not path.is_file():
        raise ArtefactError(f"{path}: not found; expected a directory that training.train_lora has finished")
    try:
        header = json.loads(path.read_text("utf8"))
        if header["format"] != ADAPTER_FORMAT:
            raise ValueError(f"format {header['format']!r}")
        if header["version"] != ADAPTER_VERSION:
            raise ValueError(f"version {header['version']}, this program reads version {ADAPTER_VERSION}")
        if not isinstance(header["base"], str):
            raise ValueError("it does not name its base")
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtefactError(f"{path}: not the description of an adapter ({exc!r})") from exc
    return dict(header)


def with_adapter(codec: Path, s2s: Path, lora: Path) -> tuple[Path, Path]:
    """The directories of codec and S2S model to load instead, so that the adapter is in them.

    Args:
        codec: the base's codec.
        s2s: the base's S2S model.
        lora: directory of the adapter.

    Raises:
        ArtefactError: ``lora`` is no finished adapter, or was made for another base than ``s2s``.
    """
    header = read_adapter(lora)
    base = fingerprint_of(s2s)
    if base != header["base"]:
        raise ArtefactError(
            f"{lora}: made for another base than {s2s} ({header['base'][:12]}, this is {base[:12]}); "
            "train it again on this one, or name its base with --s2s"
        )
    for part in ("s2s", *(["codec"] if header.get("decoder") else [])):
        if not (lora / part / "config.json").is_file():
            raise ArtefactError(f"{lora / part}: not found; make it with training.train_lora --merge {lora}")
    return (lora / "codec" if header.get("decoder") else codec), lora / "s2s"
