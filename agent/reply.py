"""One reply as it is given: how much of it was made, sent and heard."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from agent.pacing import Pacer
from streaming.realtime_events import CreateResponse

Clock = Callable[[], float]


class ReplyConfig(BaseModel):
    """How replies are given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_lead_ms: int | None = Field(2_000, ge=80)
    """Audio that may be ahead of the listener over a socket; null without limit."""
    take_back_ms: int = Field(1_000, ge=0)
    """A reply of which less than this was heard when the user speaks again came too early: it is forgotten, and what
    the user says goes on with the turn before it."""
    max_reply_s: float = Field(60.0, gt=0.0)
    """A reply that is not done by then is ended."""
    inbox_frames: int = Field(8, ge=1)
    """Frames that may wait for the model; a sender that is faster is made to wait."""
    held_frames: int = Field(750, ge=1)
    """Frames of speech kept while a reply may not be interrupted; later ones are dropped and counted."""


@dataclass(slots=True)
class Reply:
    """A reply from its beginning to its end."""

    number: int
    generation: int
    turn: int
    options: CreateResponse
    pacer: Pacer
    input_frames: int
    begun: bool = False  # the engine knows of it
    steps: int = 0
    texts: int = 0
