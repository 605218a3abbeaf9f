"""One reply as it is given: how much of it was made, sent and heard."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agent.pacing import Pacer
from agent.prosody_policy import PolicyName
from models.runtime import StepOut
from streaming.frames import ms_to_samples
from streaming.realtime_events import CreateResponse, Usage

Clock = Callable[[], float]
_AUDIBLE, _BEFORE_ONSET = 3e-3, ms_to_samples(5)


class ReplyConfig(BaseModel):
    """How replies are given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_lead_ms: int | None = Field(320, ge=80)
    """Audio that may be ahead of the listener over a socket, so what still plays when the user interrupts; null without
    limit."""
    take_back_ms: int = Field(1_000, ge=0)
    """A reply of which less than this was heard when the user speaks again came too early: it is forgotten, and what
    the user says goes on with the turn before it."""
    max_reply_s: float = Field(60.0, gt=0.0)
    """A reply that is not done by then is ended."""
    prosody_policy: PolicyName | None = None
    """Who adds prosody tokens to replies: see :mod:`agent.prosody_policy`."""
    inbox_frames: int = Field(8, ge=1)
    """Frames that may wait for the model; a sender that is faster is made to wait."""
    held_frames: int = Field(750, ge=1)
    """Frames of speech kept while a reply may not be interrupted; later ones are dropped and counted."""

    @property
    def max_lead_s(self) -> float | None:
        """``max_lead_ms`` in seconds."""
        return None if self.max_lead_ms is None else self.max_lead_ms / 1000.0


@dataclass(slots=True)
class Reply:
    """A reply from its beginning to its end; times are seconds of one monotonic clock."""

    number: int
    generation: int
    turn: int
    options: CreateResponse
    pacer: Pacer
    used: Usage  # by what it answers
    begun: bool = False  # the engine knows of it
    steps: int = 0
    texts: int = 0
    held_at: float | None = None
    paused_at: float | None = None  # the listener has gone, and plays what it has
    listener_stops: bool = False  # while it is held
    made: deque[StepOut] = field(default_factory=deque)  # steps that were made before it began
    skipped: int = 0  # samples of silence that its first frame began with, and that were not sent

    def audible(self, pcm: np.ndarray) -> np.ndarray:
        """The next frame as it is sent, float32 [N]: the first one :func:`from_onset`."""
        if self.pacer.frames:
            return pcm
        sent = from_onset(pcm)
        self.skipped = len(pcm) - len(sent)
        return sent

    def delay_s(self, now: float) -> float | None:
        """Seconds until the next step, None while it is held or paused."""
        return self.pacer.delay_s(now) if self.held_at is None and self.paused_at is None else None

    def unpause(self, now: float) -> None:
        """The listener is back."""
        if self.paused_at is not None:
            if self.held_at is None:
                self.pacer.resumed(now, now - self.paused_at, stopped=False)
            self.paused_at = None

    def hold(self, now: float, *, listener_stops: bool) -> None:
        """Wait; ``listener_stops`` playing meanwhile, or plays what it has."""
        if self.held_at is None:
            self.held_at, self.listener_stops = now, listener_stops

    def resume(self, now: float) -> None:
        """Go on."""
        if self.held_at is not None:
            self.pacer.resumed(now, now - self.held_at, self.listener_stops)
            self.held_at = None

    def heard_frames(self, now: float) -> int:
        """Frames that the listener can have heard."""
        stopped_at = self.held_at if self.listener_stops else None
        return self.pacer.heard_frames(now if stopped_at is None else stopped_at)

    def used_up(self, frame_s: float, max_s: float) -> bool:
        """Whether it has said as much as it may."""
        limit = self.options.max_output_tokens
        over = limit is not None and self.texts + self.pacer.frames >= limit
        return over or self.steps * frame_s >= max_s


def from_onset(pcm: np.ndarray) -> np.ndarray:
    """The first frame of a reply, float32 [N], without the silence that it begins with: nobody has to wait for that."""
    loud = np.flatnonzero(np.abs(pcm) > _AUDIBLE)
    return pcm[max(int(loud[0]) - _BEFORE_ONSET, 0) :] if loud.size else pcm
