"""What a session's mind is told: audio to hear, lines to read, replies to give, and what was not heard of them."""

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
class Finish:
    """``turn`` is not answered now: complete its transcript."""

    turn: int
    silent_frames: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Only ``heard_frames`` of the latest reply were heard."""

    heard_frames: int


@dataclass(frozen=True, slots=True)
class Add:
    """The user has typed this, or the agent said it before."""

    line: Line


@dataclass(frozen=True, slots=True)
class Recollect:
    """Remember what ``lines`` tells then, and nothing else; ``latest_reply``: only that reply has gone."""

    lines: Callable[[], tuple[Line, ...]]
    latest_reply: bool


Item = Hear | Overhear | Respond | Finish | Forget | Add | Recollect
