"""Commands that arrive over MQTT: JSON in, checked objects out. Pure.

A command is a JSON object on ``BASE/command/NAME``, or nothing at all where every field has a default:

| NAME | fields | what it does |
|---|---|---|
| say | ``text`` (up to 300 characters), ``to`` | says the text, word for word; refused while somebody speaks |
| interrupt | ``to`` | stops what is being said |
| prosody | ``tokens`` (up to 8, by name or id), ``to`` | puts prosody tokens into the reply that is spoken, in order |
| mute | ``on`` (default true) | what is said to the agent counts as silence, in every conversation; false ends that |
| set | ``eagerness``, ``volume``, ``prosody`` | changes how the agent behaves until it is started again |
| shutdown | | ends the agent, after the replies that are being given; only where ``mqtt.allow_shutdown`` is set |

``to`` is ``all`` (default), ``local`` (microphone and speaker) or the name of a conversation, as in ``BASE/state``.
``eagerness`` (low, medium, high, auto) is how soon a turn ends where the client has not chosen itself; auto and medium
are as the daemon is set. ``volume`` (0 to 1) is a factor on what the agent says. ``prosody`` are the tokens that every
reply begins with, ``[]`` for none. They hold for all conversations, now and later. Any command may carry ``id``, a
text of up to 64 characters that its reply repeats.
"""

import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from agent.errors import CommandError
from models.runtime_text import read_tokens
from streaming.mqtt import MAX_PAYLOAD
from streaming.realtime_config import Eagerness

ALL, LOCAL = "all", "local"
_MAX_ID, _MAX_TEXT, _MAX_TOKENS = 64, 300, 8


class Command(BaseModel):
    """What every command may carry."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str | None = Field(None, max_length=_MAX_ID)


class Say(Command):
    """Say a text, word for word. The text may hold prosody tags."""

    text: str = Field(min_length=1, max_length=_MAX_TEXT)
    to: str = Field(ALL, min_length=1, max_length=_MAX_ID)


class Interrupt(Command):
    """Stop what is being said."""

    to: str = Field(ALL, min_length=1, max_length=_MAX_ID)


class Prosody(Command):
    """Put prosody tokens into the reply that is spoken."""

    tokens: list[str | int] = Field(min_length=1, max_length=_MAX_TOKENS)
    to: str = Field(ALL, min_length=1, max_length=_MAX_ID)


class Mute(Command):
    """Hear silence, or hear again."""

    on: bool = True


class SetOptions(Command):
    """Change how the agent behaves; what is not given stays."""

    OPTIONS: ClassVar = ("eagerness", "volume", "prosody")

    eagerness: Eagerness | None = None
    volume: float | None = Field(None, ge=0.0, le=1.0, allow_inf_nan=False)
    prosody: list[str | int] | None = Field(None, max_length=_MAX_TOKENS)

    @field_validator("prosody")
    @classmethod
    def _named(cls, tokens: list[str | int] | None) -> list[str | int] | None:
        return None if tokens is None else list(read_tokens(tokens))

    @model_validator(mode="after")
    def _changes_something(self) -> "SetOptions":
        if all(getattr(self, name) is None for name in self.OPTIONS):
            raise ValueError(f"give at least one of {', '.join(self.OPTIONS)}")
        return self


class Shutdown(Command):
    """End the agent."""


_COMMANDS: dict[str, type[Command]] = {
    "say": Say,
    "interrupt": Interrupt,
    "prosody": Prosody,
    "mute": Mute,
    "set": SetOptions,
    "shutdown": Shutdown,
}


def parse_command(name: str, payload: bytes, retained: bool) -> Command:
    """Read one command.

    Args:
        name: the last part of its topic.
        payload: what was sent.
        retained: whether the broker had kept it.

    Raises:
        CommandError: it is none; the message says what is wrong and where.
    """
    if retained:
        raise CommandError("retained_command", "a retained command would be carried out again and again: send it plain")
    if name not in _COMMANDS:
        raise CommandError("unknown_command", f"unknown command {name[:_MAX_ID]!r}; known: {', '.join(_COMMANDS)}")
    body = _read_object(payload)
    try:
        return _COMMANDS[name].model_validate(body)
    except ValidationError as exc:
        fault = exc.errors(include_input=False, include_url=False)[0]
        param = ".".join(str(part)[:_MAX_ID] for part in fault["loc"]) or None
        if fault["type"] == "extra_forbidden":
            known = ", ".join(_COMMANDS[name].model_fields)
            raise CommandError("unknown_field", f"{name} has no field {param!r}; known: {known}", param) from exc
        code = "missing_field" if fault["type"] == "missing" else "invalid_value"
        where = f"{name}.{param}" if param else name
        raise CommandError(code, f"{where}: {fault['msg']}", param) from exc


def id_of(payload: bytes) -> str | None:
    """The ``id`` of a command that may be wrong in any way, None when it has none."""
    try:
        found = _read_object(payload).get("id")
    except CommandError:
        return None
    return found if isinstance(found, str) and len(found) <= _MAX_ID else None


def _read_object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_PAYLOAD:
        sentence = f"the payload has {len(payload)} bytes; at most {MAX_PAYLOAD} are read"
        raise CommandError("payload_too_large", sentence)
    if not payload.strip():
        return {}
    try:
        body = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise CommandError("invalid_json", f"the payload is not valid JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise CommandError("invalid_type", f"the payload must be a JSON object, not {type(body).__name__}")
    return body
