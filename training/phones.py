"""ARPAbet phones without stress, and the maps of each synthesiser's symbols onto them."""

from __future__ import annotations

import logging
from collections import Counter

logger = logging.getLogger(__name__)

SILENCE = "SIL"
ARPABET: tuple[str, ...] = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
PHONES: tuple[str, ...] = (*ARPABET, SILENCE)
VOWELS: frozenset[str] = frozenset(
    ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
)

UNKNOWN: Counter[str] = Counter()
"""Symbols met that no map knows, with how often; each is logged once."""

_ESPEAK: dict[str, tuple[str, ...]] = {
    # vowels
    "a": ("AE",), "aa": ("AE",), "a#": ("AH",), "a2": ("AH",), "A": ("AA",), "A:": ("AA",), "A~": ("AA",),
    "@": ("AH",), "@2": ("AH",), "@5": ("UH",), "@-": ("AH",), "V": ("AH",), "E": ("EH",), "E2": ("EH",),
    "E#": ("EH",), "e": ("EH",), "e:": ("EY",), "i": ("IY",), "i:": ("IY",), "I": ("IH",), "I2": ("IH",),
    "I#": ("IH",), "I2#": ("IH",), "0": ("AA",), "0#": ("AA",), "02": ("AA",), "O": ("AO",), "O:": ("AO",),
    "O2": ("AO",), "o": ("OW",), "o:": ("OW",), "U": ("UH",), "u": ("UW",), "u:": ("UW",), "Y": ("UW",), "y": ("UW",),
    "y:": ("UW",),
    # diphthongs
    "aI": ("AY",), "aI2": ("AY",), "eI": ("EY",), "oU": ("OW",), "o2": ("OW",), "@U": ("OW",), "aU": ("AW",),
    "OI": ("OY",), "aI@": ("AY", "ER"), "aI3": ("AY", "ER"), "aU@": ("AW", "ER"), "i@": ("IY", "AH"),
    "i@3": ("IH", "R"), "u@": ("UW", "AH"), "oU#": ("OW",), "uI": ("UW", "IY"),
    # r-coloured
    "3": ("ER",), "3:": ("ER",), "VR": ("ER",), "IR": ("ER",), "@r": ("ER",), "A@": ("AA", "R"), "O@": ("AO", "R"),
    "o@": ("AO", "R"), "e@": ("EH", "R"), "U@": ("UH", "R"),
    # consonants
    "p": ("P",), "b": ("B",), "t": ("T",), "t2": ("T",), "t#": ("T",), "d": ("D",), "d#": ("D",), "k": ("K",),
    "g": ("G",), "f": ("F",), "v": ("V",), "T": ("TH",), "D": ("DH",), "s": ("S",), "z": ("Z",), "z#": ("Z",),
    "S": ("SH",), "S;": ("SH",), "Z": ("ZH",), "h": ("HH",), "x": ("K",), "C": ("HH",), "Q": ("R",), "tS": ("CH",),
    "dZ": ("JH",), "m": ("M",), "n": ("N",), "N": ("NG",), "l": ("L",), "r": ("R",), "r-": ("R",), "R": ("R",),
    "*": ("R",), "R2": ("R",), "j": ("Y",), "w": ("W",), "w#": ("W",), "hw": ("W",), "?": ("T",), "m-": ("AH", "M"),
    "n-": ("AH", "N"), "@L": ("AH", "L"), "l-": ("AH", "L"), "L": ("L",), "l/": ("L",), "l2": ("L",), "l#": ("L",),
    "n^": ("N",), "t[": ("TH",), "d[": ("DH",), "ts": ("T", "S"), "s;": ("S",),
    "z;": ("Z",), "c": ("K",), "J": ("G",), "B": ("V",), "X": ("K",),
}  # fmt: skip
_DROPPED_R = frozenset(("A@", "O@", "o@", "e@", "U@", "i@3"))

_RADIO = {
    "ax": "AH", "axr": "ER", "dx": "T", "nx": "N", "ix": "IH", "ux": "UW", "el": "L", "em": "M", "en": "N",
    "hv": "HH", "h#": SILENCE, "pau": SILENCE, "ssil": SILENCE, "sil": SILENCE, "brth": SILENCE, "wh": "W", "q": "T",
}  # fmt: skip

LEXICON: dict[str, tuple[str, ...]] = {
    "latte": ("l aa1", "t ey0"),
    "lattes": ("l aa1", "t ey0 z"),
    "mocca": ("m ow1", "k ax0"),
    "mochas": ("m ow1", "k ax0 z"),
    "soya": ("s oy1", "ax0"),
    "barista": ("b ax0", "r iy1", "s t ax0"),
    "matcha": ("m aa1", "ch ax0"),
}
"""Syllables, in radio phones with stress, of words that the CMU lexicon of flite and festival gets wrong."""


def espeak_to_arpabet(symbol: str, rhotic: bool, before_r: bool = False) -> tuple[str, ...]:
    """Maps one espeak-ng phoneme mnemonic.

    Args:
        symbol: the mnemonic, such as ``"aI"`` or ``"t2"``.
        rhotic: whether the accent sounds the r of r-coloured vowels.
        before_r: whether the next phoneme is an r anyway.

    Returns:
        One or two phones; ``()`` for stress and length marks; ``("SIL",)`` for pauses.
    """
    if not symbol or symbol[0] in "',%=|:;~":
        return ()
    if symbol[0] == "_":
        return (SILENCE,)
    found = _ESPEAK.get(symbol)
    if found is None:
        found = _nearest(symbol)
    if len(found) == 2 and found[1] == "R" and symbol in _DROPPED_R and (before_r or not rhotic):
        return found[:1]
    return found


def radio_to_arpabet(symbol: str) -> str:
    """Maps one phone of the CMU radio set (flite, festival)."""
    upper = symbol.upper()
    if upper in ARPABET:
        return upper
    if symbol in _RADIO:
        return _RADIO[symbol]
    return _nearest(symbol)[0]


def _nearest(symbol: str) -> tuple[str, ...]:
    UNKNOWN[symbol] += 1
    if UNKNOWN[symbol] == 1:
        logger.warning("unknown phone symbol %r: using the nearest known one", symbol)
    for length in range(len(symbol) - 1, 0, -1):
        if symbol[:length] in _ESPEAK:
            return _ESPEAK[symbol[:length]]
    return ("AH",)


def align(left: list[str], right: list[str]) -> list[int]:
    """Aligns two phone sequences by edit distance.

    Args:
        left: phones to place.
        right: reference phones.

    Returns:
        For each phone of ``left`` the index in ``right`` it falls on (non-decreasing, 0 when ``right`` is empty).
    """
    rows, cols = len(left) + 1, len(right) + 1
    cost = [[0.0] * cols for _ in range(rows)]
    for i in range(rows):
        for j in range(cols):
            if i == 0 or j == 0:
                cost[i][j] = float(i + j)
                continue
            swap = cost[i - 1][j - 1] + _substitution(left[i - 1], right[j - 1])
            cost[i][j] = min(swap, cost[i - 1][j] + 1.0, cost[i][j - 1] + 1.0)
    where = [0] * len(left)
    i, j = rows - 1, cols - 1
    while i > 0:
        if j > 0 and cost[i][j] == cost[i - 1][j - 1] + _substitution(left[i - 1], right[j - 1]):
            i, j = i - 1, j - 1
            where[i] = j
        elif j > 0 and cost[i][j] == cost[i][j - 1] + 1.0:
            j -= 1
        else:
            i -= 1
            where[i] = max(0, min(j, cols - 2))
    return where


def _substitution(a: str, b: str) -> float:
    if a == b:
        return 0.0
    return 0.6 if (a in VOWELS) == (b in VOWELS) else 1.5
