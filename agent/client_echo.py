"""The agent's own voice taken out of what a client sends, for one with a loudspeaker and no canceller of its own.

What the client plays is known, and about when: what was sent to it begins to sound some time later, a constant that the
canceller finds (up to half a second: network, the client's buffer and its devices). The reference goes by the client's
microphone, sample for sample, so that network jitter does not move the one against the other; a microphone that was not
sent for a while (push to talk) is made up for by the clock.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from streaming import realtime_events as events
from streaming.echo import EchoCanceller, available
from streaming.frames import SAMPLE_RATE_HZ, FloatArray
from streaming.tempo import Tempo

_log = logging.getLogger(__name__)

_PIECE = SAMPLE_RATE_HZ // 10
_GAP_S = 0.5  # by which the microphone is late: it was not sent meanwhile
_REPEATED = 256  # frames that a client that comes back may be sent again


def client_echo(asked: str | None, clock: Callable[[], float], holds: bool) -> "ClientEcho | None":
    """What a client gets that connects with ``?echo_cancellation=``: None where it is not true, or cannot be done."""
    if asked != "true":
        return None
    if not available():
        _log.warning("without the package livekit no client's echo is cancelled")
        return None
    return ClientEcho(clock, holds)


class ClientEcho:
    """Stands between a session's protocol and its conversation: commands one way, events the other.

    Args:
        clock: seconds, monotonic.
        holds: the client stops playing while a reply is held.

    Raises:
        AudioUnavailable: the package that cancels echoes is not installed.
    """

    def __init__(self, clock: Callable[[], float], holds: bool) -> None:
        self._clock, self._holds = clock, holds
        self._canceller = EchoCanceller(double_talk=False)
        self._waiting: deque[FloatArray] = deque()  # that the client has still to play
        self._sent: deque[FloatArray] = deque(maxlen=_REPEATED)
        self._held = False
        self._tempo = Tempo(1.0)
        self._until = clock()  # what waits begins then

    def take(self, command: events.Command) -> events.Command:
        """The same with cleaned audio; up to 10 ms of it wait for the next command."""
        if not isinstance(command, events.AppendAudio):
            return command
        seconds = len(command.pcm) / SAMPLE_RATE_HZ
        self._catch_up(seconds)
        self._until += seconds
        cleaned = []
        for begin in range(0, len(command.pcm), _PIECE):
            piece = command.pcm[begin : begin + _PIECE]
            self._canceller.play(self._next(len(piece)))
            cleaned.append(self._canceller.clean(piece))
        return replace(command, pcm=np.concatenate([np.zeros(0, np.float32), *cleaned]))

    def told(self, event: events.Event) -> None:
        """Know what the client is told to play."""
        match event:
            case events.ReplyStarted():
                self._tempo = Tempo(event.options.speed)
            case events.ReplyAudio():
                self._play(self._tempo.push(event.pcm))
            case events.ReplyDone(status="cancelled"):
                self._waiting.clear()
                self._held = False
            case events.ReplyDone():
                self._play(self._tempo.flush())
                self._held = False
            case events.ReplyHeld():
                self._catch_up(0.0)
                self._held = self._holds
            case events.ReplyResumed():
                self._catch_up(0.0)
                self._held = False

    def repeat(self, frames: int) -> None:
        """The client is back, and is sent so many of the latest frames again: it plays them now."""
        self._waiting = deque(list(self._sent)[-frames:] if frames else [])
        self._until = self._clock()
        self._canceller.reset()

    def _play(self, pcm: FloatArray) -> None:
        self._catch_up(0.0)
        self._waiting.append(pcm)
        self._sent.append(pcm)

    def _catch_up(self, seconds: float) -> None:
        """Leave out what the client played while it sent nothing; ``seconds`` of its microphone have come now."""
        due = self._clock() - seconds
        if self._held or not self._waiting:
            self._until = due
        elif (behind := due - self._until) > _GAP_S:
            self._next(round(behind * SAMPLE_RATE_HZ))
            self._until = due
            self._canceller.reset()

    def _next(self, count: int) -> FloatArray:
        """What the client plays in the next samples, float32 [count]."""
        played = np.zeros(count, np.float32)
        done = 0
        while not self._held and self._waiting and done < count:
            piece = self._waiting.popleft()
            part = piece[: count - done]
            played[done : done + len(part)] = part
            done += len(part)
            if len(part) < len(piece):
                self._waiting.appendleft(piece[len(part) :])
        return played
