"""The conversation folder: two aligned recordings and what is said in them.

    conv_000001/user.wav        mono, the user alone
    conv_000001/assistant.wav   mono, the agent alone, on the same timeline
    conv_000001/meta.json       who says what, and when

Only ``turns[].user.text`` and ``turns[].assistant.text`` are required, so people's own recordings need no times.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from training.audio_data import read_audio
from training.phones import PHONES

VERSION = 1
SAMPLE_RATE = 24000
SPLITS = ("train", "valid")
_LENGTH_TOLERANCE_S = 1.0
_JSON_NUMBER = (int, float)


class ConversationError(ValueError):
    """A conversation folder is wrong; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class Span:
    """A word or a phone with its times in seconds on the conversation's timeline."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What the user says. Times are ``None`` and words and phones empty where unknown."""

    text: str
    intent: str = ""
    voice: str = ""
    start_s: float | None = None
    end_s: float | None = None
    words: tuple[Span, ...] = ()
    phones: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """What the agent says; ``marked_text`` is the same text with its prosody marks."""

    text: str
    marked_text: str = ""
    start_s: float | None = None
    end_s: float | None = None
    words: tuple[Span, ...] = ()
    phones: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: the user, then the agent; state and actions as the domain left them."""

    user: UserTurn
    assistant: AssistantTurn
    state: dict[str, Any] = field(default_factory=dict)
    actions: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """The content of ``meta.json``; ``folder`` is where it was read from."""

    id: str
    domain: str
    split: str
    turns: tuple[Turn, ...]
    folder: Path | None = None

    def load_audio(self) -> tuple[np.ndarray, np.ndarray]:
        """Reads both recordings.

        Returns:
            User and agent, float32 mono at 24 kHz, equal length; other rates and channels are converted.

        Raises:
            ConversationError: a file is missing or unreadable, or the lengths differ by more than one second.
        """
        if self.folder is None:
            raise ConversationError(f"conversation {self.id}: it was not read from a folder")
        user, agent = (_read_wav(self.folder / name) for name in ("user.wav", "assistant.wav"))
        if abs(len(user) - len(agent)) > _LENGTH_TOLERANCE_S * SAMPLE_RATE:
            raise ConversationError(
                f"{self.folder}: user.wav lasts {len(user) / SAMPLE_RATE:.2f} s but assistant.wav "
                f"{len(agent) / SAMPLE_RATE:.2f} s; both must share one timeline"
            )
        length = max(len(user), len(agent))
        return np.pad(user, (0, length - len(user))), np.pad(agent, (0, length - len(agent)))


def _read_wav(path: Path) -> np.ndarray:
    try:
        return read_audio(path)
    except ValueError as error:
        raise ConversationError(f"{path}: not a readable recording ({error})") from error


class _Fields:
    """Reads typed fields of one JSON object and names the file and the field in every error."""

    def __init__(self, path: Path, where: str, value: Any, known: tuple[str, ...]) -> None:
        self._path, self._where = path, where
        if not isinstance(value, dict):
            raise self.error("", f"must be an object, not {type(value).__name__}")
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise self.error(unknown[0], f"unknown field (known: {', '.join(known)})")
        self._value: dict[str, Any] = value

    def error(self, name: str, reason: str) -> ConversationError:
        place = ".".join(part for part in (self._where, name) if part)
        return ConversationError(f"{self._path}: {place or 'the file'}: {reason}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value.get(name, default)
        if not isinstance(value, str):
            raise self.error(name, "is missing" if value is None else f"must be text, not {value!r}")
        return value

    def seconds(self, name: str) -> float | None:
        value = self._value.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, _JSON_NUMBER) or not 0 <= value < 1e6:
            raise self.error(name, f"must be seconds from the start, not {value!r}")
        return float(value)

    def array(self, name: str) -> list[Any]:
        value = self._value.get(name, [])
        if not isinstance(value, list):
            raise self.error(name, f"must be a list, not {type(value).__name__}")
        return value

    def child(self, name: str, known: tuple[str, ...]) -> _Fields:
        if name not in self._value:
            raise self.error(name, "is missing")
        return _Fields(self._path, f"{self._where}.{name}".lstrip("."), self._value[name], known)

    def spans(self, name: str, key: str) -> tuple[Span, ...]:
        spans = []
        for index, item in enumerate(self.array(name)):
            fields = _Fields(self._path, f"{self._where}.{name}[{index}]", item, (key, "start_s", "end_s"))
            start, end = fields.seconds("start_s"), fields.seconds("end_s")
            if start is None or end is None or end < start:
                raise fields.error("end_s", f"start_s {start} and end_s {end} must both be there, in order")
            label = fields.text(key)
            if key == "phone" and label not in PHONES:
                raise fields.error(key, f"{label!r} is no ARPAbet phone without stress, nor SIL")
            spans.append(Span(label, start, end))
        return tuple(spans)

    def object(self, name: str) -> dict[str, Any]:
        value = self._value.get(name, {})
        if not isinstance(value, dict):
            raise self.error(name, f"must be an object, not {type(value).__name__}")
        return value


_TIMES = ("start_s", "end_s", "words", "phones")


def read_conversation(path: Path) -> Conversation:
    """Reads and checks ``path/meta.json``; the audio is read by :meth:`Conversation.load_audio`.

    Raises:
        ConversationError: the file is missing or wrong; the message names the file and the field.
    """
    meta = path / "meta.json"
    try:
        value = json.loads(meta.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConversationError(f"{meta}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ConversationError(f"{meta}: not readable as JSON ({error})") from error
    fields = _Fields(meta, "", value, ("version", "id", "domain", "split", "sample_rate", "turns"))
    if value.get("version", VERSION) != VERSION:
        raise fields.error("version", f"{value['version']!r} is not supported (this program writes {VERSION})")
    split = fields.text("split", "train")
    if split not in SPLITS:
        raise fields.error("split", f"{split!r} must be one of {', '.join(SPLITS)}")
    turns = tuple(_read_turn(meta, index, item) for index, item in enumerate(fields.array("turns")))
    if not turns:
        raise fields.error("turns", "is missing or empty")
    return Conversation(fields.text("id", path.name), fields.text("domain", ""), split, turns, path)


def _read_turn(meta: Path, index: int, value: Any) -> Turn:
    fields = _Fields(meta, f"turns[{index}]", value, ("user", "assistant", "state", "actions"))
    user = fields.child("user", ("text", "intent", "voice", *_TIMES))
    agent = fields.child("assistant", ("text", "marked_text", *_TIMES))
    for side in (user, agent):
        if not side.text("text").strip():
            raise side.error("text", "is empty")
        start, end = side.seconds("start_s"), side.seconds("end_s")
        if start is not None and end is not None and end < start:
            raise side.error("end_s", f"{end} is before start_s {start}")
    return Turn(
        UserTurn(
            user.text("text"),
            user.text("intent", ""),
            user.text("voice", ""),
            user.seconds("start_s"),
            user.seconds("end_s"),
            user.spans("words", "word"),
            user.spans("phones", "phone"),
        ),
        AssistantTurn(
            agent.text("text"),
            agent.text("marked_text", agent.text("text")),
            agent.seconds("start_s"),
            agent.seconds("end_s"),
            agent.spans("words", "word"),
            agent.spans("phones", "phone"),
        ),
        fields.object("state"),
        tuple(fields.array("actions")),
    )


def write_conversation(root: Path, conversation: Conversation, user: np.ndarray, assistant: np.ndarray) -> Path:
    """Writes ``root/<id>`` as a whole or not at all; an existing folder of that name is replaced.

    Args:
        root: folder of conversations; made when missing.
        conversation: what ``meta.json`` will hold.
        user: float32 [samples] at 24 kHz.
        assistant: float32 [samples] at 24 kHz, as long as ``user``.

    Raises:
        ConversationError: the two sides differ in length.
    """
    if user.shape != assistant.shape or user.ndim != 1:
        raise ConversationError(f"{conversation.id}: audio shapes {user.shape} and {assistant.shape} differ")
    final, temporary = root / conversation.id, root / f".{conversation.id}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, pcm in (("user.wav", user), ("assistant.wav", assistant)):
        soundfile.write(temporary / name, np.clip(pcm, -1.0, 1.0), SAMPLE_RATE, subtype="PCM_16")
    meta = {
        "version": VERSION,
        "id": conversation.id,
        "domain": conversation.domain,
        "split": conversation.split,
        "sample_rate": SAMPLE_RATE,
        "turns": [_turn_json(turn) for turn in conversation.turns],
    }
    (temporary / "meta.json").write_text(json.dumps(meta, ensure_ascii=False) + "\n", "utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    return final


def _turn_json(turn: Turn) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for name, side in (("user", turn.user), ("assistant", turn.assistant)):
        fields = {f.name: getattr(side, f.name) for f in dataclasses.fields(side)}
        for key, label in (("words", "word"), ("phones", "phone")):
            fields[key] = [
                {label: span.name, "start_s": round(span.start_s, 4), "end_s": round(span.end_s, 4)}
                for span in fields[key]
            ]
        for key in ("start_s", "end_s"):
            fields[key] = None if fields[key] is None else round(fields[key], 4)
        sides[name] = fields
    return {**sides, "state": turn.state, "actions": list(turn.actions)}
