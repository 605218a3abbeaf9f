"""Forced alignment against the exact times of a synthesiser."""

import itertools
from typing import Any

import numpy as np
import pytest

from training import alignment
from training.alignment import AlignmentError, align
from training.phones import PHONES
from training.tts import synthesise

TEXT = "can i get a large triple shot latte with brown sugar"


def test_words_are_where_the_synthesiser_put_them() -> None:
    """Every word begins and ends within 80 ms of its exact time; phones are those of the alphabet, in order."""
    spoken = synthesise(TEXT, "flite:slt")
    words, phones = align(spoken.pcm, TEXT.split())
    assert [name for name, _, _ in words] == TEXT.split()
    for (_, start, end), (_, true_start, true_end) in zip(words, spoken.words, strict=True):
        assert start == pytest.approx(true_start, abs=0.08)
        assert end == pytest.approx(true_end, abs=0.08)
    assert {name for name, _, _ in phones} <= set(PHONES)
    assert all(a[2] <= b[1] + 1e-6 for a, b in itertools.pairwise(phones))


def test_words_around_digital_silence_are_found() -> None:
    """A pause of nothing but zeros put before a word moves that word and those after it, and no other."""
    spoken = synthesise(TEXT, "flite:kal16")
    start = round(spoken.words[3][1] * 24_000)
    pcm = np.concatenate([spoken.pcm[:start], np.zeros(19_200, np.float32), spoken.pcm[start:]])
    words, _ = align(pcm, TEXT.split())
    for index, (found, true) in enumerate(zip(words, spoken.words, strict=True)):
        assert found[1] == pytest.approx(true[1] + (0.8 if index >= 3 else 0.0), abs=0.1)


@pytest.mark.parametrize("voice", ["flite:kal16?stretch=0.5", "espeak:en-us?rate=400"])
def test_fast_speakers_are_followed(voice: str) -> None:
    """Phones of less than 30 ms, which no model of three states can pass through at their own speed."""
    spoken = synthesise(TEXT, voice)
    words, phones = align(spoken.pcm, TEXT.split())
    for found, true in zip(words, spoken.words, strict=True):
        assert found[1] == pytest.approx(true[1], abs=0.08)
    assert phones[-1][2] <= spoken.duration_s + 0.01


def test_where_pauses_leave_no_path_it_is_found_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is heard only with its pauses shortened has its words at their own times."""
    spoken = synthesise(TEXT, "flite:slt")
    parts, begin = [], 0
    for index in (3, 8):
        end = round(spoken.words[index][1] * 24_000)
        parts += [spoken.pcm[begin:end], np.zeros(12_000, np.float32)]
        begin = end
    pcm, longest = np.concatenate([*parts, spoken.pcm[begin:]]), len(spoken.pcm) + 2 * 3_000
    search = alignment._search

    def only_short(decoder: Any, audio: np.ndarray, words: list[str]) -> Any:
        return search(decoder, audio, words) if len(audio) < longest else None

    monkeypatch.setattr(alignment, "_search", only_short)
    words, _ = align(pcm, TEXT.split())
    for index, (found, true) in enumerate(zip(words, spoken.words, strict=True)):
        assert found[1] == pytest.approx(true[1] + 0.5 * ((index >= 3) + (index >= 8)), abs=0.12)


def test_what_cannot_be_aligned_is_refused() -> None:
    """Words without a pronunciation are named; speech too short for its text is no guess."""
    spoken = synthesise("latte", "flite:slt")
    with pytest.raises(AlignmentError, match="qqzx"):
        align(spoken.pcm, ["latte", "qqzx"])
    with pytest.raises(AlignmentError, match="no words"):
        align(spoken.pcm, [])
    with pytest.raises(AlignmentError, match=r"cannot find 'can i get"):
        align(np.zeros(4800, np.float32), TEXT.split())


def test_pico_has_times() -> None:
    """SVOX Pico says a sentence with its words in place; what is unknown is refused."""
    pytest.importorskip("ttspico")
    for voice in ("en-US", "en-GB"):
        spoken = synthesise(TEXT, f"pico:{voice}?rate=90&pitch=80")
        assert [name for name, _, _ in spoken.words] == TEXT.split()
        assert 2.0 < spoken.duration_s < 6.0
        assert spoken.phones[-1][2] == pytest.approx(spoken.duration_s, abs=0.02)
