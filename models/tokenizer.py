"""Text pieces of the monologue and transcript streams: whole words of the training text, parts of words for all others.

Whole words keep the text stream as sparse as speech is (one piece a word, one word every few frames), parts and
characters keep it open: any printable ASCII text can be encoded. A word of the user that the model cannot write is
one piece, ``UNKNOWN_WORD``. Internal ids are dense; prosody tokens have external ids of their own
(:mod:`models.prosody`) and internal ids right after the specials, so they can never collide with a piece.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from models.errors import ArtefactError
from models.prosody import PROSODY_ID_BASE, PROSODY_TOKENS, split_marks

PAD, BOS, EOS = 0, 1, 2
SPECIALS = ("<pad>", "<bos>", "<eos>")
FIRST_PROSODY = len(SPECIALS)
FIRST_PIECE = FIRST_PROSODY + len(PROSODY_TOKENS)
UNKNOWN_WORD = " …"
_PIECE = re.compile(r"[A-Za-z']+|[0-9]|[^\sA-Za-z0-9']")
_CHARACTERS = [chr(code) for code in range(33, 127)]


def split_words(text: str) -> list[str]:
    """Cut text into words and punctuation; a piece that starts a new word carries a leading space."""
    return [
        (" " if match.start() == 0 or text[match.start() - 1].isspace() else "") + match.group()
        for match in _PIECE.finditer(text)
    ]


class Tokenizer:
    """Text to ids and back. ``pieces`` are the strings behind ids from FIRST_PIECE on, without repeats."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self.pieces = list(pieces)
        self._ids = {piece: FIRST_PIECE + index for index, piece in enumerate(self.pieces)}
        if len(self._ids) != len(self.pieces):
            raise ValueError("tokenizer pieces repeat")
        self._longest = max(map(len, self.pieces), default=1)
        missing = [char for char in _CHARACTERS if char not in self._ids or " " + char not in self._ids]
        if missing:
            raise ValueError(f"tokenizer lacks the characters {''.join(missing)}")

    @classmethod
    def train(cls, texts: Iterable[str], max_words: int = 4000, parts: Iterable[str] = ()) -> "Tokenizer":
        """All printable characters, the most frequent words of unmarked ``texts``, then ``parts`` of words."""
        counts = Counter(piece for text in texts for piece in split_words(text) if len(piece.strip()) > 1)
        characters = [lead + char for lead in ("", " ") for char in _CHARACTERS]
        words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_words]]
        return cls(dict.fromkeys([*characters, *words, UNKNOWN_WORD, *parts]))

    def __len__(self) -> int:
        return FIRST_PIECE + len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of a text that may hold prosody tokens; characters outside printable ASCII are dropped.

        Raises:
            ProsodyTagError: the text holds an unknown ``<tag>``.
        """
        ids: list[int] = []
        for piece, is_token in split_marks(text):
            if is_token:
                ids.append(FIRST_PROSODY + PROSODY_TOKENS.index(piece))
                continue
            for word in split_words(piece):
                ids.extend(self._encode_word(word))
        return ids

    def _encode_word(self, word: str) -> list[int]:
        if word in self._ids:
            return [self._ids[word]]
        ids: list[int] = []
        at = 0
        while at < len(word):  # the longest piece that fits, from the left
            for end in range(min(len(word), at + self._longest), at, -1):
                if word[at:end] in self._ids:
                    ids.append(self._ids[word[at:end]])
                    break
            else:
                end = at + 1  # a character outside printable ASCII
            at = end
        return ids

    @property
    def unknown_word(self) -> list[int]:
        """Ids of ``UNKNOWN_WORD``; empty where the tokenizer has no such piece."""
        return [self._ids[UNKNOWN_WORD]] if UNKNOWN_WORD in self._ids else []

    def piece(self, token: int) -> str:
        """The text behind an internal id; specials and prosody tokens are silent (empty)."""
        return self.pieces[token - FIRST_PIECE] if FIRST_PIECE <= token < len(self) else ""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of internal ids, without the space before its first word."""
        return "".join(self.piece(token) for token in ids).strip()

    def external_id(self, token: int) -> int:
        """Internal id -> the id used outside: prosody tokens get theirs, all others stay."""
        is_prosody = FIRST_PROSODY <= token < FIRST_PIECE
        return PROSODY_ID_BASE + token - FIRST_PROSODY if is_prosody else token

    def save(self, path: Path) -> None:
        """Write JSON that :meth:`load` reads."""
        path.write_text(json.dumps({"format": "repartee-tokenizer", "version": 1, "pieces": self.pieces}), "utf8")

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a saved tokenizer.

        Raises:
            ArtefactError: the file is missing or is not a tokenizer of this version.
        """
        try:
            data = json.loads(path.read_text("utf8"))
            if data["format"] != "repartee-tokenizer" or data["version"] != 1:
                raise ValueError(f"format {data['format']!r} version {data['version']!r}")
            return cls(data["pieces"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtefactError(f"{path}: not a version 1 tokenizer ({exc})") from exc
