"""Recorded user turns to evaluate with: labelled single commands, or whole conversations.

- A folder with `manifest.jsonl` holds one command a line: `audio`, and where known `text`, `intent`, `slots`.
- A folder with `conv_*/meta.json` holds conversations; their user turns are spoken in order in one session.
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
END_FRAME_SAMPLES = SAMPLE_RATE_HZ // 50  # 20 ms
END_BELOW_PEAK_DB = 30.0
MARGIN_S = 0.1  # kept around a turn cut out of a conversation


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
        try:
            with soundfile.SoundFile(self.audio) as file:
                first = max(0, round((self.start_s - MARGIN_S) * file.samplerate)) if self.end_s is not None else 0
                file.seek(first)
                frames = -1 if self.end_s is None else round((self.end_s + MARGIN_S) * file.samplerate) - first
                pcm = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)  # [N]
                rate_hz = file.samplerate
        except (OSError, soundfile.LibsndfileError) as exc:
            raise RecordingError(f"{self.audio}: {exc}") from exc
        return np.asarray(soxr.resample(pcm, rate_hz, SAMPLE_RATE_HZ), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Recording:
    """Turns that one user speaks in one session."""

    name: str
    turns: tuple[Utterance, ...]


def end_of_speech(pcm: np.ndarray) -> int:
    """Where speech ends: the end of the last 20 ms frame within 30 dB of the loudest one, in samples.

    Args:
        pcm: float32 [N] at 24 kHz.
    """
    frames = pcm[: len(pcm) // END_FRAME_SAMPLES * END_FRAME_SAMPLES].reshape(-1, END_FRAME_SAMPLES)  # [F, 480]
    power = np.square(frames, dtype=np.float64).mean(axis=1)  # [F]
    if not power.size or not power.max():
        return len(pcm)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-END_BELOW_PEAK_DB / 10))
    return int(loud[-1] + 1) * END_FRAME_SAMPLES


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


def _from_manifest(folder: Path) -> Iterator[Recording]:
    path = folder / "manifest.jsonl"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: Mapping[str, Any] = json.loads(line)
            audio = folder / row["audio"]
        except (json.JSONDecodeError, KeyError, TypeError) as exc:
            raise RecordingError(f"{path}:{number}: not an object with 'audio' ({exc})") from exc
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
