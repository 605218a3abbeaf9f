"""Forced alignment: where the words and phones of a known text are in a recording, by PocketSphinx."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping

import numpy as np
import pocketsphinx
import soxr

from training.phones import PHONES, SILENCE
from training.tts import SAMPLE_RATE, Segment
from training.vary import stretch

_RECOGNISER_RATE = 16000
_FRAME_S = 0.01
_DITHERS = (3e-4, 2e-3)  # without a little noise no path leads through digital silence, with more sometimes another
_REST_S, _REST_LEFT_S, _REST_POWER = 0.2, 0.1, 10**-3.8  # silences, what is left of them, of the loudest 10 ms
_MARGINS_S = (0.0, 0.25, 0.1, 0.4)  # silence around the speech: some sentences have a path only with or without it
_SLOWER = 1.4  # in the end: a phone of three states takes 30 ms at least, and fast speakers do not give it that


Found = tuple[tuple[Segment, ...], tuple[Segment, ...]]
"""Words, and phones."""


class AlignmentError(ValueError):
    """A text cannot be found in a recording, or one of its words has no known pronunciation."""


@functools.lru_cache(maxsize=1)
def _decoder() -> pocketsphinx.Decoder:
    return pocketsphinx.Decoder(samprate=float(_RECOGNISER_RATE), lm=None, loglevel="FATAL")


def pronounce(words: Mapping[str, str]) -> None:
    """Teach the aligner words that its dictionary lacks: word -> ARPABET without stress, phones apart by spaces."""
    for word, phones in words.items():
        if _decoder().lookup_word(word) is None:
            _decoder().add_word(word, phones, True)


def align(pcm: np.ndarray, words: list[str]) -> Found:
    """Find words in speech.

    Args:
        pcm: float32 [N], mono, 24 kHz.
        words: what is said, in lower case without punctuation.

    Returns:
        Words, and phones (ARPABET without stress, ``SIL`` between them), to 10 ms.

    Raises:
        AlignmentError: no words, a word that the dictionary lacks, or speech that does not fit the text.
    """
    decoder = _decoder()
    unknown = sorted({word for word in words if decoder.lookup_word(word) is None})
    if not words or unknown:
        raise AlignmentError(f"no pronunciation of {', '.join(unknown)}" if unknown else "no words to align")
    if found := _search(decoder, pcm, words):
        return found
    if found := _search(decoder, _slowed(pcm, _SLOWER), words):
        return _at_times(found, lambda second: second / _SLOWER)
    shorter, left_out = _without_rests(pcm)
    if left_out and (found := _search(decoder, shorter, words)):
        return _at_times(found, lambda second: second + sum(length for at, length in left_out if at < second))
    raise AlignmentError(f"cannot find {' '.join(words)!r} in {len(pcm) / SAMPLE_RATE:.2f} s of audio")


def _search(decoder: pocketsphinx.Decoder, pcm: np.ndarray, words: list[str]) -> Found | None:
    speech = soxr.resample(pcm, SAMPLE_RATE, _RECOGNISER_RATE)
    for dither in _DITHERS:
        noisy = speech + np.random.default_rng(0).normal(0.0, dither, len(speech))
        samples = np.clip(noisy * 32767, -32768, 32767).astype(np.int16)
        for margin in _MARGINS_S:
            found = _find(decoder, np.pad(samples, round(margin * _RECOGNISER_RATE)).tobytes(), words, margin)
            if found:
                return found
    return None


def _at_times(found: Found, time: Callable[[float], float]) -> Found:
    words, phones = (tuple((name, time(start), time(end)) for name, start, end in part) for part in found)
    return words, phones


def _without_rests(pcm: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Speech with little left of its silences, and where in it how many seconds are missing."""
    size = round(_FRAME_S * SAMPLE_RATE)
    power = np.square(pcm[: len(pcm) // size * size].reshape(-1, size)).mean(axis=1)
    loud = np.flatnonzero(power > _REST_POWER * power.max(initial=0.0))
    parts, left_out, begin, kept_s = [], list[tuple[float, float]](), 0, 0.0
    for before, after in itertools.pairwise(loud):
        rest_s = (after - before - 1) * _FRAME_S
        if rest_s < _REST_S:
            continue
        end = round((before + 1) * size + _REST_LEFT_S / 2 * SAMPLE_RATE)
        parts.append(pcm[begin:end])
        kept_s += len(parts[-1]) / SAMPLE_RATE
        left_out.append((kept_s, float(rest_s - _REST_LEFT_S)))
        begin = end + round((rest_s - _REST_LEFT_S) * SAMPLE_RATE)
    return np.concatenate([*parts, pcm[begin:]]), left_out


def _slowed(pcm: np.ndarray, factor: float) -> np.ndarray:
    length_s = len(pcm) / SAMPLE_RATE
    return stretch(pcm, np.array([0.0, length_s]), np.array([0.0, factor * length_s]), round(factor * len(pcm)))


def _find(decoder: pocketsphinx.Decoder, audio: bytes, words: list[str], margin: float) -> Found | None:
    try:
        decoder.set_align_text(" ".join(words))
        _listen(decoder, audio)
        decoder.set_alignment()
        _listen(decoder, audio)
        found = [(word.name, word.start, word.duration, list(word)) for word in decoder.get_alignment()]
    except (RuntimeError, TypeError):  # no path through all words; TypeError: there is no alignment to go through
        return None
    spans: list[Segment] = []
    phones: list[Segment] = []
    end = len(audio) / 2 / _RECOGNISER_RATE - 2 * margin

    def at(frame: int) -> float:
        return min(max(frame * _FRAME_S - margin, 0.0), end)

    for name, start, duration, parts in found:
        if not name.startswith(("<", "[", "+")):
            spans.append((re.sub(r"\(\d+\)$", "", name), at(start), at(start + duration)))
        for part in parts:
            phone = part.name if part.name in PHONES else SILENCE
            phones.append((phone, at(part.start), at(part.start + part.duration)))
    return (tuple(spans), tuple(phones)) if [name for name, _, _ in spans] == words else None


def _listen(decoder: pocketsphinx.Decoder, audio: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(audio, full_utt=True)
    decoder.end_utt()
