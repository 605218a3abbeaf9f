"""The seven prosody tokens: control symbols of the text stream, with ids outside every text vocabulary.

External ids (on the wire, in data sets) start at ``PROSODY_ID_BASE``. Whatever has an id at or above it is routed to
the audio stream as a delivery control instead of being spoken.
"""

import re

from models.errors import ProsodyTagError

PROSODY_ID_BASE = 5_000_000
PROSODY_TOKENS = (
    "<emph>",
    "<pause_short>",
    "<pause_long>",
    "<pitch_high>",
    "<pitch_low>",
    "<pitch_rising>",
    "<pitch_falling>",
)
PROSODY_IDS = {token: PROSODY_ID_BASE + index for index, token in enumerate(PROSODY_TOKENS)}

_TAG = re.compile(r"<[^<>\s]*>")
_LOOSE_PUNCTUATION = re.compile(r" ([.,;:!?])")


def split_marks(text: str) -> list[tuple[str, bool]]:
    """Cut a marked text into (piece, is_token) pairs, in order.

    Args:
        text: text with prosody tags in any position.

    Returns:
        Non-empty pieces; ``is_token`` is true for one of the seven tokens.

    Raises:
        ProsodyTagError: the text holds a tag that is not one of the seven.
    """
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _TAG.finditer(text):
        if match.group() not in PROSODY_IDS:
            raise ProsodyTagError(f"unknown prosody tag {match.group()} in {text!r}; known: {' '.join(PROSODY_TOKENS)}")
        if match.start() > end:
            pieces.append((text[end : match.start()], False))
        pieces.append((match.group(), True))
        end = match.end()
    if end < len(text):
        pieces.append((text[end:], False))
    return pieces


def strip_marks(text: str) -> str:
    """The text without its prosody tags, as it is spoken.

    Raises:
        ProsodyTagError: the text holds a tag that is not one of the seven.
    """
    spoken = " ".join("".join(" " if token else piece for piece, token in split_marks(text)).split())
    return _LOOSE_PUNCTUATION.sub(r"\1", spoken)
