import numpy as np
import pytest

from models.prosody import canonical
from training.spoken_words import (
    SpokenWord,
    measure_words,
    phone_lengths,
    pitch_track,
    propose_marks,
    speaker_median,
    usual_gaps,
)

RATE = 24_000
NO_GAPS = {False: 0.0, True: 0.0}


def _tone(hz: np.ndarray, level: float = 0.3) -> np.ndarray:
    return (level * np.sign(np.sin(2 * np.pi * np.cumsum(hz) / RATE)) ** 1).astype(np.float32)


def _word(name: str, at: float, gap: float = 0.0, pitch: float | None = 0.0, move: float = 0.0, level: float = -20.0,
          length: float = 1.0) -> SpokenWord:  # fmt: skip
    return SpokenWord(name, at, at + 0.3, gap, pitch, move, level, length)


def test_pitch_loudness_length_and_pauses_are_measured() -> None:
    """Three words: one at the speaker's pitch, one that rises an octave's half after a pause, a louder one."""
    half = np.full(RATE // 2, 150.0)
    rising = 150.0 * 2.0 ** np.linspace(0, 0.5, RATE // 2)
    pcm = np.concatenate([_tone(half), np.zeros(RATE // 2, np.float32), _tone(rising), _tone(half, 0.9)])
    times = [("one", 0.0, 0.5), ("two", 1.0, 1.5), ("three", 1.5, 2.0)]
    phones = (("W", 0.0, 0.5), ("T", 1.0, 1.5), ("TH", 1.5, 2.0))
    track = pitch_track(pcm)
    middle = speaker_median([track[0]])
    assert 120.0 * 2.0**middle == pytest.approx(150.0, rel=0.05)
    words = measure_words(times, phones, track, middle, phone_lengths(phones) | {"TH": 0.25})
    assert [word.gap_s for word in words] == pytest.approx([0.0, 0.5, 0.0], abs=0.015)
    assert words[0].pitch_st == pytest.approx(0.0, abs=0.8)
    assert words[0].move_st == pytest.approx(0.0, abs=0.8)
    assert words[1].move_st == pytest.approx(4.0, abs=1.5)
    assert words[2].level_db - words[0].level_db == pytest.approx(20 * np.log10(3), abs=1.5)
    assert [word.length for word in words] == pytest.approx([1.0, 1.0, 2.0])


def test_silence_has_no_pitch() -> None:
    """Words without voice are measured without a pitch, and marked by their pauses alone."""
    track = pitch_track(np.zeros(RATE, np.float32))
    words = measure_words([("a", 0.0, 0.3), ("b", 0.8, 1.0)], (), track, speaker_median([track[0]]), {})
    assert words[0].pitch_st is None
    assert propose_marks(words, NO_GAPS) == [(), ("<pause_long>",)]


def _marked(index: int, **changes: float) -> list[tuple[str, ...]]:
    names = ["well,", "he", "counted", "elephants", "in", "gardens."]
    words = [_word(name, 0.3 * i, **(changes if i == index else {})) for i, name in enumerate(names)]
    return propose_marks(words, NO_GAPS)


def test_marks_say_what_was_done() -> None:
    """Each of the seven where it is to stand, and none for a plain sentence."""
    assert _marked(0) == [()] * 6
    assert _marked(0, pitch=3.0)[0] == ("<pitch_high>",)
    assert _marked(0, pitch=-3.0)[0] == ("<pitch_low>",)
    assert _marked(5, move=4.0)[5] == ("<pitch_rising>",)
    assert _marked(5, move=-4.0)[5] == ("<pitch_falling>",)
    assert _marked(3, move=4.0) == [()] * 6  # not at the end of a phrase
    assert _marked(3, pitch=2.5, level=-15.0, length=1.5)[3] == ("<emph>",)
    assert _marked(3, pitch=2.5, level=-15.0) == [()] * 6  # loud and high, but not long
    assert _marked(3, gap=0.2)[3] == ("<pause_short>",)
    assert _marked(3, gap=0.6)[3] == ("<pause_long>",)


def test_pauses_are_longer_than_usual() -> None:
    """Who rests for .3 s at every comma has marked none of them; without a comma, that is a pause."""
    clip = [
        _word(name, 0.3 * i, gap=0.3 * (i % 2)) for i, name in enumerate(["so,", "it,", "is", "all,", "well,", "now."])
    ]
    usual = usual_gaps([clip[:2], clip[2:4], clip[4:]])
    assert usual == {True: 0.3, False: 0.3}
    assert usual_gaps([[]]) == NO_GAPS
    some = [_word("so,", 0.3 * at, gap=gap) for at, gap in enumerate((0.0, 0.3, 0.02, 0.5, 0.04, 0.0))]
    assert usual_gaps([some])[True] == 0.02  # who rests at some commas does so on purpose
    rests = [_word("so,", 0.0), _word("it", 0.6, gap=0.3), _word("goes,", 1.2, gap=0.3), _word("then,", 2.0, gap=0.5),
             _word("on.", 3.0, gap=0.8)]  # fmt: skip
    marks = propose_marks(rests, {True: 0.3, False: 0.0})
    assert marks == [(), (), ("<pause_short>",), ("<pause_short>",), ("<pause_long>",)]


def test_marks_are_canonical() -> None:
    """A phrase that lies low is marked once, where it begins, and the text with its marks is as it is to be."""
    names = ["so", "it", "goes,", "my", "friend."]
    words = [_word(name, 0.3 * i, pitch=-4.0 if i > 2 else 0.0, move=4.0 * (i == 4)) for i, name in enumerate(names)]
    marks = propose_marks(words, NO_GAPS)
    assert marks[3] == ("<pitch_low>",)
    assert marks[4] == ("<pitch_rising>",)
    text = " ".join("".join(mark) + name for mark, name in zip(marks, names, strict=True))
    assert canonical(text) == text
