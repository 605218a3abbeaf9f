"""SVOX Pico: a British and an American voice (Apache-2.0) of the ``ttspico`` package, with times by forced alignment.

Where a sentence cannot be aligned it has no times.

``pico:en-US?rate=100&pitch=100``: per cent of the usual speed and pitch.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from training.alignment import AlignmentError, align
from training.tts import TtsError, Utterance, VoiceSpec, to_24k

VOICES = ("en-US", "en-GB")
_RATE_HZ = 16000


@functools.lru_cache(maxsize=len(VOICES))
def _engine(voice: str) -> Any:
    try:
        import ttspico
    except ImportError as error:
        raise TtsError(f"pico is missing: pip install ttspico ({error})") from error
    return ttspico.TtsEngine(voice)


def synthesise_raw(text: str, spec: VoiceSpec) -> Utterance:
    """Speaks with ``pico:en-US`` or ``pico:en-GB``; options ``rate`` (50 to 200) and ``pitch`` (50 to 200).

    Raises:
        TtsError: the package is missing, the voice is unknown, or the text has no sound.
    """
    spec.only("rate", "pitch")
    if spec.voice not in VOICES:
        raise TtsError(f"pico has no voice {spec.voice!r}: known are {', '.join(VOICES)}")
    rate, pitch = round(spec.number("rate", 100, 50, 200)), round(spec.number("pitch", 100, 50, 200))
    engine = _engine(spec.voice)
    engine.rate, engine.pitch = rate, pitch
    audio = engine.speak(text)
    if not audio:
        raise TtsError(f"pico found nothing to say in {text!r}")
    pcm = to_24k(np.frombuffer(audio, np.int16).astype(np.float32) / 32768, _RATE_HZ)
    tokens = text.split()
    plain = ["".join(char for char in token.lower() if char.isalpha() or char == "'") for token in tokens]
    try:
        words, phones = align(pcm, plain)
    except AlignmentError:
        return Utterance(pcm, (), ())
    named = tuple((token, start, end) for token, (_, start, end) in zip(tokens, words, strict=True))
    return Utterance(pcm, named, phones)
