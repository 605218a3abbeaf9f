"""Pieces of the monologue and transcript streams: whole words of the training text, sounds of all others.

Whole words keep the text stream as sparse as speech is (one piece a word, one word every few frames). Any other word
that is to be spoken is written by its sounds (:mod:`models.lexicon`), a syllable or so a piece: how English is spelt
need not be learnt by the model that speaks it. Characters are the last resort, so any printable ASCII text can be
encoded. A word of the user that the model cannot write is one piece, ``UNKNOWN_WORD``. Internal ids are dense; prosody
tokens have external ids of their own (:mod:`models.prosody`) and internal ids right after the specials, so they can
never collide with a piece.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from models.errors import ArtefactError
from models.lexicon import Lexicon
from models.prosody import PROSODY_ID_BASE, PROSODY_TOKENS, split_marks

PAD, BOS, EOS = 0, 1, 2
SPECIALS = ("<pad>", "<bos>", "<eos>")
FIRST_PROSODY = len(SPECIALS)
FIRST_PIECE = FIRST_PROSODY + len(PROSODY_TOKENS)
UNKNOWN = "…"
UNKNOWN_WORD = f" {UNKNOWN}"
LEXICON_FILE = "lexicon.txt.gz"
_PIECE = re.compile(r"[A-Za-z']+|[0-9]|[^\sA-Za-z0-9']")
STRESS = " ˈˌ"  # in a sound, no phones
_LETTER_WORDS = "aAiI"
_CHARACTERS = [chr(code) for code in range(33, 127)]


def split_words(text: str) -> list[str]:
    """Cut text into words and punctuation; a piece that starts a new word carries a leading space."""
    return [
        (" " if match.start() == 0 or text[match.start() - 1].isspace() else "") + match.group()
        for match in _PIECE.finditer(text)
    ]


def longest_first(word: str, table: Mapping[str, int]) -> list[int]:
    """Ids of the longest strings of ``table`` that make up ``word``, from the left; what is in none is left out."""
    ids: list[int] = []
    at = 0
    while at < len(word):
        end = next((end for end in range(len(word), at, -1) if word[at:end] in table), None)
        if end is not None:
            ids.append(table[word[at:end]])
        at = end or at + 1
    return ids


def prosody_token(token: int) -> str:
    """The name of a prosody token's internal id, empty for any other piece."""
    return PROSODY_TOKENS[token - FIRST_PROSODY] if FIRST_PROSODY <= token < FIRST_PIECE else ""


class SpokenPiece(NamedTuple):
    """A piece of a text that is to be spoken."""

    token: int
    text: str  # what has been said with it: a whole word with its first sound, nothing with the others
    begins: bool  # whether a word or a prosody mark begins here


class Tokenizer:
    """Text to ids and back.

    Args:
        pieces: the strings behind ids from FIRST_PIECE on, without repeats.
        sounds: strings of phones behind the ids after those, a leading space where they begin a word.
        lexicon: how words are pronounced that are no pieces.
    """

    def __init__(self, pieces: Iterable[str], sounds: Iterable[str] = (), lexicon: Lexicon | None = None) -> None:
        self.pieces, self.sounds = list(pieces), list(sounds)
        self.lexicon = lexicon or Lexicon({})
        self._ids = {piece: FIRST_PIECE + index for index, piece in enumerate(self.pieces)}
        first_sound = FIRST_PIECE + len(self.pieces)
        self._sound_ids = {sound: first_sound + index for index, sound in enumerate(self.sounds)}
        if len(self._ids) != len(self.pieces) or len(self._sound_ids) != len(self.sounds):
            raise ValueError("tokenizer pieces repeat")
        missing = [char for char in _CHARACTERS if char not in self._ids or " " + char not in self._ids]
        if missing:
            raise ValueError(f"tokenizer lacks the characters {''.join(missing)}")

    @classmethod
    def train(
        cls, texts: Iterable[str], max_words: int = 4000, sounds: Iterable[str] = (), lexicon: Lexicon | None = None
    ) -> "Tokenizer":
        """All printable characters and the most frequent words of unmarked ``texts``; the rest is as for the class."""
        counts = Counter(piece for text in texts for piece in split_words(text) if len(piece.strip()) > 1)
        characters = [lead + char for lead in ("", " ") for char in _CHARACTERS]
        words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_words]]
        return cls(dict.fromkeys([*characters, *words, UNKNOWN_WORD]), sounds, lexicon)

    def __len__(self) -> int:
        return FIRST_PIECE + len(self.pieces) + len(self.sounds)

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
        return longest_first(word, self._ids)  # a known word is its own longest piece

    def heard(self, text: str) -> list[int]:
        """Ids of what a user says or types; a word that is no piece is the unknown word."""
        ids: list[int] = []
        for word in split_words(text):
            known = word in self._ids or not word.strip()[0].isalpha()
            ids += self._encode_word(word) if known else self.unknown_word or self._encode_word(word)
        return ids

    def spoken(self, text: str) -> list[SpokenPiece]:
        """The pieces of a text that is to be spoken, which may hold prosody tokens.

        A word is looked for as it is written, then in lower case, then by its sounds; what has none is spelt.

        Raises:
            ProsodyTagError: the text holds an unknown ``<tag>``.
        """
        pieces: list[SpokenPiece] = []
        for part, is_token in split_marks(text):
            if is_token:
                pieces.append(SpokenPiece(FIRST_PROSODY + PROSODY_TOKENS.index(part), "", True))
                continue
            for word in split_words(part):
                pieces += self._spoken_word(word)
        return pieces

    def _spoken_word(self, word: str) -> list[SpokenPiece]:
        begins = word.startswith(" ")
        is_letter = len(word.strip()) == 1 and word.strip().isalpha() and word.strip() not in _LETTER_WORDS
        for written in (word, word.lower()):
            if written in self._ids and not is_letter:
                return [SpokenPiece(self._ids[written], word, begins)]
        sounds = self.lexicon.lookup(word.strip()) if self.sounds else ""
        if ids := longest_first(f" {sounds}", self._sound_ids) if sounds else []:
            return [SpokenPiece(ids[0], word, True), *(SpokenPiece(token, "", False) for token in ids[1:])]
        ids = longest_first(word, self._ids)
        return [SpokenPiece(token, self.piece(token), begins and not at) for at, token in enumerate(ids)]

    @property
    def unknown_word(self) -> list[int]:
        """Ids of ``UNKNOWN_WORD``; empty where the tokenizer has no such piece."""
        return [self._ids[UNKNOWN_WORD]] if UNKNOWN_WORD in self._ids else []

    def piece(self, token: int) -> str:
        """The text behind an internal id; specials, prosody tokens and sounds have none (empty)."""
        return self.pieces[token - FIRST_PIECE] if FIRST_PIECE <= token < FIRST_PIECE + len(self.pieces) else ""

    def written(self, token: int) -> str:
        """The text of a piece or the phones of a sound, with the space where a word begins; specials have none."""
        index = token - FIRST_PIECE - len(self.pieces)
        return self.sounds[index] if index >= 0 else self.piece(token)

    def phones(self, token: int) -> int:
        """How many phones a sound has; 0 for any other piece."""
        index = token - FIRST_PIECE - len(self.pieces)
        return sum(phone not in STRESS for phone in self.sounds[index]) if 0 <= index < len(self.sounds) else 0

    def decode(self, ids: Iterable[int]) -> str:
        """The text of internal ids, without the space before its first word."""
        return "".join(self.piece(token) for token in ids).strip()

    def external_id(self, token: int) -> int:
        """Internal id -> the id used outside: prosody tokens get theirs, all others stay."""
        is_prosody = FIRST_PROSODY <= token < FIRST_PIECE
        return PROSODY_ID_BASE + token - FIRST_PROSODY if is_prosody else token

    def save(self, path: Path) -> None:
        """Write JSON that :meth:`load` reads, and the lexicon beside it."""
        data = {"format": "repartee-tokenizer", "version": 1, "pieces": self.pieces, "sounds": self.sounds}
        path.write_text(json.dumps(data, ensure_ascii=False), "utf8")
        self.lexicon.save(path.with_name(LEXICON_FILE))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a saved tokenizer; the lexicon beside it is read when it is needed.

        Raises:
            ArtefactError: the file is missing or is not a tokenizer of this version.
        """
        try:
            data = json.loads(path.read_text("utf8"))
            if data["format"] != "repartee-tokenizer" or data["version"] != 1:
                raise ValueError(f"format {data['format']!r} version {data['version']!r}")
            return cls(data["pieces"], data.get("sounds", ()), Lexicon.load(path.with_name(LEXICON_FILE)))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtefactError(f"{path}: not a version 1 tokenizer ({exc})") from exc
