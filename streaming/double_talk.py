"""Whether somebody speaks over an echo: from what was played and what the microphone heard, 10 ms at a time.

An echo canceller keeps its output closed for the first tenths of a second in which somebody speaks over it, since it
cannot tell yet that this is no echo. But how strong an echo can be, band by band, follows from what was played: the
power of a room's response is learnt as a filter of power over the last 0.6 s (normalised LMS on band powers, kept
non-negative). Comparing a microphone's level with what the far end can have caused is Geigel's double-talk detector,
here for each band and a whole response. Speech is sparse: who speaks over an echo is above it in some bands at once.
"""

from itertools import pairwise

import numpy as np

from streaming.frames import SAMPLE_RATE_HZ, FloatArray

_HOP = SAMPLE_RATE_HZ // 100
_EDGES_HZ = (150, 300, 450, 600, 780, 980, 1_200, 1_450, 1_750, 2_100, 2_500, 3_000, 3_600, 4_300, 5_200, 6_500)
_REACH = 60  # frames that an echo may come after what was played
_RECENT = 20  # of them: what is learnt from a tail alone is noise, or somebody who answers
_PACE, _CAREFUL = 0.05, 0.001  # of learning: while nobody speaks over the echo, and when somebody may
_MAY_BE_DB = 1.0  # above the echo that there can be, over all bands
_IS_DB = 4.5  # above the echo that there can be, in the better half of the bands, over _FRAMES
_FRAMES = 3
_MOST_DB = 20.0
_CALM = 100  # frames of echo without anybody that it takes to be believed
_STAYS = 40  # frames: the echo ends when the agent falls silent, and a voice detector needs time to make up its mind
_SOUNDS = 1e-6  # power of a played band that can be heard
_OVER_NOISE = 4.0  # of an echo that counts
_RISE = 10 ** (3 / 10 / 100)  # of the noise's power a frame: 3 dB a second
_TINY = 1e-12


class DoubleTalk:
    """Follows one microphone beside one speaker, frame by frame."""

    def __init__(self) -> None:
        bins = np.fft.rfftfreq(2 * _HOP, 1.0 / SAMPLE_RATE_HZ)
        self._bands = np.array([(bins >= low) & (bins < high) for low, high in pairwise(_EDGES_HZ)], float)
        self._window = np.hanning(2 * _HOP)
        self._before = np.zeros((2, _HOP), np.float32)  # played and heard, a frame ago
        count = len(self._bands)
        self._played = np.zeros((_REACH, count))  # power, the latest first
        self._room = np.full((_REACH, count), 1e-3)
        self._noise = np.full(count, np.inf)
        self._above = np.full(_FRAMES, -_MOST_DB)
        self._all = 0.0
        self._calm = self._stays = 0

    def somebody_speaks(self, played: FloatArray, heard: FloatArray) -> bool:
        """Take 10 ms of both, float32 [240]; whether somebody is heard over an echo."""
        now = np.stack([played, heard])
        spectra = np.abs(np.fft.rfft(np.concatenate([self._before, now], axis=1) * self._window, axis=1)) ** 2
        self._before = now
        played_power, power = (spectra @ self._bands.T) / (2 * _HOP)
        self._played = np.roll(self._played, 1, axis=0)
        self._played[0] = played_power
        self._noise = np.minimum(self._noise * _RISE, np.maximum(power, _TINY))
        echo = (self._room * self._played).sum(axis=0)
        above = 10.0 * np.log10((power + _TINY) / (echo + _OVER_NOISE * self._noise + _TINY))
        above = np.sort(np.clip(above, -_MOST_DB / 2, _MOST_DB))
        self._above = np.roll(self._above, 1)
        self._above[0] = above[len(above) // 2 :].mean()
        score = float(self._above.mean())
        self._all += 0.25 * (float(above.mean()) - self._all)
        if self._played[:_RECENT].sum() > _SOUNDS:
            self._learn(power - self._noise - echo, _CAREFUL if self._all > _MAY_BE_DB else _PACE)
        sounds = echo.sum() > _OVER_NOISE * self._noise.sum()
        self._stays = max(self._stays - 1, 0)
        if sounds and score <= _IS_DB:
            self._calm += 1
        elif sounds and (self._stays or self._calm >= _CALM):
            self._stays = _STAYS
        elif sounds:
            self._calm = 0
        return self._stays > 0

    def _learn(self, error: np.ndarray, pace: float) -> None:
        energy = np.square(self._played).sum(axis=0) + _TINY
        self._room = np.maximum(self._room + pace * error * self._played / energy, 0.0)
