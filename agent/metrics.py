"""What a session measures: the parts of each turn's latency, and counters for one line when it closes."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

KEPT_TURNS = 100

Mark = Literal["reply", "text", "audio"]
"""What a reply comes to, after the decision that the turn is over."""


@dataclass(slots=True)
class TurnMetrics:
    """One user turn and its reply. None: did not happen (yet). Milliseconds.

    The time from the end of speech to the decision is on the sample clock (audio that streams in real time takes just
    that long); the others are wall time from the moment of the decision.
    """

    turn: int
    ended_by: str
    speech_end_to_decision_ms: float
    decided_at: float  # seconds on the session's clock
    decision_to_reply_ms: float | None = None
    decision_to_text_ms: float | None = None
    decision_to_audio_ms: float | None = None
    reply_frames: int = 0
    status: str | None = None

    @property
    def speech_was_over(self) -> bool:
        """Whether it is known when the user had finished."""
        return self.ended_by in ("silence", "model")

    @property
    def speech_end_to_audio_ms(self) -> float | None:
        """From the end of the user's speech to the first frame of the reply leaving."""
        if self.decision_to_audio_ms is None:
            return None
        return self.speech_end_to_decision_ms + self.decision_to_audio_ms


def _tell_nobody(part: str, milliseconds: float) -> None:
    pass


@dataclass(slots=True)
class SessionMetrics:
    """Counters of one session, and its last turns (bound: KEPT_TURNS, the oldest leave)."""

    tell: Callable[[str, float], None] = _tell_nobody  # each part of a turn's latency, in ms, when it is known
    turns: deque[TurnMetrics] = field(default_factory=lambda: deque(maxlen=KEPT_TURNS))
    turns_ended: Counter[str] = field(default_factory=Counter)  # by what ended them
    replies_ended: Counter[str] = field(default_factory=Counter)  # by status
    frames_heard: int = 0
    frames_spoken: int = 0
    replies: int = 0
    interrupted: int = 0
    held: int = 0  # times a reply waited to learn what the sound over it was
    taken_back: int = 0  # replies forgotten because the user went on at once
    speculated: int = 0  # replies begun before it was known that the turn was over
    speculations_used: int = 0  # of them, those that were given
    resumed: int = 0  # times a client came back after its connection was lost
    dropped_frames: int = 0  # user frames refused while a reply could not be interrupted
    stale_messages: int = 0  # audio that was ready but not sent because the reply was interrupted
    underruns: int = 0  # a frame left later than its predecessor had ended

    def find(self, turn: int) -> TurnMetrics | None:
        """The record of this turn, None when it has left or never was."""
        return next((record for record in reversed(self.turns) if record.turn == turn), None)

    def turn_ended(self, record: TurnMetrics) -> None:
        """The user's turn is over."""
        self.turns.append(record)
        self.turns_ended[record.ended_by] += 1
        if record.speech_was_over:
            self.tell("speech_end_to_decision", record.speech_end_to_decision_ms)

    def mark(self, turn: int, what: Mark, now: float) -> None:
        """The reply to this turn has come to ``what`` ``now``, on the session's clock; only the first time counts."""
        record, name = self.find(turn), f"decision_to_{what}"
        if record is None or getattr(record, f"{name}_ms") is not None:
            return
        milliseconds = (now - record.decided_at) * 1000.0
        setattr(record, f"{name}_ms", milliseconds)
        self.tell(name, milliseconds)
        if what == "audio" and record.speech_was_over:
            self.tell("speech_end_to_audio", record.speech_end_to_decision_ms + milliseconds)

    def reply_ended(self, turn: int, status: str, frames: int) -> None:
        """The reply to this turn is over, after ``frames`` of audio."""
        self.replies_ended[status] += 1
        if (record := self.find(turn)) is not None:
            record.status, record.reply_frames = status, frames

    def summary(self) -> dict[str, object]:
        """What the log says when the session closes."""
        waits = sorted(ms for record in self.turns if (ms := record.speech_end_to_audio_ms) is not None)
        return {
            "turns": self.turns_ended.total(),
            "replies": self.replies,
            "interrupted": self.interrupted,
            "held": self.held,
            "taken_back": self.taken_back,
            "median_speech_end_to_audio_ms": round(waits[len(waits) // 2]) if waits else None,
            "frames_heard": self.frames_heard,
            "frames_spoken": self.frames_spoken,
            "frames_dropped": self.dropped_frames,
            "stale_messages": self.stale_messages,
            "underruns": self.underruns,
        }
