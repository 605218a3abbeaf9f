"""Phrase grammars: ``(a | b)`` one of, ``[a]`` optional, ``<name>`` a macro, ``{fill}`` a value given when spoken.

- A grammar is parsed once into a small tree; speaking draws uniformly from the choices at each node.
- The same tree becomes a regular expression, so that what can be said can also be recognised.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(r"\s*(<[a-z_]+>|\{[A-Za-z_]+\}|[()\[\]|]|\^|[^\s()\[\]|<>{}^]+)")


class GrammarError(ValueError):
    """A phrase grammar cannot be read."""


@dataclass(frozen=True, slots=True)
class Word:
    """A literal word (``^`` is the start of the utterance)."""

    text: str


@dataclass(frozen=True, slots=True)
class Fill:
    """A place for a value."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """Parts spoken one after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several parts, all equally likely."""

    options: tuple["Node", ...]


Node = Word | Fill | Sequence | Choice

_CLOSING = {"(": ")", "[": "]"}


def parse_phrase(text: str, macros: Mapping[str, Node] | None = None) -> Node:
    """Read one phrase grammar.

    Args:
        text: the grammar, for example ``"can i (get | have) {items} [please]"``.
        macros: trees that ``<name>`` stands for.

    Raises:
        GrammarError: brackets do not match, a macro is unknown, or a character has no meaning.
    """
    tokens = _tokens(text)
    node, rest = _choice(tokens, 0, macros or {}, None)
    assert rest == len(tokens)
    return node


def speak(node: Node, rng: random.Random, fills: Mapping[str, str]) -> str:
    """Draw one sentence; every fill of the grammar must be in ``fills``."""
    return " ".join(" ".join(_words(node, rng, fills)).split())


def fills_of(node: Node) -> set[str]:
    """Names of all fills that the grammar can ask for."""
    match node:
        case Fill(name):
            return {name}
        case Sequence(parts) | Choice(parts):
            return set().union(*(fills_of(part) for part in parts))
        case _:
            return set()


def words_of(node: Node) -> Iterator[str]:
    """Every literal word of the grammar."""
    match node:
        case Word(text):
            yield text
        case Sequence(parts) | Choice(parts):
            for part in parts:
                yield from words_of(part)


def to_regex(node: Node) -> str:
    """A regular expression over text in which every word is followed by one space; fills match anything."""
    match node:
        case Word("^"):
            return "^"
        case Word(text):
            return re.escape(text.replace("'", "")) + " "
        case Fill():
            return "(?:[^ ]+ )+?"
        case Sequence(parts):
            return "".join(to_regex(part) for part in parts)
        case Choice(options):
            return "(?:" + "|".join(to_regex(option) for option in options) + ")"


def _tokens(text: str) -> list[str]:
    tokens, end = [], 0
    while end < len(text.rstrip()):
        match = _TOKEN.match(text, end)
        if match is None:
            raise GrammarError(f"cannot read {text[end:].strip()!r} in phrase {text!r}")
        tokens.append(match.group(1))
        end = match.end()
    if not tokens:
        raise GrammarError("empty phrase")
    return tokens


def _choice(tokens: list[str], at: int, macros: Mapping[str, Node], closing: str | None) -> tuple[Node, int]:
    options: list[Node] = []
    parts: list[Node] = []
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token in _CLOSING:
            inner, at = _choice(tokens, at, macros, _CLOSING[token])
            parts.append(inner if token == "(" else Choice((inner, Sequence(()))))
        elif token == "|":
            options.append(_sequence(parts))
            parts = []
        elif token in (")", "]"):
            if token != closing:
                raise GrammarError(f"{token!r} without its opening bracket in phrase {' '.join(tokens)!r}")
            return _options([*options, _sequence(parts)]), at
        else:
            parts.append(_leaf(token, macros))
    if closing is not None:
        raise GrammarError(f"{closing!r} is missing in phrase {' '.join(tokens)!r}")
    return _options([*options, _sequence(parts)]), at


def _leaf(token: str, macros: Mapping[str, Node]) -> Node:
    if token.startswith("{"):
        return Fill(token[1:-1])
    if not token.startswith("<"):
        return Word(token)
    if token[1:-1] not in macros:
        raise GrammarError(f"unknown macro {token}; known: {' '.join(sorted(macros)) or 'none'}")
    return macros[token[1:-1]]


def _sequence(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Sequence(tuple(parts))


def _options(options: list[Node]) -> Node:
    return options[0] if len(options) == 1 else Choice(tuple(options))


def _words(node: Node, rng: random.Random, fills: Mapping[str, str]) -> Iterator[str]:
    match node:
        case Word(text):
            yield text
        case Fill(name):
            yield fills[name]
        case Sequence(parts):
            for part in parts:
                yield from _words(part, rng, fills)
        case Choice(options):
            yield from _words(rng.choice(options), rng, fills)
