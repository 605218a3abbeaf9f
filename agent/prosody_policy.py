"""Policies that choose prosody tokens from how a conversation goes. Pure: what was said in, tokens out."""

import re
from collections.abc import Callable, Mapping
from typing import Literal, Protocol


class ProsodyPolicy(Protocol):
    """What chooses tokens for one conversation. One instance a conversation; it must neither block nor raise."""

    def begin(self) -> tuple[str, ...]:
        """Tokens for the beginning of the next reply; asking changes nothing."""

    def replied(self, text: str) -> None:
        """A reply was given to its end."""


class Patient:
    """Calm and with time after two misunderstandings in a row: low, and with a pause after the first word.

    A misunderstanding is a reply that begins by being sorry.
    """

    SORRY = re.compile(r"\W*(sorry|pardon|excuse me|i did(n't| not) (get|catch|understand))\b", re.I)
    TOKENS = ("<pitch_low>", "<pause_short>")
    AFTER = 2

    def __init__(self) -> None:
        self._in_a_row = 0

    def begin(self) -> tuple[str, ...]:
        """As the protocol says."""
        return self.TOKENS if self._in_a_row >= self.AFTER else ()

    def replied(self, text: str) -> None:
        """As the protocol says."""
        self._in_a_row = self._in_a_row + 1 if self.SORRY.match(text) else 0


PolicyName = Literal["patient"]
POLICIES: Mapping[PolicyName, Callable[[], ProsodyPolicy]] = {"patient": Patient}
"""By the name they have in the settings."""
