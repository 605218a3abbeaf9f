"""What crosses the protocol's inner border: commands from the client, events from the conversation.

Commands are what :meth:`streaming.realtime.RealtimeProtocol.receive` returns once a message has been read and checked.
Events are what the conversation reports to :meth:`streaming.realtime.RealtimeProtocol.send`. Positions are samples on
the session's 24 kHz clock; ``turn`` numbers the user's turns of one session from 1.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from streaming.realtime_config import SessionConfig

ResponseStatus = Literal["completed", "cancelled", "incomplete", "failed"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a response cost. One audio token is one 80 ms frame, one text token is one emitted piece of text."""

    input_audio: int = 0
    output_audio: int = 0
    output_text: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """What a reply did; ``arguments`` are plain JSON values."""

    name: str
    arguments: dict[str, Any]


# --- commands: client -> conversation ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfigureSession:
    """The client changed the session; ``config`` is the whole new configuration."""

    config: SessionConfig


@dataclass(frozen=True, slots=True)
class AppendAudio:
    """More microphone audio, float32 [n], 24 kHz mono."""

    pcm: np.ndarray


@dataclass(frozen=True, slots=True)
class CommitAudio:
    """End the user's turn here."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class ClearAudio:
    """Forget audio that has not been committed."""


@dataclass(frozen=True, slots=True)
class HearItem:
    """A user item that carries audio was inserted: the model shall hear it. float32 [n], 24 kHz mono."""

    pcm: np.ndarray


@dataclass(frozen=True, slots=True)
class CreateResponse:
    """Answer now.

    ``metadata`` is echoed in the response; ``max_output_tokens`` None means no limit; ``tools`` are the names of those
    that this response may call, None for the session's. ``say`` is what the response has to be, word for word.
    """

    text_only: bool = False
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = None
    event_id: str | None = None
    tools: frozenset[str] | None = None
    say: str | None = None


@dataclass(frozen=True, slots=True)
class CancelResponse:
    """Stop the response that is being spoken."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class TruncateReply:
    """The client heard only the first ``heard_samples`` samples of the latest reply."""

    heard_samples: int


Command = (
    ConfigureSession
    | AppendAudio
    | CommitAudio
    | ClearAudio
    | HearItem
    | CreateResponse
    | CancelResponse
    | TruncateReply
)

# --- events: conversation -> client -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UserStarted:
    """The user began to speak; ``at`` includes the prefix padding."""

    turn: int
    at: int


@dataclass(frozen=True, slots=True)
class UserStopped:
    """The user stopped speaking; ``at`` includes the silence that was waited for."""

    turn: int
    at: int


@dataclass(frozen=True, slots=True)
class AudioCommitted:
    """The user's turn has become an item of the conversation."""

    turn: int
    samples: int


@dataclass(frozen=True, slots=True)
class AudioCleared:
    """Uncommitted audio was forgotten; ``turn`` is the spoken turn that went with it, if one was running."""

    turn: int | None = None


@dataclass(frozen=True, slots=True)
class UserText:
    """Newly recognised words of the user's turn."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class UserTextDone:
    """The transcript of the user's turn is complete."""

    turn: int


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """A response begins; the options are those it was asked for with. ``said``: its words were given, not thought."""

    reply: int
    text_only: bool = False
    metadata: dict[str, str] | None = None
    max_output_tokens: int | None = None
    tools: frozenset[str] | None = None
    said: bool = False


@dataclass(frozen=True, slots=True)
class ReplyText:
    """Newly written words of the response."""

    text: str


@dataclass(frozen=True, slots=True)
class ReplyAudio:
    """One frame of the response, float32 [frame_size], 24 kHz mono."""

    pcm: np.ndarray


@dataclass(frozen=True, slots=True)
class ReplyDone:
    """The response ended; ``reason`` is set unless ``status`` is completed, ``actions`` only when it is."""

    status: ResponseStatus
    reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplyTakenBack:
    """The latest reply came before the user had finished: it is forgotten, whether it was done or not."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A command could not be carried out."""

    code: str
    message: str
    param: str | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """The session cannot go on (a fault of the server)."""

    code: str
    message: str


Event = (
    UserStarted
    | UserStopped
    | AudioCommitted
    | AudioCleared
    | UserText
    | UserTextDone
    | ReplyStarted
    | ReplyText
    | ReplyAudio
    | ReplyDone
    | ReplyTakenBack
    | Refused
    | Broken
)
