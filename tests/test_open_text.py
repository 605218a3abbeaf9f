"""Sentences to learn to speak anything from, and the dictionary behind them."""

import json
import random
from pathlib import Path

from tests.tiny import run_main
from training import open_text
from training.lexicon import phones_of, pronunciations
from training.open_text import phrases, spoken_number, word_strings


def test_sentences_hold_every_source_once(tmp_path: Path) -> None:
    """Training transcripts, not those of held-out clips; common words; numbers and names; a seed, a file."""
    rows = [{"audio": f"{i}.wav", "text": f"Sentence number {'abcdefghijkl'[i]}, said."} for i in range(12)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    made = []
    for name in ("one.txt", "two.txt"):
        flags = ["--recordings", tmp_path, "--words", 60, "--phrases", 9, "--output", tmp_path / name]
        run_main(open_text.main, *flags)
        made.append((tmp_path / name).read_text("utf8"))
    assert made[0] == made[1]
    lines = made[0].splitlines()
    assert "sentence number b said" in lines
    assert "sentence number a said" not in lines  # the first of every ten is held out
    assert len(set(lines)) == len(lines) > 20
    assert all(line == line.lower() for line in lines)


def test_words_come_as_often_as_asked_for() -> None:
    """Every word in each pass, and only words that can be pronounced."""
    words = " ".join(word_strings(200, 2, random.Random(0))).split()
    counts = {word: words.count(word) for word in words}
    assert set(counts.values()) == {2}
    assert counts.keys() <= pronunciations().keys()
    assert len(counts) > 150


def test_numbers_are_words() -> None:
    """No digit is left, and no blank of a phrase unfilled."""
    rng = random.Random(3)
    text = " ".join([*(spoken_number(rng) for _ in range(60)), *phrases(60, rng)])
    assert not any(char.isdigit() or char in "{}" for char in text)
    assert {"hundred", "thousand"} <= set(text.split())


def test_dictionary() -> None:
    """Phones without stress; a text with a word that is not there has none."""
    assert phones_of("a cat") == ("AH", "K", "AE", "T")
    assert phones_of("a xqzt") is None
