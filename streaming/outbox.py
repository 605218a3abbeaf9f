"""What waits for a message broker: bounded, the important first, and without I/O."""

import enum
from collections import Counter, deque
from dataclasses import dataclass


class Rank(enum.IntEnum):
    """How much it matters that a message arrives. The lowest leave first when the outbox is full."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Letter:
    """One message: ``retain`` asks the broker to keep it for later subscribers."""

    topic: str
    payload: str
    qos: int = 0
    retain: bool = False
    rank: Rank = Rank.NORMAL


class Outbox:
    """Messages on their way.

    * Kept ones are the present state: one a topic, the newest wins, and each new connection gets them all again.
    * Of the others at most ``limit`` wait, higher ranks first and each rank in order. When it is full, the oldest of
      the lowest rank leaves; counter: ``dropped``.
    * A message is taken out once it has arrived, not when it is begun.
    """

    def __init__(self, limit: int) -> None:
        assert limit > 0, "an outbox holds something"
        self._limit = limit
        self._kept: dict[str, Letter] = {}
        self._unsent: dict[str, None] = {}  # topics whose kept message has not arrived, in order
        self._waiting: dict[Rank, deque[Letter]] = {rank: deque() for rank in sorted(Rank, reverse=True)}
        self.dropped: Counter[Rank] = Counter()

    def __len__(self) -> int:
        return len(self._unsent) + self._others

    @property
    def _others(self) -> int:
        return sum(map(len, self._waiting.values()))

    def keep(self, topic: str, payload: str) -> None:
        """Make this the state of a topic."""
        self._kept[topic] = Letter(topic, payload, qos=1, retain=True)
        self._unsent[topic] = None

    def put(self, letter: Letter) -> None:
        """Add a message."""
        self._waiting[letter.rank].append(letter)
        if self._others > self._limit:
            rank = min(rank for rank, letters in self._waiting.items() if letters)
            self._waiting[rank].popleft()
            self.dropped[rank] += 1

    def renew(self) -> None:
        """There is a new connection: all that is kept has to be sent again."""
        self._unsent = dict.fromkeys(self._kept)

    def first(self) -> Letter | None:
        """What to send next, None when nothing waits; it stays until :meth:`arrived`."""
        for topic in self._unsent:
            return self._kept[topic]
        for letters in self._waiting.values():
            if letters:
                return letters[0]
        return None

    def arrived(self, letter: Letter) -> None:
        """The broker has this message. One that was replaced or dropped meanwhile is no matter."""
        if letter.retain:
            if self._kept.get(letter.topic) is letter:
                self._unsent.pop(letter.topic, None)
            return
        letters = self._waiting[letter.rank]
        if letters and letters[0] is letter:
            letters.popleft()
