"""What a session's mind is told: audio to hear, lines to read, replies to give, and what was not heard of them."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streaming.realtime_events import CreateResponse, Line


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the agent says when it shall speak and there is nothing to answer: ``first`` of all, and ``later``."""

    first: str
    later: str


@dataclass(frozen=True, slots=True)
class Hear:
    """One frame of the user, float32 [frame_size], ending at sample ``end``; ``listen``: it is part of ``turn``."""

    pcm: np.ndarray
    end: int
    turn: int = 0
    listen: bool = False


@dataclass(frozen=True, slots=True)
class Overhear:
    """One frame of sound over a held reply, float32 [frame_size]; ``last``: say what there was in it."""

    pcm: np.ndarray
    last: bool = False


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer ``turn``; stale once the lane's generation has passed ``generation``."""

    turn: int
    generation: int
    silent_frames: int
    options: CreateResponse


@dataclass(frozen=True, slots=True)
class Speculate:
    """``turn`` may be over: begin the answer, and hold it back."""

    turn: int
    silent_frames: int
    options: CreateResponse


@dataclass(frozen=True, slots=True)
class Withdraw:
    """It was not over: the user goes on."""


@dataclass(frozen=True, slots=True)
class Finish:
    """``turn`` is not answered now: complete its transcript."""

    turn: int
    silent_frames: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Only ``heard_samples`` of what was sent of the latest reply were heard."""

    heard_samples: int


@dataclass(frozen=True, slots=True)
class Add:
    """The user has typed this, or the agent said it before."""

    line: Line


@dataclass(frozen=True, slots=True)
class Recollect:
    """Remember what ``lines`` tells then, and nothing else; ``latest_reply``: only that reply has gone."""

    lines: Callable[[], tuple[Line, ...]]
    latest_reply: bool


Item = Hear | Overhear | Respond | Speculate | Withdraw | Finish | Forget | Add | Recollect


def leaves_open(item: Item, turn: int) -> bool:
    """Whether this leaves it open that ``turn`` is over, or answers a turn."""
    return isinstance(item, Respond | Speculate) or (isinstance(item, Hear) and item.listen and item.turn == turn)


class Inbox:
    """What a mind was told and has not done, in order.

    Bounds: ``most_waiting`` items, then who has audio waits in :meth:`room`. While the first item has to wait for the
    reply to end, ``most_held``, then others are refused, except what the turn taker wants: it bounds that itself.

    Args:
        most_waiting: items.
        most_held: items.
        waits: whether this item has to wait for the reply to end.
        wake: called when there is something new.
    """

    def __init__(
        self, most_waiting: int, most_held: int, waits: Callable[[Item], bool], wake: Callable[[], None]
    ) -> None:
        self._most_waiting, self._most_held = most_waiting, most_held
        self._waits = waits
        self._wake = wake
        self._items: deque[Item] = deque()
        self._space = asyncio.Event()
        self._busy = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def empty(self) -> bool:
        """Whether nothing waits or is being done."""
        return not self._items and not self._busy

    @property
    def held_up(self) -> bool:
        """Whether the next item has to wait for the reply to end."""
        return bool(self._items) and self._waits(self._items[0])

    async def room(self) -> None:
        """Wait until audio may be put."""
        while len(self._items) >= self._most_waiting and not self.held_up:
            await self._change()

    async def caught_up(self) -> None:
        """Wait until everything is done - unless a reply holds that up."""
        while not self.empty and not self.held_up:
            await self._change()

    async def _change(self) -> None:
        self._space.clear()
        await self._space.wait()

    def put(self, item: Item) -> bool:
        """Add an item; False when it is refused."""
        if (
            not isinstance(item, Respond | Speculate | Withdraw | Finish | Overhear)
            and len(self._items) >= self._most_held
        ):
            return False
        self._items.append(item)
        self._wake()
        return True

    def take(self) -> Item | None:
        """The next item, to be done now; :meth:`done` ends that. None when there is none, or it has to wait."""
        self._busy = bool(self._items) and not self.held_up
        return self._items.popleft() if self._busy else None

    def done(self) -> None:
        """What was taken is done, or what was there has to wait now."""
        self._busy = False
        self._space.set()
