"""Recorded users to measure with: a folder of sound files, or the question that comes with the tests."""

import argparse
from pathlib import Path

import numpy as np

from agent.bench.figures import QUESTION
from agent.errors import InputError
from streaming.sound_files import read_audio

SUFFIXES = {".wav", ".flac", ".ogg"}


def add_recordings_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what is spoken."""
    what = "a file, or a folder of sound files (default: the question of the tests)"
    parser.add_argument("--recordings", type=Path, metavar="PATH", default=QUESTION, help=what)
    parser.add_argument("--limit", type=int, metavar="N", help="take the first N of them, by name")


def load_recordings(path: Path, limit: int | None = None) -> dict[str, np.ndarray]:
    """Name -> float32 [N] at 24 kHz, in the order of the names.

    Raises:
        InputError: There is no sound file.
        StreamingError: A file cannot be read.
    """
    files = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files[:limit]:
        raise InputError(f"{path}: holds no sound file ({', '.join(sorted(SUFFIXES))})")
    return {file.name: read_audio(file) for file in files[:limit]}
