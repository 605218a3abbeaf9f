"""Faster or slower speech at the same pitch, as a stream (waveform-similarity overlap-add).

Windows of the input are added at a fixed distance; each is taken from near where the speed wants it, at the place that
goes on most like the window before it. What comes out does not depend on how the input is cut.
"""

from __future__ import annotations

import numpy as np

from streaming.frames import FloatArray, as_mono, ms_to_samples

HOP = ms_to_samples(15)  # between windows in the output
_WINDOW = 2 * HOP
_SEARCH = ms_to_samples(8)  # to either side of the wanted place: a period of a low voice
_FADE = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(_WINDOW) / _WINDOW)).astype(np.float32)


class Tempo:
    """Streaming change of speed.

    Args:
        speed: output is this much shorter than input, above 0; at 1.0 samples pass through.
    """

    def __init__(self, speed: float) -> None:
        if speed <= 0.0:
            raise ValueError(f"the speed must be above 0, got {speed}")
        self._speed = speed
        self._held: FloatArray
        self.reset()

    def push(self, pcm: FloatArray) -> FloatArray:
        """Take float32 [samples] and return the output that is ready, possibly empty.

        Raises:
            ValueError: Not float32 mono.
        """
        as_mono(pcm)
        if self._speed == 1.0:
            return pcm
        self._held = np.concatenate([self._held, pcm])
        self._taken += len(pcm)
        return self._make(self._taken)

    def flush(self) -> FloatArray:
        """Return what is still held back and start afresh; all output together is input / speed, to the sample."""
        total = round(self._taken / self._speed)
        missing = total - self._windows * HOP
        if self._speed == 1.0 or missing <= 0:
            self.reset()
            return np.zeros(0, np.float32)
        end = self._wanted(self._windows + -(-missing // HOP)) + _SEARCH + 2 * _WINDOW
        self._held = np.concatenate([self._held, np.zeros(max(0, end - self._taken), np.float32)])
        tail = self._make(max(end, self._taken))[:missing]
        self.reset()
        return tail

    def reset(self) -> None:
        """Forget the past; the next sample is the first one."""
        self._taken = 0  # samples of input
        self._windows = 0  # of output, HOP samples each are complete
        self._held = np.zeros(_SEARCH, np.float32)
        self._first = -_SEARCH  # input index of `_held[0]`
        self._latest = -HOP  # input index of the latest window; before the first one is silence
        self._overlap = np.zeros(HOP, np.float32)

    def _wanted(self, window: int) -> int:
        return round(window * HOP * self._speed)

    def _make(self, end: int) -> FloatArray:
        """All windows that need no input from index `end` on."""
        out: list[FloatArray] = []
        while max(self._wanted(self._windows) + _SEARCH, self._latest + HOP) + _WINDOW <= end:
            at = self._best(self._wanted(self._windows))
            window = self._slice(at, _WINDOW) * _FADE
            if self._windows == 0:
                window[:HOP] = self._slice(at, HOP)  # nothing to fade from
            out.append(self._overlap + window[:HOP])
            self._overlap, self._latest = window[HOP:], at
            self._windows += 1
        spent = min(self._wanted(self._windows) - _SEARCH, self._latest + HOP) - self._first
        if spent > 0:
            self._held, self._first = self._held[spent:], self._first + spent
        return np.concatenate(out) if out else np.zeros(0, np.float32)

    def _best(self, wanted: int) -> int:
        """Where near `wanted` the input goes on most like the latest window does."""
        if self._windows == 0:
            return 0
        model = self._slice(self._latest + HOP, HOP)
        near = self._slice(wanted - _SEARCH, 2 * _SEARCH + HOP)
        power = np.concatenate([[0.0], np.cumsum(near.astype(np.float64) ** 2)])
        energy = np.sqrt(np.maximum(power[HOP:] - power[:-HOP], 0.0)) + 1e-6  # [places]
        return wanted - _SEARCH + int(np.argmax(np.correlate(near, model, "valid") / energy))

    def _slice(self, start: int, length: int) -> FloatArray:
        begin = start - self._first
        return self._held[begin : begin + length].copy()
