"""How words are pronounced: a table made once, when a model is trained, so that speaking needs no such machinery.

One line a word, ``word<TAB>phones``, gzipped; phones are IPA as the voice's synthesiser writes them, with stress marks.
The names of the letters stand in the table in upper case.
"""

import gzip
import os
import zlib
from pathlib import Path

from models.errors import ArtefactError

MIN_PART = 3  # letters of the parts of a compound
_VOICELESS = frozenset("ptkfθ")
_HISSING = frozenset("szʃʒʧʤ")


class Lexicon:
    """Pronunciations by word; ``path`` is where the table is read from when it is first needed."""

    def __init__(self, table: dict[str, str], path: Path | None = None) -> None:
        self._table, self._path = table, path

    @property
    def table(self) -> dict[str, str]:
        """Phones by lower-case word, letters by upper-case letter.

        Raises:
            ArtefactError: the file is damaged.
        """
        if self._path is not None:
            try:
                lines = gzip.decompress(self._path.read_bytes()).decode("utf8").splitlines()
                self._table = dict(line.split("\t") for line in lines)  # type: ignore[misc]
            except (OSError, EOFError, ValueError, zlib.error) as exc:
                raise ArtefactError(f"{self._path}: not a lexicon ({exc})") from exc
            self._path = None
        return self._table

    @classmethod
    def load(cls, path: Path) -> "Lexicon":
        """The lexicon of a file, read when it is first asked; empty where there is no file."""
        return cls({}, path if path.exists() else None)

    def save(self, path: Path) -> None:
        """Write what :meth:`load` reads, as a whole or not at all; nothing for an empty table."""
        if not self.table:
            return
        text = "".join(f"{word}\t{phones}\n" for word, phones in sorted(self.table.items()))
        part = path.with_name(path.name + ".part")
        part.write_bytes(gzip.compress(text.encode("utf8"), mtime=0))
        os.replace(part, path)

    def lookup(self, word: str) -> str:
        """Phones of a word; empty when there are none.

        A word that is not in the table may be one in the genitive, or two words written as one; else it is spelt.
        """
        table, small = self.table, word.lower()
        if small in table:
            return table[small]
        if small.endswith("'s") and small[:-2] in table:
            stem = table[small[:-2]]
            return stem + ("ᵻz" if stem[-1] in _HISSING else "s" if stem[-1] in _VOICELESS else "z")
        for cut in range(len(small) - MIN_PART, MIN_PART - 1, -1):
            if small[:cut] in table and small[cut:] in table:
                return table[small[:cut]] + table[small[cut:]].replace("ˈ", "ˌ")
        letters = [table.get(letter.upper(), "") for letter in small if letter.isalpha()]
        return "".join(letters) if all(letters) else ""
