"""Align a marked transcript with the segments of a recording, and write the data set that a voice is learnt from.

``python -m training.prepare_prosody --transcript transcript.txt``

The transcript is the text of the whole recording with prosody tags before the words they are meant for
(``... television <pitch_low> shows ...``; the seven tags of :mod:`models.prosody`). Which words a segment holds is
found by recognition (:mod:`training.long_alignment`), when each is spoken by forced alignment. What cannot be found
beyond doubt is left out, with the reason. ``--propose`` also marks words as they were spoken, by measure, where the
transcript has no mark, and writes the whole transcript so marked, for a person to correct and use next time.

``prosody_dataset.json`` has lists ``train``, ``validation`` and ``refused``; an item has ``id``, ``text`` (marked),
``audio_file``, ``duration``, ``prosody_tokens`` and ``words`` with their seconds. ``pauses`` says how long pauses are.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from models.checkpoint import write_json
from models.features import FRAME_SIZE, SAMPLE_RATE
from models.prosody import PAUSES, PROSODY_IDS
from training.alignment import AlignmentError, align, pronounce
from training.audio_data import read_audio
from training.long_alignment import Heard, LongAlignmentError, Span, TranscriptRecogniser, find_spans
from training.marked_transcript import MarkedWord, TranscriptError, read_transcript, to_text
from training.segment_audio import SegmentError, read_manifest
from training.spoken_words import (
    HOP_S,
    SpokenWord,
    bounds,
    measure_words,
    phone_lengths,
    pitch_track,
    propose_marks,
    speaker_median,
    usual_gaps,
)
from training.tts import Segment

FORMAT = "repartee-prosody-dataset"
VALID_EVERY = 10
STRAY_S = 0.35  # of speech before the first or after the last word: the segment holds more than its words
STRAY_DB = -35.0
MOST_PAUSE_S = 4.0
FEW_PAUSES = 8  # that do not tell how long this speaker makes them
MAX_SHIFT_S = 0.25  # median, between where recognition and where alignment put a word


class DatasetError(ValueError):
    """A prosody data set cannot be made or read; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One aligned segment."""

    row: dict[str, Any]
    words: list[MarkedWord]
    first: int  # of the transcript's words
    times: list[Segment]  # of the written words
    spoken: list[Segment]  # of the words an aligner knows: "well-known" is two
    phones: tuple[Segment, ...]
    track: tuple[np.ndarray, np.ndarray]
    shift_s: float  # median distance between recognition and alignment, signed


def word_spans(words: Sequence[MarkedWord]) -> list[int]:
    """Index of the written word of every spoken one."""
    return [index for index, word in enumerate(words) for _ in word.spoken]


def join_times(spoken: Sequence[Segment], owners: Sequence[int], words: Sequence[MarkedWord]) -> list[Segment]:
    """Times of written words from those of their spoken parts."""
    spans: dict[int, tuple[float, float]] = {}
    for (_, start, end), owner in zip(spoken, owners, strict=True):
        spans[owner] = (spans.get(owner, (start, end))[0], end)
    return [(words[owner].written, *span) for owner, span in spans.items()]


def stray_speech(pcm: np.ndarray, first_s: float, last_s: float) -> tuple[float, float]:
    """Seconds of sound before the first and after the last word."""
    size = SAMPLE_RATE // 20
    blocks = pcm[: len(pcm) // size * size].reshape(-1, size)
    loud = 10.0 * np.log10(np.mean(blocks.astype(np.float64) ** 2, axis=1) + 1e-10) > STRAY_DB
    times = (np.arange(len(loud)) + 0.5) * size / SAMPLE_RATE
    return float(loud[times < first_s].sum() * 0.05), float(loud[times > last_s].sum() * 0.05)


def align_segment(
    row: dict[str, Any], pcm: np.ndarray, words: list[MarkedWord], span: Span, owners: list[int], heard: list[Heard]
) -> Clip:
    """Find the words of a span in its segment.

    Raises:
        AlignmentError: they are not there, or more than they is; the message says what.
    """
    if span.reason:
        raise AlignmentError(span.reason)
    first, last = owners[span.first], owners[span.end - 1]
    mine = [index for index, owner in enumerate(owners) if first <= owner <= last]
    if mine != list(range(span.first, span.end)):
        raise AlignmentError(f"{words[first].written!r} or {words[last].written!r} is cut in two")
    part = words[first : last + 1]
    spoken = [name for word in part for name in word.spoken]
    found, phones = align(pcm, spoken)
    before, after = stray_speech(pcm, found[0][1], found[-1][2])
    for seconds, where in ((before, "before its first"), (after, "after its last")):
        if seconds > STRAY_S:
            raise AlignmentError(f"{seconds:.1f} s of sound {where} word are not in the transcript")
    shifts = [
        min((start - one.start_s for one in heard if one.word == name), key=abs, default=0.0)
        for name, start, _ in found
    ]
    if np.median(np.abs(shifts)) > MAX_SHIFT_S:
        raise AlignmentError("recognition and alignment put its words at different places")
    times = join_times(found, [owner - first for owner in owners[span.first : span.end]], part)
    return Clip(row, part, first, times, list(found), phones, pitch_track(pcm), float(np.median(shifts)))


def prosody_tokens(words: Sequence[MarkedWord], times: Sequence[Segment], given: Sequence[MarkedWord]) -> list[Any]:
    """The marks of a clip: token, its id, the word it stands before, when that begins, and where the mark is from."""
    return [
        {
            "token": mark, "id": PROSODY_IDS[mark], "word": index, "time": round(start, 3),
            "source": "transcript" if mark in source.marks else "measured",
        }
        for index, (word, (_, start, _), source) in enumerate(zip(words, times, given, strict=True))
        for mark in word.marks
    ]  # fmt: skip


def to_item(clip: Clip, words: Sequence[MarkedWord], folder: str) -> dict[str, Any]:
    """One item of the data set; ``words`` are the clip's with the marks they are to have."""
    return {
        "id": clip.row["id"],
        "text": to_text(words),
        "audio_file": f"{folder}/{clip.row['audio_file']}" if folder else clip.row["audio_file"],
        "duration": clip.row["duration"],
        "prosody_tokens": prosody_tokens(words, clip.times, clip.words),
        "words": [
            {"word": name, "start_s": round(start, 3), "end_s": round(end, 3)} for name, start, end in clip.times
        ],
    }


def measure(clips: Sequence[Clip]) -> list[list[SpokenWord]]:
    """How the words of every clip are spoken."""
    middle = speaker_median([clip.track[0] for clip in clips])
    usual = phone_lengths([phone for clip in clips for phone in clip.phones])
    return [measure_words(clip.times, clip.phones, clip.track, middle, usual) for clip in clips]


def mark_by_measure(clips: Sequence[Clip], measured: Sequence[Sequence[SpokenWord]]) -> list[list[MarkedWord]]:
    """The words of every clip, with measured marks where the transcript has none."""
    gaps = usual_gaps(measured)
    marked = []
    for clip, spoken in zip(clips, measured, strict=True):
        proposals = propose_marks(spoken, gaps)
        marked.append(
            [replace(word, marks=word.marks or proposal) for word, proposal in zip(clip.words, proposals, strict=True)]
        )
    return marked


def pause_lengths(measured: Sequence[Sequence[SpokenWord]], marked: Sequence[Sequence[MarkedWord]]) -> dict[str, float]:
    """By how many seconds each pause token makes a silence longer, of those that are marked often enough to tell."""
    rests: dict[bool, list[float]] = {False: [], True: []}
    pauses: dict[str, list[tuple[bool, float]]] = {token: [] for token in PAUSES}
    for spoken, words in zip(measured, marked, strict=True):
        for (before, word), given in zip(itertools.pairwise(spoken), words[1:], strict=True):
            kind = bounds(before.name)
            told = [token for token in PAUSES if token in given.marks]
            if told:
                pauses[told[-1]].append((kind, word.gap_s))
            else:
                rests[kind].append(word.gap_s)
    usual = {kind: float(np.mean(gaps)) if gaps else 0.0 for kind, gaps in rests.items()}
    return {
        token: round(max(float(np.mean([gap - usual[kind] for kind, gap in found])), HOP_S), 3)
        for token, found in pauses.items()
        if len(found) >= FEW_PAUSES
    }


def drift(clips: Sequence[Clip], rows: Sequence[dict[str, Any]], total: int) -> dict[str, float]:
    """How far the text runs away from the recording, and recognition from alignment.

    ``place_s``: the most that a segment's beginning is away from where its share of the words would put it, in seconds
    of speech; a missing paragraph shows as a jump. ``times_ms``: median distance between the two kinds of word times.
    """
    spoken = np.cumsum([0.0, *(row["duration"] for row in rows)])
    at = {row["id"]: start for row, start in zip(rows, spoken, strict=False)}
    places = [at[clip.row["id"]] - spoken[-1] * clip.first / max(total, 1) for clip in clips]
    return {
        "place_s": round(float(max(places, key=abs)), 2),
        "times_ms": round(1000.0 * float(np.median([abs(clip.shift_s) for clip in clips])), 1),
    }


def prepare(transcript: Path, segments: Path, output: Path, propose: bool) -> dict[str, Any]:
    """Make the data set; returns what was written.

    Raises:
        DatasetError: nothing could be aligned.
        SegmentError: no segments are there.
        TranscriptError: the transcript cannot be used.
        LongAlignmentError: it cannot be laid along the recording.
    """
    words = read_transcript(transcript)
    rows = read_manifest(segments)["segments"]
    owners = word_spans(words)
    spoken = [name for word in words for name in word.spoken]
    recogniser = TranscriptRecogniser(spoken)
    pronounce(recogniser.spelt)
    audio = [segments / row["audio_file"] for row in rows]
    heard = [
        recogniser.hear(piece, read_audio(path)) for piece, path in enumerate(tqdm(audio, desc="hearing", unit="seg"))
    ]
    spans = find_spans([one for part in heard for one in part], spoken, len(rows))
    clips: list[Clip] = []
    refused = []
    for piece, (row, span) in enumerate(zip(tqdm(rows, desc="aligning", unit="seg"), spans, strict=True)):
        try:
            clips.append(align_segment(row, read_audio(audio[piece]), words, span, owners, heard[piece]))
        except AlignmentError as exc:
            refused.append({"id": row["id"], "duration": row["duration"], "reason": str(exc)})
    if not clips:
        raise DatasetError(
            f"{transcript}: none of its words were found in {segments}; is it the text of this recording?"
        )
    measured = measure(clips)
    marked = mark_by_measure(clips, measured) if propose else [clip.words for clip in clips]
    dataset = to_dataset(clips, marked, segments, output)
    dataset |= {"refused": refused, "drift": drift(clips, rows, len(words))}
    dataset["pauses"] = pause_lengths(measured, marked)
    dataset["unpronounced"] = sorted(recogniser.unpronounced)
    write_json(output, dataset)
    if propose:
        whole = list(words)
        for clip, part in zip(clips, marked, strict=True):
            whole[clip.first : clip.first + len(part)] = part
        output.with_name("proposed_transcript.txt").write_text(to_text(whole) + "\n", "utf8")
    return dataset


def to_dataset(
    clips: Sequence[Clip], marked: Sequence[list[MarkedWord]], segments: Path, output: Path
) -> dict[str, Any]:
    """The data set of aligned clips: every tenth is for validation; paths count from the data set's folder."""
    folder = segments.resolve()
    near = output.resolve().parent
    shown = folder.relative_to(near).as_posix() if folder.is_relative_to(near) else folder.as_posix()
    items = [to_item(clip, words, "" if shown == "." else shown) for clip, words in zip(clips, marked, strict=True)]
    held = [index % VALID_EVERY == VALID_EVERY // 2 for index in range(len(items))]
    return {
        "format": FORMAT,
        "version": 1,
        "sample_rate": SAMPLE_RATE,
        "train": [item for item, out in zip(items, held, strict=True) if not out],
        "validation": [item for item, out in zip(items, held, strict=True) if out],
    }


def read_dataset(path: Path) -> dict[str, Any]:
    """A data set, its audio files as paths that can be opened.

    Raises:
        DatasetError: missing, not one, empty, or audio is missing; the message names it.
    """
    try:
        dataset = json.loads(path.read_text("utf8"))
        if (dataset.get("format"), dataset.get("version")) != (FORMAT, 1):
            raise ValueError(f"format {dataset.get('format')!r} version {dataset.get('version')!r}")
        for token, length in dataset.setdefault("pauses", {}).items():
            if token not in PAUSES or not 0.0 < length < MOST_PAUSE_S:
                raise ValueError(f"a pause {token!r} of {length!r} s")
        for item in (*dataset["train"], *dataset["validation"]):
            item["audio_file"] = path.parent / item["audio_file"]
            if not item["audio_file"].is_file():
                raise DatasetError(f"{path}: {item['id']}: {item['audio_file']} is missing")
            if item["duration"] < 2 * FRAME_SIZE / SAMPLE_RATE or not item["words"]:
                raise DatasetError(f"{path}: {item['id']}: too short, or without words")
    except DatasetError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DatasetError(f"{path}: not a data set of training.prepare_prosody ({exc!r})") from exc
    if not dataset["train"]:
        raise DatasetError(f"{path}: holds nothing to train on")
    return dict(dataset)


def to_lines(dataset: dict[str, Any]) -> list[str]:
    """What was made, to be printed."""
    used = [*dataset["train"], *dataset["validation"]]
    marks = Counter(mark["token"] for item in used for mark in item["prosody_tokens"])
    lines = [
        f"{len(dataset['train'])} segments to train on, {len(dataset['validation'])} for validation: "
        f"{sum(item['duration'] for item in used):.0f} s, {sum(len(item['words']) for item in used)} words",
        "marks: " + (", ".join(f"{count} {mark}" for mark, count in marks.most_common()) or "none"),
        f"drift: at most {dataset['drift']['place_s']:+.1f} s between text and recording; word times of recognition "
        f"and alignment are {dataset['drift']['times_ms']:.0f} ms apart",
    ]
    for token, length in dataset["pauses"].items():
        lines.append(f"{token} adds {1000 * length:.0f} ms")
    if dataset["unpronounced"]:
        lines.append(f"not pronounceable (write them as they are spoken): {', '.join(dataset['unpronounced'])}")
    lines += [f"refused {row['id']} ({row['duration']:.1f} s): {row['reason']}" for row in dataset["refused"]]
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transcript", type=Path, required=True, help="marked text of the whole recording")
    parser.add_argument("--segments", type=Path, default=Path("segments"), help="folder of training.segment_audio")
    parser.add_argument("--output", type=Path, default=Path("prosody_dataset.json"))
    parser.add_argument("--propose", action="store_true", help="mark by measure what the transcript does not mark")
    args = parser.parse_args(argv)
    try:
        dataset = prepare(args.transcript, args.segments, args.output, args.propose)
    except (DatasetError, SegmentError, TranscriptError, LongAlignmentError) as exc:
        sys.exit(f"training.prepare_prosody: {exc}")
    print(*to_lines(dataset), f"-> {args.output}", sep="\n")


if __name__ == "__main__":
    main()
