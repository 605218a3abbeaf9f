"""Who writes answers from talking points: a language model in a local directory, or an OpenAI-compatible endpoint.

What it writes is checked like any other text: a tag that is none of the seven prosody tokens is an error.
"""

import importlib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import InputError
from models.errors import ProsodyTagError
from models.prosody import PROSODY_TOKENS, strip_marks

API_KEY_VARIABLE = "OPENAI_API_KEY"
TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 1 << 20
MAX_PAST = 8  # exchanges that the writer is shown
_THOUGHTS = re.compile(r"<think>.*?</think>", re.S)
_MARKUP = re.compile(r"^\s*(?:[-*#]+|\d+\.)\s+|\*\*|__|`", re.M)
_TASK = (
    "You are a voice agent. Answer the question in two to four short spoken sentences that make every talking point, "
    "in order, and nothing else. Plain words, no lists and no markup. You may put these tokens right before a "
    f"word, few of them: {' '.join(PROSODY_TOKENS)}. Use no other tags, and keep those that the talking points have."
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, marked text."""

    question: str
    answer: str


Writer = Callable[[str, Sequence[str], Sequence[Exchange]], str]
"""From a question, talking points and the past to an answer, marked text; raises InputError."""
Complete = Callable[[list[dict[str, str]]], str]


def open_writer(where: str) -> Writer:
    """A writer.

    Args:
        where: a directory with a `transformers` causal language model, or ``http(s)://HOST/v1`` with ``#MODEL`` if the
            endpoint has several.

    Raises:
        InputError: there is none; the message says what is missing.
    """
    complete = _endpoint(where) if where.startswith(("http://", "https://")) else _local(Path(where))

    def write(question: str, points: Sequence[str], past: Sequence[Exchange]) -> str:
        return checked(complete(messages(question, points, past)), where)

    return write


def messages(question: str, points: Sequence[str], past: Sequence[Exchange]) -> list[dict[str, str]]:
    """The conversation as a chat model is given it."""
    chat = [{"role": "system", "content": _TASK}]
    for exchange in past[-MAX_PAST:]:
        chat.append({"role": "user", "content": f"Question: {exchange.question}"})
        chat.append({"role": "assistant", "content": exchange.answer})
    listed = "".join(f"\n- {point}" for point in points)
    chat.append({"role": "user", "content": f"Question: {question}" + (f"\nTalking points:{listed}" if points else "")})
    return chat


def checked(text: str, where: str) -> str:
    """What was written, without thoughts and markup.

    Raises:
        InputError: it holds an unknown tag, or no words.
    """
    text = " ".join(_MARKUP.sub("", _THOUGHTS.sub("", text)).split())
    try:
        words = strip_marks(text)
    except ProsodyTagError as exc:
        raise InputError(f"the writer {where}: {exc}") from exc
    if not re.search(r"\w", words):
        raise InputError(f"the writer {where} wrote no words")
    return text


def _local(path: Path) -> Complete:
    if not (path / "config.json").is_file():
        raise InputError(f"--writer {path}: there is no language model (no config.json); give a directory or a URL")
    try:
        module = importlib.import_module("models.writer")
    except ModuleNotFoundError as exc:
        raise InputError(f"--writer {path} needs {exc.name}: pip install 'repartee[train]'") from exc
    try:
        complete: Complete = module.LocalWriter(path)
    except (OSError, ValueError) as exc:
        raise InputError(f"--writer {path}: not a causal language model ({str(exc).splitlines()[0]})") from exc
    return complete


def _endpoint(where: str) -> Complete:
    base, _, model = where.partition("#")
    url = base.rstrip("/") + "/chat/completions"

    def complete(chat: list[dict[str, str]]) -> str:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(API_KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        body = json.dumps({"model": model or "default", "messages": chat, "temperature": 0}).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=TIMEOUT_S) as answer:
                data = answer.read(MAX_ANSWER_BYTES + 1)
        except (urllib.error.URLError, OSError, ValueError) as exc:
            raise InputError(f"--writer {url} does not answer: {exc}") from exc
        return _content(data, url)

    return complete


def _content(data: bytes, url: str) -> str:
    try:
        answer: Any = json.loads(data)
        content = answer["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        raise InputError(f"--writer {url}: the answer is no chat completion ({data[:80]!r})") from exc
    if not isinstance(content, str):
        raise InputError(f"--writer {url}: the answer holds no text")
    return content
