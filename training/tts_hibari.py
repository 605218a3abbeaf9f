"""hibari: a small neural synthesiser (Apache-2.0, a voice distilled from Kokoro-82M), read inside for exact times.

``hibari:heart?speed=1.1&f0=0.8&formant=0.9``: the network predicts F0 and spectra a frame, so pitch and speaker size
can be changed before the waveform is made, without a vocoder in between. The same text always gives the same samples.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from models.prosody import PROSODY_TOKENS, PlannedWord, plan_delivery
from training.accents import Exchange, exchange_of
from training.delivery import FRAME_S, Sentence, deliver, end_in_silence
from training.phones import SILENCE
from training.tts import Segment, TtsError, Utterance, VoiceSpec, loudness_gain

_DURATIONS = "/Cast_32_output_0"  # length of every phoneme id, inside the graph of hibari-tts 0.2
_LAG_S = 0.063  # by which the durations lag behind the sound, against forced alignments of PocketSphinx (LOG.md)
_GOING_ON = "okay"  # said after a glide and cut off: at the end of all this voice creaks, without any pitch
_FLOOR = 1e-4  # of the loudest 10 ms: where a sentence begins and ends, for its last phone holds the silence after it
_SPECTRA = ("lh", "theta", "ln", "lr", "phi")
_LEVELS = ("lh", "ln", "lr")  # log magnitudes; the others are phases

_PHONES: dict[str, tuple[str, ...]] = {
    "b": ("B",), "d": ("D",), "f": ("F",), "h": ("HH",), "j": ("Y",), "k": ("K",), "l": ("L",), "m": ("M",),
    "n": ("N",), "p": ("P",), "s": ("S",), "t": ("T",), "v": ("V",), "w": ("W",), "z": ("Z",), "ɡ": ("G",),
    "g": ("G",), "ŋ": ("NG",), "ɹ": ("R",), "r": ("R",), "ʃ": ("SH",), "ʒ": ("ZH",), "ð": ("DH",), "θ": ("TH",),
    "ʤ": ("JH",), "ʧ": ("CH",), "T": ("T",), "ɾ": ("T",), "ʔ": ("T",), "x": ("K",),
    "ə": ("AH",), "ɐ": ("AH",), "ᵊ": ("AH",), "ʌ": ("AH",), "a": ("AE",), "æ": ("AE",), "ɑ": ("AA",), "ɒ": ("AA",),
    "ɔ": ("AO",), "ɛ": ("EH",), "ɜ": ("ER",), "ɪ": ("IH",), "ᵻ": ("IH",), "i": ("IY",), "u": ("UW",), "ʊ": ("UH",),
    "A": ("EY",), "I": ("AY",), "W": ("AW",), "Y": ("OY",), "O": ("OW",), "Q": ("OW",),
}  # fmt: skip
_SPELT = {  # what may take a sound's place; "ɜɹ" is one sound in two symbols, and stays
    name: symbol for symbol, (name,) in _PHONES.items() if symbol not in "ɡrTɾʔxəɐᵊaɒᵻQɜ"
}
_PAUSES = frozenset('.,!?;:—…"()“”')


@functools.lru_cache(maxsize=1)
def _load() -> tuple[Any, Any]:
    """The synthesiser, and its network with the durations as one more output."""
    try:
        import hibari
        import onnx
        import onnxruntime as ort
    except ImportError as error:
        raise TtsError(f"hibari is missing: pip install hibari-tts onnx ({error})") from error
    model = onnx.load(os.path.join(os.path.dirname(hibari.__file__), "assets", "hibari.onnx"))
    if not any(_DURATIONS in node.output for node in model.graph.node):
        raise TtsError("hibari: its network has no durations where version 0.2 has them")
    model.graph.output.append(onnx.helper.make_tensor_value_info(_DURATIONS, onnx.TensorProto.INT64, None))
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return hibari.Hibari(threads=1), session


def warp(spectrum: np.ndarray, factor: float, nearest: bool) -> np.ndarray:
    """Stretch [bins, frames] along frequency: ``factor`` > 1 moves formants up, a smaller speaker."""
    bins = len(spectrum)
    at = np.minimum(np.arange(bins) / factor, bins - 1.0)
    low = np.floor(at).astype(int)
    if nearest:
        return spectrum[np.round(at).astype(int)]
    high, share = np.minimum(low + 1, bins - 1), (at - low)[:, None].astype(np.float32)
    return spectrum[low] * (1 - share) + spectrum[high] * share


def fit_edges(edges: np.ndarray, pcm: np.ndarray) -> np.ndarray:
    """Move the first and last of a sentence's inner edges [ids + 1], in seconds, to where its sound begins and ends."""
    power = np.square(pcm[: len(pcm) // 240 * 240]).reshape(-1, 240).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * _FLOOR)
    fitted = np.clip(edges, loud[0] * 0.01, (loud[-1] + 1) * 0.01)
    fitted[0], fitted[-1] = edges[0], edges[-1]
    fitted[1], fitted[-2] = loud[0] * 0.01, (loud[-1] + 1) * 0.01
    return fitted


def synthesise_raw(text: str, spec: VoiceSpec) -> Utterance:
    """Speaks with ``hibari:heart``; options ``speed``, ``f0`` and ``formant`` are factors. Prosody tokens are obeyed.

    Its ``accent``: see :mod:`training.accents`.

    Raises:
        TtsError: the package is missing, the voice or the accent is unknown, or the text has no sound.
    """
    spec.only("speed", "f0", "formant", "accent")
    if spec.voice != "heart":
        raise TtsError(f"hibari has no voice {spec.voice!r}: known is heart")
    accent = exchange_of(spec)
    if beyond := sorted(accent.keys() - _SPELT.keys()):
        raise TtsError(f"hibari cannot exchange {beyond[0]}: its accent must leave that out")
    voice = _Voice(
        spec.number("speed", 1.0, 0.5, 2.0), spec.number("f0", 1.0, 0.4, 1.6), spec.number("formant", 1.0, 0.7, 1.3),
        accent,
    )  # fmt: skip
    planned = plan_delivery(text) if any(token in text for token in PROSODY_TOKENS) else []
    plain: list[Utterance] = []  # of every sentence
    said: list[Utterance] = []  # the same as the tokens want it
    done = 0
    for sentence in voice.tts.split_sentences(" ".join(word.text for word in planned) or text):
        tokens = sentence.split()
        plans, done = planned[done : done + len(tokens)], done + len(tokens)
        symbols = voice.symbols(sentence)
        if not symbols:
            continue
        made, edges = voice.predict(symbols)
        plain.append(_utter(made, edges, symbols, tokens))
        if plain[-1].words and any(word.emph or word.pause or word.level or word.glide for word in plans):
            base = plain[-1]
            if plans[-1].glide:
                made, edges = voice.predict_unfinished(symbols, edges)
                base = _utter(made, edges, symbols, tokens)
            said.append(_deliver(made, base, plans, _stressed(symbols, edges), len(plain) > 1))
        else:
            said.append(plain[-1])
    if not said:
        raise TtsError(f"hibari found nothing to say in {text!r}")
    whole = _join(said)
    return replace(whole, gain=loudness_gain(_join(plain))) if planned else whole


class _Voice:
    """The network with its options: factors of speed, F0 and speaker size, and the sounds that are exchanged."""

    def __init__(self, speed: float, pitch: float, size: float, accent: Exchange) -> None:
        self._speed, self._pitch, self._size = speed, pitch, size
        self._exchanged = {_SPELT[old]: [_SPELT[phone] for phone in new] for old, new in accent.items()}
        self.tts, self._session = _load()

    def symbols(self, text: str) -> list[str]:
        """The phonemes and marks of a text that the network knows."""
        known = (symbol for symbol in self.tts.g2p(text) if symbol in self.tts.vocab)
        return [said for symbol in known for said in self._exchanged.get(symbol, [symbol])]

    def predict(self, symbols: list[str], pace: float = 1.0) -> tuple[Sentence, np.ndarray]:
        """Vocoder frames of phonemes, and the edges [ids + 1] between them in seconds; ``pace`` is one more factor."""
        ids = np.array([[0, *(self.tts.vocab[symbol] for symbol in symbols), 0]], np.int64)
        speed = np.array([self._speed * pace], np.float32)
        *spectra, f0, frames = self._session.run([*_SPECTRA, "f0", _DURATIONS], {"ids": ids, "speed": speed})
        parts = {name: part[0] for name, part in zip(_SPECTRA, spectra, strict=True)}
        if self._size != 1.0:
            parts = {name: warp(part, self._size, name in ("lr", "phi")) for name, part in parts.items()}
        edges = np.concatenate([[0], np.cumsum(frames.reshape(-1))])
        edges = edges * (f0.shape[1] * FRAME_S / edges[-1])
        edges[1:-1] = np.clip(edges[1:-1] - _LAG_S, 0.0, None)
        return Sentence(parts, f0[0] * np.float32(self._pitch)), edges

    def predict_unfinished(self, symbols: list[str], edges: np.ndarray) -> tuple[Sentence, np.ndarray]:
        """The same sentence in about the same time, its end spoken as if more were to come; drops its final marks.

        Args:
            symbols: phonemes; marks at the end are removed from it.
            edges: of the finished sentence.
        """
        while symbols[-1] in _PAUSES and len(symbols) > 1:
            symbols.pop()
        longer = [*symbols, ",", " ", *self.symbols(_GOING_ON)]
        last = len(symbols) + 1
        hurried = self.predict(longer)[1]
        pace = (hurried[last] - hurried[1]) / (edges[last] - edges[1])
        return _cut(*self.predict(longer, float(np.clip(pace, 0.8, 1.25))), len(symbols))


def _utter(made: Sentence, edges: np.ndarray, symbols: list[str], tokens: list[str]) -> Utterance:
    """The sound of a sentence with its words and phones."""
    pcm = _synth(made)
    phones, spans = _segments(symbols, fit_edges(edges, pcm))
    return Utterance(pcm, tuple(_words(tokens, spans)), tuple(phones))


def _cut(made: Sentence, edges: np.ndarray, count: int) -> tuple[Sentence, np.ndarray]:
    """The first ``count`` phonemes of a sentence, up to the quietest place in the gap behind them."""
    power = np.square(_synth(made)).reshape(len(made.f0), -1).mean(axis=1)
    low, high = (round(edges[count + 1 + more] / FRAME_S) for more in (0, 2))
    stop = low + int(np.argmin(power[low : max(high, low + 1)]))
    ended = end_in_silence(made, stop, _LEVELS)
    return ended, np.array([*np.minimum(edges[: count + 2], stop * FRAME_S), len(ended.f0) * FRAME_S])


def _join(parts: list[Utterance]) -> Utterance:
    """Utterances one after the other."""
    starts = np.cumsum([0.0, *(part.duration_s for part in parts)])

    def shifted(segments: Iterable[tuple[Segment, ...]]) -> tuple[Segment, ...]:
        pairs = zip(starts, segments, strict=False)
        return tuple((name, float(at + start), float(at + end)) for at, some in pairs for name, start, end in some)

    pcm = np.concatenate([part.pcm for part in parts])
    return Utterance(pcm, shifted(part.words for part in parts), shifted(part.phones for part in parts))


def _synth(sentence: Sentence) -> np.ndarray:
    from hibari import dsp

    parts = (sentence.spectra[name] for name in _SPECTRA)
    pcm: np.ndarray = dsp.synth(*parts, sentence.f0, np.random.default_rng(0))
    return pcm


def _deliver(
    made: Sentence, plain: Utterance, plans: list[PlannedWord], stressed: list[float], follows: bool
) -> Utterance:
    """A sentence spoken as its tokens say; ``stressed`` are the middles of stressed vowels in seconds."""
    power = np.square(plain.pcm).reshape(len(made.f0), -1).mean(axis=1)
    spans = [(start / FRAME_S, end / FRAME_S) for _, start, end in plain.words]
    middles = [
        next((at / FRAME_S for at in stressed if start <= at < end), (start + end) / 2 / FRAME_S)
        for _, start, end in plain.words
    ]
    edited, clock = deliver(made, power, plans, spans, middles, _LEVELS, follows)

    def move(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        moved = ((name, clock.move(start / FRAME_S, end / FRAME_S)) for name, start, end in segments)
        return tuple((name, start * FRAME_S, end * FRAME_S) for name, (start, end) in moved)

    return Utterance(_synth(edited), move(plain.words), move(plain.phones))


def _stressed(symbols: list[str], edges: np.ndarray) -> list[float]:
    """Middles of the vowels with primary stress, in seconds."""
    return [
        float(edges[index + 2] + edges[index + 3]) / 2 for index, symbol in enumerate(symbols[:-1]) if symbol == "ˈ"
    ]


def _segments(symbols: list[str], edges: np.ndarray) -> tuple[list[Segment], list[tuple[float, float]]]:
    """Phones, and (start, end) of every word; marks belong to the phone that follows, word gaps to the one before."""
    phones: list[Segment] = [(SILENCE, float(edges[0]), float(edges[1]))]
    spans: list[tuple[float, float]] = []
    inside = False
    start: float | None = None  # where a mark before the phone began
    for index, symbol in enumerate(symbols):
        begin, end = float(edges[index + 1]), float(edges[index + 2])
        names = _PHONES.get(symbol)
        if names is not None:
            begin = begin if start is None else start
            phones += [(names[0], begin, end)]
            spans[-1:] = [(spans[-1][0], end)] if inside else [*spans[-1:], (begin, end)]
            inside, start = True, None
        elif symbol in "ˈˌ":
            start = begin if start is None else start
        elif symbol in _PAUSES:
            phones.append((SILENCE, begin, end))
        else:  # a gap between words, a length mark
            name, first, _ = phones[-1]
            phones[-1] = (name, first, end)
            inside = inside and symbol != " "
    phones.append((SILENCE, float(edges[-2]), float(edges[-1])))
    return phones, spans


def _words(tokens: list[str], spans: list[tuple[float, float]]) -> list[Segment]:
    """Text tokens with the times of the spoken words; where their numbers differ, spread in proportion."""
    if not spans:
        return []
    if len(tokens) == len(spans):
        return [(token, *span) for token, span in zip(tokens, spans, strict=True)]
    points = np.linspace(0, len(spans), len(tokens) + 1)
    edges = np.interp(points, np.arange(len(spans) + 1), [*(span[0] for span in spans), spans[-1][1]])
    return [(token, float(edges[i]), float(edges[i + 1])) for i, token in enumerate(tokens)]
