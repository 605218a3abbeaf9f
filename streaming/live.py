"""The OpenAI Live protocol on the server's side, without I/O: full duplex, one timeline, no turns and no items.

* It has the shape of :class:`streaming.realtime.RealtimeProtocol`: messages in and commands out, events in and messages
  out. The client speaks first, with ``session.start``.
* The timeline is the user's audio: it stands still while none comes. What the agent says lies where it is sent.
* The model follows no instructions and has nobody to delegate to: instructions and thoughts are taken and not acted on,
  everything else of that kind is refused by name.
"""

import base64
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streaming import g711
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ, samples_to_ms
from streaming.realtime import OutMessage, random_id
from streaming.realtime_audio import AudioDecoder, AudioEncoder, law_of
from streaming.realtime_config import RequestError
from streaming.realtime_messages import decode_base64, read_object
from streaming.realtime_requests import MAX_TEXT, CheckText

Json = dict[str, Any]
M = TypeVar("M", bound=BaseModel)

MAX_HISTORY = 128
_TAKEN = {f"session.{kind}.append": f"session.{kind}.appended" for kind in ("instructions", "thinking")}
_REFUSED = {
    "session.commentary.append": "the agent says what its model wants to say",
    "session.output_audio.fixture.play": "there are no fixtures",
    "response.create": "nothing is delegated to a Responses model",
    "response.item.create": "nothing is delegated to a Responses model",
    "decision.create": "nothing is delegated to Decisions",
    "decision.item.create": "nothing is delegated to Decisions",
    "decision.item.delete": "nothing is delegated to Decisions",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PcmFormat(_Strict):
    """16-bit little-endian mono PCM."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[16000, 24000] = 24000


class G711Format(_Strict):
    """8-bit mono G.711."""

    type: Literal["audio/pcmu", "audio/pcma"]
    rate: Literal[8000] = 8000


class _Output(_Strict):
    voice: str | Json = "agent"


class _Audio(_Strict):
    format: Annotated[PcmFormat | G711Format, Field(discriminator="type")] = PcmFormat()
    output: _Output = _Output()


class _Part(_Strict):
    type: Literal["input_text", "output_text", "text"] | None = None
    text: str = Field(max_length=MAX_TEXT)


class _Message(_Strict):
    role: Literal["developer", "user", "assistant"]
    content: list[_Part] = Field(min_length=1, max_length=1)
    type: Literal["message"] | None = None
    id: str | None = None
    status: Literal["incomplete", "completed"] | None = None


class _Delegation(_Strict):
    type: Literal["client"]
    acknowledgement_delay_ms: int | None = None


class SessionConfig(_Strict):
    """What ``session.start`` configures."""

    model: str
    instructions: str | None = None
    audio: _Audio = _Audio()
    input: list[_Message] = Field([], max_length=MAX_HISTORY)
    delegation: _Delegation | None = None
    client: None = None


class _Update(_Strict):
    delegation: _Delegation | None = None
    triggers: list[Json] | None = Field(None, max_length=0)


class LiveProtocol:
    """One session's half of the protocol.

    Args:
        expires_at: seconds since the epoch, told to the client.
        new_id: makes an identifier from its kind ("event", …).
        check_text: raises ValueError for a text that the model cannot take.
    """

    def __init__(self, expires_at: int, new_id: Callable[[str], str] = random_id, check_text: CheckText = str) -> None:
        self.session_id = new_id("sess")
        self.closed = False
        """Whether the client has asked to close, and was told that it is done."""
        self._expires_at = expires_at
        self._new_id = new_id
        self._check_text = check_text
        self._config: SessionConfig | None = None
        self._muted = False
        self._heard = 0  # samples at 24 kHz, as all positions
        self._written_to = 0  # of the input transcript
        self._spoken_to = 0
        self._reply = 0
        self._outgoing: list[OutMessage] = []

    def open(self) -> None:
        """Wait for the client; call once."""

    def messages_to_send(self) -> list[OutMessage]:
        """Take the messages that wait for the wire, oldest first."""
        waiting, self._outgoing = self._outgoing, []
        return waiting

    def receive(self, message: str | bytes) -> list[events.Command]:
        """Take one client message; answers and errors are queued, the rest is returned as commands."""
        event_id: str | None = None
        try:
            body = read_object(message)
            event_id = body.get("event_id") if isinstance(body.get("event_id"), str) else None
            return self._dispatch(body, event_id)
        except RequestError as exc:
            self._error("invalid_request_error", exc.code, exc.message, exc.param, event_id)
            return []

    def send(self, event: events.Event) -> None:
        """Tell the client what happened; the messages are queued."""
        match event:
            case events.UserStarted():
                self._written_to = max(self._written_to, event.at)
            case events.UserText():
                self._transcript("session.input_transcript.delta", event.text, self._written_to, self._heard)
                self._written_to = self._heard
            case events.ReplyStarted():
                self._reply = event.reply
                self._encoder = AudioEncoder(*self._coding())
                self._spoken_to = max(self._spoken_to, self._heard)
            case events.ReplyText():
                self._transcript("session.output_transcript.delta", event.text, self._spoken_to, self._spoken_to)
            case events.ReplyAudio():
                self._send_audio(self._encoder.push(event.pcm))
                self._spoken_to += event.pcm.size
            case events.ReplyDone():
                if event.status != "cancelled":
                    self._send_audio(self._encoder.flush())
                else:
                    self._spoken_to = self._heard
                self._emit("session.usage.updated", usage=self._usage())
            case events.Refused():
                self._error("invalid_request_error", event.code, event.message, event.param, event.event_id)
            case events.Broken():
                self._error("server_error", event.code, event.message, None, None)
            case _:
                pass  # turns and items are not part of the protocol

    # --- client messages ----------------------------------------------------------------------------------------------

    def _dispatch(self, body: Json, event_id: str | None) -> list[events.Command]:
        kind = body.get("type")
        if not isinstance(kind, str):
            raise RequestError("missing_required_parameter", "the message has no 'type'", "type")
        if (kind == "session.start") is not (self._config is None):
            sentence = "the session has started" if self._config else "the session begins with session.start"
            raise RequestError("invalid_session_state", sentence, "type")
        match kind:
            case "session.start":
                return self._start(body.get("session"), event_id)
            case "session.update":
                _read(_Update, body.get("session"))
                self._emit("session.updated", event_id, session=self._session_json())
            case "session.input_audio.append":
                return [self._append(body.get("audio"))]
            case "session.input_audio.mute" | "session.input_audio.unmute":
                self._muted = kind.endswith(".mute")
                self._emit(f"{kind}d", event_id)
            case "session.close":
                self.closed = True
                self._emit("session.closed", event_id, reason="close_requested", session=self._session_json(),
                           usage=self._usage())  # fmt: skip
            case _ if kind in _TAKEN:
                now_ms = samples_to_ms(self._heard)
                self._emit(_TAKEN[kind], event_id, start_ms=now_ms, end_ms=now_ms)
            case _ if kind in _REFUSED:
                raise RequestError("unsupported_event", f"{kind}: {_REFUSED[kind]}", "type")
            case _:
                raise RequestError("unknown_event", f"unknown event type {kind[:100]!r}", "type")
        return []

    def _start(self, asked: object, event_id: str | None) -> list[events.Command]:
        config = _read(SessionConfig, asked)
        lines: list[events.Line] = []
        for index, message in enumerate(config.input):
            if message.role == "developer":
                continue
            try:
                self._check_text(message.content[0].text)
            except ValueError as exc:
                raise RequestError("unsupported_content", str(exc), f"session.input.{index}.content") from exc
            lines.append(events.Line(message.role, message.content[0].text))
        self._config = config
        self._hearing = AudioDecoder(*self._coding())
        self._emit("session.started", event_id, session=self._session_json())
        return [events.AddLine(line) for line in lines]

    def _append(self, audio: object) -> events.AppendAudio:
        data = decode_base64(audio, "audio")
        try:
            pcm = self._hearing.push(data)
        except ValueError as exc:
            raise RequestError("invalid_audio", f"audio: {exc}", "audio") from exc
        self._heard += len(pcm)
        return events.AppendAudio(np.zeros_like(pcm) if self._muted else pcm)

    # --- wire ---------------------------------------------------------------------------------------------------------

    def _coding(self) -> tuple[g711.Law | None, int]:
        assert self._config is not None, "the session has started"
        return law_of(self._config.audio.format.type), self._config.audio.format.rate

    def _session_json(self) -> Json:
        assert self._config is not None, "the session has started"
        body = self._config.model_dump(mode="json", exclude={"input", "client"})
        return {"id": self.session_id, "expires_at": self._expires_at, "status": "active", **body}

    def _usage(self) -> Json:
        return {"seconds": self._heard / SAMPLE_RATE_HZ}

    def _transcript(self, kind: str, text: str, start: int, end: int) -> None:
        self._emit(kind, delta=text, start_ms=samples_to_ms(start), end_ms=samples_to_ms(max(start, end)))

    def _send_audio(self, data: bytes) -> None:
        if data:
            body = {"type": "session.output_audio.delta", "delta": base64.b64encode(data).decode("ascii")}
            self._outgoing.append(OutMessage(json.dumps(body, separators=(",", ":")), self._reply))

    def _error(self, kind: str, code: str, message: str, param: str | None, event_id: str | None) -> None:
        error = {"type": kind, "code": code, "message": message, "param": param, "client_event_id": event_id}
        self._emit("error", event_id, error=error)

    def _emit(self, type: str, client_event_id: str | None = None, /, **fields: Any) -> None:
        body = {"type": type, "event_id": self._new_id("event"), **fields}
        if client_event_id is not None:
            body["client_event_id"] = client_event_id
        self._outgoing.append(OutMessage(json.dumps(body, separators=(",", ":"))))


def _read(model: type[M], asked: object) -> M:
    """The ``session`` object of a message, checked."""
    try:
        return model.model_validate(asked)
    except ValidationError as exc:
        fault = exc.errors()[0]
        param = ".".join(["session", *(str(part) for part in fault["loc"])])
        if fault["type"] == "extra_forbidden":
            raise RequestError("unknown_parameter", f"unknown parameter {param!r}", param) from exc
        code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
        raise RequestError(code, f"{param}: {fault['msg']}", param) from exc
