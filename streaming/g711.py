"""G.711: 8 bits a sample for telephones, mu-law and A-law, to and from float32."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streaming.frames import FloatArray, as_mono

Law = Literal["mu", "a"]

RATE_HZ = 8_000
_SCALE = 32768.0


def decode(data: bytes, law: Law) -> FloatArray:
    """Convert one byte a sample to float32 [samples] in [-1, 1)."""
    return _DECODED[law][np.frombuffer(data, np.uint8)]


def encode(pcm: FloatArray, law: Law) -> bytes:
    """Convert float32 [samples] to one byte a sample, the nearest there is; what is not a number is 0."""
    scaled = np.nan_to_num(as_mono(pcm), nan=0.0, posinf=1.0, neginf=-1.0) * np.float32(_SCALE)
    levels = np.clip(np.rint(scaled), -32768, 32767).astype(np.int32)
    return bytes(_ENCODED[law][levels + 32768].tobytes())


def _mu_law() -> NDArray[np.int32]:
    """The 16-bit value of every mu-law byte."""
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code >> 4) & 7)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int32)


def _a_law() -> NDArray[np.int32]:
    """The 16-bit value of every A-law byte."""
    code = np.arange(256) ^ 0x55
    exponent = (code >> 4) & 7
    step = ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent, step + 0x100 << np.maximum(exponent, 1) - 1, step)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int32)


def _nearest(values: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The byte for every 16-bit value, from -32768 on."""
    order = np.argsort(values, kind="stable")
    between = (values[order][1:] + values[order][:-1]) / 2
    return order[np.searchsorted(between, np.arange(-32768, 32768), side="right")].astype(np.uint8)


_VALUES: dict[Law, NDArray[np.int32]] = {"mu": _mu_law(), "a": _a_law()}
_DECODED = {law: (values / _SCALE).astype(np.float32) for law, values in _VALUES.items()}
_ENCODED = {law: _nearest(values) for law, values in _VALUES.items()}
