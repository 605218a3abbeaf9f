"""Two voices on one clock: what the user said, and what the agent was heard to say. Pure; all positions are samples.

* The user's audio follows itself. Where it is later than half a second, the user sent nothing: there is silence.
* The agent's audio begins when it is sent, or when what was sent before has been played; an interruption takes back
  what has not been played.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from streaming.frames import SAMPLE_RATE_HZ
from streaming.resample import float_to_pcm16

LATE = SAMPLE_RATE_HZ // 2
_BLOCK = SAMPLE_RATE_HZ


class Timeline:
    """Mixes one conversation down to two channels; ``now`` is samples since it began, by the wall clock."""

    def __init__(self) -> None:
        self.position = 0
        """Samples that were given out; nothing before can change."""
        self.heard = 0
        """Samples of the user's own audio in them."""
        self._agent: deque[tuple[int, np.ndarray]] = deque()  # start, int16 [n]: not given out yet; bound: one reply
        self._agent_end = 0

    def hear(self, pcm: np.ndarray, now: int) -> Iterator[np.ndarray]:
        """Add the user's audio, float32 [n]; gives out int16 [m, 2], user and agent."""
        yield from self.catch_up(now - len(pcm))  # when it began
        for start in range(0, len(pcm), _BLOCK):
            piece = pcm[start : start + _BLOCK]
            self.heard += len(piece)
            yield self._give(_int16(piece))

    def say(self, pcm: np.ndarray, now: int) -> Iterator[np.ndarray]:
        """Add the agent's audio, float32 [n]; gives out as :meth:`hear`."""
        yield from self.catch_up(now)
        start = max(self._agent_end, self.position, now)
        self._agent.append((start, _int16(pcm)))
        self._agent_end = start + len(pcm)

    def hush(self, now: int) -> None:
        """The agent is not heard from now on."""
        end = max(self.position, now)
        self._agent = deque((start, pcm[: end - start]) for start, pcm in self._agent if start < end)
        self._agent_end = min(self._agent_end, end)

    def catch_up(self, now: int) -> Iterator[np.ndarray]:
        """Give out silence for a user who sends nothing; as :meth:`hear`."""
        if now - self.position > LATE:
            yield from self._quiet_until(now)

    def finish(self, now: int) -> Iterator[np.ndarray]:
        """Give out the rest, with what the agent was still to be heard to say; as :meth:`hear`."""
        yield from self._quiet_until(max(now, self._agent_end))

    def _quiet_until(self, end: int) -> Iterator[np.ndarray]:
        while self.position < end:
            yield self._give(np.zeros(min(_BLOCK, end - self.position), np.int16))

    def _give(self, user: np.ndarray) -> np.ndarray:
        begin, end = self.position, self.position + len(user)
        both = np.zeros((len(user), 2), np.int16)
        both[:, 0] = user
        while self._agent and self._agent[0][0] < end:
            start, pcm = self._agent.popleft()
            part = pcm[: end - start]
            both[start - begin : start - begin + len(part), 1] = part
            if len(part) < len(pcm):
                self._agent.appendleft((end, pcm[len(part) :]))
        self.position = end
        return both


def _int16(pcm: np.ndarray) -> np.ndarray:
    return np.frombuffer(float_to_pcm16(pcm), "<i2")
