"""Streaming sample-rate conversion and 16-bit PCM.

Two resamplers with the same methods, both aligned in time (output sample k lies at input time k * in / out):

- `Resampler` wraps soxr: the best quality, but it works in blocks and holds back up to 38 ms. For files.
- `LiveResampler` is a polyphase FIR with a look-ahead of 1-2 ms. For microphones, sockets and voice activity.
"""

from __future__ import annotations

from math import ceil, gcd

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from streaming.frames import FloatArray, as_mono

_ZERO_CROSSINGS = 24  # on each side of the kernel, at the lower of the two rates
_KAISER_BETA = 8.0  # 80 dB of stop band
_ROLL_OFF = 0.9  # pass-band edge (-6 dB) as a part of the lower Nyquist frequency
_BLOCK = 4096  # outputs computed at once, which bounds the memory of a long push
_PCM16_SCALE = 32768.0


def pcm16_to_float(data: bytes | bytearray | memoryview) -> FloatArray:
    """Convert little-endian 16-bit mono PCM to float32 [samples] in [-1, 1).

    Raises:
        ValueError: The number of bytes is odd.
    """
    if len(data) % 2:
        raise ValueError(f"16-bit audio needs an even number of bytes, got {len(data)}")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(_PCM16_SCALE)


def float_to_pcm16(pcm: FloatArray) -> bytes:
    """Convert float32 [samples] to little-endian 16-bit PCM; clips beyond [-1, 1], and what is not a number is 0."""
    scaled = np.nan_to_num(as_mono(pcm), nan=0.0, posinf=1.0, neginf=-1.0) * np.float32(_PCM16_SCALE)
    return bytes(np.clip(np.rint(scaled), -32768, 32767).astype("<i2").tobytes())


def resample(pcm: FloatArray, in_rate_hz: int, out_rate_hz: int) -> FloatArray:
    """Convert a whole recording, float32 [samples], with soxr."""
    stream = Resampler(in_rate_hz, out_rate_hz)
    return np.concatenate([stream.push(pcm), stream.flush()])


class Resampler:
    """High-quality streaming conversion of mono float32; the same samples pass through when the rates are equal."""

    def __init__(self, in_rate_hz: int, out_rate_hz: int) -> None:
        """Start a stream.

        Raises:
            ValueError: A rate is not positive.
        """
        _check_rates(in_rate_hz, out_rate_hz)
        self._stream = None
        if in_rate_hz != out_rate_hz:
            self._stream = soxr.ResampleStream(in_rate_hz, out_rate_hz, 1, dtype="float32", quality="HQ")

    def push(self, pcm: FloatArray) -> FloatArray:
        """Take float32 [samples] and return the output that is ready, possibly empty.

        Raises:
            ValueError: Not float32 mono.
        """
        as_mono(pcm)
        if self._stream is None:
            return pcm
        return np.asarray(self._stream.resample_chunk(pcm), np.float32)

    def flush(self) -> FloatArray:
        """Return what is still held back and start afresh."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        tail = np.asarray(self._stream.resample_chunk(np.zeros(0, np.float32), last=True), np.float32)
        self._stream.clear()
        return tail

    def reset(self) -> None:
        """Forget the past; the next sample is the first one."""
        if self._stream is not None:
            self._stream.clear()


class LiveResampler:
    """Low-delay streaming conversion of mono float32; the same samples pass through when the rates are equal."""

    def __init__(self, in_rate_hz: int, out_rate_hz: int) -> None:
        """Design the filter bank and start a stream.

        Raises:
            ValueError: A rate is not positive.
        """
        _check_rates(in_rate_hz, out_rate_hz)
        divisor = gcd(in_rate_hz, out_rate_hz)
        self._up = out_rate_hz // divisor
        self._down = in_rate_hz // divisor
        self._half = ceil(_ZERO_CROSSINGS * max(1.0, self._down / self._up))
        self._bank = _polyphase_bank(self._up, self._down, self._half)  # [phases, taps]
        self._held: FloatArray
        self.reset()

    @property
    def lookahead_samples(self) -> int:
        """Input samples after its own time that an output sample waits for."""
        return 0 if self._up == self._down else self._half

    def push(self, pcm: FloatArray) -> FloatArray:
        """Take float32 [samples] and return the output that is ready, possibly empty.

        Raises:
            ValueError: Not float32 mono.
        """
        as_mono(pcm)
        if self._up == self._down:
            return pcm
        self._held = np.concatenate([self._held, pcm])
        self._taken += len(pcm)
        # the last output whose window [base - half + 1, base + half] is complete
        last_base = self._taken - 1 - self._half
        end = (last_base * self._up + self._up - 1) // self._down + 1 if last_base >= 0 else 0
        return self._emit(max(end, self._made))

    def flush(self) -> FloatArray:
        """Return what is still held back and start afresh."""
        if self._up == self._down:
            return np.zeros(0, np.float32)
        end = -(-self._taken * self._up // self._down)
        self._held = np.concatenate([self._held, np.zeros(self._half, np.float32)])
        tail = self._emit(end)
        self.reset()
        return tail

    def reset(self) -> None:
        """Forget the past; the next sample is the first one."""
        self._taken = 0
        self._made = 0
        self._first = 1 - self._half  # input index of `_held[0]`
        self._held = np.zeros(self._half - 1, np.float32)

    def _emit(self, end: int) -> FloatArray:
        """Compute outputs `_made` to `end` and drop the input no later output needs."""
        out = np.empty(end - self._made, np.float32)
        for done in range(0, len(out), _BLOCK):
            block = out[done : done + _BLOCK]
            steps = (self._made + np.arange(len(block), dtype=np.int64)) * self._down  # [outputs]
            begins = steps // self._up - self._half + 1 - self._first
            windows = sliding_window_view(self._held, 2 * self._half)[begins]  # [outputs, taps]
            np.einsum("nt,nt->n", windows, self._bank[steps % self._up], out=block)
            self._made += len(block)
        spent = end * self._down // self._up - self._half + 1 - self._first
        self._held = self._held[spent:]
        self._first += spent
        return out


def _check_rates(in_rate_hz: int, out_rate_hz: int) -> None:
    if in_rate_hz < 1 or out_rate_hz < 1:
        raise ValueError(f"sample rates must be positive, got {in_rate_hz} Hz and {out_rate_hz} Hz")


def _polyphase_bank(up: int, down: int, half: int) -> FloatArray:
    """Return Kaiser-windowed sinc filters, one for each fractional position: [up, 2 * half]."""
    cutoff = _ROLL_OFF * min(1.0, up / down)
    taps = np.arange(1 - half, half + 1)  # input samples relative to the output's whole-sample position
    distance = taps[None, :] - np.arange(up)[:, None] / up  # [phases, taps]
    inside = np.maximum(0.0, 1.0 - (distance / half) ** 2)
    kernel = np.sinc(distance * cutoff) * np.i0(_KAISER_BETA * np.sqrt(inside))
    kernel /= kernel.sum(axis=1, keepdims=True)  # unit gain at 0 Hz in every phase
    return kernel.astype(np.float32)
