"""What one session may use: time, messages, audio. Pure: the time is given."""

from pydantic import BaseModel, ConfigDict, Field


class SessionLimits(BaseModel):
    """Bounds of one WebSocket session; one that is over them hears why in an error event before it is closed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outgoing_messages: int = Field(1_024, ge=64)
    """Messages that may wait for a slow client; over it the connection is closed with 1013."""
    outgoing_mib: float = Field(32.0, gt=0.0)
    """Their size together, with the same policy; a single message may be larger."""
    greeting_timeout_s: float = Field(30.0, gt=0.0)
    """Time a new session may wait for a model thread."""
    lifetime_s: float = Field(86_400.0, gt=0.0)
    """A session ends then (1001); the client is told in ``expires_at``."""
    idle_timeout_s: float | None = Field(900.0, gt=0.0)
    """A client that sends nothing for this long, while there is nothing to say, is closed (1001); null: never."""
    resume_grace_s: float = Field(30.0, ge=0.0, le=3_600.0)
    """Time that a client whose connection was lost has to come back to its session; 0: none."""
    messages_per_s: float = Field(500.0, gt=0.0)
    """In the long run; a client that sends more is closed (1008)."""
    messages_burst: int = Field(10_000, ge=1)
    """Messages that may be ahead of that."""
    mib_per_s: float = Field(1.0, gt=0.0)
    """Size of messages in the long run; with the same policy."""
    mib_burst: float = Field(64.0, ge=1.0)
    """Size of messages that may be ahead of that."""
    audio_speed: float = Field(4.0, ge=1.0)
    """Seconds of audio a second, in the long run; a client that sends more is closed (1008)."""
    audio_burst_s: float = Field(900.0, ge=60.0)
    """Audio that may be ahead of that; the model works it off as fast as it can, while the client waits."""


class Allowance:
    """What may be used of something: ``per_s`` units a second, and at most ``burst`` saved up.

    Args:
        per_s: units a second.
        burst: units there are at first, and at most.
        now: seconds, monotonic.
    """

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = now

    def take(self, units: float, now: float) -> bool:
        """Use some; False when there were not as many."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s) - units
        self._at = now
        return self._left >= 0.0
