"""Audio that waits for its client to say that it is a turn."""

from collections.abc import Iterable

import numpy as np

from streaming.frames import SAMPLE_RATE_HZ

MAX_HELD_S = 60.0
TOO_MUCH = f"more than {MAX_HELD_S:.0f} s of audio without a commit; the audio buffer was cleared"


class HeldAudio:
    """Frames of push to talk. Bound: ``MAX_HELD_S``; policy: a further one is refused.

    Args:
        frame_size: samples.
    """

    def __init__(self, frame_size: int) -> None:
        self._frame_size = frame_size
        self._frames: list[np.ndarray] = []

    @property
    def samples(self) -> int:
        """How much there is."""
        return len(self._frames) * self._frame_size

    def put(self, pcm: np.ndarray) -> bool:
        """Keep a frame, float32 [frame_size]; False when there are too many."""
        if self.samples + self._frame_size > MAX_HELD_S * SAMPLE_RATE_HZ:
            return False
        self._frames.append(pcm)
        return True

    def take(self) -> Iterable[np.ndarray]:
        """All frames in order; none are kept."""
        frames, self._frames = self._frames, []
        return frames

    def clear(self) -> None:
        """Forget them."""
        self._frames = []
