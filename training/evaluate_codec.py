"""How well a codec carries voices it was not trained on, beside Opus and Codec2 on the same clips.

    python -m training.evaluate_codec --codec runs/codec --data DIR --data agent=CONVERSATIONS --json runs/codec.json

- What a data set may be and which of its clips are taken: :mod:`training.held_out`. ``--voices`` takes all clips.
- Clips go whole through encoder, codes and decoder in torch; what :mod:`training.codec_metrics` measures, it measures
  at 16 kHz.
- The codec's bit rate is that of the codes its decoder needs. Baselines are shifted by their own fixed delay.
- Figures are means over clips with 95 % bootstrap intervals. Code usage grows with the frames measured, up to its size.
- ``--words``: errors of PocketSphinx with its own language model. It errs much on the originals; the difference counts.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pocketsphinx
import soxr
import torch
from tqdm import tqdm

from models import synthesis
from models.checkpoint import git_commit, load_weights, read_dataclass, write_json
from models.codec import AcousticEncoder, CodecConfig, Decoder
from models.errors import ModelError
from models.features import FRAME_RATE_HZ, FRAME_SIZE, HOP, SAMPLE_RATE, analyse, new_history
from training.codec_baselines import BASELINES, BaselineError
from training.codec_metrics import METRICS, RATE_HZ, advance, common_delay, opinions, perplexity
from training.encoders import WARM_FRAMES
from training.held_out import SampleSet, find_samples
from training.intelligibility import hear, spoken_words
from training.scoring import Rate, rate, word_errors

ORIGINAL, OURS = "original", "codec"
LABELS = {"kbps": "kbit/s", **{name: metric.label for name, metric in METRICS.items()}} | {
    "dnsmos": "DNSMOS P.808",
    "words": "word errors",
    "more_words": "  more than on the original",
}


class RoundTrip:
    """A codec directory's acoustic encoder and decoder, for whole clips.

    Raises:
        ArtefactError: a part is missing or does not fit.
    """

    def __init__(self, codec: Path) -> None:
        torch.set_num_threads(1)
        self.config = read_dataclass(codec, "repartee-codec", CodecConfig, "acoustic")
        self._encoder, self._decoder = AcousticEncoder(self.config).eval(), Decoder(self.config).eval()
        load_weights(self._encoder, codec, "acoustic")
        load_weights(self._decoder, codec, "decoder")

    @property
    def sizes(self) -> list[int]:
        """How many values each code has, prosody first."""
        return self._decoder.fsq.sizes

    @property
    def bits_per_s(self) -> float:
        """Bits a second of the codes that the decoder needs."""
        return float(FRAME_RATE_HZ * np.log2(self.sizes).sum())

    @torch.inference_mode()
    def __call__(self, pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """24 kHz float32 [N], after silence -> decoded [N] in step with the input, codes int64 [frames, groups]."""
        whole = np.pad(pcm, (WARM_FRAMES * FRAME_SIZE, FRAME_SIZE + -len(pcm) % FRAME_SIZE))  # the decoder lags a hop
        features = analyse(whole, new_history())
        mel, pitch = torch.from_numpy(features.mel64)[None], torch.from_numpy(features.pitch)[None]
        codes, _ = self._encoder(mel, pitch, self._encoder.init_state(1))
        out, _ = self._decoder(codes, self._decoder.init_state(1))
        harmonic, noise = (part[0].numpy() for part in out.responses())
        octave, voicing = out.octave[0].numpy(), out.voicing[0].numpy()
        audio = synthesis.synthesise(octave, voicing, harmonic, noise, synthesis.new_synthesis_state())
        decoded = advance(np.clip(audio, -1.0, 1.0), WARM_FRAMES * FRAME_SIZE + HOP, len(pcm))
        return decoded, codes[0, WARM_FRAMES:-1].numpy()


@dataclass(frozen=True, slots=True)
class Decoded:
    """All clips of a set after one codec: audio 24 kHz float32 [N] each, in step with the originals; bits of each."""

    clips: list[np.ndarray]
    bits: list[float]
    delay_ms: float = 0.0


def to_metric_rate(pcm: np.ndarray) -> np.ndarray:
    """24 kHz -> 16 kHz, float32."""
    return np.asarray(soxr.resample(pcm, SAMPLE_RATE, RATE_HZ), np.float32)


def through_baseline(name: str, originals: Sequence[np.ndarray]) -> Decoded:
    """Clips after one of the baselines, without its delay.

    Raises:
        BaselineError: its program failed.
    """
    made = [BASELINES[name].round_trip(pcm) for pcm in originals]
    delay_s = common_delay([to_metric_rate(pcm) for pcm in originals], [to_metric_rate(pcm) for pcm, _ in made])
    delay = round(delay_s * SAMPLE_RATE)
    clips = [advance(pcm, delay, len(true)) for true, (pcm, _) in zip(originals, made, strict=True)]
    return Decoded(clips, [float(bits) for _, bits in made], 1000.0 * delay_s)


def code_usage(codes: np.ndarray, sizes: Sequence[int]) -> dict[str, Any]:
    """Perplexity of each code over frames [N, groups], its size, and their ratio."""
    used = [perplexity(column) for column in codes.T]
    rows = [
        {"size": size, "perplexity": round(value, 1), "share": round(value / size, 4)}
        for value, size in zip(used, sizes, strict=True)
    ]
    return {"frames": len(codes), "codes": rows}


class Listeners:
    """What judges a clip without its original: a recogniser and DNSMOS, each only when asked for."""

    def __init__(self, words: bool, dnsmos: bool) -> None:
        self._decoder = pocketsphinx.Decoder(samprate=float(RATE_HZ), loglevel="FATAL") if words else None
        self._dnsmos = dnsmos

    def judge(self, clips: Sequence[np.ndarray], texts: Sequence[str | None]) -> dict[str, list[float | None]]:
        """Per clip at 16 kHz: DNSMOS, and word errors where the text is known."""
        judged: dict[str, list[float | None]] = {}
        if self._dnsmos:
            judged["dnsmos"] = [opinions(pcm)["p808"] for pcm in clips]
        if self._decoder is not None and any(texts):
            judged["words"] = [
                word_errors(spoken_words(text), hear(self._decoder, pcm)) if text else None
                for pcm, text in zip(clips, texts, strict=True)
            ]
        return judged


def summarise(scores: dict[str, list[float | None]], words: Sequence[int]) -> dict[str, Rate]:
    """Mean of each measure over the clips it is known for; word errors per word."""
    rates = {}
    for name, values in scores.items():
        known = [(value, count) for value, count in zip(values, words, strict=True) if value is not None]
        if known:
            counts = [count for _, count in known] if name in ("words", "more_words") else None
            rates[name] = rate([value for value, _ in known], counts)
    return rates


def more(made: Sequence[float | None], true: Sequence[float | None]) -> list[float | None]:
    """By how much scores of decoded clips are above those of the originals, where both are known."""
    return [None if a is None or b is None else a - b for a, b in zip(made, true, strict=True)]


def measure_set(chosen: SampleSet, trip: RoundTrip, listeners: Listeners) -> dict[str, Any]:
    """Every codec on one data set: ``rows`` of rates by codec, scores of each clip, code usage.

    Raises:
        BaselineError: a baseline's program failed.
    """
    originals = [sample.pcm for sample in chosen.samples]
    texts = [sample.text for sample in chosen.samples]
    ours = [trip(pcm) for pcm in originals]
    made = {OURS: Decoded([pcm for pcm, _ in ours], [trip.bits_per_s * len(pcm) / SAMPLE_RATE for pcm in originals])}
    present = [name for name, baseline in BASELINES.items() if not baseline.missing]
    made |= {name: through_baseline(name, originals) for name in present}
    true = [to_metric_rate(pcm) for pcm in originals]
    counts = [len(spoken_words(text or "")) for text in texts]
    scores = {ORIGINAL: listeners.judge(true, texts)}
    metrics = {name: metric for name, metric in METRICS.items() if metric.available}
    for name, decoded in tqdm(made.items(), desc=chosen.name, unit="codec", disable=None):
        clips = [to_metric_rate(pcm) for pcm in decoded.clips]
        row: dict[str, list[float | None]] = {
            key: [metric.measure(*pair) for pair in zip(true, clips, strict=True)] for key, metric in metrics.items()
        }
        row |= listeners.judge(clips, texts)
        if "words" in row:
            row["more_words"] = more(row["words"], scores[ORIGINAL]["words"])
        scores[name] = row
    seconds = [len(pcm) / SAMPLE_RATE for pcm in originals]
    rows = {name: summarise(row, counts) for name, row in scores.items()}
    for name, decoded in made.items():
        rows[name]["kbps"] = rate([bits / 1000.0 for bits in decoded.bits], seconds)
    return {
        "chosen": chosen.chosen,
        "seconds": round(sum(seconds), 1),
        "rows": rows,
        "delay_ms": {name: round(decoded.delay_ms, 2) for name, decoded in made.items()},
        "usage": code_usage(np.concatenate([codes for _, codes in ours]), trip.sizes),
        "clips": {"name": [sample.name for sample in chosen.samples], **scores},
    }


def _cell(figure: Rate | None) -> str:
    if figure is None:
        return "-"
    places = 3 if abs(figure.value) < 2 else 2 if abs(figure.value) < 10 else 1
    return f"{figure.value:.{places}f} [{figure.low:.{places}f}, {figure.high:.{places}f}]"


def to_lines(name: str, result: dict[str, Any]) -> list[str]:
    """A table for people: a line a measure, a column a codec."""
    rows: dict[str, dict[str, Rate]] = result["rows"]
    lines = [f"== {name}: {len(result['clips']['name'])} clips, {result['seconds']:.0f} s ({result['chosen']})"]
    lines.append(f"{'mean [95 % interval]':28s}" + "".join(f"{row:>22s}" for row in rows))
    for key, label in LABELS.items():
        cells = [_cell(row.get(key)) for row in rows.values()]
        if set(cells) != {"-"}:
            lines.append(f"{label:28s}" + "".join(f"{cell:>22s}" for cell in cells))
    usage = result["usage"]
    used = ", ".join(f"{code['perplexity']:.0f} of {code['size']}" for code in usage["codes"])
    return [*lines, f"perplexity of the codes over {usage['frames']} frames: {used}"]


def left_out() -> list[str]:
    """What is not installed here and so not in the tables, and how to get it."""
    notes = [
        f"{name} is left out: {', '.join(baseline.missing)} not found (Debian package {baseline.package})"
        for name, baseline in BASELINES.items()
        if baseline.missing
    ]
    return notes + [
        f"{metric.label} is left out: {metric.package} is not installed (pip install -e '.[measure]')"
        for metric in METRICS.values()
        if not metric.available
    ]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, required=True, help="codec directory with weights")
    parser.add_argument("--data", action="append", default=[], metavar="[NAME=]PATH", help="held-out clips, repeatable")
    parser.add_argument(
        "--voices", action="append", default=[], metavar="[NAME=]DIR", help="NAME.wav with NAME.txt, all of them"
    )
    parser.add_argument("--limit", type=int, default=12, metavar="N", help="clips of each data set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and every clip here")
    parser.add_argument("--words", action="store_true", help="count an independent recogniser's word errors too (slow)")
    parser.add_argument("--dnsmos", action="store_true", help="predict opinions too; needs the package speechmos")
    args = parser.parse_args(argv)
    if args.limit < 1:
        parser.error("--limit must be at least 1")
    if not args.data and not args.voices:
        parser.error("nothing to measure: give --data or --voices")
    return args


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measures every data set, prints its table, and returns the report by name of the set.

    Raises:
        ArtefactError: the codec cannot be read.
        BaselineError: a baseline's program failed.
        ImportError: DNSMOS was asked for and is not installed.
        ValueError: a data set cannot be used, or two have the same name.
    """
    trip, listeners = RoundTrip(args.codec), Listeners(args.words, args.dnsmos)
    asked = [(where, args.codec) for where in args.data] + [(where, None) for where in args.voices]
    sets: dict[str, Any] = {}
    for where, codec in asked:
        chosen = find_samples(where, args.limit, codec)
        if chosen.name in sets:
            raise ValueError(f"{where}: there is a data set {chosen.name} already; name it with NAME=PATH")
        sets[chosen.name] = measure_set(chosen, trip, listeners)
        print("\n".join([*to_lines(chosen.name, sets[chosen.name]), ""]), flush=True)
    return sets


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    notes = left_out()
    try:
        sets = evaluate(args)
    except (ModelError, BaselineError, ValueError, ImportError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print("\n".join(notes))
    if args.json:
        for result in sets.values():
            result["rows"] = {
                name: {key: value.to_json() for key, value in row.items()} for name, row in result["rows"].items()
            }
        command = " ".join(["python -m training.evaluate_codec", *(sys.argv[1:] if argv is None else argv)])
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, {"command": command, "commit": git_commit(), "left_out": notes, "sets": sets})
    return 0


if __name__ == "__main__":
    sys.exit(main())
