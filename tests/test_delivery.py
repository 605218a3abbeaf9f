"""What prosody tokens do to the agent's voice, measured on its audio by Praat."""

import numpy as np
import pytest

from training.delivery import EMPH_STRETCH, PAUSE_S
from training.prosody_measures import emphasis, final_slope_st, listen, pitch_change_st, silence_s, speech_s
from training.tts import SAMPLE_RATE, TtsError, Utterance, synthesise

VOICE = "hibari:heart"
PLAIN = "Okay, a large latte with some milk and sugar. Anything else?"
pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed")


@pytest.fixture(scope="module")
def plain() -> Utterance:
    return synthesise(PLAIN, VOICE)


def _jumps(pcm: np.ndarray) -> float:
    """The largest step between two samples: a click is one."""
    return float(np.abs(np.diff(pcm)).max())


@pytest.mark.parametrize(
    ("token", "sign", "text"),
    [
        ("<pitch_high>", 1, "Okay, <pitch_high>a large latte with some milk and sugar. Anything else?"),
        ("<pitch_low>", -1, "Okay, <pitch_low>a large latte with some milk and sugar. Anything else?"),
    ],
)
def test_levels_move_their_scope_and_nothing_else(plain: Utterance, token: str, sign: int, text: str) -> None:
    """From the token to the boundary F0 is 3.5 semitones away; before and after it, and in time, nothing moves."""
    said = synthesise(text, VOICE)
    before, after = listen(plain.pcm, plain.words), listen(said.pcm, said.words)
    assert sign * pitch_change_st(before, after, 1, 8) == pytest.approx(3.5, abs=0.7)
    assert abs(pitch_change_st(before, after, 0, 0)) < 0.2
    assert abs(pitch_change_st(before, after, 9, 10)) < 0.2
    assert len(said.pcm) == len(plain.pcm)
    assert [word[0] for word in said.words] == PLAIN.split()


@pytest.mark.parametrize(("token", "sign"), [("<pitch_rising>", 1), ("<pitch_falling>", -1)])
@pytest.mark.parametrize("place", [1, 8, 10])
def test_glides_end_their_phrase(plain: Utterance, token: str, sign: int, place: int) -> None:
    """The last 300 ms of the phrase rise or fall by 3 semitones at least, wherever in it the token stands."""
    words = PLAIN.split()
    said = synthesise(" ".join([*words[:place], token + words[place], *words[place + 1 :]]), VOICE)
    first, last = (1, 8) if place < 9 else (9, 10)
    assert sign * final_slope_st(listen(said.pcm, said.words), first, last) > 3
    assert said.duration_s == pytest.approx(plain.duration_s, rel=0.1)


@pytest.mark.parametrize(("place", "token"), [(1, "<pause_short>"), (5, "<pause_long>"), (9, "<pause_long>")])
def test_pauses_are_inserted(plain: Utterance, place: int, token: str) -> None:
    """So much silence more, also where there is some; the words after it come later, F0 stays, nothing clicks."""
    words = PLAIN.split()
    said = synthesise(" ".join([*words[:place], token + words[place], *words[place + 1 :]]), VOICE)
    before, after = listen(plain.pcm, plain.words), listen(said.pcm, said.words)
    longer = silence_s(after, place - 1) - silence_s(before, place - 1)
    assert 0.75 * PAUSE_S[token] < longer < 1.25 * PAUSE_S[token]
    assert speech_s(after) - speech_s(before) == pytest.approx(longer, abs=0.1)
    for index in range(place):
        assert said.words[index][1:] == pytest.approx(plain.words[index][1:], abs=0.1)
    assert said.words[-1][1] - plain.words[-1][1] == pytest.approx(longer, abs=0.1)
    assert abs(pitch_change_st(before, after, 0, 10)) < 0.5
    assert _jumps(said.pcm) < 1.3 * _jumps(plain.pcm)


def test_emphasis_is_on_one_word(plain: Utterance) -> None:
    """The next word is longer, higher and louder, and its sentence is as loud as it was."""
    said = synthesise(PLAIN.replace("latte", "<emph>latte"), VOICE)
    before, after = listen(plain.pcm, plain.words), listen(said.pcm, said.words)
    semitones, decibels, length = emphasis(before, after, 3)
    assert semitones > 2
    assert decibels > 3
    assert length == pytest.approx(EMPH_STRETCH, abs=0.05)
    end = round(plain.words[1][1] * SAMPLE_RATE) - 2400  # until then nothing is changed but the noise in it
    assert np.std(said.pcm[:end]) == pytest.approx(np.std(plain.pcm[:end]), rel=0.02)


def test_only_the_agents_voice_obeys() -> None:
    """Another synthesiser would read the token aloud or leave it out."""
    with pytest.raises(TtsError, match=r"espeak:en-us cannot deliver <emph>.*hibari"):
        synthesise("a <emph>latte", "espeak:en-us")
