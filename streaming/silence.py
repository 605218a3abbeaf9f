"""How long it has been quiet by the level of the sound, which falls before a voice detector is sure of the silence."""

from __future__ import annotations

from collections import deque
from math import log10

import numpy as np

from streaming.frames import FloatArray, Framer, as_mono, ms_to_samples

QUIETER_DB = 30.0  # than the loudest of the turn
DETECTOR_LATE = ms_to_samples(60)  # by which voice detectors say at least that speech is over
HELD_FRAMES = 3  # for which that loudest level lasts, so that a click is not it
_LOWEST_DB = -80.0  # relative to full scale; below it all is quiet


def quiet_for(detector: int, level: int) -> int:
    """Samples of quiet at the end of a turn, by what a voice detector has of them and by what the level has."""
    return max(detector + DETECTOR_LATE if detector else 0, level)


class LevelSilence:
    """Counts the 20 ms frames at the end of a turn that are 30 dB under its loudest level.

    A voice detector tells the end of speech when it is sure of it: Silero 40 to 160 ms late. In a quiet place the
    level tells it at once; with noise or an echo behind the voice it never falls so far, and nothing is counted.
    """

    _FRAME = ms_to_samples(20)

    def __init__(self) -> None:
        """Start before a turn."""
        self._frames = Framer(self._FRAME)
        self._latest: deque[float] = deque(maxlen=HELD_FRAMES)
        self.reset()

    @property
    def samples(self) -> int:
        """Quiet at the end of what was heard, in 24 kHz samples."""
        return self._quiet

    def push(self, pcm: FloatArray) -> None:
        """Take float32 [samples] at 24 kHz; whole frames count."""
        for chunk in self._frames.push(as_mono(pcm)):
            self._take(10.0 * log10(float(np.dot(chunk.pcm, chunk.pcm)) / self._FRAME + 1e-12))

    def skip(self, samples: int) -> None:
        """Audio is missing; it is as quiet as what was before it."""
        self._frames.reset()
        self._quiet += samples if self._quiet else 0

    def begin(self) -> None:
        """A turn begins: what was loud before it does not count."""
        self._loudest_db, self._quiet = _LOWEST_DB, 0

    def reset(self) -> None:
        """Forget everything."""
        self._frames.reset()
        self._latest.clear()
        self.begin()

    def _take(self, level_db: float) -> None:
        self._latest.append(level_db)
        if len(self._latest) == HELD_FRAMES:
            self._loudest_db = max(self._loudest_db, min(self._latest))
        loud = level_db >= max(self._loudest_db - QUIETER_DB, _LOWEST_DB)
        self._quiet = 0 if loud else self._quiet + self._FRAME
