"""espeak-ng through its C library: about 800 times real time, exact phone times, about 90 voice variants."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.phones import SILENCE, align, espeak_to_arpabet
from training.tts import Segment, TtsError, Utterance, VoiceSpec, to_24k

ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")
MORE_ACCENTS = ("en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
"""Drawn for training alone."""
_RHOTIC = ("en-us",)
_FILES = {"en-gb": "en"}  # language tag to voice file, where they differ
_NOT_HUMAN = ("whisper", "croak", "robo", "robot", "demonic", "storm", "tweaky", "fast")

_EVENT_WORD, _EVENT_END, _EVENT_PHONEME = 1, 5, 7
_RATE, _PITCH, _RANGE, _GAP = 1, 3, 4, 7
_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT, _CHARS_UTF8 = 2, 1, 0x8000, 1


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(slots=True)
class _Collected:
    chunks: list[np.ndarray] = field(default_factory=list)
    events: list[tuple[int, int, int, str]] = field(default_factory=list)  # type, character, sample, phoneme


class _Library:
    """The one espeak-ng of this process; a lock serialises its use."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise TtsError("libespeak-ng.so.1 is missing: apt-get install espeak-ng") from error
        self._libc = ctypes.CDLL(None)
        self._lib.espeak_Info.restype = ctypes.c_char_p
        self.rate = self._lib.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _DONT_EXIT)
        if self.rate <= 0:
            raise TtsError("espeak-ng does not start: is the package espeak-ng-data installed?")
        path = ctypes.c_char_p()
        self._lib.espeak_Info(ctypes.byref(path))
        self.data = Path(os.fsdecode(path.value or b""))
        self._into = _Collected()
        self._callback = _CALLBACK(self._receive)
        self._lib.espeak_SetSynthCallback(self._callback)
        self._lock = threading.Lock()

    def _receive(self, wav: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if wav and count > 0:
            self._into.chunks.append(np.ctypeslib.as_array(wav, (count,)).copy())
        index = 0
        while events[index].type != 0:
            event = events[index]
            name = bytes(event.id.string).decode("utf-8", "replace") if event.type == _EVENT_PHONEME else ""
            self._into.events.append((event.type, event.text_position - 1, event.sample, name))
            index += 1
        return 0

    def speak(self, text: str, voice: str, parameters: dict[int, int]) -> _Collected:
        data = text.encode()
        with self._lock:
            self._libc.srand(1)  # its noise comes from rand()
            language, plus, variant = voice.partition("+")
            name = _FILES.get(language, language) + plus + variant
            if self._lib.espeak_SetVoiceByName(name.encode()) != 0:
                raise TtsError(f"espeak-ng has no voice {voice!r}")
            for number, value in parameters.items():
                self._lib.espeak_SetParameter(number, value, 0)
            self._into = _Collected()
            status = self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
            self._lib.espeak_Synchronize()
        if status != 0 or not self._into.chunks:
            raise TtsError(f"espeak-ng voice {voice!r} said nothing for {text!r}")
        return self._into


@functools.lru_cache(maxsize=1)
def _library() -> _Library:
    return _Library()


@functools.lru_cache(maxsize=1)
def variants() -> tuple[str, ...]:
    """Names of the human-sounding voice variants installed, sorted.

    Raises:
        TtsError: espeak-ng is not installed.
    """
    folder = _library().data / "voices" / "!v"
    names = (p.name for p in folder.iterdir() if p.is_file())
    return tuple(sorted(n for n in names if " " not in n and not any(bad in n.lower() for bad in _NOT_HUMAN)))


def synthesise_raw(text: str, spec: VoiceSpec) -> Utterance:
    """Speaks with ``espeak:LANGUAGE+VARIANT?rate=170&pitch=50&range=50&gap=0`` (wpm, 0-99, 0-99, 10 ms units).

    Raises:
        TtsError: unknown voice or option, or espeak-ng is missing.
    """
    spec.only("rate", "pitch", "range", "gap")
    parameters = {
        _RATE: int(spec.number("rate", 170, 80, 450)),
        _PITCH: int(spec.number("pitch", 50, 0, 99)),
        _RANGE: int(spec.number("range", 50, 0, 99)),
        _GAP: int(spec.number("gap", 0, 0, 100)),
    }
    collected = _library().speak(text, spec.voice, parameters)
    rate = _library().rate
    pcm = to_24k(np.concatenate(collected.chunks).astype(np.float32) / 32768, rate)
    placed = _phones(collected.events, spec.voice.split("+")[0] in _RHOTIC, rate)
    return Utterance(pcm, _words(text, placed, spec.voice), tuple(p[1] for p in placed))


def _phones(events: list[tuple[int, int, int, str]], rhotic: bool, rate: int) -> list[tuple[int, Segment]]:
    """Turns events into phones, each with the character its word starts at (-1 for silence)."""
    onsets: list[tuple[int, str, int]] = []  # sample, mnemonic, character
    word_at = -1
    end = 0
    for kind, character, sample, name in events:
        if kind == _EVENT_WORD:
            word_at = sample
        elif kind == _EVENT_PHONEME:
            if onsets and word_at > onsets[-1][0] + 0.015 * rate:
                sample = min(sample, word_at)  # the closure of a stop belongs to its word
            word_at = -1
            onsets.append((sample, name, character))
        elif kind == _EVENT_END:
            end = max(end, sample)
    placed: list[tuple[int, Segment]] = []
    for index, (sample, name, character) in enumerate(onsets):
        stop = max(sample, onsets[index + 1][0] if index + 1 < len(onsets) else end)
        before_r = index + 1 < len(onsets) and onsets[index + 1][1].startswith(("r", "R", "*"))
        names = espeak_to_arpabet(name, rhotic, before_r)
        if not names:
            if placed:
                at, (previous, start, _) = placed[-1]
                placed[-1] = (at, (previous, start, stop / rate))
            continue
        edges = np.linspace(sample, stop, len(names) + 1) / rate
        for phone, left, right in zip(names, edges[:-1], edges[1:], strict=True):
            placed.append((-1 if phone == SILENCE else character, (phone, float(left), float(right))))
    return placed


def _words(text: str, placed: list[tuple[int, Segment]], voice: str) -> tuple[Segment, ...]:
    """Times of ``text.split()``; words that espeak-ng speaks as one group are told apart by their phones."""
    starts, tokens = [], text.split()
    at = 0
    for token in tokens:
        at = text.index(token, at)
        starts.append(at)
        at += len(token)
    groups: dict[int, list[Segment]] = {}
    for character, phone in placed:
        if character >= 0:
            token_index = max(0, sum(start <= character for start in starts) - 1)
            groups.setdefault(token_index, []).append(phone)
    owners = sorted(groups)
    spans: list[Segment] = []
    for position, owner in enumerate(owners):
        until = owners[position + 1] if position + 1 < len(owners) else len(tokens)
        first = 0 if position == 0 else owner
        spans.extend(_split_group(tokens[first:until], groups[owner], voice))
    return tuple(spans)


def _split_group(tokens: list[str], phones: list[Segment], voice: str) -> list[Segment]:
    if len(tokens) == 1:
        return [(tokens[0], phones[0][1], phones[-1][2])]
    reference: list[str] = []
    owner: list[int] = []
    for index, token in enumerate(tokens):
        alone = _alone(token, voice) if any(c.isalnum() for c in token) else ()
        reference.extend(alone)
        owner.extend([index] * len(alone))
    where = align([p[0] for p in phones], reference)
    spans: list[Segment] = []
    now = phones[0][1]
    for index, token in enumerate(tokens):
        mine = [p for p, r in zip(phones, where, strict=True) if owner and owner[r] == index]
        start, end = (mine[0][1], mine[-1][2]) if mine else (now, now)
        spans.append((token, start, end))
        now = end
    return spans


@functools.lru_cache(maxsize=4096)
def _alone(token: str, voice: str) -> tuple[str, ...]:
    language = voice.split("+")[0]
    try:
        events = _library().speak(token, language, {}).events
    except TtsError:
        return ()
    return tuple(p[0] for _, p in _phones(events, language in _RHOTIC, _library().rate) if p[0] != SILENCE)
