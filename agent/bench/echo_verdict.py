"""What an agent that may hear itself did: pure, from what the user said, what it decided, and what was played."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.bench.echo_room import BLOCK, Utterance
from agent.bench.figures import percentiles
from streaming.frames import SAMPLE_RATE_HZ, FloatArray

_LATE = SAMPLE_RATE_HZ  # after the end of what was said, when a decision can still be about it
_SILENT = 10**-5.5  # mean square
_SILENT_BLOCKS = 8


@dataclass(slots=True)
class Events:
    """What the agent decided, in samples of the microphone's clock."""

    turns: list[int] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)
    ducks: list[int] = field(default_factory=list)
    interruptions: list[int] = field(default_factory=list)
    replies: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one conversation. ``waits``: milliseconds from the onset of what was said over a reply to silence."""

    minutes: float
    asked: int
    replies: int
    self_interruptions: int
    self_triggered_turns: int
    self_holds: int
    self_ducks: int
    over: int
    caught: int
    waits: tuple[float, ...]
    taken_out_db: float | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "minutes": round(self.minutes, 2),
            "asked": self.asked,
            "replies": self.replies,
            "self_interruptions": self.self_interruptions,
            "self_triggered_turns": self.self_triggered_turns,
            "self_holds": self.self_holds,
            "self_ducks": self.self_ducks,
            "spoken_over": self.over,
            "caught": self.caught,
            "onset_to_silence_ms": percentiles(self.waits),
            "echo_taken_out_db": None if self.taken_out_db is None else round(self.taken_out_db, 1),
        }


def judge(said: list[Utterance], events: Events, played: FloatArray, taken_out_db: float | None) -> Verdict:
    """Compare what happened with what the user did.

    Args:
        said: by the user.
        events: what the agent decided.
        played: all that left the speaker on the microphone's clock, float32 [n].
        taken_out_db: by the canceller; None where it does not tell.

    Returns:
        A turn, a hold or an interruption is the agent's own doing when nobody spoke from a second before it on. Of what
        was said over a reply, what ended too late to be judged is left out.
    """

    def own(at: int) -> bool:
        return not any(one.begin <= at <= one.end + _LATE for one in said)

    over = [one for one in said if one.over and one.end + _LATE < len(played)]
    caught = [any(one.begin <= at <= one.end + _LATE for at in events.turns) for one in over]
    silences = [_silence_after(played, one.begin) for one in over]
    waits = [
        (silence - one.begin) * 1000 / SAMPLE_RATE_HZ
        for one, silence, was in zip(over, silences, caught, strict=True)
        if was and silence is not None
    ]
    return Verdict(
        minutes=len(played) / SAMPLE_RATE_HZ / 60,
        asked=len(said),
        replies=events.replies,
        self_interruptions=sum(own(at) for at in events.interruptions),
        self_triggered_turns=sum(own(at) for at in events.turns),
        self_holds=sum(own(at) for at in events.holds),
        self_ducks=sum(own(at) for at in events.ducks),
        over=len(over),
        caught=sum(caught),
        waits=tuple(waits),
        taken_out_db=taken_out_db,
    )


def _silence_after(played: FloatArray, begin: int) -> int | None:
    """Where, after ``begin``, the speaker falls silent for 80 ms; None if it was silent already."""
    part = played[begin : begin + 3 * SAMPLE_RATE_HZ]
    blocks = np.square(part[: len(part) // BLOCK * BLOCK].reshape(-1, BLOCK)).mean(axis=1)
    loud = np.flatnonzero(blocks >= _SILENT)
    if not loud.size:
        return None
    gaps = np.flatnonzero(np.diff(loud) > _SILENT_BLOCKS)
    last = loud[gaps[0]] if gaps.size else loud[-1]
    return begin + (int(last) + 1) * BLOCK
