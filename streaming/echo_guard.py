"""Whether what an echo canceller leaves is somebody, or still the agent. Pure: levels of 10 ms frames in.

A canceller leaves something: at first all of the echo, since it does not know the room; later what of the room's
reverberation is longer than its filter. A voice detector takes either for speech. So while an echo may sound,

* nothing counts until the canceller has shown, over a second of speech, that it takes most of the echo out;
* then only what is well above the remains of the echo as they were in the last seconds. After the speaker fell silent,
  the echo is taken to die away slowly;
* when the speaker begins after a silence, nothing counts that rises and falls as what was played: the delay may have
  changed meanwhile (sound servers do that), and the canceller needs half a second to find it again. Somebody who speaks
  over the echo has another course (double-talk detection by correlation: Benesty et al., 2000, here of levels).

Without an echo (headphones, a far speaker) everything counts.
"""

import math
from collections import deque

import numpy as np

_PLAYING = 1e-5  # mean square of a played frame that can be heard
_HOLD = 30  # frames after a played one in which its echo may begin or be at its loudest
_SILENCE, _BEGINNING = 50, 80  # frames: of a silent speaker, after which the canceller may be wrong for so long
_COURSE, _LATEST = 40, 30  # frames whose levels are compared, up to so many later than what was played
_ALIKE = 0.85  # correlation from which on they are the same
_FAINT = 1e-6  # power: below it levels are all the same
_SMOOTH = 0.2  # share of the newest frame in the levels
_LEAST_LEFT, _MOST_LEFT = 10**-2.4, 10**-0.9  # of the echo's power, that makes it a voice of its own
_OVER_REMAINS = 10**1.0  # it is so far over what was left of the echo before
_FORGET = 10 ** (-3 / 10 / 100)  # of these remains, in power a frame of echo: 3 dB a second
_SUSPECT = 40  # frames: remains are believed when nobody was heard for so long after, as a voice begins softly
_DECAY = 10 ** (-30 / 10 / 100)  # of the echo's power a frame: 30 dB a second, a large hall
_OVER_FLOOR = 10**0.6  # what is heard while the speaker plays is an echo if it is so far over the room's noise
_RISE = 10 ** (1 / 10 / 100)  # of the noise's power a frame: 1 dB a second
_ALONE = 200  # frames without an echo: the room's noise is no less than the quietest of them (it was muted before)
_PROOF = 60  # frames of echo over which the canceller is judged
_PROVEN = 10**-1.2  # of the echo's power: less left is proof
_NEEDED = 2  # such stretches in a row; and failures, after one more
_FAILING = 10**-0.4  # of the echo's power: more left, while the speaker plays on, is no user, who would have stopped it
_TINY = 1e-10


class EchoGuard:
    """Follows one canceller, frame by frame."""

    def __init__(self) -> None:
        self._silent = _SILENCE  # frames since one was played
        self._new = 0  # frames for which the canceller may be wrong
        self._played_course = deque([_FAINT] * (_COURSE + _LATEST), _COURSE + _LATEST)
        self._heard_course = deque([_FAINT] * _COURSE, _COURSE)
        self._heard = self._left = 0.0  # smoothed power
        self._echo = 0.0  # what an echo may still have
        self._remains = _MOST_LEFT / _OVER_REMAINS  # of the echo's power
        self._recent: deque[float] = deque()  # the same, frame by frame, not believed yet; bound: _SUSPECT
        self._floor = self._quietest = math.inf
        self._alone = 0  # frames without an echo, of which that is the quietest
        self._proof_frames = 0
        self._proof_heard = self._proof_left = 0.0
        self._shown = 0
        self._needless = False  # there was no echo when the speaker last played
        self._sum_heard = self._sum_left = 0.0  # of every frame taken for an echo

    @property
    def taken_out_db(self) -> float:
        """How far what was left of the echo is below it, so far; 0 when there was none."""
        return 10 * math.log10((self._sum_heard + _TINY) / (self._sum_left + _TINY))

    @property
    def trusting(self) -> bool:
        """Whether the canceller is known to work, or not needed."""
        return self._shown >= _NEEDED

    def doubt(self) -> None:
        """The canceller has to start over, since audio was lost; where there is no echo, it is still not needed."""
        self._shown = min(self._shown, _NEEDED) if self._needless else 0
        self._proof_frames = 0
        self._proof_heard = self._proof_left = 0.0
        self._remains = _MOST_LEFT / _OVER_REMAINS
        self._recent.clear()

    def is_echo(self, played: float, heard: float, left: float) -> bool:
        """Take one frame: mean squares of what was played, what the microphone heard and what the canceller left.

        Returns:
            Whether ``left`` counts as silence.
        """
        playing = played > _PLAYING
        began = playing and self._silent >= _SILENCE
        self._new = max((_BEGINNING if began else self._new) - 1, 0)
        self._silent = 0 if playing else self._silent + 1
        may_sound = self._silent < _HOLD
        self._played_course.append(max(played, _FAINT))
        self._heard_course.append(max(heard, _FAINT))
        self._heard += _SMOOTH * (heard - self._heard)
        self._left += _SMOOTH * (left - self._left)
        self._follow_noise(may_sound)
        echo = may_sound and self._heard > _OVER_FLOOR * self._floor
        self._echo = max(self._echo * _DECAY, self._heard if echo else 0.0)
        if playing:
            self._judge(heard, left)
        known = may_sound and self.trusting  # how the echo dies away is not
        enough = min(max(_OVER_REMAINS * self._remains, _LEAST_LEFT), _MOST_LEFT) if known else _MOST_LEFT
        verdict = (
            (may_sound and not self.trusting)
            or self._left < enough * self._echo
            or (self._new > 0 and self._like_what_was_played())
        )
        if not verdict:
            self._recent.clear()
        elif self.trusting and echo:
            self._learn(self._left / self._echo)
        if verdict and echo:
            self._sum_heard += heard
            self._sum_left += left
        return verdict

    def _follow_noise(self, may_sound: bool) -> None:
        self._floor = min(self._floor * _RISE, max(self._heard, _TINY))
        self._alone = 0 if may_sound else self._alone + 1
        self._quietest = min(self._quietest, self._heard) if self._alone > 1 else self._heard
        if self._alone == _ALONE:
            self._floor, self._alone = max(self._floor, self._quietest), 0

    def _like_what_was_played(self) -> bool:
        played = np.lib.stride_tricks.sliding_window_view(np.log(self._played_course), _COURSE)  # [lags, _COURSE]
        heard = np.log(self._heard_course)
        played, heard = played - played.mean(axis=1, keepdims=True), heard - heard.mean()
        norms = np.sqrt(np.square(played).sum(axis=1) * np.square(heard).sum())
        return bool(((played @ heard) > _ALIKE * np.maximum(norms, _TINY)).any())

    def _learn(self, remains: float) -> None:
        self._recent.append(remains)
        if len(self._recent) > _SUSPECT:
            self._remains = max(self._remains * _FORGET, self._recent.popleft())

    def _judge(self, heard: float, left: float) -> None:
        self._proof_frames += 1
        self._proof_heard += heard
        self._proof_left += left
        if self._proof_frames < _PROOF:
            return
        self._needless = self._proof_heard < _OVER_FLOOR * self._floor * _PROOF
        proven = self._needless or self._proof_left < _PROVEN * self._proof_heard
        failing = not self._needless and self._proof_left > _FAILING * self._proof_heard
        if failing and self.trusting:
            self._shown -= 1
        else:
            self._shown = min(self._shown + 1, _NEEDED + 1) if proven or self.trusting else 0
        self._proof_frames, self._proof_heard, self._proof_left = 0, 0.0, 0.0
