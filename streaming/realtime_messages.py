"""Client messages of the Realtime protocol: JSON text in, checked message objects out; and the shape of errors."""

import base64
import binascii
import json
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from streaming.realtime_audio import AudioFormat
from streaming.realtime_config import RequestError

Json = dict[str, Any]

_MAX_NESTING = 64
_MAX_PLAIN = 256 * 1024  # bytes of a message that carries no audio: working off a larger one would hold up all sessions
_WITH_AUDIO = ("input_audio_buffer.append", "conversation.item.create", "response.create")


class ClientMessage(BaseModel):
    """Fields every client message has. Unknown fields are tolerated: newer clients send more."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    type: str
    event_id: str | None = Field(None, max_length=512)


class SessionUpdate(ClientMessage):
    """session.update."""

    session: Json


class AudioAppend(ClientMessage):
    """input_audio_buffer.append; at most 15 MiB of base64."""

    audio: str


class AudioCommit(ClientMessage):
    """input_audio_buffer.commit."""


class AudioClear(ClientMessage):
    """input_audio_buffer.clear."""


class ItemCreate(ClientMessage):
    """conversation.item.create."""

    item: Json
    previous_item_id: str | None = None


class ItemRetrieve(ClientMessage):
    """conversation.item.retrieve."""

    item_id: str


class ItemDelete(ClientMessage):
    """conversation.item.delete."""

    item_id: str


class ItemTruncate(ClientMessage):
    """conversation.item.truncate."""

    item_id: str
    content_index: int
    audio_end_ms: int = Field(ge=0)


class _ResponseOutput(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    format: AudioFormat | None = None


class _ResponseAudio(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    output: _ResponseOutput | None = None


class ResponseOptions(BaseModel):
    """The ``response`` object of response.create; of ``instructions`` the model follows leading prosody tokens."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    conversation: Literal["auto", "none"] | None = None
    instructions: str | None = None
    input: list[Json] | None = None
    output_modalities: list[Literal["audio", "text"]] | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    audio: _ResponseAudio | None = None

    @property
    def format(self) -> AudioFormat | None:
        """Of the audio of this response, None for the session's."""
        return self.audio.output.format if self.audio and self.audio.output else None

    @field_validator("metadata")
    @classmethod
    def _short(cls, metadata: dict[str, str] | None) -> dict[str, str] | None:
        if metadata and any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
            raise ValueError("keys have at most 64 characters, values 512")
        return metadata


class ResponseCreate(ClientMessage):
    """response.create."""

    response: ResponseOptions | None = None


class ResponseCancel(ClientMessage):
    """response.cancel."""

    response_id: str | None = None


class ProsodyInject(ClientMessage):
    """repartee.prosody.inject: tokens by name or external id."""

    tokens: list[str | int] = Field(min_length=1, max_length=8)


_MESSAGES: dict[str, type[ClientMessage]] = {
    "session.update": SessionUpdate,
    "input_audio_buffer.append": AudioAppend,
    "input_audio_buffer.commit": AudioCommit,
    "input_audio_buffer.clear": AudioClear,
    "conversation.item.create": ItemCreate,
    "conversation.item.retrieve": ItemRetrieve,
    "conversation.item.delete": ItemDelete,
    "conversation.item.truncate": ItemTruncate,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "repartee.prosody.inject": ProsodyInject,
}


def read_object(message: str | bytes) -> Json:
    """The JSON object of a message, not too deep to be written back.

    Raises:
        RequestError: it is none.
    """
    if isinstance(message, bytes):
        raise RequestError("invalid_message", "binary messages are not part of the protocol; send JSON text")
    try:
        body = json.loads(message, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as exc:
        raise RequestError("invalid_json", f"the message is not valid JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise RequestError("invalid_type", "the message must be a JSON object")
    if _nested(body):
        raise RequestError("invalid_json", f"the message is nested deeper than {_MAX_NESTING} levels")
    return body


def parse_message(message: str | bytes) -> ClientMessage:
    """Read one client message.

    Raises:
        RequestError: it is no JSON object, its type is unknown or a field is wrong.
    """
    body = read_object(message)
    event_id = body.get("event_id") if isinstance(body.get("event_id"), str) else None
    kind = body.get("type")
    if not isinstance(kind, str):
        raise RequestError("missing_required_parameter", "the message has no 'type'", "type", event_id)
    if kind == "output_audio_buffer.clear":
        raise RequestError("unsupported_event", f"{kind} exists over WebRTC only", "type", event_id)
    if kind not in _MESSAGES:
        raise RequestError("unknown_event", f"unknown event type {kind[:100]!r}", "type", event_id)
    if len(message) > _MAX_PLAIN and kind not in _WITH_AUDIO:
        sentence = f"{kind} may have {_MAX_PLAIN // 1024} KiB, not {len(message) // 1024}"
        raise RequestError("message_too_large", sentence, None, event_id)
    try:
        return _MESSAGES[kind].model_validate(body)
    except ValidationError as exc:
        fault = exc.errors()[0]
        param = ".".join(str(part) for part in fault["loc"])
        code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_type"
        raise RequestError(code, f"{kind}: {param}: {fault['msg']}", param, event_id) from exc


def _number(text: str) -> float:
    """A float that can be written as JSON again: Python reads NaN and 1e999, other parsers do not."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _nested(body: Json) -> bool:
    """Whether a value lies deeper than the session object can be written back."""
    level: list[Any] = [body]
    for _ in range(_MAX_NESTING):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def decode_base64(text: object, param: str) -> bytes:
    """What base64 text holds.

    Raises:
        RequestError: it is no base64 text.
    """
    if not isinstance(text, str):
        raise RequestError("invalid_type", f"{param} must be base64 text", param)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise RequestError("invalid_audio", f"{param} is not valid base64", param) from exc


def error_body(kind: str, code: str, message: str, param: str | None = None, event_id: str | None = None) -> Json:
    """The ``error`` object of an error event; ``kind`` is "invalid_request_error" or "server_error"."""
    return {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id}
