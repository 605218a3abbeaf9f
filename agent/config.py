"""The daemon's configuration: one strict YAML file, and ``key=value`` overrides from the command line.

Each section is the settings model that stands beside the class it configures; this is the only file of the daemon
that reads YAML.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from agent.errors import ConfigError
from agent.limits import SessionLimits
from agent.local import LocalConfig
from agent.recording import RecordingConfig
from agent.reply import ReplyConfig
from agent.telegraph import TelegraphConfig
from agent.turn import TurnConfig
from agent.worker import ModelConfig
from streaming.admission import weak_token
from streaming.audio_io import AudioConfig
from streaming.vad import VadConfig
from streaming.websocket import ServerConfig

TOKEN_VARIABLE = "REPARTEE_TOKEN"


class AgentConfig(BaseModel):
    """Everything the daemon can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: ServerConfig = ServerConfig()
    session: SessionLimits = SessionLimits()
    model: ModelConfig = ModelConfig()
    vad: VadConfig = VadConfig()
    turn: TurnConfig = TurnConfig()
    reply: ReplyConfig = ReplyConfig()
    audio: AudioConfig = AudioConfig()
    local: LocalConfig = LocalConfig()
    recording: RecordingConfig = RecordingConfig()
    mqtt: TelegraphConfig = TelegraphConfig()


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> AgentConfig:
    """Read the configuration.

    Args:
        path: a YAML file, None for the defaults.
        overrides: texts such as ``vad.silence_duration_ms=400``; the value is YAML.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong; the message names the file and the key.
    """
    body = {} if path is None else _read(path)
    origins: dict[str, str] = {}
    for override in overrides:
        key, value = _parse_override(override)
        _assign(body, key, value)
        origins[key] = f"the command line ({override})"
    body = {key: value for key, value in body.items() if value is not None}  # a section with every key left out
    try:
        return AgentConfig.model_validate(body)
    except ValidationError as exc:
        fault = exc.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        origin = origins.get(key, str(path) if path else "the command line")
        if fault["type"] == "extra_forbidden":
            raise ConfigError(f"{origin}: unknown key {key!r}{_known(fault['loc'])}") from exc
        if fault["type"] == "model_type":
            raise ConfigError(f"{origin}: {key!r} is a section with settings (got {fault['input']!r})") from exc
        raise ConfigError(f"{origin}: {key}: {fault['msg']} (got {fault['input']!r})") from exc


def load_token(flag: str | None, environment: Mapping[str, str], path: Path | None) -> str | None:
    """The token that clients must bring: from the command line, else the environment, else a file; None without one.

    Raises:
        ConfigError: it cannot be read, or is too easy to guess; the message names where it is from, not what it is.
    """
    if flag is not None:
        origin, token = "--token", flag
    elif TOKEN_VARIABLE in environment:
        origin, token = TOKEN_VARIABLE, environment[TOKEN_VARIABLE].strip()
    elif path is not None:
        origin = str(path)
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"the token file {path} cannot be read ({getattr(exc, 'strerror', exc)})") from exc
    else:
        return None
    if (fault := weak_token(token)) is not None:
        raise ConfigError(f"{origin}: {fault}")
    return token


def _read(path: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from exc
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = str(getattr(exc, "problem", None) or exc)
        raise ConfigError(f"{path}{where}: not valid YAML ({' '.join(problem.split())})") from exc
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: expected sections with settings, found {type(body).__name__}")
    return body


def _parse_override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key or any(not part for part in key.split(".")):
        raise ConfigError(f"{text!r} is not of the form section.key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{text!r}: the value is not valid YAML") from exc


def _assign(body: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = body.get(section)
        if inner is None:
            inner = body[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{key!r}: {section!r} is a value, not a section")
        body = inner
    body[last] = value


def _known(location: tuple[int | str, ...]) -> str:
    model: Any = AgentConfig
    for part in location[:-1]:
        model = model.model_fields[str(part)].annotation
    return f"; known: {', '.join(model.model_fields)}"
