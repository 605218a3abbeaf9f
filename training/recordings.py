"""Recorded user turns to evaluate with: labelled single commands, or whole conversations.

- A folder with `manifest.jsonl` holds one command a line: `audio`, and where known `text`, `intent`, `slots`.
- A folder with `conv_*/meta.json` holds conversations; their user turns are spoken in order in one session.
- A recording may have a background: noise that is heard during its whole session.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from training.conversation import ConversationError, read_conversation

SAMPLE_RATE_HZ = 24_000
MARGIN_S = 0.1  # kept around a turn cut out of a conversation
SNR_FRAME_SAMPLES = 2_048 * SAMPLE_RATE_HZ // 16_000  # the published benchmark's frame, which it takes at 16 kHz
BACKGROUND_S = 5.0  # least length of noise before it repeats


class RecordingError(ValueError):
    """A folder of recordings cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One user turn: where its audio is and what is known about it."""

    audio: Path
    start_s: float
    end_s: float | None
    text: str | None
    intent: str | None
    slots: Mapping[str, str] | None
    reply: str | None

    def load(self) -> np.ndarray:
        """The audio as float32 [N], mono, 24 kHz.

        Raises:
            RecordingError: The file cannot be read.
        """
        if self.end_s is None:
            return read_pcm(self.audio)
        return read_pcm(self.audio, self.start_s - MARGIN_S, self.end_s + MARGIN_S)


@dataclass(frozen=True, slots=True)
class Background:
    """Noise behind a recording.

    Attributes:
        audio: Its file.
        start: Where in the file it begins, as a share of its length.
        snr_db: Loudest 128 ms frame of the speech over the loudest of the noise.
    """

    audio: Path
    start: float
    snr_db: float

    def load(self, speech: np.ndarray) -> np.ndarray:
        """As much noise as there is speech (at least 5 s) at the right level, float32 [N]; a short file repeats.

        Args:
            speech: float32 [N] at 24 kHz.

        Raises:
            RecordingError: The file cannot be read, or nothing of it can be heard.
        """
        pcm = read_pcm(self.audio)
        noise = np.resize(
            np.roll(pcm, -round(self.start * len(pcm))), max(len(speech), round(BACKGROUND_S * SAMPLE_RATE_HZ))
        )
        loudest = loudest_power(noise)
        if loudest < 1e-10:
            noise = np.resize(pcm, max(len(pcm), len(noise)))
            loudest = loudest_power(noise)
        if loudest < 1e-10:
            raise RecordingError(f"{self.audio}: it is silent, so it cannot be a background")
        gain = np.sqrt(loudest_power(speech) / loudest * 10 ** (-self.snr_db / 10))
        return np.asarray(noise * gain, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Recording:
    """Turns that one user speaks in one session."""

    name: str
    turns: tuple[Utterance, ...]
    background: Background | None = None

    def load_background(self) -> np.ndarray | None:
        """The noise at its level against all turns together, float32 [N]; None without a background.

        Raises:
            RecordingError: A file cannot be read, or the noise is silent.
        """
        if self.background is None:
            return None
        return self.background.load(np.concatenate([turn.load() for turn in self.turns]))


def read_pcm(path: Path, start_s: float = 0.0, end_s: float | None = None) -> np.ndarray:
    """Reads a recording, or a stretch of it, as float32 [N], mono, 24 kHz.

    Raises:
        RecordingError: The file cannot be read, or is empty.
    """
    try:
        with soundfile.SoundFile(path) as file:
            first = max(0, round(start_s * file.samplerate))
            file.seek(first)
            frames = -1 if end_s is None else round(end_s * file.samplerate) - first
            pcm = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)  # [N]
            rate_hz = file.samplerate
    except (OSError, soundfile.LibsndfileError) as exc:
        raise RecordingError(f"{path}: {exc}") from exc
    if not len(pcm):
        raise RecordingError(f"{path}: no audio is in it")
    return np.asarray(soxr.resample(pcm, rate_hz, SAMPLE_RATE_HZ), dtype=np.float32)


def loudest_power(pcm: np.ndarray) -> float:
    """Mean square of the loudest 128 ms frame; frames lie side by side, and the last one is filled with silence."""
    frames = -(-len(pcm) // SNR_FRAME_SAMPLES)
    padded = np.zeros(frames * SNR_FRAME_SAMPLES, np.float64)
    padded[: len(pcm)] = pcm
    return float(np.square(padded).reshape(-1, SNR_FRAME_SAMPLES).mean(axis=1).max(initial=0.0))


def find_recordings(folder: Path, limit: int | None = None, split: str | None = None) -> list[Recording]:
    """What a folder holds, in the order of its manifest or of its names.

    Args:
        folder: Where `manifest.jsonl` or the conversations are.
        limit: Take the first so many; None for all.
        split: Of conversations, take only `train` or `valid`; None for both.

    Raises:
        RecordingError: Nothing usable is there, or something cannot be read.
    """
    if (folder / "manifest.jsonl").is_file():
        found = _from_manifest(folder)
    else:
        found = _from_conversations(folder, split)
    recordings = list(islice(found, limit))
    if not recordings:
        raise RecordingError(f"{folder}: neither manifest.jsonl nor conv_*/meta.json is there")
    return recordings


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The rows of a `manifest.jsonl`, each an object with `audio`.

    Raises:
        RecordingError: It cannot be read, or a line is something else; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise RecordingError(f"{path}: {exc}") from exc
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            path.parent / row["audio"]
        except (json.JSONDecodeError, KeyError, TypeError) as exc:
            raise RecordingError(f"{path}:{number}: not an object with 'audio' ({exc})") from exc
        rows.append(row)
    return rows


def _from_manifest(folder: Path) -> Iterator[Recording]:
    for row in read_manifest(folder / "manifest.jsonl"):
        audio = folder / row["audio"]
        turn = Utterance(audio, 0.0, None, row.get("text"), row.get("intent"), row.get("slots"), None)
        yield Recording(audio.stem, (turn,))


def _from_conversations(folder: Path, split: str | None) -> Iterator[Recording]:
    for meta in sorted(folder.glob("conv_*/meta.json")):
        try:
            conversation = read_conversation(meta.parent)
        except ConversationError as exc:
            raise RecordingError(str(exc)) from exc
        if split not in (None, conversation.split):
            continue
        turns = []
        for turn in conversation.turns:
            user = turn.user
            if user.start_s is None or user.end_s is None:
                raise RecordingError(f"{meta}: the user's turns have no times, so they cannot be spoken one by one")
            audio, intent, reply = meta.parent / "user.wav", user.intent or None, turn.assistant.text
            turns.append(Utterance(audio, user.start_s, user.end_s, user.text, intent, None, reply))
        yield Recording(conversation.id, tuple(turns))
