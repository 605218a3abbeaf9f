"""What waits for a session's mind: audio to hear, replies to give, and what was not heard of them."""

from dataclasses import dataclass

import numpy as np

from streaming.realtime_events import CreateResponse


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


Item = Hear | Overhear | Respond | Finish | Forget
