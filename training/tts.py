"""Speech synthesis with exact word and phone times.

A voice is named by a string: ``engine:voice?option=value&...``, such as ``espeak:en-us+f3?rate=170&pitch=45``,
``flite:rms?stretch=1.1&f0=95``, ``festival:slt`` or ``hibari:heart``. Every engine returns 24 kHz mono audio, trimmed,
at one loudness.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import soxr

from models.errors import ProsodyTagError
from models.prosody import PROSODY_TOKENS
from training.phones import SILENCE

SAMPLE_RATE = 24000
LEAD_S = 0.05
TAIL_S = 0.10
SPEECH_RMS = 0.1  # -20 dBFS
PEAK_LIMIT = 0.7  # -3.1 dBFS
PEAK_BEND = 0.28  # above it, where a word is louder than its sentence

_Made = TypeVar("_Made")
Segment = tuple[str, float, float]
"""Name, start in seconds, end in seconds."""


class TtsError(RuntimeError):
    """A synthesiser is missing, a voice is unknown, or it produced nothing."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """Synthesised speech. Phones tile the whole audio, silences are ``SIL``; both lists are empty where unknown.

    gain: what brings raw audio to the common loudness, where that is not for its own level to decide.
    """

    pcm: np.ndarray  # float32 [samples] at 24 kHz
    words: tuple[Segment, ...]
    phones: tuple[Segment, ...]
    gain: float | None = None

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return len(self.pcm) / SAMPLE_RATE

    @property
    def speech_span(self) -> tuple[float, float]:
        """Start of the first and end of the last phone that is not silence, in seconds."""
        spoken = [p for p in self.phones if p[0] != SILENCE]
        if not spoken:
            return 0.0, self.duration_s
        return spoken[0][1], spoken[-1][2]


@dataclass(frozen=True, slots=True)
class VoiceSpec:
    """A parsed voice string."""

    engine: str
    voice: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> VoiceSpec:
        """Parses ``engine:voice?option=value&option=value``.

        Raises:
            TtsError: the string has another form.
        """
        engine, colon, rest = text.partition(":")
        voice, _, query = rest.partition("?")
        if not colon or not engine or not voice:
            raise TtsError(f"voice {text!r}: expected engine:voice?option=value, such as espeak:en-us+f3?rate=170")
        options = {}
        for pair in filter(None, query.split("&")):
            key, equals, value = pair.partition("=")
            if not equals:
                raise TtsError(f"voice {text!r}: option {pair!r} has no value")
            options[key] = value
        return cls(engine, voice, options)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """Reads a numeric option.

        Raises:
            TtsError: not a number, or outside ``[low, high]``.
        """
        try:
            value = float(self.options.get(key, default))
        except ValueError as error:
            raise TtsError(f"{self.engine}:{self.voice}: option {key}={self.options[key]!r} is no number") from error
        if not low <= value <= high:
            raise TtsError(f"{self.engine}:{self.voice}: option {key}={value:g} is outside {low:g}..{high:g}")
        return value

    def only(self, *keys: str) -> None:
        """Checks that no option outside ``keys`` is set.

        Raises:
            TtsError: an option is unknown.
        """
        unknown = sorted(set(self.options) - set(keys))
        if unknown:
            raise TtsError(f"{self.engine}:{self.voice}: unknown option {unknown[0]!r} (known: {', '.join(keys)})")


Synthesiser = Callable[[str, VoiceSpec], Utterance]
"""Raw synthesis: audio at 24 kHz with times, not trimmed, any loudness."""

_ENGINES: dict[str, Synthesiser] = {}
_BUILT_IN = {
    "espeak": "training.tts_espeak",
    "flite": "training.tts_flite",
    "festival": "training.tts_festival",
    "hibari": "training.tts_hibari",
    "pico": "training.tts_pico",
    "openai": "training.online",
}
_OBEYS_MARKS = frozenset(("hibari",))
_EXPENSIVE = frozenset(("festival", "hibari", "openai"))


def register(engine: str, synthesiser: Synthesiser) -> None:
    """Adds or replaces an engine of this process."""
    _ENGINES[engine] = synthesiser


def synthesise(text: str, voice_spec: str, cache_dir: Path | None = None) -> Utterance:
    """Speaks a text.

    Args:
        text: plain text; with prosody tokens (:mod:`models.prosody`) for hibari, which delivers them.
        voice_spec: the voice string.
        cache_dir: where utterances of the slow engines are kept between runs; ``None`` keeps none.

    Returns:
        Trimmed audio (at most 50 ms of silence before, 100 ms after) at -20 dBFS RMS; times on that audio.

    Raises:
        TtsError: unknown engine or voice, missing program or library, empty text or no audio, or prosody tokens for
            an engine that cannot deliver them.
    """
    if not text.split():
        raise TtsError("nothing to say: the text is empty")
    spec = VoiceSpec.parse(voice_spec)
    engine = _engine(spec.engine)
    marks = [token for token in PROSODY_TOKENS if token in text]
    if marks and spec.engine not in _OBEYS_MARKS:
        raise TtsError(f"{voice_spec} cannot deliver {marks[0]} in {text!r}: only {', '.join(_OBEYS_MARKS)} can")
    if cache_dir is None or spec.engine not in _EXPENSIVE:
        return finish(engine(text, spec))
    path = cache_dir / f"{hashlib.sha256(f'1|{voice_spec}|{text}'.encode()).hexdigest()[:32]}.npz"
    cached = _read_cache(path)
    if cached is None:
        cached = finish(engine(text, spec))
        _write_cache(path, cached)
    return cached


def spoken_lines(path: Path, say: Callable[[str], _Made], which: slice = slice(None)) -> Iterator[_Made]:
    """What ``say`` makes of ``which`` lines of a text file; empty ones are left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or a line cannot be spoken; the message names the line.
    """
    for number, line in list(enumerate(path.read_text("utf8").splitlines(), start=1))[which]:
        if words := line.split():
            try:
                made = say(" ".join(words))
            except (TtsError, ProsodyTagError) as exc:
                raise ValueError(f"{path}:{number}: {exc}") from exc
            yield made


def _engine(name: str) -> Synthesiser:
    if name not in _ENGINES:
        if name not in _BUILT_IN:
            raise TtsError(f"unknown speech engine {name!r}: known are {', '.join(sorted({*_BUILT_IN, *_ENGINES}))}")
        register(name, importlib.import_module(_BUILT_IN[name]).synthesise_raw)
    return _ENGINES[name]


def to_24k(pcm: np.ndarray, rate: int) -> np.ndarray:
    """Resamples mono float audio to 24 kHz without delay."""
    pcm = np.asarray(pcm, dtype=np.float32)
    return pcm if rate == SAMPLE_RATE else soxr.resample(pcm, rate, SAMPLE_RATE, quality="HQ").astype(np.float32)


def finish(raw: Utterance) -> Utterance:
    """Trims an utterance, tiles its phones and sets its loudness.

    Raises:
        TtsError: the audio is silent.
    """
    start, end = raw.speech_span
    first = max(0, round((start - LEAD_S) * SAMPLE_RATE))
    last = min(len(raw.pcm), round((end + TAIL_S) * SAMPLE_RATE))
    pcm = raw.pcm[first:last].astype(np.float32)
    pcm = pcm * np.float32(loudness_gain(raw)) if raw.gain is None else soften(pcm * np.float32(raw.gain))
    fade = min(120, len(pcm) // 2)  # 5 ms, against clicks at the cuts
    pcm[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
    pcm[len(pcm) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    offset, length = first / SAMPLE_RATE, len(pcm) / SAMPLE_RATE
    phones = tile(_shift(raw.phones, offset, length), length) if raw.phones else ()
    return Utterance(pcm, _shift(raw.words, offset, length), phones)


def loudness_gain(raw: Utterance) -> float:
    """The factor that brings raw audio to SPEECH_RMS, or its peak to PEAK_LIMIT where that is less.

    Raises:
        TtsError: the audio is silent.
    """
    start, end = raw.speech_span
    heard = raw.pcm[max(0, round((start - LEAD_S) * SAMPLE_RATE)) : round((end + TAIL_S) * SAMPLE_RATE)]
    speech = raw.pcm[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    rms = float(np.sqrt(np.mean(np.square(speech, dtype=np.float64)))) if len(speech) else 0.0
    if rms < 1e-5:
        raise TtsError("the synthesiser produced silence")
    return min(SPEECH_RMS / rms, PEAK_LIMIT / max(1e-6, float(np.abs(heard).max())))


def soften(pcm: np.ndarray) -> np.ndarray:
    """Bends peaks above PEAK_LIMIT, so that none reaches PEAK_LIMIT + PEAK_BEND."""
    over = np.abs(pcm) - PEAK_LIMIT
    return np.where(over > 0, np.sign(pcm) * (PEAK_LIMIT + PEAK_BEND * np.tanh(over / PEAK_BEND)), pcm).astype(
        np.float32
    )


def _shift(segments: tuple[Segment, ...], offset: float, length: float) -> tuple[Segment, ...]:
    return tuple((n, min(max(s - offset, 0.0), length), min(max(e - offset, 0.0), length)) for n, s, e in segments)


def tile(phones: tuple[Segment, ...], length: float) -> tuple[Segment, ...]:
    """Fills gaps with ``SIL``, joins neighbouring silences and drops empty segments, over ``[0, length]``."""
    tiled: list[Segment] = []

    def put(name: str, start: float, end: float) -> None:
        if end - start < 1e-6:
            return
        if tiled and tiled[-1][0] == SILENCE == name:
            start = tiled.pop()[1]
        tiled.append((name, start, end))

    now = 0.0
    for name, start, end in phones:
        if start > now + 1e-6:
            put(SILENCE, now, start)
        put(name, max(start, now), end)
        now = max(now, end)
    put(SILENCE, now, length)
    return tuple(tiled)


def _read_cache(path: Path) -> Utterance | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            pcm = data["pcm"].astype(np.float32) / 32767
            words, phones = (
                tuple((str(n), float(s), float(e)) for n, (s, e) in zip(data[k], data[k + "_s"], strict=True))
                for k in ("words", "phones")
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Utterance(pcm, words, phones)


def _write_cache(path: Path, utterance: Utterance) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as stream:
        np.savez(
            stream,
            pcm=np.round(utterance.pcm * 32767).astype(np.int16),
            words=np.array([s[0] for s in utterance.words], dtype=np.str_),
            words_s=np.array([s[1:] for s in utterance.words], dtype=np.float64).reshape(-1, 2),
            phones=np.array([s[0] for s in utterance.phones], dtype=np.str_),
            phones_s=np.array([s[1:] for s in utterance.phones], dtype=np.float64).reshape(-1, 2),
        )
    os.replace(temporary, path)
