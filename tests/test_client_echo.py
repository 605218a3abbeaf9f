"""The agent's voice in what a client sends."""

from collections.abc import Callable

import numpy as np
import pytest

from agent.client_echo import ClientEcho
from streaming import realtime_events as events
from tests.fakes import FakeClock
from tests.test_echo import RATE, echo_of, level_db, noise

CHUNK = RATE // 50
FRAME = RATE * 8 // 100


class Call:
    """A client with a loudspeaker: hears what it is sent ``delay_ms`` later, and what its user says."""

    def __init__(self, delay_ms: int, holds: bool = False) -> None:
        self.clock = FakeClock()
        self.echo = ClientEcho(self.clock, holds)
        self.delay_ms = delay_ms

    def reply(self, pcm: np.ndarray, status: events.ResponseStatus = "completed") -> None:
        self.echo.told(events.ReplyStarted(1, events.CreateResponse()))
        for begin in range(0, len(pcm), FRAME):
            self.echo.told(events.ReplyAudio(pcm[begin : begin + FRAME]))
        self.echo.told(events.ReplyDone(status))

    def send(self, pcm: np.ndarray, jitter: Callable[[int], float] = lambda _: 0.0) -> np.ndarray:
        """The microphone in chunks of 20 ms, each in its time and some of them late; what the agent hears."""
        began, heard = self.clock.now, []
        for number, begin in enumerate(range(0, len(pcm), CHUNK)):
            self.clock.now = began + (begin + CHUNK) / RATE + jitter(number)
            command = self.echo.take(events.AppendAudio(pcm[begin : begin + CHUNK]))
            assert isinstance(command, events.AppendAudio)
            heard.append(command.pcm)
        self.clock.now = began + len(pcm) / RATE
        return np.concatenate(heard)


@pytest.mark.parametrize("delay_ms", [80, 350])
def test_the_agents_voice_is_taken_out(delay_ms: int) -> None:
    """However late it comes within half a second, and however unevenly the client's chunks arrive."""
    call, said = Call(delay_ms), noise(8.0, 1)
    call.reply(said)
    echo = echo_of(said, delay_ms)
    heard = call.send(echo, jitter=lambda number: 0.15 * (number % 7 == 3))
    late = slice(4 * RATE, 7 * RATE)
    assert level_db(heard[late]) < level_db(echo[late]) - 25


def test_the_user_is_heard_over_it() -> None:
    """Once the canceller knows the echo, who begins to speak over it comes through."""
    call, said, user = Call(100), noise(9.0, 1), 1.5 * noise(9.0, 2)
    user[: 3 * RATE] = 0.0
    call.reply(said)
    heard = call.send(echo_of(said, 100) + user)
    part = slice(int(3.2 * RATE), int(4.2 * RATE))
    assert abs(level_db(heard[part]) - level_db(user[part])) < 10


def test_a_microphone_that_was_not_sent_loses_nothing() -> None:
    """Push to talk: the reply was played while nothing came, so that what comes then has no echo in it."""
    call = Call(100)
    call.send(np.zeros(2 * RATE, np.float32))
    call.reply(noise(5.0, 1))
    call.clock.now += 6.0
    question = noise(2.0, 3)
    assert level_db(call.send(question)[CHUNK:]) > level_db(question) - 3


def test_what_was_played_before_the_microphone_was_opened_is_forgotten() -> None:
    """A greeting, and then the user: nothing of the one is taken out of the other; nor is it kept for ever."""
    call = Call(100)
    for _ in range(20):
        call.reply(noise(5.0, 1))
        call.clock.now += 6.0
    assert sum(map(len, call.echo._waiting)) <= 6 * RATE
    question = noise(2.0, 3)
    assert level_db(call.send(question)[CHUNK:]) > level_db(question) - 3


def test_what_is_sent_again_is_played_again() -> None:
    """A client that comes back plays what it missed: that is the agent's voice as well."""
    call, said = Call(100), noise(8.0, 1)
    call.reply(said)
    call.send(echo_of(said, 100))
    call.clock.now += 4.0
    again = said[-50 * FRAME :]
    call.echo.repeat(51)  # fifty of the last reply, and what the end of it held back
    heard = call.send(echo_of(again, 100))
    assert level_db(heard[RATE:]) < level_db(again) - 25


def test_what_is_broken_off_or_held_is_not_played() -> None:
    """A reply that was cancelled leaves no echo; one that is held waits, with clients that do."""
    call = Call(100, holds=True)
    call.send(np.zeros(RATE, np.float32))
    call.reply(noise(5.0, 1), "cancelled")
    question = noise(2.0, 3)
    assert level_db(call.send(question)[CHUNK:]) > level_db(question) - 3
    call.reply(np.random.default_rng(4).normal(0.0, 0.05, 5 * RATE).astype(np.float32))
    call.echo.told(events.ReplyHeld())
    assert level_db(call.send(question)[CHUNK:]) > level_db(question) - 3
    call.echo.told(events.ReplyResumed())
    assert level_db(call.send(question)[RATE // 2 :]) < -60  # until the canceller has shown that it works
