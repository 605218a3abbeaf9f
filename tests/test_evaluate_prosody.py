"""Pairs of sentences and what is counted in them."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from models.prosody import EMPH, GLIDES, LEVELS, PAUSES, PROSODY_TOKENS, strip_marks
from training.evaluate_prosody import Heard, Pair, effect, held_out_sentences, main, mark, summary, to_lines
from training.prosody_measures import STEP_S, Spoken
from training.random_marks import domain_sentences

COFFEE = Path("configs/domains/coffee.yaml")
TEXT = "one two, three four five"
WORDS = tuple((word, 0.5 * index, 0.5 * index + 0.45) for index, word in enumerate(TEXT.split()))


def _spoken(words: tuple[tuple[str, float, float], ...] = WORDS) -> Spoken:
    """Every word at 200 Hz and -20 dB, silence between them."""
    size = round(words[-1][2] / STEP_S)
    octaves, level = np.full(size, np.nan), np.full(size, -90.0)
    for _, start, end in words:
        inside = slice(round(start / STEP_S), round(end / STEP_S))
        octaves[inside], level[inside] = np.log2(200), -20.0
    return Spoken(words, octaves, level)


def _changed(first: int, last: int, semitones: float | np.ndarray = 0.0, decibels: float = 0.0) -> Spoken:
    spoken = _spoken()
    inside = slice(round(WORDS[first][1] / STEP_S), round(WORDS[last][2] / STEP_S))
    spoken.octaves[inside] += np.asarray(semitones) / 12
    spoken.level_db[inside] += decibels
    return spoken


def test_tokens_get_places_and_scopes() -> None:
    """Every token at every word where it acts; a pause is measured between two words, a glide over its phrase."""
    pairs = [mark(TEXT, token, random.Random(seed)) for token in PROSODY_TOKENS for seed in range(40)]
    assert all(strip_marks(pair.marked) == TEXT and pair.token in pair.marked for pair in pairs)
    scopes = {token: {(p.first, p.last) for p in pairs if p.token == token} for token in PROSODY_TOKENS}
    assert scopes[EMPH] == {(i, i) for i in range(5)}
    assert scopes[PAUSES[0]] == {(i, i + 1) for i in range(4)}
    assert scopes[LEVELS[1]] == {(0, 1), (1, 1), (2, 4), (3, 4), (4, 4)}
    assert scopes[GLIDES[0]] == {(0, 1), (2, 4)}
    with pytest.raises(ValueError, match="<pause_long> has no place in 'one'"):
        mark("one", PAUSES[1], random.Random(0))


def test_sentences_are_held_out() -> None:
    """Half are replies; what is known is left out, and the same seed gives the same."""
    first = held_out_sentences(COFFEE, 12, frozenset())
    assert first == held_out_sentences(COFFEE, 12, frozenset())
    assert len(set(first)) == 12
    replies = set(domain_sentences(COFFEE, 400, random.Random(1)))
    assert len(set(first[:6]) & replies) > 0 == len(set(first[6:]) & replies)
    second = held_out_sentences(COFFEE, 12, frozenset(first[:3] + first[-2:]))
    assert not {*first[:3], *first[-2:]} & set(second)


@pytest.mark.parametrize(("semitones", "right"), [(2.5, True), (1.5, False), (-2.5, False)])
def test_levels_are_semitones_of_the_scope(semitones: float, right: bool) -> None:
    """Up for high, down for low; what is outside of the scope does not count."""
    for token, sign in zip(LEVELS, (1, -1), strict=True):
        pair = Pair(TEXT, token, "", 2, 4)
        verdict, figures = effect(pair, _spoken(), _changed(2, 4, sign * semitones))
        assert verdict is right
        assert figures == {"semitones": pytest.approx(sign * semitones), "leak": 0.0}
        assert not effect(pair, _spoken(), _changed(0, 1, sign * 5))[0]


@pytest.mark.parametrize(("slope", "right"), [(3.0, True), (1.0, False), (-3.0, False)])
def test_glides_are_the_slope_at_the_end(slope: float, right: bool) -> None:
    """Over the last 300 ms of the phrase; an octave jump of the pitch tracker does not matter."""
    size = round((WORDS[4][2] - WORDS[4][1]) / STEP_S)
    bend = slope * np.clip((np.arange(size) - (size - 31)) / 30, 0, 1)
    for token, sign in zip(GLIDES, (1, -1), strict=True):
        tagged = _changed(4, 4, sign * bend)
        tagged.octaves[-4:-2] -= 1
        verdict, figures = effect(Pair(TEXT, token, "", 2, 4), _spoken(), tagged)
        assert verdict is right
        assert figures["semitones"] == pytest.approx(sign * slope, abs=0.2)


@pytest.mark.parametrize(("inserted", "short", "long"), [(0.3, True, False), (0.75, False, True), (0.1, False, False)])
def test_pauses_are_silence_that_was_not_there(inserted: float, short: bool, long: bool) -> None:
    """The sentence's own silence does not count."""
    later = tuple((word, at + inserted * (at >= 1.0), end + inserted * (at >= 1.0)) for word, at, end in WORDS)
    for token, right in zip(PAUSES, (short, long), strict=True):
        verdict, figures = effect(Pair(TEXT, token, "", 1, 2), _spoken(), _spoken(later))
        assert verdict is right
        assert figures == {"inserted_s": pytest.approx(inserted), "leak": 0.0}


@pytest.mark.parametrize(
    ("semitones", "decibels", "longer", "right"),
    [(2.0, 0.0, 0.1, True), (0.0, 4.0, 0.1, True), (1.0, 2.0, 0.1, False), (3.0, 5.0, 0.0, False)],
)
def test_emphasis_is_pitch_or_level_and_length(semitones: float, decibels: float, longer: float, right: bool) -> None:
    """A word stands out of the others more than it did, and is longer."""
    tagged = _changed(2, 2, semitones, decibels)
    words = tuple((word, at, end + longer * 0.45 * (index == 2)) for index, (word, at, end) in enumerate(WORDS))
    verdict, figures = effect(Pair(TEXT, EMPH, "", 2, 2), _spoken(), Spoken(words, tagged.octaves, tagged.level_db))
    assert verdict is right
    assert figures["length"] == pytest.approx(1 + longer)


def test_pairs_without_words_have_failed() -> None:
    """A sentence that cannot be aligned is not left out of the share; word errors are counted over all."""
    pairs = [Pair(TEXT, token, f"{token}{index}", 2, 4) for token in PROSODY_TOKENS for index in range(2)]
    heard = {TEXT: Heard(_spoken(), 1, 5)}
    for pair in pairs:
        heard[pair.marked] = Heard(_changed(2, 4, 3.0) if pair.marked.endswith("1") else None, 0, 5)
    report = summary(pairs, heard)
    assert report[LEVELS[0]]["right"]["value"] == 0.5
    assert report[LEVELS[0]]["aligned"] == 1
    assert report[LEVELS[0]]["median"] == {"leak": 0.0, "semitones": 3.0}
    assert report["word_error_rate_plain"]["value"] == 0.2
    assert report["word_error_rate_tagged"]["value"] == 0.0
    assert len(to_lines(report)) == 9


def test_words_without_pitch_cannot_be_moved() -> None:
    """Where the scope is voiceless without a token it is left out and told; where it becomes so with one, it failed."""
    whole, creaks = _spoken(), _spoken()
    creaks.octaves[round(WORDS[4][1] / STEP_S) :] = np.nan
    pairs = [Pair(TEXT, token, f"{token} {name}", 4, 4) for token in LEVELS for name in ("whole", "creaks")]
    heard = {pair.marked: Heard(creaks if "creaks" in pair.marked else whole, 0, 5) for pair in pairs}
    for plain, left_out, count in ((creaks, 2, 0), (whole, 0, 2)):
        row = summary(pairs, heard | {TEXT: Heard(plain, 0, 5)}, words=False)[LEVELS[1]]
        assert row["without_pitch"] == left_out
        assert row["right"]["count"] == count


def test_command(shipped_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped model's sentences go all the way to a table; errors name what is wrong."""
    pytest.importorskip("parselmouth")
    models = ["--codec", str(shipped_models / "codec"), "--s2s", str(shipped_models / "s2s")]
    assert main([*models, "--no-words", "--count", "2", "--json", str(tmp_path / "made.json")]) == 0
    report = json.loads((tmp_path / "made.json").read_text("utf8"))
    for token in PROSODY_TOKENS:
        figures = report["agent"][token]
        assert len(figures["pairs"]) == 2
        assert figures["right"]["value"] == np.mean([row["right"] for row in figures["pairs"]])
        assert all(token in row["text"] for row in figures["pairs"])
    assert "word_error_rate_plain" not in report["agent"]
    assert "<pitch_falling>" in capsys.readouterr().out
    assert main([*models, "--known", str(tmp_path / "none.txt")]) == 2
    assert "none.txt" in capsys.readouterr().err
