"""Audio clips with their analysis, for codec training: read once, kept in memory as int16 and float16."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile as sf
import soxr

from models.features import FRAME_SIZE, HOP, SAMPLE_RATE, VOICED_STRENGTH, Features, analyse, new_history

T = TypeVar("T")

AUDIO_SUFFIXES = {".wav", ".flac", ".opus", ".ogg", ".mp3"}


def read_audio(path: Path) -> np.ndarray:
    """Mono 24 kHz float32 of any file soundfile reads.

    Raises:
        ValueError: not readable as audio; the message names the file.
    """
    try:
        pcm, rate = sf.read(str(path), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, OSError) as exc:
        raise ValueError(f"{path}: cannot be read as audio ({exc})") from exc
    mono = pcm.mean(axis=1)
    return mono if rate == SAMPLE_RATE else np.asarray(soxr.resample(mono, rate, SAMPLE_RATE), np.float32)


def audio_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """All audio files below a folder, sorted.

    Raises:
        ValueError: there are none.
    """
    files = sorted(path for path in folder.glob(pattern) if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise ValueError(f"{folder}: no audio files match {pattern}")
    return files


def source_files(where: str) -> list[Path]:
    """All audio files below a folder, or those that match a pattern such as ``conv/*/assistant.wav``, sorted.

    Raises:
        ValueError: there are none.
    """
    parts = Path(where).parts
    wild = next((index for index, part in enumerate(parts) if "*" in part), len(parts))
    return audio_files(Path(*parts[:wild]), "/".join(parts[wild:]) or "**/*")


def files_within(files: Sequence[Path], max_seconds: float) -> Iterator[Path]:
    """The files of at least two frames, in order, until they hold ``max_seconds`` of audio.

    Raises:
        ValueError: not readable as audio; the message names the file.
    """
    total_s = 0.0
    for path in files:
        try:
            info = sf.info(str(path))
        except (sf.LibsndfileError, OSError) as exc:
            raise ValueError(f"{path}: cannot be read as audio ({exc})") from exc
        if info.duration < 2 * FRAME_SIZE / SAMPLE_RATE:
            continue
        yield path
        total_s += info.duration
        if total_s >= max_seconds:
            break


def lasting(made: Iterator[T], max_seconds: float, samples: Callable[[T], int]) -> list[T]:
    """What is made, until its ``samples`` last ``max_seconds`` together; nothing more is made then."""
    held: list[T] = []
    while max_seconds > 0 and (one := next(made, None)) is not None:
        held.append(one)
        max_seconds -= samples(one) / SAMPLE_RATE
    return held


def held_pitch(pitch: np.ndarray) -> np.ndarray:
    """Raw pitch [T, 3] -> octave held through unvoiced hops and voiced flag, float32 [T, 2]."""
    voiced = (pitch[:, 1] > VOICED_STRENGTH) & (pitch[:, 2] > -5.5)
    index = np.maximum.accumulate(np.where(voiced, np.arange(len(pitch)), -1))
    octave = np.where(index >= 0, pitch[np.maximum(index, 0), 0], 0.0)
    return np.stack([octave, voiced.astype(np.float32)], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Clip:
    """pcm int16 [8 T * HOP]; mel64 float16 [8 T, 64]; pitch float16 [8 T, 3]; T whole frames."""

    pcm: np.ndarray
    mel64: np.ndarray
    pitch: np.ndarray


def make_clip(pcm: np.ndarray) -> Clip:
    """Analyse a clip (zero-padded to whole frames) as the streaming encoder would from silence."""
    pcm = np.pad(pcm, (0, -len(pcm) % FRAME_SIZE))
    features: Features = analyse(pcm, new_history())
    return Clip(
        np.clip(np.round(pcm * 32767), -32768, 32767).astype(np.int16),
        features.mel64.astype(np.float16),
        features.pitch.astype(np.float16),
    )


def load_clips(files: Sequence[Path], max_seconds: float) -> list[Clip]:
    """Read and analyse files until ``max_seconds`` of audio are held; levels are left as recorded."""
    return [make_clip(read_audio(path)) for path in files_within(files, max_seconds)]


def crop(clip: Clip, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A random crop of whole frames, zero-padded at the end when the clip is shorter.

    Returns:
        pcm float32 [frames * FRAME_SIZE], mel64 [8 frames, 64], pitch [8 frames, 3], held pitch [8 frames, 2].
    """
    hops = frames * FRAME_SIZE // HOP
    available = len(clip.mel64)
    start = int(rng.integers(0, max(available - hops, 0) // 8 + 1)) * 8
    part = slice(start, start + hops)
    pcm = clip.pcm[start * HOP : (start + hops) * HOP].astype(np.float32) / 32767
    mel, pitch = clip.mel64[part].astype(np.float32), clip.pitch[part].astype(np.float32)
    missing = hops - len(mel)
    if missing:
        pcm = np.pad(pcm, (0, missing * HOP))
        mel = np.pad(mel, ((0, missing), (0, 0)), constant_values=-7.0)
        pitch = np.concatenate([pitch, np.tile(np.array([[0.0, 0.0, -7.0]], np.float32), (missing, 1))])
    return pcm, mel, pitch, held_pitch(pitch)
