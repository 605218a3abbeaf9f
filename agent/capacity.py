"""How many conversations this machine can hold in real time: measured at the start, watched while they last.

* A conversation is taken to be busy all the time: in the 80 ms of a frame the model hears a frame (`LISTEN`), or hears
  one and speaks one (`IDLE` and `SPEAK`). As many fit as need, with what the event loop does for the same audio, no
  more than a share of the time; the rest is for the system, and for bad moments.
* Everybody's frame may be due at the same moment, behind the longest step there is: the last one still has to be done
  within its 80 ms.
* The start may have been a good moment, or a bad one. The steps of the last seconds are compared with those of the
  start: slower steps make fewer places, and while frames come late there is no place for anybody else.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from agent.worker import StepEngine
from models.runtime import Mode

USABLE = 0.44  # of the time: five with 3 ms steps, four with 4.6 ms, where one more has underruns (LOG.md)
LOOP_S = 0.0035  # a frame: what the event loop needs for a conversation, most of it its voice detector
ALONE = 0.7  # of a frame: what a conversation may need that is the only one
FULL_AT = 0.5  # of a frame: the 95th percentile of the present frame times above which nobody is let in
STEPS = 24  # of each kind that are timed at the start
WATCHED_S = 10.0
MIN_CALLS = 25  # within WATCHED_S; fewer say nothing
_KEPT_CALLS = 4_096
_KINDS = {mode.name.lower(): mode for mode in Mode}
_NOISE_RMS = 0.05


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What single steps took: seconds by kind, in the order in which they were made."""

    seconds: Mapping[Mode, tuple[float, ...]]

    def mean(self, mode: Mode) -> float:
        """Seconds, the longer first step of a turn included."""
        return float(np.mean(self.seconds[mode]))

    def median(self, mode: Mode) -> float:
        """Seconds of a usual step."""
        return float(np.median(self.seconds[mode]))

    def percentile(self, mode: Mode, percent: float) -> float:
        """Seconds that so many percent of the steps did not exceed."""
        return float(np.percentile(self.seconds[mode], percent))

    @property
    def busy(self) -> float:
        """Seconds of a model thread that a frame of a busy conversation costs."""
        return max(self.mean(Mode.LISTEN), self.mean(Mode.IDLE) + self.mean(Mode.SPEAK))

    @property
    def longest(self) -> float:
        """Seconds of the longest step."""
        return max(max(taken) for taken in self.seconds.values())


def time_steps(engine: StepEngine, steps: int = STEPS) -> StepTimes:
    """Time ``steps`` steps of each kind, in a session of its own that hears noise; blocks meanwhile.

    The first of the LISTEN steps hears all that a session keeps from before, so it is the longest there is.
    """
    noise = np.random.default_rng(0).normal(0.0, _NOISE_RMS, engine.frame_size).astype(np.float32)
    state = engine.new_state()
    seconds: dict[Mode, tuple[float, ...]] = {}
    for mode in (Mode.IDLE, Mode.LISTEN, Mode.SPEAK):
        taken = []
        for _ in range(steps):
            began = time.perf_counter()
            engine.step(None if mode is Mode.SPEAK else noise, state, mode)
            taken.append(time.perf_counter() - began)
        seconds[mode] = tuple(taken)
    return StepTimes(seconds)


def together(found: Sequence[StepTimes]) -> StepTimes:
    """The times of several threads as one."""
    return StepTimes({mode: tuple(chain.from_iterable(times.seconds[mode] for times in found)) for mode in Mode})


def conversations(times: StepTimes, frame_s: float, threads: int = 1, slowdown: float = 1.0) -> int:
    """How many conversations fit; 0 when not even one does.

    Args:
        times: of single steps, made with all threads busy.
        frame_s: seconds in a frame.
        threads: that steps are made on.
        slowdown: how much longer steps take now.
    """
    busy, longest = times.busy * slowdown / threads, times.longest * slowdown
    if busy <= 0.0:
        return _KEPT_CALLS
    in_share = USABLE * frame_s / (busy + LOOP_S * slowdown)
    at_once = (frame_s - longest) / busy + 1.0
    alone = times.busy * slowdown <= ALONE * frame_s
    return max(int(alone), int(min(in_share, at_once)))


class Capacity:
    """How many conversations there may be now.

    Args:
        times: of the start.
        frame_s: seconds in a frame.
        threads: that steps are made on.
        clock: seconds, monotonic.
    """

    def __init__(
        self, times: StepTimes, frame_s: float, threads: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._times = times
        self._threads = threads
        self._frame_s = frame_s
        self._clock = clock
        self._calls: deque[tuple[float, str, float, float]] = deque(maxlen=_KEPT_CALLS)  # when, kind, waited, took
        self._lock = threading.Lock()
        self.at_start = max(1, conversations(times, frame_s, threads))
        """By the times of the start; one is always let in, and may find the machine too slow."""

    def took(self, kind: str, waited_s: float, took_s: float) -> None:
        """One call of the engine is over; on any thread."""
        if kind in _KINDS:
            with self._lock:
                self._calls.append((self._clock(), kind, waited_s, took_s))

    def now(self, present: int) -> int:
        """How many there may be while ``present`` are there: those, or more."""
        calls = self._recent()
        if len(calls) < MIN_CALLS:
            return self.at_start
        late = float(np.percentile([waited + took for _, _, waited, took in calls], 95))
        if late > FULL_AT * self._frame_s:
            return max(1, present)
        return max(1, conversations(self._times, self._frame_s, self._threads, self._slowdown(calls)))

    def _recent(self) -> list[tuple[float, str, float, float]]:
        since = self._clock() - WATCHED_S
        with self._lock:
            return [call for call in self._calls if call[0] >= since]

    def _slowdown(self, calls: list[tuple[float, str, float, float]]) -> float:
        """Time of usual steps now over what they took at the start, all kinds together."""
        now = then = 0.0
        for kind, mode in _KINDS.items():
            taken = [took for _, name, _, took in calls if name == kind]
            if taken:
                now += len(taken) * float(np.median(taken))
                then += len(taken) * self._times.median(mode)
        return now / then if then else 1.0
