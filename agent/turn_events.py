"""What the turn taker is told, and what it decides. Samples are those of the session's clock."""

from dataclasses import dataclass
from typing import Literal

from streaming.realtime_events import CreateResponse
from streaming.vad import SpeechStarted, SpeechStopped

EndedBy = Literal["silence", "model", "limit", "client"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the client wants: detection on or off, and what a detected turn causes."""

    detect: bool = True
    create_response: bool = True
    interrupt_response: bool = True


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quiet:
    """Silence so far at the end of the open turn; 0 while the user talks."""

    samples: int


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """The model's probability that the user has finished, from the frame that ends at sample ``at``."""

    probability: float
    at: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The client ends the turn; ``buffered`` samples wait in push to talk."""

    buffered: int = 0
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Clear:
    """The client takes back what was not committed."""


@dataclass(frozen=True, slots=True)
class Create:
    """The client wants a reply now."""

    options: CreateResponse


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client stops the reply."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReplyEnded:
    """A reply came to its own end."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Nobody has said anything since sample ``since``."""

    since: int


@dataclass(frozen=True, slots=True)
class SetRules:
    """The client changed the rules."""

    rules: Rules


@dataclass(frozen=True, slots=True)
class WentOn:
    """The user speaks again at once after a reply began: that is no cough, but more of what was to be said."""

    speech: SpeechStarted


@dataclass(frozen=True, slots=True)
class Overheard:
    """What the sound over a held reply is so far: whether there are words in it that ask for the turn."""

    words: bool
    final: bool


Event = (
    SpeechStarted | SpeechStopped | WentOn | Quiet | EndOfTurn | Overheard | Commit | Clear | Create | Cancel
    | ReplyEnded | TimedOut | SetRules
)  # fmt: skip

# --- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartTurn:
    """The user's turn ``turn`` begins at sample ``at``; the model shall listen from now on."""

    turn: int
    at: int


@dataclass(frozen=True, slots=True)
class StopTurn:
    """The user stopped speaking at ``speech_end``; known at ``at``."""

    turn: int
    at: int
    speech_end: int
    by: EndedBy


@dataclass(frozen=True, slots=True)
class TimeOut:
    """The silence from sample ``since`` on is the user's turn ``turn``."""

    turn: int
    since: int


@dataclass(frozen=True, slots=True)
class CommitTurn:
    """The turn becomes part of the conversation."""

    turn: int


@dataclass(frozen=True, slots=True)
class DropTurn:
    """Uncommitted audio is forgotten, with the open turn if there was one."""

    turn: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer turn ``turn``, spoken until ``speech_end`` (None: not known). ``options`` None: as configured."""

    turn: int
    speech_end: int | None
    options: CreateResponse | None = None


@dataclass(frozen=True, slots=True)
class Speculate:
    """Turn ``turn`` may be over; the user spoke until ``speech_end``."""

    turn: int
    speech_end: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The turn was not over: the user goes on."""


@dataclass(frozen=True, slots=True)
class Settle:
    """The turn gets no reply now; finish its transcript. ``speech_end`` as in :class:`Reply`."""

    turn: int
    speech_end: int | None


@dataclass(frozen=True, slots=True)
class StopReply:
    """Stop speaking."""

    reason: Literal["turn_detected", "client_cancelled"]


@dataclass(frozen=True, slots=True)
class HoldReply:
    """There is sound over the reply: it waits until it is known what the sound is."""


@dataclass(frozen=True, slots=True)
class ConcludeDoubt:
    """The sound is over: find out what it was, for :class:`Overheard`."""


@dataclass(frozen=True, slots=True)
class ResumeReply:
    """It was nothing: the reply goes on."""


@dataclass(frozen=True, slots=True)
class RestartDetector:
    """The detector still believes in an open turn: start it afresh."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The client asked for something that is not possible now."""

    code: str
    message: str
    event_id: str | None = None


Action = (
    StartTurn | StopTurn | TimeOut | CommitTurn | DropTurn | Reply | Speculate | Withdraw | Settle
    | StopReply | HoldReply | ConcludeDoubt | ResumeReply | RestartDetector | Reject
)  # fmt: skip
