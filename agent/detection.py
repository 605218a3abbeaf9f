"""How turns are detected: as the daemon is set, as somebody has said since, and as the client asks."""

from agent.turn import EAGERNESS, MODEL_OFF, TurnConfig
from agent.turn_events import Rules
from models.tokenizer import UNKNOWN
from streaming.frames import ms_to_samples
from streaming.realtime_config import Eagerness, SemanticVad, ServerVad, TurnDetection
from streaming.vad import VadConfig


class Detection:
    """The settings in force.

    Args:
        vad: the daemon's, of the detector.
        turns: the daemon's, of turn taking.
    """

    def __init__(self, vad: VadConfig, turns: TurnConfig) -> None:
        self._daemon = self._unasked = (vad, turns)
        self._asked: TurnDetection | None = SemanticVad()
        self.vad, self.turns = vad, turns

    @property
    def rules(self) -> Rules:
        """What a detected turn causes."""
        asked = self._asked
        return Rules(detect=False) if asked is None else Rules(True, asked.create_response, asked.interrupt_response)

    def timed_out(self, silence_samples: int) -> bool:
        """Whether nobody has said anything for so long that the agent shall speak."""
        idle_ms = self._asked.idle_timeout_ms if isinstance(self._asked, ServerVad) else None
        return idle_ms is not None and silence_samples >= ms_to_samples(idle_ms)

    def ask(self, asked: TurnDetection | None) -> None:
        """Follow the client; None: it detects turns itself."""
        self._asked = asked
        if asked is not None:
            self.vad, self.turns = detection_settings(*self._unasked, asked)

    def be_eager(self, eagerness: Eagerness) -> None:
        """End turns so soon where the client has not chosen; "auto" and "medium": as the daemon is set."""
        self._unasked = detection_settings(*self._daemon, SemanticVad(eagerness=eagerness))
        self.ask(self._asked)

    def asks_for_turn(self, text: str) -> bool:
        """Whether what is said over a reply is meant to end it."""
        words = [word for word in text.split() if word != UNKNOWN and word not in self.turns.empty_words]
        return len(words) > 1 or not set(words).isdisjoint(self.turns.interrupting_words)


def detection_settings(vad: VadConfig, turns: TurnConfig, asked: TurnDetection) -> tuple[VadConfig, TurnConfig]:
    """The daemon's settings as a client wants them: the detector alone, or the model with some eagerness."""
    if isinstance(asked, ServerVad):
        settings = asked.model_dump(include={"threshold", "prefix_padding_ms", "silence_duration_ms"})
        return vad.model_copy(update=settings), turns.model_copy(update={"end_of_turn_threshold": MODEL_OFF})
    if asked.eagerness not in EAGERNESS:
        return vad, turns
    changes, any_silence_ms = EAGERNESS[asked.eagerness]
    return vad.model_copy(update={"silence_duration_ms": any_silence_ms}), turns.model_copy(update=changes)
