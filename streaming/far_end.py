"""What the speaker played, lined up with what the microphone hears, although the two devices have clocks of their own.

Positions are absolute, so a late reader or a missing block never moves the one against the other. The clocks' drift
shows in the audio that is left over each time the microphone is read, by and by and a block at a time; playing it
faster or slower by some millionths holds what nearly always is left over at about a block. The echo comes later than
that on every real device, so the canceller never has to look into the future.

What a device lost in a stumble is no drift: it is made good in one step, as soon as it is known. Until then the
canceller would be told of silence where an echo is, and no canceller follows a reference that is warped for a minute.
"""

from collections import deque

import numpy as np

from streaming.frames import SAMPLE_RATE_HZ, FloatArray

_TARGET = SAMPLE_RATE_HZ // 100  # leftover that is aimed at
_RARELY = 0.1  # share of the readings at which there may be less: a callback was late
_MOST_READINGS = 500
_WINDOW = SAMPLE_RATE_HZ  # over which it is looked at
_SETTLE_S = 60.0  # in which a leftover that is too large or small is made good
_FASTEST = 1e-3  # relative: crystals differ by less than a tenth of that
_LOST = SAMPLE_RATE_HZ * 6 // 100  # an error that is no drift: something was lost on the way
_STUMBLED = SAMPLE_RATE_HZ * 3 // 10  # over which the leftover is looked at after a stumble
_OFF = SAMPLE_RATE_HZ * 15 // 1000  # an error that is put right then: more than a block
_MISSING = SAMPLE_RATE_HZ * 2 // 100  # so much less than is wanted shows a stumble by itself
_KEPT = SAMPLE_RATE_HZ  # played audio that is kept at most


class FarEnd:
    """The reference of an echo canceller; everything is 24 kHz.

    Attributes:
        moved: times the two were lined up anew, since audio was lost or came late.
        drift: the speaker's clock against the microphone's, relative, as it is corrected now.
    """

    def __init__(self) -> None:
        self.moved = 0
        self.drift = 0.0
        self._leftovers: deque[float] = deque(maxlen=_MOST_READINGS)
        self.reset()

    def reset(self) -> None:
        """Line up anew with what comes next, and forget what has been played."""
        self._pace = 1.0 + self.drift  # positions of it a sample of the microphone
        self._played = np.zeros(0, np.float32)
        self._start = 0  # position of its first sample
        self._next: float | None = None  # position that belongs to the microphone's next sample
        self._end = 0  # of what was played, when it was last looked at
        self._settling = False
        self.stumbled()

    def stumbled(self) -> None:
        """A device lost audio: what is left over from now on shows how much."""
        if not self._settling:  # else a device that stumbles on and on would never be lined up
            self._settling, self._watched = True, 0
            self._leftovers.clear()

    @property
    def position(self) -> float:
        """The speaker's sample that belongs to the microphone's next one; 0 before both began."""
        return self._next or 0.0

    def play(self, pcm: FloatArray) -> None:
        """Take what left the speaker, float32 [n], silence included."""
        self._played = np.concatenate([self._played, pcm])
        if (excess := len(self._played) - _KEPT) > 0:
            self._played, self._start = self._played[excess:], self._start + excess

    def line_up(self, waiting: int) -> bool:
        """Called when the microphone was read, before :meth:`read`: ``waiting`` samples of it are to be cleaned.

        Returns:
            Whether the two were lined up anew, so that the canceller has to find the delay again.
        """
        end = self._start + len(self._played)
        if self._next is None:
            self._next = float(end - waiting - _TARGET)
            return False
        leftover = end - self._next - waiting
        self._leftovers.append(leftover)
        self._watched += waiting
        missing = leftover < -_MISSING
        if end == self._end:  # the speaker's callback is late, or hangs: what was lost is known when it is back
            return False
        self._end = end
        if not missing and self._watched < (_STUMBLED if self._settling else _WINDOW):
            return False
        error = (leftover if missing else float(np.quantile(self._leftovers, _RARELY))) - _TARGET
        lost = _OFF if self._settling else _LOST
        self._settling, self._watched = False, 0
        self._leftovers.clear()
        if missing or abs(error) > lost:
            self._next += error
            self.moved += 1
            self.stumbled()
            return True
        wanted = error / (_SETTLE_S * SAMPLE_RATE_HZ)
        self.drift = float(np.clip(self.drift + wanted / _SETTLE_S, -_FASTEST, _FASTEST))  # what lasts
        self._pace = 1.0 + float(np.clip(self.drift + wanted, -_FASTEST, _FASTEST))
        return False

    def read(self, count: int) -> FloatArray:
        """Return what belongs to the microphone's next ``count`` samples, float32 [count]; silence where nothing is."""
        assert self._next is not None, "lined up first"
        at = self._next - self._start + self._pace * np.arange(count)
        self._next += self._pace * count
        if not len(self._played):
            return np.zeros(count, np.float32)
        return between(self._played, at)


def between(pcm: FloatArray, at: np.ndarray) -> FloatArray:
    """``pcm``, float32 [n], at fractional positions [m] (cubic, Catmull and Rom 1974), 0 outside: float32 [m]."""
    whole = np.floor(at).astype(np.int64)
    t = (at - whole).astype(np.float32)
    a, b, c, d = (_pick(pcm, whole + step) for step in (-1, 0, 1, 2))
    return np.asarray(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))), np.float32)


def _pick(pcm: FloatArray, index: np.ndarray) -> FloatArray:
    inside = (index >= 0) & (index < len(pcm))
    return np.where(inside, pcm[np.clip(index, 0, len(pcm) - 1)], np.float32(0.0))
