"""The session object of the Realtime protocol: its fields, their checks, the deep merge of ``session.update``.

* Only what the server does is accepted. A value that is valid in the protocol but not served here is refused with a
  code that says so (``unsupported_value``), never silently ignored - except texts that a speech model without
  instructions cannot follow (``instructions``, ``voice``), which are kept and echoed because every client library
  sends them. ``tools`` are likewise kept: those with the name of one of the domain's actions are called.
* ``noise_reduction`` is of one kind and strength, whichever is asked for; it stays null where it cannot be done.
* The effective configuration is always complete: :meth:`SessionConfig.as_json` is what session.created carries.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from streaming.echo import available
from streaming.realtime_audio import AudioFormat, PcmFormat

Json = dict[str, Any]
Eagerness = Literal["low", "medium", "high", "auto"]


class RequestError(ValueError):
    """A client message that cannot be honoured; becomes an ``error`` event and leaves the session open."""

    def __init__(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.event_id = event_id


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Transcription(_Strict):
    """Asks for transcript events of the user's speech; the names are kept, the model has one recogniser."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None


class ServerVad(_Strict):
    """Turns end after silence alone. Times in milliseconds."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(0.5, ge=0.0, le=1.0)
    prefix_padding_ms: int = Field(300, ge=0, le=2_000)
    silence_duration_ms: int = Field(500, ge=0, le=10_000)
    idle_timeout_ms: int | None = Field(None, ge=5_000, le=30_000)
    """Silence after the agent's last words with which it speaks again."""
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(_Strict):
    """Turns end when the model says that the user has finished, soon or late; auto: as the daemon is set."""

    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: Eagerness = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = ServerVad | SemanticVad


class NoiseReduction(_Strict):
    """What a client may ask for."""

    type: Literal["near_field", "far_field"]
    strength: float | None = Field(None, ge=0.0, le=1.0)


class AudioInput(_Strict):
    """What the client sends and how turns are found in it; ``turn_detection`` None is push to talk."""

    format: AudioFormat = PcmFormat()
    transcription: Transcription | None = None
    noise_reduction: NoiseReduction | None = None
    turn_detection: Annotated[TurnDetection, Field(discriminator="type")] | None = SemanticVad()

    @field_validator("noise_reduction")
    @classmethod
    def _as_it_is_done(cls, asked: NoiseReduction | None) -> NoiseReduction | None:
        """A well-formed wish is no error, and the effective setting is the truth."""
        return NoiseReduction(type=asked.type) if asked is not None and available() else None


class AudioOutput(_Strict):
    """What the client gets."""

    format: AudioFormat = PcmFormat()
    voice: str | Json = "agent"
    speed: float = Field(1.0, ge=0.25, le=1.5)


class Audio(_Strict):
    """Both directions."""

    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class SessionConfig(_Strict):
    """The whole configuration of one session, as the client sees it."""

    type: Literal["realtime"] = "realtime"
    model: str = "local"
    output_modalities: tuple[Literal["audio", "text"]] = ("audio",)
    instructions: str = ""
    max_output_tokens: int | Literal["inf"] = Field("inf")
    tools: list[Json] = []
    tool_choice: Literal["auto", "none"] = "auto"
    parallel_tool_calls: bool | None = None
    reasoning: Json | None = None
    tracing: Literal["auto"] | Json | None = None
    truncation: Literal["auto", "disabled"] | Json = "auto"
    prompt: None = None
    include: list[str] | None = None
    audio: Audio = Audio()

    @property
    def text_only(self) -> bool:
        """Whether responses are written and not spoken."""
        return self.output_modalities == ("text",)

    @property
    def max_tokens(self) -> int | None:
        """Limit of output tokens a response, None without limit."""
        return None if self.max_output_tokens == "inf" else int(self.max_output_tokens)

    def as_json(self, session_id: str, expires_at: int) -> Json:
        """The session object of session.created and session.updated."""
        body = self.model_dump(mode="json", exclude={"parallel_tool_calls", "reasoning"})
        return {"object": "realtime.session", "id": session_id, "expires_at": expires_at, **body}


def function_names(tools: list[Json], tool_choice: object) -> frozenset[str]:
    """Names of the functions that may be called: none when the choice is "none"."""
    names = (tool.get("name") for tool in tools if tool.get("type") == "function")
    return frozenset() if tool_choice == "none" else frozenset(name for name in names if isinstance(name, str))


_FORMATS = "audio/pcm at 24000 Hz, audio/pcmu and audio/pcma are supported"
_UNSUPPORTED = {
    "audio.input.format": _FORMATS,
    "audio.output.format": _FORMATS,
    "tool_choice": "forcing a tool call is not supported; use 'auto' or 'none'",
    "prompt": "stored prompts are not supported",
}


def merge(config: SessionConfig, update: object, *, spoken: bool) -> SessionConfig:
    """Apply the ``session`` object of a session.update: present fields change, the others stay.

    Args:
        config: the effective configuration.
        update: the decoded JSON value the client sent.
        spoken: whether audio has been sent already (the voice is fixed from then on).

    Raises:
        RequestError: the update is malformed or asks for something that is not served; nothing has changed.
    """
    if not isinstance(update, dict):
        raise RequestError("invalid_type", "'session' must be an object", "session")
    kind = update.get("type", "realtime")
    if kind == "transcription":
        raise RequestError("unsupported_value", "transcription sessions are not supported", "session.type")
    asked = {key: value for key, value in _typed(config, update).items() if key not in ("id", "object")}
    body = _deep_merge(config.model_dump(mode="json"), asked)
    if body["model"] != config.model:
        raise RequestError("immutable_field", "the model of a session cannot be changed", "session.model")
    if body.get("instructions") is None:
        body["instructions"] = ""
    try:
        merged = SessionConfig.model_validate(body)
    except ValidationError as exc:
        raise _request_error(exc, body) from exc
    if isinstance(merged.max_output_tokens, int) and merged.max_output_tokens < 1:
        raise RequestError("invalid_value", "max_output_tokens must be at least 1", "session.max_output_tokens")
    if spoken and merged.audio.output.voice != config.audio.output.voice:
        raise RequestError(
            "cannot_update_voice", "the voice cannot change once audio was sent", "session.audio.output.voice"
        )
    return merged


def _typed(config: SessionConfig, update: Json) -> Json:
    """Turn detection without a type is of the type in use, or of server_vad, if only it has one of the settings."""
    try:
        asked = update["audio"]["input"]["turn_detection"]
    except (KeyError, TypeError):
        return update
    if not isinstance(asked, dict):
        return update
    used = config.audio.input.turn_detection
    foreign = asked.keys() & (ServerVad.model_fields.keys() - SemanticVad.model_fields.keys())
    kind = "server_vad" if used is None or foreign else used.type
    return _deep_merge(update, {"audio": {"input": {"turn_detection": {"type": kind} | asked}}})


def _deep_merge(old: Json, new: Json) -> Json:
    """``new`` over ``old``; an object of another type is another object."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        same = isinstance(before, dict) and isinstance(value, dict) and value.get("type") in (None, before.get("type"))
        merged[key] = _deep_merge(before, value) if same and isinstance(before, dict) else value
    return merged


def _request_error(exc: ValidationError, body: Json) -> RequestError:
    fault = exc.errors()[0]
    path = _existing(fault["loc"], body)
    param = ".".join(["session", *path])
    if fault["type"] == "extra_forbidden":
        return RequestError("unknown_parameter", f"unknown parameter {param!r}", param)
    for length in range(len(path), 0, -1):
        sentence = _UNSUPPORTED.get(".".join(path[:length]))
        if sentence is not None:
            return RequestError("unsupported_value", sentence, ".".join(["session", *path[:length]]))
    return RequestError("invalid_value", f"{param}: {fault['msg']}", param)


def _existing(location: tuple[int | str, ...], body: Any) -> list[str]:
    """The part of a fault's location that exists in the body (the rest names union members)."""
    path: list[str] = []
    for part in location:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(str(part))
    return path
