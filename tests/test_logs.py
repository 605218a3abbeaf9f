"""How log lines look."""

import io
import json
import logging
from collections.abc import Mapping

from agent.logs import JsonFormatter, TextFormatter


def logged(formatter: logging.Formatter, fields: Mapping[str, object] | None = None, error: bool = False) -> str:
    """One line of a logger of its own."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("agent.x")
    logger.addHandler(handler)
    try:
        if error:
            raise ValueError("broken")
        logger.info("session %s", "opened", extra={"fields": fields} if fields is not None else None)
    except ValueError:
        logger.exception("it failed")
    return stream.getvalue()


def test_text_lines_carry_their_facts() -> None:
    """Facts follow the message as key=value; what holds blanks or quotes is quoted, so that nothing forges a fact."""
    facts = {"address": "127.0.0.1:5", "why": "two words", "none": None, "sly": 'a" reason="b', "lines": "a\nb"}
    line = logged(TextFormatter(), facts)
    assert line.endswith(
        'INFO agent.x: session opened address=127.0.0.1:5 why="two words" none=- sly="a\\" reason=\\"b" lines="a\\nb"\n'
    )
    assert line.count("\n") == 1


def test_text_lines_without_facts() -> None:
    """A plain message stays plain, and a traceback follows."""
    assert logged(TextFormatter()).endswith("agent.x: session opened\n")
    assert "ValueError: broken" in logged(TextFormatter(), error=True)


def test_json_lines() -> None:
    """One object a line, with the facts beside the message, also for errors."""
    body = json.loads(logged(JsonFormatter(), {"address": "127.0.0.1:5", "turns": 3}))
    assert body.pop("time").endswith("+00:00")
    assert body == {
        "level": "info",
        "logger": "agent.x",
        "message": "session opened",
        "address": "127.0.0.1:5",
        "turns": 3,
    }
    text = logged(JsonFormatter(), error=True)
    assert text.count("\n") == 1
    assert "ValueError: broken" in json.loads(text)["error"]
