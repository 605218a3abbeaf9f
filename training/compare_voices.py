"""Whether a fine-tuned agent speaks more like the recordings than its base, on sentences it was not trained on.

``python -m training.compare_voices --lora runs/lora --json runs/voices.json --plot runs/voices.png``

The base and the fine-tuned agent say every validation text of the data set, the base without the prosody tokens it was
not taught. Beside the recordings:

- spectrum: mel-cepstral distortion along the best path (:func:`training.codec_metrics.aligned_distortion`);
- pitch: median and spread, and how far the two distributions are apart (first Wasserstein distance, in semitones);
- rate: phones a second between the first and the last sound, without pauses;
- pauses: how many in ten seconds, and how long. Silences of a quarter of a second or more count (De Jong and Bosker,
  "Choosing a threshold for silent pauses", DiSS 2013): shorter ones are mostly the closures of stops.

``codec`` is the recordings through the codec of each agent: nearer than that, no agent can come.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from scipy.stats import wasserstein_distance
from tqdm import tqdm

from agent.errors import InputError
from agent.local import say
from models.artefacts import SHIPPED
from models.checkpoint import git_commit, write_json
from models.errors import ModelError
from models.features import F0_REF_HZ, SAMPLE_RATE
from models.prosody import strip_marks
from models.runtime import Engine
from models.runtime_lora import with_adapter
from training.audio_data import read_audio
from training.codec_metrics import aligned_distortion
from training.evaluate_codec import RoundTrip, to_metric_rate
from training.lexicon import phones_of
from training.marked_transcript import parse_transcript
from training.prepare_prosody import DatasetError, read_dataset
from training.scoring import Rate, rate
from training.spoken_words import HOP_S, pitch_track, silences_s, sounds

RECORDINGS, BASE, TUNED = "recordings", "base", "fine-tuned"
PAUSE_S = 0.25


@dataclass(slots=True)
class Delivery:
    """What is measured of one voice over all sentences."""

    octaves: list[np.ndarray] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # phones a second
    pauses_s: list[float] = field(default_factory=list)
    spoken_s: float = 0.0
    distortion_db: list[float] = field(default_factory=list)

    def add(self, pcm: np.ndarray, phones: int) -> None:
        """Measure one clip, float32 [N] at 24 kHz, in which so many phones are said; nothing of a silent one."""
        octave, level = pitch_track(pcm)
        sound = np.flatnonzero(sounding := sounds(level))
        if not len(sound):
            return
        gaps = silences_s(sounding)
        pauses = gaps[gaps >= PAUSE_S - 1e-9]
        length = (sound[-1] + 1 - sound[0]) * HOP_S
        self.octaves.append(octave[np.isfinite(octave)])
        self.pauses_s += pauses.tolist()
        self.spoken_s += length
        if phones:
            self.rates.append(phones / (length - pauses.sum()))

    @property
    def hz(self) -> np.ndarray:
        """All F0 values."""
        return np.asarray(F0_REF_HZ * 2.0 ** np.concatenate(self.octaves or [np.zeros(0)]))


def summarise(voice: Delivery, true: Delivery) -> dict[str, Any]:
    """The figures of one voice, and how far they are from those of the recordings."""
    pitch, target = (12.0 * np.log2(one.hz / F0_REF_HZ) for one in (voice, true))
    figures: dict[str, Any] = {
        "f0_median_hz": float(np.median(voice.hz)) if len(pitch) else None,
        "f0_spread_st": float(np.std(pitch)) if len(pitch) else None,
        "phones_per_s": float(np.mean(voice.rates)) if voice.rates else None,
        "pauses_per_10s": 10.0 * len(voice.pauses_s) / max(voice.spoken_s, 1e-9),
        "pause_ms": 1000.0 * float(np.mean(voice.pauses_s)) if voice.pauses_s else None,
    }
    if voice is true:
        return figures
    figures["f0_distance_st"] = float(wasserstein_distance(pitch, target)) if len(pitch) and len(target) else None
    figures["mcd_db"] = rate(voice.distortion_db) if voice.distortion_db else None
    return figures


def count_phones(text: str) -> int:
    """Phones of a text, 0 where a word's are not known."""
    words = " ".join(part for word in parse_transcript(text) for part in word.spoken)
    return len(phones_of(words) or ())


def speak(engine: Engine, text: str, name: str) -> np.ndarray:
    """A text in the agent's voice.

    Raises:
        DatasetError: it cannot be spoken; the message names the item.
    """
    try:
        return say(engine, text)
    except InputError as exc:
        raise DatasetError(f"{name}: {exc}") from exc


def compare(
    items: Sequence[dict[str, Any]], voices: Mapping[str, Callable[[dict[str, Any]], np.ndarray]], save: Path | None
) -> dict[str, Delivery]:
    """Let every voice say every item, and measure it beside the recording.

    Args:
        items: of the data set.
        voices: name -> what it says for an item, float32 [N] at 24 kHz.
        save: folder for the audio; None keeps none.
    """
    measured = {name: Delivery() for name in (RECORDINGS, *voices)}
    for item in tqdm(items, desc="speaking", unit="text"):
        truth, phones = read_audio(item["audio_file"]), count_phones(item["text"])
        measured[RECORDINGS].add(truth, phones)
        for name, voice in voices.items():
            pcm = voice(item)
            measured[name].add(pcm, phones)
            distortion = aligned_distortion(to_metric_rate(truth), to_metric_rate(pcm))
            if distortion is not None:
                measured[name].distortion_db.append(distortion)
            if save is not None:
                save.mkdir(parents=True, exist_ok=True)
                sf.write(save / f"{item['id']}_{name.replace(' ', '_')}.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    return measured


def to_lines(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table: a line a figure, a column a voice."""
    labels = {
        "mcd_db": "mel-cepstral distortion, dB", "f0_distance_st": "pitch distributions apart, semitones",
        "f0_median_hz": "median pitch, Hz", "f0_spread_st": "spread of pitch, semitones",
        "phones_per_s": "phones a second", "pauses_per_10s": "pauses in 10 s", "pause_ms": "a pause, ms",
    }  # fmt: skip
    width = 4 + max(len(name) for name in figures)
    lines = [f"{'':38}" + "".join(f"{name:>{width}}" for name in figures)]
    for key, label in labels.items():
        values = [row.get(key) for row in figures.values()]
        numbers = [value.value if isinstance(value, Rate) else value for value in values]
        cells = ["-" if number is None else f"{number:.2f}" for number in numbers]
        lines.append(f"{label:38}" + "".join(f"{cell:>{width}}" for cell in cells))
    return lines


def to_json(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one voice, intervals as their numbers."""
    return {key: value.to_json() if isinstance(value, Rate) else value for key, value in figures.items()}


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Compare; writes what was asked for, and returns the figures by voice.

    Raises:
        DatasetError: the data set cannot be used.
        ArtefactError: a model cannot be used.
    """
    items = read_dataset(args.dataset)["validation"][: args.limit or None]
    if not items:
        raise DatasetError(f"{args.dataset}: holds nothing for validation")
    codec, s2s = with_adapter(args.codec, args.s2s, args.lora)
    base, tuned = Engine.load(args.codec, args.s2s), Engine.load(codec, s2s)
    trips = {f"codec of {name}": RoundTrip(path) for name, path in ((BASE, args.codec), (TUNED, codec))}
    if codec == args.codec:
        trips.popitem()
    voices: dict[str, Callable[[dict[str, Any]], np.ndarray]] = {
        BASE: lambda item: speak(base, strip_marks(item["text"]), item["id"]),
        TUNED: lambda item: speak(tuned, item["text"], item["id"]),
    }
    for name, trip in trips.items():
        voices[name] = lambda item, trip=trip: trip(read_audio(item["audio_file"]))[0]  # type: ignore[misc]
    measured = compare(items, voices, args.save)
    figures = {name: summarise(voice, measured[RECORDINGS]) for name, voice in measured.items()}
    if args.plot:
        from training.plots import plot_voices

        bars = {
            "MCD (dB)": {name: row["mcd_db"].value for name, row in figures.items() if row.get("mcd_db")},
            "phones a second": {name: row["phones_per_s"] or 0.0 for name, row in figures.items()},
            "pauses in 10 s": {name: row["pauses_per_10s"] for name, row in figures.items()},
        }
        plot_voices({name: voice.hz for name, voice in measured.items()}, bars, args.plot)
    if args.json:
        shown = {name: to_json(row) for name, row in figures.items()}
        write_json(args.json, {"commit": git_commit(), "texts": len(items), "voices": shown})
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("prosody_dataset.json"))
    parser.add_argument("--lora", type=Path, required=True, help="directory of training.train_lora")
    parser.add_argument("--codec", type=Path, default=SHIPPED / "codec", help="the base's codec")
    parser.add_argument("--s2s", type=Path, default=SHIPPED / "s2s", help="the base, exported")
    parser.add_argument("--limit", type=int, default=0, help="so many texts; 0: all")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the picture goes")
    parser.add_argument("--save", type=Path, help="folder for what was said")
    args = parser.parse_args(argv)
    try:
        print(*to_lines(evaluate(args)), sep="\n")
    except (DatasetError, ModelError) as exc:
        sys.exit(f"training.compare_voices: {exc}")


if __name__ == "__main__":
    main()
