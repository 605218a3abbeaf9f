"""How log lines look: for people, with ``key=value`` after the message, or one JSON object a line.

A line's facts are given as ``extra={"fields": {...}}``.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]


def set_up(log_format: LogFormat) -> None:
    """Send the process's log to standard error in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message key=value key="two words"``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, before a traceback."""
        pairs = "".join(f" {key}={_plain(value)}" for key, value in fields_of(record).items())
        return super().formatMessage(record) + pairs


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "message": …, …the line's facts…}``."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole line, a traceback in ``error``."""
        body: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            body["error"] = self.formatException(record.exc_info)
        return json.dumps(body, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The facts of a line."""
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _plain(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if text and all(char.isprintable() and char not in ' "=' for char in text) else json.dumps(text)


class SessionLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the session's id to the facts of every line."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """The line and its facts (called by logging)."""
        kwargs["extra"] = {"fields": {**(self.extra or {}), **kwargs.get("extra", {}).get("fields", {})}}
        return msg, kwargs
