"""Written English as it is spoken: figures, money, times, units, abbreviations and symbols become words. Pure.

Everything that is typed goes through here before it is cut into pieces, since the model has learnt words only.
"""

import re
import unicodedata
from collections.abc import Callable
from re import Match

from anyascii import anyascii
from num2words import num2words

from models.prosody import split_marks

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MONEY = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", "sen")}
_SAME_PLURAL = {"yen", "sen", "hertz", "kilohertz", "megahertz", "gigahertz"}
_IRREGULAR = {"penny": "pence", "foot": "feet", "inch": "inches", "mile per hour": "miles per hour",
              "kilometer per hour": "kilometers per hour"}  # fmt: skip
_SCALES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion"}
_UNITS = {
    "oz": "ounce", "lb": "pound", "lbs": "pound", "kg": "kilogram", "g": "gram", "mg": "milligram", "l": "liter",
    "ml": "milliliter", "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "ft": "foot",
    "mph": "mile per hour", "km/h": "kilometer per hour", "h": "hour", "hr": "hour", "hrs": "hour", "min": "minute",
    "mins": "minute", "s": "second", "sec": "second", "secs": "second", "ms": "millisecond", "Hz": "hertz",
    "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte",
    "GB": "gigabyte", "TB": "terabyte",
}  # fmt: skip
_FRACTIONS = {"1/2": "one half", "1/3": "one third", "2/3": "two thirds", "1/4": "one quarter",
              "3/4": "three quarters", "24/7": "twenty four seven"}  # fmt: skip
_ABBREVIATIONS = {
    "mr.": "mister", "mrs.": "misses", "ms.": "miss", "dr.": "doctor", "prof.": "professor", "jr.": "junior",
    "sr.": "senior", "vs.": "versus", "vs": "versus", "e.g.": "for example", "i.e.": "that is",
    "approx.": "approximately", "ave.": "avenue", "blvd.": "boulevard", "dept.": "department", "inc.": "incorporated",
    "ltd.": "limited", "w/": "with", "w/o": "without", "jan.": "january", "feb.": "february", "aug.": "august",
    "sept.": "september", "oct.": "october", "nov.": "november", "dec.": "december",
}  # fmt: skip
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
_SPELT = {"AI", "API", "ATM", "CEO", "DIY", "EU", "FAQ", "ID", "IP", "UK", "USA", "USB", "VIP"}  # others are words
_SYMBOLS = {"&": " and ", "@": " at ", "+": " plus ", "=": " equals ", "%": " percent", "/": " "}
_MAX_DIGITS = 15  # of a number that is read as one
_KEPT = "…"  # alone, it is the piece for a word that was not understood

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_AMOUNT = re.compile(rf"([$€£¥])\s?({_NUMBER})(?:\s?(thousand|million|billion|k|m|bn|b)\b)?", re.I)
_TIME = re.compile(
    r"\b([01]?\d|2[0-4])(?::([0-5]\d)(?::[0-5]\d)?)?\s?([ap])\.?m\b\.?|\b([01]?\d|2[0-4]):([0-5]\d)\b", re.I
)
_DATE = re.compile(r"\b(1[1-9]\d\d|20\d\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\b")
_PHONE = re.compile(r"(?<![\d,.])\+?\d{2,}(?:-\d{3,})+(?!\d)|(?<![\d,.])(?:0\d+|\d{7,})(?!\d|[,.]\d)")
_UNIT = re.compile(
    rf"(?<![\w.,])({_NUMBER})[ -]?({'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})(?![\w/])"
)
_PLAIN = re.compile(_NUMBER)


def spoken(text: str) -> str:
    """What a reader would say, in printable ASCII; prosody tokens stay, and so does text that is words already.

    Raises:
        ProsodyTagError: the text holds an unknown ``<tag>``.
    """
    said = "".join(piece if is_token else _spoken_piece(piece) for piece, is_token in split_marks(text))
    return said.removeprefix(", ")


def _spoken_piece(text: str) -> str:
    text = _money_and_degrees(_plain_marks(text))
    for pattern, say in _RULES:
        text = pattern.sub(say, text)
    text = "".join(char if char == _KEPT else anyascii(char) for char in text)
    text = "".join(_SYMBOLS.get(char, char) for char in text)
    text = re.sub(r"[][(){}]", ", ", re.sub(r'["*_`~^|\\#<>]', "", text))
    return _tidy(text)


def _plain_marks(text: str) -> str:
    """Typographic marks as plain ones; pictures are dropped."""
    text = unicodedata.normalize("NFKC", text.replace(_KEPT, "\0")).replace("\u2044", "/")
    text = re.sub(r"(?<=\w)\0", ".", text).replace("\0", _KEPT)
    text = text.translate(str.maketrans("’‘“”−", "''\"\"-")).replace("×", " times ")
    text = re.sub(r"\s*[–—]\s*(?=\d)|\s*[–—]\s*", lambda dash: "-" if "\u2013" in dash.group() else ", ", text)
    return "".join(char for char in text if char == "°" or unicodedata.category(char) not in ("So", "Sk", "Cs", "Co"))


def _money_and_degrees(text: str) -> str:
    text = _AMOUNT.sub(_say_amount, text)
    text = re.sub(r"\s?°\s?C\b", " degrees celsius", text)
    text = re.sub(r"\s?°\s?F\b", " degrees fahrenheit", text)
    return text.replace("°", " degrees")


def _tidy(text: str) -> str:
    text = re.sub(r"\s+([,.;:!?])", r"\1", text)
    text = re.sub(r"(?:,\s*)+([,.;:!?])", r"\1", text)
    text = re.sub(r"\.{2,}", ".", text)
    lead, trail = text[:1].isspace(), text[-1:].isspace()
    text = " ".join(text.split())
    return (" " if lead else "") + text + (" " if trail and text else "")


# --- numbers ----------------------------------------------------------------------------------------------------------


def _cardinal(figures: str) -> str:
    """A number in figures, with or without thousands separators and decimals, in words."""
    whole, _, decimals = figures.replace(",", "").partition(".")
    words = _words(num2words(int(whole))) if len(whole) <= _MAX_DIGITS else _one_by_one(whole)
    return words + (" point " + _one_by_one(decimals) if decimals else "")


def _words(text: str) -> str:
    return text.replace("-", " ").replace(",", "").replace(" and ", " ")


def _one_by_one(figures: str) -> str:
    return " ".join(_DIGITS[int(char)] for char in figures if char.isdigit())


def _counted(figures: str, unit: str) -> str:
    one = figures == "1"
    plural = unit if unit in _SAME_PLURAL else _IRREGULAR.get(unit, unit + "s")
    return f"{_cardinal(figures)} {unit if one else plural}"


def _say_amount(match: Match[str]) -> str:
    unit, part = _MONEY[match[1]]
    figures, scale = match[2].replace(",", ""), match[3]
    if scale:
        return (
            f"{_cardinal(figures)} {_SCALES.get(scale.lower(), scale.lower())} {_counted('2', unit).split(' ', 1)[1]}"
        )
    whole, _, parts = figures.partition(".")
    cents = int(parts.ljust(2, "0")[:2]) if parts else 0
    if not cents:
        return _counted(whole, unit)
    small = _counted(str(cents), part)
    return small if int(whole) == 0 else f"{_counted(whole, unit)} and {small}"


def _say_time(match: Match[str]) -> str:
    hour, minute = int(match[1] or match[4]), match[2] or match[5] or "00"
    half = f" {match[3].lower()} m" if match[3] else ""
    if minute == "00":
        return _cardinal(str(hour)) + (half or (" o'clock" if hour <= 12 else " hundred"))
    minutes = f"oh {_DIGITS[int(minute)]}" if minute[0] == "0" else _cardinal(minute)
    return f"{_cardinal(str(hour))} {minutes}{half}"


def _say_date(match: Match[str]) -> str:
    day = _words(num2words(int(match[3]), to="ordinal"))
    return f"{_MONTHS[int(match[2]) - 1]} {day}, {_year(match[1])}"


def _year(figures: str) -> str:
    return _words(str(num2words(int(figures), to="year")))


def _say_plain(match: Match[str]) -> str:
    figures = match.group()
    looks_like_year = len(figures) == 4 and figures.isdigit() and (1100 <= int(figures) < 2100) and figures != "2000"
    return _year(figures) if looks_like_year else _cardinal(figures)


def _say_unit(match: Match[str]) -> str:
    return _counted(match[1], _UNITS[match[2]])


def _say_spelt(match: Match[str]) -> str:
    letters, plural = match[1], match[2]
    if letters == "OK":
        return "okay"
    if letters not in _SPELT and re.search("[AEIOUY]", letters):
        return match.group()
    return " ".join(letters) + ("'s" if plural else "")


def _say_abbreviation(match: Match[str]) -> str:
    return _ABBREVIATIONS[match.group().lower()]


_ALTERNATIVES = "|".join(sorted(map(re.escape, _ABBREVIATIONS), key=len, reverse=True))
_RULES: list[tuple[re.Pattern[str], Callable[[Match[str]], str] | str]] = [
    (re.compile(rf"(?<![\w.])(?:{_ALTERNATIVES})(?!\w)", re.I), _say_abbreviation),
    (re.compile(r"\betc\.(?=\s*$|\s+[A-Z])"), "and so on."),
    (re.compile(r"\betc\b\.?"), "and so on"),
    (re.compile(r"\bNo\.\s?(?=\d)|#\s?(?=\d)"), "number "),
    (re.compile(r"\bSt\.\s(?=[A-Z])"), "Saint "),
    (re.compile(r"\bSt\."), "street"),
    (_DATE, _say_date),
    (_TIME, _say_time),
    (re.compile(r"(?<![\d/])(?:1/2|1/3|2/3|1/4|3/4|24/7)(?![\d/])"), lambda match: _FRACTIONS[match.group()]),
    (re.compile(r"(?<![\d/])(\d+)/(\d+)(?![\d/])"), r"\1 over \2"),
    (_PHONE, lambda match: _one_by_one(match.group())),
    (re.compile(r"(?<=\d)\s?-\s?(?=[$\d])"), " to "),
    (_UNIT, _say_unit),
    (re.compile(r"\b(\d{1,9})(?:st|nd|rd|th)\b", re.I), lambda match: _words(num2words(int(match[1]), to="ordinal"))),
    (re.compile(r"(?<![\w.,])-(?=\d)"), "minus "),
    (re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])"), " "),
    (_PLAIN, _say_plain),
    (re.compile(r"(?<=\w)\.(?=(?:com|org|net|io|ai|edu|gov|dev|app)\b)"), " dot "),
    (re.compile(r"\b([A-Z]{2,5})(s?)\b"), _say_spelt),
    (re.compile(r"\s+-+\s+|--+"), ", "),
    (re.compile(r"(?<=\w)-(?=\w)"), " "),
]
