"""What prosody tokens do to a sentence before its waveform is made: F0, level and timing of vocoder frames.

Everything is exact: a frame's F0 is multiplied, its spectra raised, frames are repeated or silent ones put between.
Spectral envelopes stay where they are, so the speaker does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.prosody import GLIDES, LEVELS, PAUSES, PlannedWord

FRAME_S = 0.0125
LEVEL_ST = 3.5
GLIDE_ST, GLIDE_S = 6.0, 0.35  # over the last voiced sound of a phrase
GLIDE_FROM_HZ = (170.0, 270.0)  # least of a fall, most of a rise: both ends stay inside the voice
PAUSE_S = dict(zip(PAUSES, (0.30, 0.75), strict=True))
LEAST_INSERTED = 0.8  # of a pause, where there is silence already
EMPH_ST, EMPH_HUMP_ST, EMPH_DB, EMPH_STRETCH = 3.0, 1.2, 5.0, 1.25
F0_RANGE_HZ = (70.0, 385.0)  # of edited frames; the codec hears 60 to 400
VOICED_HZ = 40.0
BIN_HZ = 20.0
_LOBE = ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6))  # of a Hann window: power of a harmonic in its bin and beside it
_CREAK, _HISS, _VOICE_BINS = slice(3, 60), slice(125, 400), 200  # 60 to 1200 Hz, 2.5 to 8 kHz, below 4 kHz
_LESS_CREAK = 2.0  # nepers
_WHOLLY_ST = 0.5  # a change of F0 from which on all comes from the old harmonics
_RAMP = 4  # frames of every transition
_SILENCE = 24  # frames after a sentence that was cut off
_FADED_LOG, _SILENT_LOG = -4.0, -9.0  # added to log magnitudes
_QUIET, _FAINT = 1e-5, 3e-3  # of the loudest frame: silence; too little sound to hear a pitch in
_NEPER_DB = 8.686


@dataclass(frozen=True, slots=True)
class Clock:
    """Where frames went. ends [F + 1]: output position of every frame's begin; cuts: (frame, number inserted)."""

    ends: np.ndarray
    cuts: tuple[tuple[int, int], ...]

    def move(self, start: float, end: float) -> tuple[float, float]:
        """A segment [start, end] in source frames, in output frames; it is on one side of every pause."""
        for cut, _ in self.cuts:
            if start < cut < end:
                start, end = (start, float(cut)) if start + end < 2 * cut else (float(cut), end)
        before = sum(count for cut, count in self.cuts if cut < end or start >= cut)
        grid = np.arange(len(self.ends))
        return float(np.interp(start, grid, self.ends)) + before, float(np.interp(end, grid, self.ends)) + before


@dataclass(frozen=True, slots=True)
class Sentence:
    """Vocoder frames of a sentence. spectra: log magnitudes and phases [bins, F] by name; f0 [F] in Hz, 0: unvoiced."""

    spectra: dict[str, np.ndarray]
    f0: np.ndarray


def deliver(
    sentence: Sentence,
    power: np.ndarray,
    words: Sequence[PlannedWord],
    spans: Sequence[tuple[float, float]],
    stressed: Sequence[float],
    levels: Sequence[str],
    starts: bool,
) -> tuple[Sentence, Clock]:
    """Edit a sentence.

    Args:
        sentence: as the network made it.
        power: mean power of every frame as synthesised, [F].
        words: how each word is to be spoken.
        spans: (begin, end) of each word, in frames.
        stressed: middle of each word's stressed vowel, in frames.
        levels: which spectra are log magnitudes; others are phases.
        starts: the first word has speech before it, in another sentence.
    """
    quiet = power < power.max() * _QUIET
    semitones = _level_curve(words, spans, len(power))
    gain_db = np.zeros(len(power))
    slow = np.ones(len(power))
    for word, (begin, end), middle in zip(words, spans, stressed, strict=True):
        if word.emph:
            inside = _plateau(begin, end, len(power))
            hump = np.clip(1 - np.abs(np.arange(len(power)) - middle) / max(12.0, (end - begin) / 2), 0, 1)
            semitones += EMPH_ST * inside + EMPH_HUMP_ST * np.sin(hump * np.pi / 2) * inside
            gain_db += EMPH_DB * inside
            slow[round(begin) : round(end)] = EMPH_STRETCH
    f0 = sentence.f0 * np.exp2(semitones / 12).astype(np.float32)
    _lift_creak(sentence, f0, semitones, power, words, spans)
    log_gain = gain_db / _NEPER_DB
    clock, at = _timing(power, quiet, words, spans, slow, log_gain, starts)
    spectra = {name: _resample(part, at, name in levels) for name, part in sentence.spectra.items()}
    gate = np.where(at < 0, _SILENT_LOG, np.interp(np.maximum(at, 0), np.arange(len(power)), log_gain))
    for name in levels:
        spectra[name] = spectra[name] + gate.astype(np.float32)
    f0 = np.where(at < 0, 0.0, _resample_f0(f0, at))
    audible = (at >= 0) & (power > power.max() * _FAINT)[np.round(np.maximum(at, 0)).astype(int)]
    _glides(f0, audible, words, [clock.move(*span) for span in spans])
    before = np.where(at < 0, 0.0, _resample_f0(sentence.f0, at))
    changed = (f0 > VOICED_HZ) & (np.abs(f0 - before) > 1e-3)
    f0[changed] = np.clip(f0[changed], *F0_RANGE_HZ)
    for frame in np.flatnonzero(changed).tolist():
        _move_harmonics(spectra, frame, before[frame], f0[frame])
    for frame in np.flatnonzero(changed & _creaks(spectra, f0)).tolist():
        _give_voice(spectra, frame, f0[frame])
    return Sentence(spectra, f0.astype(np.float32)), clock


def _creaks(spectra: dict[str, np.ndarray], f0: np.ndarray) -> np.ndarray:
    """Frames [F] of creak: low sound of free phases, which stands far above the harmonics."""
    creak = np.exp(2 * spectra["lr"])
    low, high = creak[_CREAK].sum(axis=0), creak[_HISS].sum(axis=0)
    harmonics = np.exp(2 * spectra["lh"][_CREAK]).sum(axis=0) * BIN_HZ / np.maximum(f0, VOICED_HZ)
    return (f0 > VOICED_HZ) & (low > high) & (low > 0.5 * harmonics)


def _lift_creak(
    sentence: Sentence,
    f0: np.ndarray,
    semitones: np.ndarray,
    power: np.ndarray,
    words: Sequence[PlannedWord],
    spans: Sequence[tuple[float, float]],
) -> None:
    """Where a raised word creaked, its pitch, which gets a voice now, stays near that of its other sounds; in place."""
    creak = _creaks(sentence.spectra, sentence.f0)
    modal = (sentence.f0 > VOICED_HZ) & ~creak & (power > power.max() * _FAINT)
    for word, (begin, end) in zip(words, spans, strict=True):
        inside = slice(max(round(begin), 0), round(end) + _RAMP)
        if (word.emph or word.level == LEVELS[0]) and modal[inside].any():
            usual = np.median(sentence.f0[inside][modal[inside]])
            least = usual * np.exp2(semitones[inside] / 12)
            f0[inside] = np.where(creak[inside], np.maximum(f0[inside], least), f0[inside])


def end_in_silence(sentence: Sentence, stop: int, levels: Sequence[str]) -> Sentence:
    """A sentence up to frame ``stop``, faded out, and some silence."""
    fade = np.concatenate([np.linspace(0, _FADED_LOG, _RAMP + 1)[1:], np.full(_SILENCE, _SILENT_LOG)])
    spectra = {}
    for name, part in sentence.spectra.items():
        spectra[name] = np.pad(part[:, :stop], ((0, 0), (0, _SILENCE)), mode="edge")
        if name in levels:
            spectra[name][:, -len(fade) :] += fade.astype(np.float32)
    return Sentence(spectra, np.pad(sentence.f0[:stop], (0, _SILENCE)))


def _move_harmonics(spectra: dict[str, np.ndarray], frame: int, old_hz: float, new_hz: float) -> None:
    """Give the harmonics of a new F0 the magnitudes and phases of the old ones around them, in place.

    The network answers for its spectra at the harmonics it had in mind only: between them they are anything.
    """
    magnitude, phase = spectra["lh"][:, frame], spectra["theta"][:, frame]
    old, new = old_hz / BIN_HZ, new_hz / BIN_HZ
    bins = np.arange(1, int((len(magnitude) - 2) / old) + 1)  # numbers of the old harmonics
    centres = np.round(bins * old).astype(int)
    power = sum(weight * np.exp(2 * magnitude[centres + step]) for step, weight in _LOBE)
    target = np.maximum(np.round(np.arange(len(magnitude)) / new), 1) * new / old  # in numbers of old harmonics
    moved = np.interp(target, bins, 0.5 * np.log(power + 1e-12))
    share = min(abs(12 * np.log2(new / old)) / _WHOLLY_ST, 1.0)
    spectra["lh"][:, frame] = magnitude + share * (moved - magnitude)
    if share > 0.5:
        nearest = centres[np.clip(np.round(target).astype(int), 1, len(centres)) - 1]
        spectra["theta"][:, frame] = phase[nearest]


def _give_voice(spectra: dict[str, np.ndarray], frame: int, f0_hz: float) -> None:
    """Turn creak, which this voice makes of free phases and without any F0, into harmonics, in place."""
    harmonic, free = spectra["lh"][:, frame], spectra["lr"][:, frame]
    width = f0_hz / BIN_HZ
    creak = np.exp(2 * free)
    bins = np.arange(_VOICE_BINS)
    total = np.concatenate([[0.0], np.cumsum(creak)])
    centre = np.maximum(np.round(bins / width), 1) * width + 0.5
    grid = np.arange(len(total))
    power = np.interp(centre + width / 2, grid, total) - np.interp(centre - width / 2, grid, total)
    harmonic[:_VOICE_BINS] = 0.5 * np.log(np.exp(2 * harmonic[:_VOICE_BINS]) + power / 1.5)
    free[:_VOICE_BINS] -= _LESS_CREAK
    if frame:
        spectra["theta"][:_VOICE_BINS, frame] = spectra["theta"][:_VOICE_BINS, frame - 1]


def _plateau(begin: float, end: float, size: int) -> np.ndarray:
    """1 inside [begin, end], with cosine ramps that are half outside of it."""
    index = np.arange(size)
    edge = np.minimum(index - begin, end - index) / _RAMP + 0.5
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(edge, 0, 1))


def _level_curve(words: Sequence[PlannedWord], spans: Sequence[tuple[float, float]], size: int) -> np.ndarray:
    """Semitones of ``<pitch_high>`` and ``<pitch_low>``, [size]."""
    curve = np.zeros(size)
    index = 0
    while index < len(words):
        last = index
        while last + 1 < len(words) and (words[last + 1].level, words[last + 1].phrase) == (
            words[index].level,
            words[index].phrase,
        ):
            last += 1
        if words[index].level:
            sign = 1 if words[index].level == LEVELS[0] else -1
            begin, end = spans[index][0] - _RAMP / 2, spans[last][1] + _RAMP
            curve += sign * LEVEL_ST * _plateau(begin, end, size)
        index = last + 1
    return curve


def _timing(
    power: np.ndarray,
    quiet: np.ndarray,
    words: Sequence[PlannedWord],
    spans: Sequence[tuple[float, float]],
    slow: np.ndarray,
    log_gain: np.ndarray,
    starts: bool,
) -> tuple[Clock, np.ndarray]:
    """The clock, and the source position of every output frame, -1 in a pause; fades ``log_gain`` around pauses."""
    size = len(power)
    ends = np.concatenate([[0.0], np.cumsum(slow)])
    total = int(np.ceil(ends[-1]))
    at = np.interp(np.arange(total), ends, np.arange(size + 1)).clip(0, size - 1)
    cuts: list[tuple[int, int]] = []
    for index, word in enumerate(words):
        if not word.pause or (index == 0 and not starts):
            continue
        cut = _quietest(power, spans[index - 1], spans[index]) if index else 0
        wanted = PAUSE_S[word.pause] / FRAME_S
        there = _silence_around(quiet, cut)
        cuts.append((cut, round(max(wanted - there, LEAST_INSERTED * wanted))))
        if index and not there:
            log_gain[max(cut - _RAMP, 0) : cut] += np.linspace(0, _FADED_LOG, _RAMP + 1)[1:][-cut:]
            log_gain[cut : cut + _RAMP] += np.linspace(_FADED_LOG, 0, _RAMP + 1)[:-1][: size - cut]
    for place, (_, count) in reversed(list(zip(np.searchsorted(at, [cut for cut, _ in cuts]), cuts, strict=True))):
        at = np.insert(at, place, np.full(count, -1.0))
    return Clock(ends, tuple(cuts)), at


def _quietest(power: np.ndarray, before: tuple[float, float], after: tuple[float, float]) -> int:
    """The frame between two words at which there is least sound."""
    low = round(max(before[1] - 5, sum(before) / 2))
    high = max(round(min(after[0] + 5, sum(after) / 2)), low + 1)
    return low + int(np.argmin(power[low:high]))


def _silence_around(quiet: np.ndarray, cut: int) -> int:
    """How many frames on both sides of ``cut`` are quiet without a break."""
    if not quiet[cut]:
        return 0
    before = np.flatnonzero(~quiet[:cut])
    after = np.flatnonzero(~quiet[cut:])
    return int(cut - (before[-1] + 1 if len(before) else 0) + (after[0] if len(after) else len(quiet) - cut))


def _resample(part: np.ndarray, at: np.ndarray, smooth: bool) -> np.ndarray:
    """Frames of [bins, F] at source positions [N]; between two frames where ``smooth``, else the nearest."""
    at = np.maximum(at, 0.0)
    if not smooth:
        return part[:, np.round(at).astype(int)]
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, part.shape[1] - 1), (at - low).astype(np.float32)
    return part[:, low] * (1 - share) + part[:, high] * share


def _resample_f0(f0: np.ndarray, at: np.ndarray) -> np.ndarray:
    """As :func:`_resample`, but never between a voiced and an unvoiced frame."""
    at = np.maximum(at, 0.0)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, len(f0) - 1), at - low
    nearest = f0[np.round(at).astype(int)]
    both = (f0[low] > VOICED_HZ) & (f0[high] > VOICED_HZ)
    return np.where(both, f0[low] * (1 - share) + f0[high] * share, nearest)


def _glides(
    f0: np.ndarray, audible: np.ndarray, words: Sequence[PlannedWord], spans: Sequence[tuple[float, float]]
) -> None:
    """Give the last voiced sound of phrases a straight rise or fall, in place."""
    for index, word in enumerate(words):
        if not word.glide:
            continue
        first = index
        while first and words[first - 1].phrase == word.phrase:
            first -= 1
        begin = max(round(spans[first][0]) - _RAMP, 0)
        end = min(round(spans[index][1]) + _RAMP, round(spans[index + 1][0]) if index + 1 < len(spans) else len(f0))
        voiced = begin + np.flatnonzero((f0[begin:end] > VOICED_HZ) & audible[begin:end])
        if len(voiced) < 2 * _RAMP:
            continue
        stop, size = voiced[-1], round(GLIDE_S / FRAME_S)
        start = max(voiced[0], stop - size)
        sign = 1 if word.glide == GLIDES[0] else -1
        near = voiced[np.abs(voiced - start) <= _RAMP]
        anchor = float(np.median(f0[near if len(near) else voiced]))
        anchor = min(anchor, GLIDE_FROM_HZ[1]) if sign > 0 else max(anchor, GLIDE_FROM_HZ[0])
        share = np.clip((np.arange(len(f0)) - start) / max(stop - start, 1), 0, 1)
        target = np.log2(anchor) + sign * GLIDE_ST / 12 * share
        blend = np.clip((np.arange(len(f0)) - start + 2 * _RAMP) / (2 * _RAMP), 0, 1)
        blend[end:] = 0
        blend[:begin] = 0
        on = (f0 > VOICED_HZ) & (blend > 0)
        f0[on] = np.exp2(np.log2(f0[on]) * (1 - blend[on]) + target[on] * blend[on])
