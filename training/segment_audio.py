"""Cut a long recording into short segments to learn a voice from.

``python -m training.segment_audio recording.wav``

- The level of every 100 ms is measured; levels count from a recording whose loud speech is at -15 dBFS.
- What is quieter than -35 dB is a pause. The recording is cut at pauses of more than 0.8 s, and the silence is left
  out but for a short margin.
- A stretch that is longer than a segment may be is divided at its quietest places, into pieces of 3 to 5 s where that
  is possible (a shortest path over all places to cut).
- Files are read in blocks, so their length does not matter. ``segments/segment_001.wav ...`` are 24 kHz mono, 16 bit,
  at one loudness; ``segments/manifest.json`` is written last. A run that was stopped goes on where it was.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr

from models.checkpoint import write_json
from models.features import SAMPLE_RATE

MANIFEST = "manifest.json"
PLAN = "plan.json"
LOUD_DB = -15.0  # where loud speech (LOUD_SHARE of the blocks are softer) is brought to
LOUD_SHARE = 0.98
PEAK = 0.95
NOTHING_DB = -65.0  # a recording whose loud blocks are below this holds no speech
FLOOR_DB = -100.0
READ_BLOCKS = 600  # of audio held in memory while levels are measured
SHORT_COST = 20.0  # dB that a cut may be louder to avoid a piece that is one second too short


class SegmentError(ValueError):
    """The recording cannot be cut; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """How to cut. Times in seconds, level in dB (see the module's docstring)."""

    block_s: float = 0.1
    threshold_db: float = -35.0
    pause_s: float = 0.8
    min_s: float = 3.0
    max_s: float = 5.0
    margin_s: float = 0.1
    shortest_s: float = 0.3

    def __post_init__(self) -> None:
        for name in ("block_s", "pause_s", "min_s", "max_s", "shortest_s"):
            if not getattr(self, name) > 0:
                raise SegmentError(f"{name} must be above 0, got {getattr(self, name):g}")
        if self.margin_s < 0:
            raise SegmentError(f"margin_s must not be negative, got {self.margin_s:g}")
        if self.min_s > self.max_s:
            raise SegmentError(f"min_s ({self.min_s:g}) must not be above max_s ({self.max_s:g})")
        if self.max_s < 2 * self.block_s:
            raise SegmentError(f"max_s ({self.max_s:g}) must be at least two blocks ({2 * self.block_s:g})")


@dataclass(frozen=True, slots=True)
class Levels:
    """A measured recording: level of every block in dB after ``gain``, its rate and length in samples."""

    db: np.ndarray
    gain: float
    rate: int
    frames: int


def measure(path: Path, block_s: float) -> Levels:
    """Measure the level of every block, reading the file piece by piece.

    Raises:
        SegmentError: not readable as audio, empty, or silent.
    """
    try:
        with sf.SoundFile(path) as file:
            size, rate = max(round(block_s * file.samplerate), 1), file.samplerate
            powers, peak, frames = [], 0.0, 0
            for piece in file.blocks(size * READ_BLOCKS, dtype="float32", always_2d=True):
                mono = np.nan_to_num(piece.mean(axis=1), posinf=0.0, neginf=0.0)
                frames += len(mono)
                peak = max(peak, float(np.abs(mono).max(initial=0.0)))
                starts = np.arange(0, len(mono), size)
                powers.append(np.add.reduceat(mono.astype(np.float64) ** 2, starts) / np.diff([*starts, len(mono)]))
    except (sf.LibsndfileError, OSError) as exc:
        raise SegmentError(f"{path}: cannot be read as audio ({exc})") from exc
    if not frames:
        raise SegmentError(f"{path}: holds no audio")
    db = 10.0 * np.log10(np.maximum(np.concatenate(powers), 10.0 ** (FLOOR_DB / 10.0)))
    loud = float(np.quantile(db, LOUD_SHARE, method="higher"))
    if loud < NOTHING_DB:
        raise SegmentError(f"{path}: holds no speech: the loudest {1 - LOUD_SHARE:.0%} of it is at {loud:.0f} dBFS")
    gain = min(10.0 ** ((LOUD_DB - loud) / 20.0), PEAK / max(peak, 1e-9))
    return Levels(db - loud + LOUD_DB, gain, rate, frames)


def find_stretches(db: np.ndarray, settings: SegmentSettings) -> list[tuple[int, int]]:
    """First block and end of everything between pauses that are long enough to cut at."""
    loud = np.flatnonzero(db >= settings.threshold_db)
    if not len(loud):
        return []
    gaps = np.flatnonzero(np.diff(loud) - 1 > settings.pause_s / settings.block_s + 1e-9)
    starts = [loud[0], *loud[gaps + 1]]
    ends = [*loud[gaps] + 1, loud[-1] + 1]
    return [(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def divide(db: np.ndarray, settings: SegmentSettings) -> list[tuple[int, int]]:
    """Cut one stretch into pieces no longer than ``max_s`` where the cuts are quietest.

    The cheapest way over all cuts: a cut costs its level above the quietest block, a piece below ``min_s`` SHORT_COST a
    missing second.

    Args:
        db: level of every block of the stretch, [T].
        settings: lengths.
    """
    most = max(int(settings.max_s / settings.block_s + 1e-9), 1)
    least = settings.min_s / settings.block_s
    total = len(db)
    if total <= most:
        return [(0, total)]
    loudness = np.minimum(db[:-1], db[1:]) - db.min()  # of a cut between two blocks
    best = np.full(total + 1, np.inf)
    best[0], came = 0.0, np.zeros(total + 1, int)
    for end in range(1, total + 1):
        starts = np.arange(max(end - most, 0), end)
        missing = np.maximum(least - (end - starts), 0.0) * settings.block_s
        costs = best[starts] + SHORT_COST * missing
        pick = int(np.argmin(costs))
        best[end] = costs[pick] + (loudness[end - 1] if end < total else 0.0)
        came[end] = starts[pick]
    pieces, end = [], total
    while end:
        pieces.append((int(came[end]), end))
        end = int(came[end])
    return pieces[::-1]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the recording, seconds from its beginning, margins included; ``cut`` if it ends without a pause."""

    start_s: float
    end_s: float
    cut: bool


def plan(levels: Levels, settings: SegmentSettings) -> list[Segment]:
    """Where the recording is cut; what is shorter than ``shortest_s`` is left out."""
    length_s = levels.frames / levels.rate
    found: list[Segment] = []
    for begin, end in find_stretches(levels.db, settings):
        pieces = divide(levels.db[begin:end], settings)
        for index, (first, last) in enumerate(pieces):
            inner = index + 1 < len(pieces)
            if not inner and not index and (last - first) * settings.block_s < settings.shortest_s - 1e-9:
                continue
            start_s = (begin + first) * settings.block_s - (0.0 if index else settings.margin_s)
            end_s = (begin + last) * settings.block_s + (0.0 if inner else settings.margin_s)
            found.append(Segment(round(max(start_s, 0.0), 4), round(min(end_s, length_s), 4), inner))
    return found


def write_segment(file: sf.SoundFile, segment: Segment, gain: float, path: Path) -> int:
    """Read, mix, convert and write one segment, whole or not at all; returns its samples at 24 kHz."""
    start = round(segment.start_s * file.samplerate)
    file.seek(start)
    pcm = file.read(round(segment.end_s * file.samplerate) - start, dtype="float32", always_2d=True)
    mono = np.nan_to_num(pcm.mean(axis=1), posinf=0.0, neginf=0.0) * gain
    mono = mono if file.samplerate == SAMPLE_RATE else soxr.resample(mono, file.samplerate, SAMPLE_RATE)
    part = path.with_suffix(".part")
    sf.write(part, np.clip(mono, -1.0, 1.0), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    os.replace(part, path)
    return len(mono)


def fingerprint(path: Path, levels: Levels, settings: SegmentSettings) -> str:
    """What the segments depend on: the levels of the recording and the settings."""
    known = [path.name, path.stat().st_size, levels.rate, levels.frames, dataclasses.asdict(settings)]
    return hashlib.sha256(json.dumps(known).encode() + np.round(levels.db, 3).tobytes()).hexdigest()


def begin(output: Path, stamp: str) -> bool:
    """Make the folder ready; true if segments of the same plan are there already. Those of another plan are removed."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        if json.loads((output / PLAN).read_text("utf8")).get("fingerprint") == stamp:
            return True
    except (OSError, ValueError, AttributeError):
        pass
    for old in (output / MANIFEST, *output.glob("segment_*.wav"), *output.glob("segment_*.part")):
        old.unlink(missing_ok=True)
    write_json(output / PLAN, {"fingerprint": stamp})
    return False


def segment_audio(path: Path, output: Path, settings: SegmentSettings) -> dict[str, Any]:
    """Cut a recording into ``output``; returns the manifest that was written.

    Raises:
        SegmentError: the recording cannot be read, is silent, or nothing in it is long enough.
    """
    levels = measure(path, settings.block_s)
    segments = plan(levels, settings)
    if not segments:
        raise SegmentError(
            f"{path}: nothing in it is {settings.shortest_s:g} s long and above {settings.threshold_db:g} dB"
        )
    kept = begin(output, fingerprint(path, levels, settings))
    width = max(3, len(str(len(segments))))
    rows: list[dict[str, Any]] = []
    with sf.SoundFile(path) as file:
        for number, segment in enumerate(segments, 1):
            name = f"segment_{number:0{width}d}"
            target = output / f"{name}.wav"
            samples = sf.info(str(target)).frames if kept and target.exists() else 0
            samples = samples or write_segment(file, segment, levels.gain, target)
            following = segments[number].start_s if number < len(segments) else levels.frames / levels.rate
            rows.append(
                {
                    "id": name, "audio_file": target.name, "start_s": segment.start_s, "end_s": segment.end_s,
                    "duration": round(samples / SAMPLE_RATE, 4), "ends_in_pause": not segment.cut,
                    "pause_after_s": round(max(following - segment.end_s, 0.0), 4),
                }
            )  # fmt: skip
    manifest = {
        "format": "repartee-segments", "version": 1, "source": path.name, "sample_rate": SAMPLE_RATE,
        "source_rate": levels.rate, "source_duration": round(levels.frames / levels.rate, 4),
        "gain_db": round(20.0 * math.log10(levels.gain), 2), "settings": dataclasses.asdict(settings), "segments": rows,
    }  # fmt: skip
    write_json(output / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of segments.

    Raises:
        SegmentError: missing, or not one; the message names it.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf8"))
        if manifest["format"] != "repartee-segments" or manifest["version"] != 1 or not manifest["segments"]:
            raise ValueError("format, version or segments are wrong")
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SegmentError(f"{path}: not a manifest of training.segment_audio ({exc})") from exc
    return dict(manifest)


def to_lines(manifest: dict[str, Any], settings: SegmentSettings) -> list[str]:
    """What was made, to be printed."""
    lengths = np.array([row["duration"] for row in manifest["segments"]])
    lines = [
        f"{manifest['source']}: {manifest['source_duration']:.1f} s at {manifest['source_rate']} Hz, gain "
        f"{manifest['gain_db']:+.1f} dB",
        f"{len(lengths)} segments, {lengths.sum():.1f} s, each {lengths.min():.1f} to {lengths.max():.1f} s "
        f"(median {np.median(lengths):.1f})",
    ]
    cuts = sum(not row["ends_in_pause"] for row in manifest["segments"])
    if cuts:
        lines.append(f"{cuts} of them end where it was quietest: there was no pause of {settings.pause_s:g} s")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="sound file of any rate and channels")
    parser.add_argument("--output", type=Path, default=Path("segments"), help="folder (default: segments)")
    defaults = SegmentSettings()
    for name, text in (
        ("block_s", "levels are measured this far apart"),
        ("threshold_db", "what is quieter is a pause; loud speech is at -15"),
        ("pause_s", "the recording is cut at longer pauses"),
        ("min_s", "pieces of longer stretches are at least this long where possible"),
        ("max_s", "and at most this long, without the margins"),
        ("margin_s", "silence kept on both sides"),
        ("shortest_s", "shorter sounds between pauses are left out"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{text} (default: {default:g})")
    args = parser.parse_args(argv)
    try:
        settings = SegmentSettings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(defaults)})
        manifest = segment_audio(args.recording, args.output, settings)
    except SegmentError as exc:
        sys.exit(f"training.segment_audio: {exc}")
    print(*to_lines(manifest, settings), f"-> {args.output / MANIFEST}", sep="\n")


if __name__ == "__main__":
    main()
