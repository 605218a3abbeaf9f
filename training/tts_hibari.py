"""hibari: a small neural synthesiser (Apache-2.0, a voice distilled from Kokoro-82M), read inside for exact times.

``hibari:heart?speed=1.1&f0=0.8&formant=0.9``: the network predicts F0 and spectra a frame, so pitch and speaker size
can be changed before the waveform is made, without a vocoder in between. The same text always gives the same samples.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from training.phones import SILENCE
from training.tts import Segment, TtsError, Utterance, VoiceSpec

_DURATIONS = "/Cast_32_output_0"  # length of every phoneme id, inside the graph of hibari-tts 0.2
_LAG_S = 0.063  # by which the durations lag behind the sound, against forced alignments of PocketSphinx (LOG.md)
_FLOOR = 1e-4  # of the loudest 10 ms: where a sentence begins and ends, for its last phone holds the silence after it
_SPECTRA = ("lh", "theta", "ln", "lr", "phi")

_PHONES: dict[str, tuple[str, ...]] = {
    "b": ("B",), "d": ("D",), "f": ("F",), "h": ("HH",), "j": ("Y",), "k": ("K",), "l": ("L",), "m": ("M",),
    "n": ("N",), "p": ("P",), "s": ("S",), "t": ("T",), "v": ("V",), "w": ("W",), "z": ("Z",), "ɡ": ("G",),
    "g": ("G",), "ŋ": ("NG",), "ɹ": ("R",), "r": ("R",), "ʃ": ("SH",), "ʒ": ("ZH",), "ð": ("DH",), "θ": ("TH",),
    "ʤ": ("JH",), "ʧ": ("CH",), "T": ("T",), "ɾ": ("T",), "ʔ": ("T",), "x": ("K",),
    "ə": ("AH",), "ɐ": ("AH",), "ᵊ": ("AH",), "ʌ": ("AH",), "a": ("AE",), "æ": ("AE",), "ɑ": ("AA",), "ɒ": ("AA",),
    "ɔ": ("AO",), "ɛ": ("EH",), "ɜ": ("ER",), "ɪ": ("IH",), "ᵻ": ("IH",), "i": ("IY",), "u": ("UW",), "ʊ": ("UH",),
    "A": ("EY",), "I": ("AY",), "W": ("AW",), "Y": ("OY",), "O": ("OW",), "Q": ("OW",),
}  # fmt: skip
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
    """Speaks with ``hibari:heart``; options ``speed``, ``f0`` and ``formant`` are factors.

    Raises:
        TtsError: the package is missing, the voice is unknown, or the text has no sound.
    """
    spec.only("speed", "f0", "formant")
    if spec.voice != "heart":
        raise TtsError(f"hibari has no voice {spec.voice!r}: known is heart")
    speed = spec.number("speed", 1.0, 0.5, 2.0)
    pitch, size = spec.number("f0", 1.0, 0.4, 1.6), spec.number("formant", 1.0, 0.7, 1.3)
    tts, session = _load()
    from hibari import dsp

    names = [*_SPECTRA, "f0", _DURATIONS]
    pcm: list[np.ndarray] = []
    words: list[Segment] = []
    phones: list[Segment] = []
    now = 0.0
    for sentence in tts.split_sentences(text):
        spoken = tts.g2p(sentence)
        symbols = [symbol for symbol in spoken if symbol in tts.vocab]
        if not symbols:
            continue
        ids = np.array([[0, *(tts.vocab[symbol] for symbol in symbols), 0]], np.int64)
        *spectra, f0, frames = session.run(names, {"ids": ids, "speed": np.array([speed], np.float32)})
        if size != 1.0:
            spectra = [
                warp(part[0], size, name in ("lr", "phi"))[None] for name, part in zip(_SPECTRA, spectra, strict=True)
            ]
        lh, theta, ln, lr, phi = (part[0] for part in spectra)
        pcm.append(dsp.synth(lh, theta, ln, lr, phi, f0[0] * np.float32(pitch), np.random.default_rng(0)))
        edges = np.concatenate([[0], np.cumsum(frames.reshape(-1))])
        edges = edges * (len(pcm[-1]) / 24000 / edges[-1])
        edges[1:-1] = np.clip(edges[1:-1] - _LAG_S, 0.0, None)
        edges = now + fit_edges(edges, pcm[-1])
        heard, spans = _segments(symbols, edges)
        phones += heard
        words += _words(sentence.split(), spans)
        now += len(pcm[-1]) / 24000
    if not pcm:
        raise TtsError(f"hibari found nothing to say in {text!r}")
    return Utterance(np.concatenate(pcm), tuple(words), tuple(phones))


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
