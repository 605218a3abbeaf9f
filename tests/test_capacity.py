import threading

import pytest

from agent.capacity import MIN_CALLS, WATCHED_S, Capacity, StepTimes, conversations, time_steps, together
from models.runtime import Mode
from tests.fakes import FakeEngine

FRAME_S = 0.08


def times(idle: float, listen: float, speak: float, longest: float = 0.0) -> StepTimes:
    """Ten steps of each kind, in milliseconds; one more LISTEN is the longest, if it is said how long."""
    listened = [listen] * 10 + ([longest] if longest else [])
    each = {Mode.IDLE: [idle] * 10, Mode.LISTEN: listened, Mode.SPEAK: [speak] * 10}
    return StepTimes({mode: tuple(ms / 1000 for ms in taken) for mode, taken in each.items()})


def test_the_times_of_threads_are_one() -> None:
    """The longest and the mean are over all of them."""
    found = together([times(1, 5, 6), times(3, 5, 6, 40)])
    assert found.mean(Mode.IDLE) == pytest.approx(0.002)
    assert found.longest == 0.04


class Watched:
    """A capacity whose clock the test moves; a usual frame of 0.45 / 2.25 / 2.65 ms was measured at the start."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.capacity = Capacity(times(0.45, 2.25, 2.65), FRAME_S, clock=lambda: self.now_s)

    def frames(self, count: int, slower: float = 1.0, waited_s: float = 0.0) -> None:
        for _ in range(count):
            self.capacity.took("idle", waited_s, 0.00045 * slower)
            self.capacity.took("speak", waited_s, 0.00265 * slower)


def test_every_kind_of_step_is_timed() -> None:
    """As many steps of each as were asked for, in a state of their own; the times are those of the steps."""
    engine = FakeEngine(reply_frames=3, step_s=0.002)
    found = time_steps(engine, 8)
    (state,) = engine.states
    assert [state.modes.count(mode) for mode in Mode] == [8, 8, 8]
    for mode in Mode:
        assert len(found.seconds[mode]) == 8
        assert 0.002 <= found.median(mode) <= found.percentile(mode, 99) <= found.longest


@pytest.mark.parametrize(
    ("measured", "threads", "slowdown", "fit"),
    [
        (times(1, 5, 5.9), 1, 1.0, 3),  # .44 of 80 ms, 6.9 ms each and 3.5 for the loop
        (times(1, 9, 5.9), 1, 1.0, 2),  # listening is the dearer half
        (times(1, 5, 5.9), 1, 2.0, 1),
        (times(1, 5, 5.9), 2, 1.0, 5),
        (times(1, 5, 5.9, 65), 1, 1.0, 2),  # the longest step counts, too
        (times(20, 30, 30), 1, 1.0, 1),  # more than the share, but one is alone
        (times(30, 40, 50), 2, 1.0, 0),
        (times(0, 0, 0), 1, 1.0, 4096),
    ],
)
def test_how_many_fit(measured: StepTimes, threads: int, slowdown: float, fit: int) -> None:
    """The share of the model thread's time and the moment when all are due at once both bound the number."""
    assert conversations(measured, FRAME_S, threads, slowdown) == fit


def test_a_slow_machine_lets_one_in() -> None:
    """Who is alone may try."""
    assert Capacity(times(30, 40, 50), FRAME_S).now(0) == 1


def test_the_start_counts_until_there_are_calls_enough() -> None:
    """A few slow steps are no trend, and calls that are no frames say nothing."""
    watched = Watched()
    watched.frames(MIN_CALLS // 2 - 1, slower=3.0)
    for _ in range(MIN_CALLS):
        watched.capacity.took("open", 1.0, 1.0)
    assert watched.capacity.now(2) == watched.capacity.at_start == 5


def test_places_follow_the_steps_of_the_last_seconds() -> None:
    """Half the speed is half the room, until the slow seconds are over; a start in a bad moment is made good."""
    watched = Watched()
    watched.frames(100, slower=2.0)
    assert watched.capacity.now(2) == 2
    watched.now_s += WATCHED_S + 1.0
    assert watched.capacity.now(2) == 5
    watched.frames(100)
    assert watched.capacity.now(2) == 5
    watched.now_s += WATCHED_S + 1.0
    watched.frames(100, slower=0.5)
    assert watched.capacity.now(2) == 10


def test_the_mix_of_steps_is_no_slowdown() -> None:
    """Sessions that only speak, or are only idle, take what such steps took at the start."""
    watched = Watched()
    for _ in range(100):
        watched.capacity.took("speak", 0.0, 0.00265)
    assert watched.capacity.now(2) == 5


def test_nobody_comes_in_while_frames_come_late() -> None:
    """Steps that wait for half a frame stop admission where it is, whatever they take themselves."""
    watched = Watched()
    watched.frames(100, waited_s=0.045)
    assert [watched.capacity.now(present) for present in (0, 3, 12)] == [1, 3, 12]
    watched.frames(4000, waited_s=0.03)
    assert watched.capacity.now(3) == 5


def test_calls_arrive_from_any_thread_while_somebody_asks() -> None:
    """The model thread tells while the loop asks."""
    watched = Watched()
    telling = threading.Thread(target=watched.frames, args=(20_000,))
    telling.start()
    answers = {watched.capacity.now(1) for _ in range(200)}
    telling.join()
    assert answers == {5}
