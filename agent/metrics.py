"""What a session measures: the parts of each turn's latency, and counters for one summary line."""

from collections import deque
from dataclasses import dataclass, field

KEPT_TURNS = 100


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
    def speech_end_to_audio_ms(self) -> float | None:
        """From the end of the user's speech to the first frame of the reply leaving."""
        if self.decision_to_audio_ms is None:
            return None
        return self.speech_end_to_decision_ms + self.decision_to_audio_ms


@dataclass(slots=True)
class SessionMetrics:
    """Counters of one session, and its last turns (bound: KEPT_TURNS, the oldest leave)."""

    turns: deque[TurnMetrics] = field(default_factory=lambda: deque(maxlen=KEPT_TURNS))
    frames_heard: int = 0
    frames_spoken: int = 0
    replies: int = 0
    interrupted: int = 0
    held: int = 0  # times a reply waited to learn what the sound over it was
    taken_back: int = 0  # replies forgotten because the user went on at once
    dropped_frames: int = 0  # user frames refused while a reply could not be interrupted
    stale_messages: int = 0  # audio that was ready but not sent because the reply was interrupted
    underruns: int = 0  # a frame left later than its predecessor had ended

    def find(self, turn: int) -> TurnMetrics | None:
        """The record of this turn, None when it has left or never was."""
        return next((record for record in reversed(self.turns) if record.turn == turn), None)

    def summary(self) -> str:
        """One line for the log."""
        waits = sorted(ms for record in self.turns if (ms := record.speech_end_to_audio_ms) is not None)
        middle = f"{waits[len(waits) // 2]:.0f} ms" if waits else "-"
        return (
            f"turns {len(self.turns)}, replies {self.replies} ({self.interrupted} interrupted, "
            f"{self.held} times held, {self.taken_back} taken back), "
            f"median speech end to first audio {middle}, heard {self.frames_heard} frames, "
            f"spoke {self.frames_spoken}, dropped {self.dropped_frames}, stale {self.stale_messages}, "
            f"underruns {self.underruns}"
        )
