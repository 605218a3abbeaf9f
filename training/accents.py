"""Accents of English as exchanges of sounds: what a synthesiser of one accent needs to speak with another.

A voice has some of them as an option, such as ``festival:bdl?accent=raised_mouth,stopped_th``. They are those in which
accents differ most (Wells, Accents of English, 1982). No speaker has them all, and most have some:
``configs/voices/accents.txt`` was drawn by :func:`draw_accent`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from training.tts import TtsError, VoiceSpec

Exchange = Mapping[str, tuple[str, ...]]
"""ARPAbet phones, and what is said in their place."""

FEATURES: dict[str, Exchange] = {
    "raised_mouth": {"AW": ("AH", "UW")},  # Scotland, Canada, Ireland
    "fronted_mouth": {"AW": ("EH", "UW")},  # London, Australia, the southern United States
    "flat_mouth": {"AW": ("AA",)},
    "close_mouth": {"AW": ("OW",)},
    "raised_price": {"AY": ("AH", "IY")},  # Scotland, Canada
    "backed_price": {"AY": ("OY",)},  # London, Ireland, Australia
    "open_face": {"EY": ("AY",)},  # London, Australia
    "plain_face": {"EY": ("EH",)},  # Scotland, India, northern England
    "open_goat": {"OW": ("AW",)},  # London, Australia
    "plain_goat": {"OW": ("AO",)},  # Scotland, India, northern England
    "foot_goose": {"UW": ("UH",)},  # Scotland
    "goose_foot": {"UH": ("UW",)},
    "strut_foot": {"AH": ("UH",)},  # northern England
    "open_strut": {"AH": ("AA",)},
    "open_trap": {"AE": ("AA",)},  # Scotland, northern England
    "raised_trap": {"AE": ("EH",)},  # New Zealand, South Africa
    "round_lot": {"AA": ("AO",)},
    "lot_thought": {"AO": ("AA",)},  # the western United States
    "raised_dress": {"EH": ("IH",)},  # New Zealand, the southern United States
    "tense_kit": {"IH": ("IY",)},  # speakers of Romance languages
    "lax_fleece": {"IY": ("IH",)},
    "plain_nurse": {"ER": ("EH", "R")},  # Scotland, India
    "no_r": {"ER": ("AH",)},
    "stopped_th": {"TH": ("T",), "DH": ("D",)},  # Ireland, India, New York
    "fronted_th": {"TH": ("F",), "DH": ("V",)},  # London
    "hissed_th": {"TH": ("S",), "DH": ("Z",)},
    "devoiced": {"Z": ("S",)},
    "w_as_v": {"W": ("V",)},
    "v_as_w": {"V": ("W",)},
    "dark_l": {"L": ("W",)},
}
_MOST = 6


def draw_accent(rng: random.Random) -> str:
    """One to six features that exchange different sounds, as the value of a voice's option."""
    chosen: list[str] = []
    for name in rng.sample(sorted(FEATURES), rng.randint(1, _MOST)):
        taken = {phone for other in chosen for phone in FEATURES[other]}
        if taken.isdisjoint(FEATURES[name]):
            chosen.append(name)
    return ",".join(sorted(chosen))


def exchange_of(spec: VoiceSpec) -> dict[str, tuple[str, ...]]:
    """What the voice's option ``accent`` exchanges; nothing without it.

    Raises:
        TtsError: there is no such feature, or two of them exchange the same sound.
    """
    exchanged: dict[str, tuple[str, ...]] = {}
    for name in filter(None, spec.options.get("accent", "").split(",")):
        if name not in FEATURES:
            raise TtsError(
                f"{spec.engine}:{spec.voice}: unknown accent {name!r} (known: {', '.join(sorted(FEATURES))})"
            )
        if twice := sorted(exchanged.keys() & FEATURES[name].keys()):
            raise TtsError(f"{spec.engine}:{spec.voice}: accent {name!r} exchanges {twice[0]} a second time")
        exchanged.update(FEATURES[name])
    return exchanged
