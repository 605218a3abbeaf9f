"""Sentences to learn to speak anything from: transcripts, common words in random order, numbers and names.

``python -m training.open_text --recordings DIR --recordings DIR --output data/open_text.txt``

With ``--marked_share``, prosody tokens stand at random places of so many of the lines (:mod:`training.random_marks`);
``--domain`` adds replies of a domain.

Only the training part of every ``manifest.jsonl`` folder is used. The word list is that of the ``wordfreq`` package;
words that the dictionary (:mod:`training.lexicon`) cannot pronounce are left out. ``--wordnet DIR`` adds the example
sentences of WordNet (Debian: ``wordnet-base``, /usr/share/wordnet).
"""

import argparse
import os
import random
import re
from collections.abc import Iterable
from pathlib import Path

import wordfreq

from training.lexicon import pronunciations
from training.random_marks import domain_sentences, mark_lines
from training.user_features import recording_jobs

WORDS = (2, 18)  # of a transcript
RANDOM_WORDS = (4, 8)
EXAMPLE_WORDS = (4, 16)
END_MARKS = (0.25, 0.65, 0.06, 0.04)  # shares of no mark, full stop, question, exclamation
_EXAMPLE = re.compile(r'"([^"]+)"')
_PLAIN = re.compile(r"[A-Za-z][A-Za-z',\s-]*[A-Za-z]")
_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NAMES = [
    "james",
    "mary",
    "robert",
    "patricia",
    "john",
    "jennifer",
    "michael",
    "linda",
    "david",
    "elizabeth",
    "william",
    "barbara",
    "richard",
    "susan",
    "joseph",
    "jessica",
    "thomas",
    "sarah",
    "charles",
    "karen",
]
_WITH_NUMBERS = (
    "the total is {} dollars and {} cents",
    "your number is {} {}",
    "it costs {} dollars",
    "please wait {} minutes",
    "there are {} people before you",
    "{} and {} make more",
    "order {} is ready",
)
_WITH_NAMES = ("hello {}, nice to meet you", "thank you {}", "goodbye {}, see you on monday", "this one is for {}")


def transcripts(folders: Iterable[Path]) -> list[str]:
    """Training transcripts of manifest folders, sorted, without those that also stand in a validation part."""
    texts: dict[str, set[str]] = {"train": set(), "valid": set()}
    for folder in folders:
        for row in recording_jobs(folder, 0, 0):
            texts[row["split"]].add(row["text"])
    return sorted(text for text in texts["train"] - texts["valid"] if WORDS[0] <= len(text.split()) <= WORDS[1])


def examples(folder: Path) -> list[str]:
    """The example sentences of a WordNet data folder, sorted; without quotations, names with dots, and numbers.

    Raises:
        OSError: the folder's ``data.*`` files cannot be read.
    """
    found: set[str] = set()
    for name in ("adj", "adv", "noun", "verb"):
        for line in (folder / f"data.{name}").read_text("utf8", errors="replace").splitlines():
            quoted = _EXAMPLE.findall(line.partition("|")[2])
            found.update(text.strip(" ,-") for text in quoted)
    return sorted(
        text for text in found if _PLAIN.fullmatch(text) and EXAMPLE_WORDS[0] <= len(text.split()) <= EXAMPLE_WORDS[1]
    )


def punctuate(text: str, rng: random.Random) -> str:
    """The sentence as it might be written: mostly with a capital and a mark at its end."""
    mark = rng.choices(("", ".", "?", "!"), END_MARKS)[0]
    return (text[0].upper() + text[1:] + mark) if mark else text


def word_strings(count: int, passes: int, rng: random.Random) -> list[str]:
    """The ``count`` most common words, every one ``passes`` times, a few in a row without sense."""
    known = pronunciations()
    words = [w for w in wordfreq.top_n_list("en", count) if w.isascii() and w.isalpha() and len(w) > 1 and w in known]
    lines = []
    for _ in range(passes):
        pool = rng.sample(words, len(words))
        while pool:
            size = rng.randint(*RANDOM_WORDS)
            lines.append(" ".join(pool[:size]))
            del pool[:size]
    return lines


def spoken_number(rng: random.Random) -> str:
    """A number below a hundred thousand, in words."""
    match rng.choices(("small", "tens", "hundreds", "thousands"), (3, 3, 2, 2))[0]:
        case "small":
            return rng.choice(_ONES)
        case "tens":
            return f"{rng.choice(_TENS)} {rng.choice(_ONES[1:10])}"
        case "hundreds":
            return f"{rng.choice(_ONES[1:10])} hundred and {rng.choice(_TENS)}"
        case _:
            return f"{rng.choice(_ONES[1:])} thousand {rng.choice(_ONES[1:10])} hundred"


def phrases(count: int, rng: random.Random) -> list[str]:
    """Everyday sentences with numbers (two thirds) and names."""
    lines = []
    for index in range(count):
        if index % 3:
            line = rng.choice(_WITH_NUMBERS)
            while "{}" in line:
                line = line.replace("{}", spoken_number(rng), 1)
        else:
            line = rng.choice(_WITH_NAMES).format(rng.choice(_NAMES))
        lines.append(line)
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, action="append", default=[], help="manifest.jsonl folder")
    parser.add_argument("--words", type=int, default=12_000, help="how many common words")
    parser.add_argument("--passes", type=int, default=2, help="how often each of them comes up")
    parser.add_argument("--phrases", type=int, default=600, help="sentences with numbers and names")
    parser.add_argument("--wordnet", type=Path, help="folder of WordNet's data files")
    parser.add_argument("--domain", type=Path, help="domain file whose replies are sentences, too")
    parser.add_argument("--replies", type=int, default=1000, help="how many different ones")
    parser.add_argument(
        "--marked_share", type=float, default=0.0, help="share of the lines that get prosody tokens, 0 to 1"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    if not 0 <= args.marked_share <= 1:
        parser.error(f"--marked_share {args.marked_share:g} is not between 0 and 1")
    rng = random.Random(args.seed)
    lines = [*transcripts(args.recordings), *word_strings(args.words, args.passes, rng), *phrases(args.phrases, rng)]
    if args.wordnet:
        lines += [punctuate(text, rng) for text in examples(args.wordnet)]
    if args.domain:
        lines += domain_sentences(args.domain, args.replies, rng)
    lines = list(dict.fromkeys(lines))
    if args.marked_share:
        lines = list(dict.fromkeys(mark_lines(lines, args.marked_share, rng)))
    rng.shuffle(lines)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    part = args.output.with_name(args.output.name + ".part")
    part.write_text("\n".join(lines) + "\n", "utf8")
    os.replace(part, args.output)
    print(f"{len(lines)} sentences -> {args.output}")


if __name__ == "__main__":
    main()
