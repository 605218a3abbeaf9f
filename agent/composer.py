"""A spoken answer from a question and talking points, without a language model. Pure and deterministic.

* The question is taken up in a sentence ("Here is what makes us different."), where its grammar is simple enough.
* The points follow in order and in their own words, each a sentence, with words between them as people say them.
* Prosody: the marks of the points stay. There is a pause before each sentence but the first, a word of weight is
  stressed in a point that has no marks, and the voice falls at the end.
"""

import re
from collections.abc import Sequence

from models.prosody import split_marks, strip_marks

_WEIGHTY = frozenset(
    [
        "always",
        "never",
        "only",
        "every",
        "all",
        "free",
        "best",
        "first",
        "guarantee",
        "guaranteed",
        "new",
        "no",
        "not",
        "nobody",
        "most",
        "unlimited",
        "zero",
        "fastest",
        "cheapest",
        "safest",
        "simplest",
        "instantly",
        "forever",
    ]
)
_YOURS = {
    "you": "we", "your": "our", "yours": "ours", "yourself": "ourselves", "yourselves": "ourselves",
    "i": "you", "me": "you", "my": "your", "mine": "yours", "we": "you", "us": "you", "our": "your",
}  # fmt: skip
_TO_BE = {"are", "were", "is", "was", "am"}
_AUXILIARIES = {"can", "could", "should", "would", "will", "must", "may", "have", "has", "had"}
_SUBJECTS = {"i", "you", "we", "he", "she", "it", "they", "this", "that"}
_AS_OBJECT = {"we": "us"}
_QUESTION = re.compile(r"(what|why|how|where|when|who|which)\b\s*(.*)", re.I | re.S)


def compose(question: str, points: Sequence[str], earlier: Sequence[str] = ()) -> str:
    """The answer, marked text.

    Args:
        question: what was asked; may be empty.
        points: what to say, in order, phrases or sentences, with or without prosody marks.
        earlier: questions that were answered before.

    Raises:
        ProsodyTagError: a point holds an unknown tag.
        ValueError: there is nothing to say.
    """
    kept = [point for point in map(_clean, points) if re.search(r"\w", strip_marks(point))]
    if not kept:
        raise ValueError("there is nothing to say: give talking points with words in them")
    sentences = []
    opening = _opening(question, again=bool(earlier))
    if opening:
        sentences.append(opening)
    for index, point in enumerate(kept):
        joined = _join(point, index, len(kept))
        stressed = joined if any(is_mark for _, is_mark in split_marks(point)) else _stress(joined)
        last = index == len(kept) - 1
        sentence = _end(_fall(stressed) if last else stressed)
        sentences.append(("<pause_short>" if sentences else "") + sentence)
    return " ".join(sentences)


def _opening(question: str, *, again: bool) -> str:
    """The question as the beginning of its answer; empty when it cannot be turned round safely."""
    match = _QUESTION.fullmatch(question.strip().rstrip("?!. "))
    if match is None or re.search(r"[.?!;:]", match[2]):
        return ""
    asked, words = match[1].lower(), re.sub(r"<[^<>\s]*>", "", match[2]).split()
    clause = _turn_round(words)
    if not clause:
        return ""
    return f"{'And here' if again else 'Here'} is {asked} {clause}."


def _turn_round(words: list[str]) -> str:
    """What follows the question word, as a statement of the other side: "do you sell" is "we sell"."""
    low = [word.lower().strip(",") for word in words]
    if not low:
        return ""
    if low[0] in ("does", "did"):
        return ""  # the verb would have to be inflected
    if low[0] == "do" or low[0] in _AUXILIARIES | _TO_BE:
        if len(low) < 2 or low[1] not in _SUBJECTS:
            return ""  # where its subject ends is not known
        subject = _YOURS.get(low[1], low[1])
        rest = [_object(word, raw) for word, raw in zip(low[2:], words[2:], strict=True)]
        verb = {"am": "are", "was": "were"}.get(low[0], low[0]) if low[1] in ("i", "we", "you") else low[0]
        return " ".join([subject, *rest] if low[0] == "do" else _placed(subject, verb, rest, low[0]))
    return " ".join(_object(word, raw) for word, raw in zip(low, words, strict=True))


def _placed(subject: str, verb: str, rest: list[str], asked: str) -> list[str]:
    return [subject, *rest, verb] if asked in _TO_BE and not rest else [subject, verb, *rest]


def _object(low: str, raw: str) -> str:
    """A word that is no subject, from the other side."""
    turned = _YOURS.get(low, raw)
    return _AS_OBJECT.get(turned, turned)


def _clean(point: str) -> str:
    """A talking point without bullets, numbering and superfluous space."""
    point = " ".join(point.split())
    return re.sub(r"^(?:[-*\u2022\u2013]\s*|\d{1,2}[.)]\s+)+", "", point).strip()


def _join(point: str, index: int, count: int) -> str:
    """The point with the words that lead to it."""
    if count == 1 or (index == 0 and count == 2):
        return _capital(point)
    if index == 0:
        return f"First, {_small(point)}"
    if index == count - 1:
        return f"And {_small(point)}" if count == 2 else f"And finally, {_small(point)}"
    return f"{('Then', 'Also', 'Next')[(index - 1) % 3]}, {_small(point)}"


def _small(point: str) -> str:
    """The first letter in lower case, unless it may belong to a name."""
    words = strip_marks(point).split()
    first, rest = words[0], words[1:]
    is_name = first != "A" and (
        first.split("'")[0] == "I" or not first[1:].islower() or (rest != [] and rest[0][:1].isupper())
    )
    return point if is_name else _first_letter(point, upper=False)


def _capital(point: str) -> str:
    return _first_letter(point, upper=True)


def _first_letter(point: str, *, upper: bool) -> str:
    pieces = split_marks(point)
    for at, (piece, is_mark) in enumerate(pieces):
        match = None if is_mark else re.search(r"\w", piece)
        if match is not None:
            letter = piece[match.start()]
            letter = letter.upper() if upper else letter.lower()
            pieces[at] = (piece[: match.start()] + letter + piece[match.end() :], False)
            break
    return "".join(piece for piece, _ in pieces)


def _stress(sentence: str) -> str:
    """The first word of weight is stressed, else the first figure."""
    for pattern in (rf"(?i)\b({'|'.join(sorted(_WEIGHTY))})\b", r"(?<![\w$])([$\u20ac\u00a3]?\d[\w.,:%]*)"):
        # the words that join points are no words of weight
        body = re.search(r"^(?:First|Then|Also|Next|And finally),\s|^And\s", sentence)
        start = body.end() if body else 0
        match = re.search(pattern, sentence[start:])
        if match is not None:
            at = start + match.start()
            return sentence[:at] + "<emph>" + sentence[at:]
    return sentence


def _fall(sentence: str) -> str:
    """The voice falls on the last word, unless the point ends in a way of its own."""
    if sentence.rstrip()[-1:] in "?!" or re.search(r"<pitch_(rising|falling)>[^.;:!?]*$", sentence):
        return sentence
    words = sentence.rsplit(" ", 1)
    return f"{words[0]} <pitch_falling>{words[1]}" if len(words) == 2 else f"<pitch_falling>{sentence}"


def _end(sentence: str) -> str:
    sentence = sentence.rstrip(" ,;:-")
    return sentence if re.search(r"[.!?][\"')]*$", strip_marks(sentence)) else sentence + "."
