"""What crosses the protocol's inner border: commands from the client, events from the conversation.

Commands are what :meth:`streaming.realtime.RealtimeProtocol.receive` returns once a message has been read and checked.
Events are what the conversation reports to :meth:`streaming.realtime.RealtimeProtocol.send`. Positions are samples on
the session's 24 kHz clock; ``turn`` numbers the user's turns of one session from 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from streaming.realtime_audio import G711Format, PcmFormat
from streaming.realtime_config import SessionConfig

_PCM = PcmFormat()

ResponseStatus = Literal["completed", "cancelled", "incomplete", "failed"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a response cost. One audio token is one 80 ms frame, one text token is one emitted piece of text."""

    input_audio: int = 0
    output_audio: int = 0
    output_text: int = 0
    input_text: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """What a reply did; ``arguments`` are plain JSON values."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """What was said in the conversation, as text."""

    role: Literal["user", "assistant"]
    text: str


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
    """A user item that carries audio was added: the model shall hear it as ``turn``. float32 [n], 24 kHz mono."""

    pcm: np.ndarray
    turn: int = 0


@dataclass(frozen=True, slots=True)
class AddLine:
    """An item that carries text was added at the end: the model shall read it, or have said it."""

    line: Line


@dataclass(frozen=True, slots=True)
class Recollect:
    """The past has changed: the model shall remember these lines and nothing else.

    ``lines`` tells them when it is done, oldest first; ``latest_reply``: all that has changed is that the latest reply
    is gone.
    """

    lines: Callable[[], tuple[Line, ...]]
    latest_reply: bool = False


@dataclass(frozen=True, slots=True)
class CreateResponse:
    """Answer now.

    ``metadata`` is echoed in the response; ``max_output_tokens`` None means no limit; ``tools`` are the names of those
    that this response may call, None for the session's; ``format`` and ``speed`` are the client's audio. ``apart``:
    the conversation does not remember this response; ``context`` is what it answers then, lines and audio (float32
    [n]), None for the conversation. ``say`` is what the response has to be, word for word; ``prosody`` are
    tokens that it begins with.
    """

    text_only: bool = False
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = None
    event_id: str | None = None
    tools: frozenset[str] | None = None
    format: PcmFormat | G711Format = _PCM
    speed: float = 1.0
    apart: bool = False
    context: tuple[Line | np.ndarray, ...] | None = None
    say: str | None = None
    prosody: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CancelResponse:
    """Stop the response that is being spoken."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class TruncateReply:
    """The client heard only the first ``heard_samples`` samples of the latest reply."""

    heard_samples: int


@dataclass(frozen=True, slots=True)
class InjectProsody:
    """Put prosody tokens (names or external ids) into the response that is being spoken, in order."""

    tokens: tuple[str | int, ...]
    event_id: str | None = None


Command = (
    ConfigureSession
    | AppendAudio
    | CommitAudio
    | ClearAudio
    | HearItem
    | AddLine
    | Recollect
    | CreateResponse
    | CancelResponse
    | TruncateReply
    | InjectProsody
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
class UserTimedOut:
    """The user said nothing from sample ``start`` to ``end``: that is their turn."""

    turn: int
    start: int
    end: int


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
    """A response begins; the options are those it was asked for with."""

    reply: int
    options: CreateResponse = CreateResponse()


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
class Recalled:
    """An earlier reply is remembered as it was given; None: whatever was remembered before is forgotten."""

    reply: str | None


@dataclass(frozen=True, slots=True)
class ProsodyEntered:
    """A prosody token, with its external id, became part of the response: its audio from ``sample`` on may be another.

    ``injected``: it was put there, by the command with ``event_id`` if that had one; else it is in the text itself.
    """

    token: str
    token_id: int
    sample: int
    injected: bool = False
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReplyHeld:
    """There is sound over the reply; nothing more of it comes until it is known what that is."""


@dataclass(frozen=True, slots=True)
class ReplyResumed:
    """The held reply goes on where it was."""


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


TurnEvent = UserStarted | UserStopped | UserTimedOut | AudioCommitted | AudioCleared | UserText | UserTextDone
Event = (
    TurnEvent
    | ReplyStarted
    | ReplyText
    | ReplyAudio
    | ReplyDone
    | ReplyTakenBack
    | Recalled
    | ProsodyEntered
    | ReplyHeld
    | ReplyResumed
    | Refused
    | Broken
)
