"""Client messages from a seed: well formed, nearly so, and hostile, with the names and shapes of the protocol."""

import base64
import json
import random
from collections.abc import Sequence
from typing import Any

TYPES = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.truncate",
    "conversation.item.delete",
    "response.create",
    "response.cancel",
    "repartee.prosody.inject",
    "output_audio_buffer.clear",
    "response.done",
    "nonsense",
)
LIVE_TYPES = (
    "session.start",
    "session.update",
    "session.input_audio.append",
    "session.input_audio.mute",
    "session.instructions.append",
    "session.commentary.append",
    "session.close",
    "response.create",
    "nonsense",
)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 10**400, 0.5, 1e300, "", "auto", "none", "inf", "root", "item_1", "\0",
    "\ud800", "é" * 300, "a" * 5_000, "<emph>", "<nope>", "hello", [], {}, [[]], [{}], {"type": "x"},
    {"a": {"b": [1, 2]}}, ["audio", "text"], ["text"], [None] * 40,
)  # fmt: skip


class Fuzzer:
    """Draws messages; remembers ids that were offered to it, so that some of them exist.

    Args:
        seed: the same one draws the same messages for the same ids.
        types: of the messages.
    """

    def __init__(self, seed: int, types: Sequence[str] = TYPES) -> None:
        self._types = types
        self._random = random.Random(seed)
        self.ids = ["item_none", "root"]

    def message(self) -> str | bytes:
        """The next message."""
        roll = self._random.random()
        if roll < 0.03:
            return self._random.randbytes(self._random.randrange(40))
        text = json.dumps(self._body())
        if roll < 0.08:  # damaged on the way
            at = self._random.randrange(len(text))
            return text[:at] + self._random.choice(["", "}", '"', "[" * 200, "NaN", "\\u0000"]) + text[at + 1 :]
        return text

    def _body(self) -> Any:
        kind = self._random.choice(self._types)
        body: dict[str, Any] = {"type": kind} | self._fields(kind)
        if self._chance(0.3):
            body["event_id"] = self._odd("event_7")
        return self._damaged(body) if self._chance(0.4) else body

    def _fields(self, kind: str) -> dict[str, Any]:
        match kind:
            case "session.start":
                message = {"role": "user", "content": [{"text": self._random.choice(["a latte", "né"])}]}
                return {"session": {"model": "local", "input": [message]}}
            case "session.update":
                return {"session": self._session()}
            case "input_audio_buffer.append" | "session.input_audio.append":
                return {"audio": self._audio()}
            case "conversation.item.create":
                return {"item": self._item()} | ({"previous_item_id": self._id()} if self._chance(0.3) else {})
            case "conversation.item.retrieve" | "conversation.item.delete":
                return {"item_id": self._id()}
            case "conversation.item.truncate":
                return {"item_id": self._id(), "content_index": 0, "audio_end_ms": self._random.randrange(3_000)}
            case "repartee.prosody.inject":
                return {"tokens": self._random.choices(["emph", "<pause_long>", 2, 99, "nope", ""], k=3)}
            case "response.create":
                return {"response": self._response()} if self._chance(0.8) else {}
        return {}

    def _session(self) -> dict[str, Any]:
        pick = self._random.choice
        formats = [{"type": "audio/pcm", "rate": 24_000}, {"type": "audio/pcmu"}, {"type": "audio/pcma"}]
        detections = [
            None,
            {
                "type": "server_vad",
                "silence_duration_ms": pick([0, 200, 9_000]),
                "idle_timeout_ms": pick([None, 5_000]),
            },
            {
                "type": "semantic_vad",
                "eagerness": pick(["low", "high", "auto"]),
                "create_response": pick([True, False]),
            },
            {"interrupt_response": pick([True, False])},
        ]
        session = {
            "type": "realtime",
            "output_modalities": pick([["audio"], ["text"]]),
            "max_output_tokens": pick(["inf", 1, 5]),
            "tools": pick([[], [{"type": "function", "name": "add_items"}]]),
            "audio": {
                "input": {"format": pick(formats), "turn_detection": pick(detections), "transcription": {"model": "x"}},
                "output": {"format": pick(formats), "speed": pick([0.25, 1.0, 1.5])},
            },
        }
        return {key: value for key, value in session.items() if self._chance(0.6)}

    def _item(self) -> dict[str, Any]:
        pick = self._random.choice
        items: list[dict[str, Any]]
        text = pick(["a large latte", "that's all", "", "né", "x " * 600])
        role = pick(["user", "assistant", "system"])
        part = {"type": "output_text" if role == "assistant" else "input_text", "text": text}
        items = [
            {"type": "message", "role": role, "content": [part]},
            {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": self._audio()}]},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "{}"},
            {"type": "item_reference", "id": self._id()},
        ]
        return pick(items) | ({"id": self._id()} if self._chance(0.3) else {})

    def _response(self) -> dict[str, Any]:
        pick = self._random.choice
        response = {
            "conversation": pick(["auto", "none"]),
            "input": pick([[], [self._item()], [self._item(), {"type": "item_reference", "id": self._id()}]]),
            "output_modalities": pick([["audio"], ["text"]]),
            "max_output_tokens": pick(["inf", 1, 3]),
            "metadata": {"k": "v"},
            "audio": {"output": {"format": {"type": "audio/pcma"}}},
        }
        return {key: value for key, value in response.items() if self._chance(0.4)}

    def _audio(self) -> str:
        return base64.b64encode(self._random.randbytes(self._random.choice([0, 1, 2, 960, 7_680]))).decode()

    def _id(self) -> str:
        return self._random.choice(self.ids)

    def _odd(self, usual: Any) -> Any:
        return self._random.choice(ODD) if self._chance(0.2) else usual

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _damaged(self, value: Any) -> Any:
        """The value with something in it gone, or odd."""
        if isinstance(value, dict) and value and self._chance(0.85):
            key = self._random.choice(list(value))
            changed = {name: inner for name, inner in value.items() if name != key}
            if self._chance(0.1):
                return value | {"surprise": 1}
            return changed if self._chance(0.15) else changed | {key: self._damaged(value[key])}
        if isinstance(value, list) and value and self._chance(0.85):
            at = self._random.randrange(len(value))
            return [*value[:at], self._damaged(value[at]), *value[at + 1 :]]
        return self._random.choice(ODD)
