"""What of a data set a codec is trained on, and clips to evaluate it with that its training did not hear.

- A folder with ``manifest.jsonl``: the validation clips of :func:`training.user_features.recording_jobs`.
- Conversations (``conv_*/meta.json``, or a pattern such as ``DIR/*/user.wav``): what one side, the agent's if none is
  named, says in conversations of the split ``valid``; each sentence once.
- Any other folder or pattern of audio; ``NAME.txt`` beside ``NAME.wav`` is its text.
- Clips that the codec's own record says it was trained on are left out.
- Where a rule leaves nothing, it is not applied, and the description of the set says so.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoint import read_header
from models.features import SAMPLE_RATE
from training.audio_data import files_within, read_audio, source_files
from training.conversation import AssistantTurn, UserTurn, read_conversation
from training.user_features import recording_jobs

MIN_S = 0.5
SEED = 0
SIDES = ("assistant", "user")


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip: float32 [N] at 24 kHz, and its text where known."""

    name: str
    pcm: np.ndarray
    text: str | None


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The clips of one data set and how they were chosen."""

    name: str
    chosen: str
    samples: list[Sample]


def training_files(where: str, seed: int) -> list[Path]:
    """Files of a folder or pattern in the order in which codec training reads them, until it holds enough.

    Of a folder with a ``manifest.jsonl``, the training part only.

    Raises:
        ValueError: there are none.
    """
    folder = Path(where)
    if (folder / "manifest.jsonl").is_file():
        files = [Path(row["audio"]) for row in recording_jobs(folder, 0, seed) if row["split"] == "train"]
    else:
        files = source_files(where)
    np.random.default_rng(seed).shuffle(files)  # type: ignore[arg-type]
    return files


def find_samples(where: str, limit: int, codec: Path | None = None) -> SampleSet:
    """The first ``limit`` held-out clips of ``[NAME=]PATH``, see the module's docstring.

    Args:
        where: a folder or a pattern, with a name for tables or without.
        limit: how many clips at most.
        codec: the directory of the codec whose record of training is asked; None holds out by rule only.

    Raises:
        ValueError: nothing usable is there, or a file cannot be read; the message names it.
    """
    name, named, path = where.partition("=")
    if not named or "/" in name:
        name, path = "", where
    root, candidates = _candidates(path)
    heard = heard_files(codec, root) if codec else set()
    new = [file for file in candidates.texts if file not in heard]
    files = new or list(candidates.texts)
    chosen, left = candidates.chosen, len(candidates.texts) - len(new)
    if left:
        chosen += f", {left} trained-on left out" if new else ", ALL heard in training"
    np.random.default_rng(SEED).shuffle(files)  # type: ignore[arg-type]
    samples = list(islice(_read(files, candidates), limit))
    if not samples:
        raise ValueError(f"{path}: no clip lasts {MIN_S} s")
    return SampleSet(name or root.name, chosen, samples)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Files that may be taken with their texts; in ``turns``, a track's sentences with their times."""

    chosen: str
    texts: Mapping[Path, str | None]
    turns: Mapping[Path, Sequence[UserTurn | AssistantTurn]]


def _candidates(path: str) -> tuple[Path, _Candidates]:
    """The data set's folder and what of it is held out by rule."""
    tracks = list(_conversation_tracks(path))
    if tracks:
        return tracks[0].parents[1], _conversation_candidates(tracks)
    folder = Path(path)
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        return folder, _Candidates("all clips", {file: _text_beside(file) for file in source_files(path)}, {})
    try:
        jobs = recording_jobs(folder, 0, SEED)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"{manifest}: a line is no object with 'audio' ({exc!r})") from exc
    valid = [job for job in jobs if job["split"] == "valid"]
    chosen = f"{len(valid)} validation clips" if valid else "all clips with a text"
    return folder, _Candidates(chosen, {Path(job["audio"]): job["text"] for job in valid or jobs}, {})


def _conversation_candidates(tracks: Sequence[Path]) -> _Candidates:
    read = {track: read_conversation(track.parent) for track in tracks}
    valid = [track for track, conversation in read.items() if conversation.split == "valid"]
    chosen = f"{len(valid)} validation conversations" if valid else "conversations of split train"
    turns = {
        track: [turn.user if track.stem == "user" else turn.assistant for turn in read[track].turns]
        for track in valid or tracks
    }
    return _Candidates(chosen, dict.fromkeys(turns), turns)


def _read(files: Sequence[Path], candidates: _Candidates) -> Iterator[Sample]:
    """The clips of the files that are long enough; of conversations, each sentence once."""
    said: set[str] = set()
    for file in files:
        pcm = read_audio(file)
        parts = [(file.stem, pcm, candidates.texts[file])]
        if file in candidates.turns:
            turns = {turn.text: turn for turn in candidates.turns[file] if turn.text not in said}
            said.update(turns)
            parts = [
                (f"{file.parent.name}_{number}", pcm[_sample(turn.start_s) : _sample(turn.end_s)], turn.text)
                for number, turn in enumerate(turns.values())
            ]
        yield from (Sample(*part) for part in parts if len(part[1]) >= MIN_S * SAMPLE_RATE)


def _sample(time_s: float | None) -> int | None:
    return None if time_s is None else round(time_s * SAMPLE_RATE)


def _text_beside(file: Path) -> str | None:
    text = file.with_suffix(".txt")
    return text.read_text("utf8") if text.is_file() else None


def _conversation_tracks(path: str) -> Iterator[Path]:
    """Recordings of one side of conversations; none when the path holds something else."""
    if "*" not in path:
        yield from (meta.with_name("assistant.wav") for meta in sorted(Path(path).glob("conv_*/meta.json")))
        return
    for file in source_files(path):
        if file.stem in SIDES and file.with_name("meta.json").is_file():
            yield file


def heard_files(codec: Path, folder: Path) -> set[Path]:
    """Files below ``folder`` that the codec's record says its acoustic part or its decoder was trained on.

    Raises:
        ArtefactError: the record is missing or cannot be read.
        ValueError: audio cannot be read; the message names the file.
    """
    heard: set[Path] = set()
    for part in ("acoustic", "decoder"):
        record = read_header(codec, "repartee-codec", part).get("provenance", {})
        for below in _sources_in(record, folder):
            try:
                order = training_files(str(folder / below), int(record.get("seed", SEED)))
            except ValueError:  # that part of the data set is not here
                continue
            heard.update(files_within(order, float(record.get("max_seconds", "inf"))))
    return heard


def _sources_in(record: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """Training sources inside a folder, relative to it; known by the end of its path, for records hold no machine's."""
    try:
        sources = ast.literal_eval(str(record.get("audio", "[]")))
    except (ValueError, SyntaxError):
        return
    here = folder.resolve().parts
    for text in sources:
        parts = Path(text.partition("=")[2].partition(":")[0]).parts
        for stop in range(1, len(parts) + 1):
            shared = min(stop, len(here))
            if parts[stop - shared : stop] == here[-shared:]:
                yield Path(*parts[stop:])
                break
