"""Which voices speak as users: a seeded draw, with some voices never heard in training."""

from __future__ import annotations

import random
from pathlib import Path

from training.tts import TtsError, VoiceSpec
from training.tts_espeak import ACCENTS, MORE_ACCENTS, variants

HELD_OUT = ("f4", "m6", "Andy", "linda", "pablo", "steph2", "klatt3", "Mike")
"""espeak-ng variants kept for the validation split, together with flite's awb."""

_ESPEAK_SHARE = 0.5
_ACCENT_WEIGHTS = (50, 18, 12, 10, 10)
_MORE_WEIGHTS = (7, 7, 7)
_HIBARI_SHARE = 0.2  # training only: its one voice, with other speakers' pitch and size
_FLITE_TRAIN = ("slt", "rms", "kal16")
_FLITE_VALID = ("awb",)
_FLITE_F0 = {"slt": (150, 225), "rms": (75, 140), "kal16": (75, 150), "awb": (95, 165)}  # Hz


def read_voices(path: Path) -> tuple[str, ...]:
    """Reads one voice string a line; blank lines and lines that start with # are skipped.

    Raises:
        TtsError: the file is unreadable or empty, or a line is no voice; the message names the line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TtsError(f"{path}: not readable ({error})") from error
    voices = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                VoiceSpec.parse(line.strip())
            except TtsError as error:
                raise TtsError(f"{path}:{number}: {error}") from error
            voices.append(line.strip())
    if not voices:
        raise TtsError(f"{path}: it names no voice")
    return tuple(voices)


def draw_voice(rng: random.Random, split: str) -> str:
    """Draws a user's voice: half espeak-ng (variant, accent, rate, pitch, gap), else flite or hibari (both varied)."""
    valid = split == "valid"
    if not valid and rng.random() < _HIBARI_SHARE:
        size = rng.uniform(0.82, 1.2)
        pitch = min(rng.uniform(0.85, 1.15) * size**2.2, 1.6)  # large speakers have low voices
        return f"hibari:heart?speed={rng.uniform(0.8, 1.35):.2f}&f0={pitch:.2f}&formant={size:.2f}"
    if rng.random() < _ESPEAK_SHARE / (1 - (0 if valid else _HIBARI_SHARE)):
        names = HELD_OUT if valid else tuple(v for v in variants() if v not in HELD_OUT)
        accents = ACCENTS if valid else ACCENTS + MORE_ACCENTS
        weights = _ACCENT_WEIGHTS if valid else _ACCENT_WEIGHTS + _MORE_WEIGHTS
        accent = rng.choices(accents, weights=weights)[0]
        spec = f"espeak:{accent}+{rng.choice(names)}?rate={rng.randint(130, 220)}&pitch={rng.randint(20, 80)}"
        return spec + (f"&gap={rng.randint(1, 6)}" if rng.random() < 0.15 else "")
    name = rng.choice(_FLITE_VALID if valid else _FLITE_TRAIN)
    spec = f"flite:{name}?stretch={rng.uniform(0.8, 1.35):.2f}"
    return spec + (f"&f0={rng.randint(*_FLITE_F0[name])}" if rng.random() < 0.7 else "")
