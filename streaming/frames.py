"""Fixed-size frames on the sample clock.

`Framer` cuts a stream that arrives in chunks of any size into frames of one size. Time is the index of a sample:
sample 0 is the first one of the session, and missing audio shows as a jump in `Frame.start`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SAMPLE_RATE_HZ = 24_000
FRAME_MS = 80
FRAME_SAMPLES = SAMPLE_RATE_HZ * FRAME_MS // 1000


def ms_to_samples(duration_ms: float, rate_hz: int = SAMPLE_RATE_HZ) -> int:
    """Return the number of samples in `duration_ms`, rounded to the nearest."""
    return round(duration_ms * rate_hz / 1000)


def samples_to_ms(samples: int, rate_hz: int = SAMPLE_RATE_HZ) -> int:
    """Return the milliseconds in `samples`, rounded down."""
    return samples * 1000 // rate_hz


def as_mono(pcm: FloatArray) -> FloatArray:
    """Return `pcm` as it is after checking that it is float32 mono.

    Raises:
        ValueError: It is not one-dimensional or not float32.
    """
    if pcm.ndim != 1:
        raise ValueError(f"expected mono audio of shape [samples], got shape {list(pcm.shape)}")
    if pcm.dtype != np.float32:
        raise ValueError(f"expected float32 audio, got {pcm.dtype}")
    return pcm


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame of audio.

    Attributes:
        pcm: float32 [frame_size], mono, [-1, 1].
        start: Index of the first sample on the session's sample clock.
    """

    pcm: FloatArray
    start: int

    @property
    def end(self) -> int:
        """Index one past the last sample."""
        return self.start + len(self.pcm)


def whole_frames(pcm: FloatArray, frame_size: int) -> FloatArray:
    """A recording, float32 [samples], in frames [n, frame_size]; the last is filled up with zeros."""
    frames = np.zeros((-(-len(pcm) // frame_size), frame_size), np.float32)
    frames.reshape(-1)[: len(pcm)] = pcm
    return frames


class Framer:
    """Cuts chunks of any size into frames of `frame_size` samples; holds less than one frame."""

    def __init__(self, frame_size: int = FRAME_SAMPLES, start: int = 0) -> None:
        """Start an empty framer.

        Args:
            frame_size: Samples in a frame, at least 1.
            start: Clock index of the first sample to come.

        Raises:
            ValueError: `frame_size` is below 1.
        """
        if frame_size < 1:
            raise ValueError(f"frame_size must be at least 1, got {frame_size}")
        self.frame_size = frame_size
        self.dropped_samples = 0
        """Samples of partial frames lost at a gap in the input."""
        self._carry = np.zeros(frame_size, np.float32)
        self._filled = 0
        self._position = start

    @property
    def position(self) -> int:
        """Clock index of the next sample expected."""
        return self._position

    @property
    def pending_samples(self) -> int:
        """Samples held that do not fill a frame yet."""
        return self._filled

    def push(self, pcm: FloatArray, start: int | None = None) -> list[Frame]:
        """Take a chunk and return the frames that are now complete.

        Args:
            pcm: float32 [samples], any length.
            start: Clock index of its first sample; None means it follows the previous chunk. After a gap the
                partial frame is dropped (and counted), and frames go on from the new index.

        Raises:
            ValueError: Not float32 mono, or `start` lies before audio already taken.
        """
        as_mono(pcm)
        if start is not None and start != self._position:
            self._jump(start)
        frames: list[Frame] = []
        taken = 0
        while taken < len(pcm):
            count = min(self.frame_size - self._filled, len(pcm) - taken)
            self._carry[self._filled : self._filled + count] = pcm[taken : taken + count]
            self._filled += count
            self._position += count
            taken += count
            if self._filled == self.frame_size:
                frames.append(self._emit())
        return frames

    def flush(self) -> Frame | None:
        """Return the partial frame padded with zeros, or None when there is none; the clock counts the zeros."""
        if not self._filled:
            return None
        padding = self.frame_size - self._filled
        self._carry[self._filled :] = 0.0
        self._position += padding
        return self._emit()

    def reset(self, start: int = 0) -> None:
        """Forget everything; the next sample has clock index `start`."""
        self._filled = 0
        self._position = start
        self.dropped_samples = 0

    def _emit(self) -> Frame:
        self._filled = 0
        return Frame(self._carry.copy(), self._position - self.frame_size)

    def _jump(self, start: int) -> None:
        if start < self._position:
            raise ValueError(f"audio from sample {start} arrived after sample {self._position} was taken")
        self.dropped_samples += self._filled
        self._filled = 0
        self._position = start
