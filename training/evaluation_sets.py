"""What the agent is evaluated with beside plain recordings: noise, digits, sentences outside the domain, dialogues.

- What is drawn depends on the seed alone, and on one clip's name for that clip's noise.
- People and clips are those that training holds out (`training.user_features.recording_jobs`).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import soundfile

from models.prosody import strip_marks
from training.audio_data import AUDIO_SUFFIXES
from training.domain import Dialogue, Domain
from training.recordings import SAMPLE_RATE_HZ, Background, Recording, RecordingError, Utterance, read_manifest
from training.scoring import NUMBER, UNKNOWN, reads_back_after_change
from training.timeline import hesitate
from training.tts import synthesise
from training.voices import draw_voice

SPEECH_LIKE = re.compile(
    r"(?<![a-z])(?:speech|speak|voice|vocal|talk|babble|chatter|crowd|conversation|singing|laugh|cry|cough|sneeze|person"
    r"|people|dude|baby|child)",
    re.IGNORECASE,
)
MAX_TURNS = 6
MAX_DRAWS = 2_000  # dialogues drawn for each one wanted, before giving up


def find_noises(folder: Path) -> list[Path]:
    """Recordings of noise, without those whose kind or name says that people are in them.

    Args:
        folder: With a `manifest.jsonl` (`audio`, and `kind` where known), or any folder of audio files.

    Raises:
        RecordingError: There is none.
    """
    manifest = folder / "manifest.jsonl"
    if manifest.is_file():
        named = [(folder / row["audio"], str(row.get("kind"))) for row in read_manifest(manifest)]
    else:
        named = [(path, "") for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES]
    noises = [path for path, kind in named if not SPEECH_LIKE.search(f"{kind} {path.stem}")]
    if not noises:
        raise RecordingError(f"{folder}: no recording of noise without people is there")
    return noises


def with_noise(
    recordings: Sequence[Recording], noises: Sequence[Path], snr_db: float, seed: int = 0
) -> list[Recording]:
    """The same recordings with noise behind them; a recording has the same noise at every ratio.

    Args:
        recordings: What is spoken.
        noises: Files to draw from.
        snr_db: Loudest 128 ms frame of the speech over the loudest of the noise.
        seed: Of the draw.
    """
    noisy = []
    for recording in recordings:
        rng = random.Random(f"{seed}:{recording.name}")
        noisy.append(replace(recording, background=Background(rng.choice(noises), rng.random(), snr_db)))
    return noisy


def digits(folder: Path, limit: int | None = None, seed: int = 0) -> list[Recording]:
    """Spoken numbers of held-out people, in drawn order, each to be repeated by the agent.

    Raises:
        RecordingError: There is none.
    """
    return [_clip(audio, text, NUMBER, {NUMBER: text}) for audio, text in _held_out(folder, seed)[:limit]]


def outside(folder: Path, domain: Domain, limit: int | None = None, seed: int = 0) -> tuple[list[Recording], int]:
    """Held-out sentences of people that are none of the agent's business, in drawn order.

    Returns:
        The recordings, and how many were left out because the domain finds a meaning in their text.

    Raises:
        RecordingError: There is none.
    """
    kept = _held_out(folder, seed)
    foreign = [(audio, text) for audio, text in kept if domain.parse_user(text).intent == UNKNOWN]
    if not foreign:
        raise RecordingError(f"{folder}: the domain finds a meaning in every sentence")
    return [_clip(audio, text, UNKNOWN, None) for audio, text in foreign[:limit]], len(kept) - len(foreign)


def noise_alone(noises: Sequence[Path], minutes: float, seed: int = 0) -> list[Path]:
    """Noises in drawn order, again and again until they last that long (the last one is heard to its end).

    Raises:
        RecordingError: A file cannot be read, or none has any length.
    """
    try:
        lengths_s = {path: soundfile.info(path).duration for path in noises}
    except (OSError, soundfile.LibsndfileError) as exc:
        raise RecordingError(f"a noise cannot be read: {exc}") from exc
    if sum(lengths_s.values()) <= 0.0:
        raise RecordingError("the noises have no length")
    rng, pieces, left_s = random.Random(seed), [], minutes * 60.0
    while left_s > 0.0:
        for path in rng.sample(list(noises), len(noises)):
            if left_s > 0.0:
                pieces.append(path)
                left_s -= lengths_s[path]
    return pieces


def change_dialogues(domain: Domain, count: int, folder: Path, seed: int = 0) -> list[Recording]:
    """Dialogues of three to six turns with a read-back after a change, spoken by held-out voices.

    Args:
        domain: Draws the dialogues, and gives the right replies.
        count: How many.
        folder: Where the turns are written, `NAME-TURN.wav`.
        seed: Of dialogues, voices and hesitations; some synthesisers' breath noise differs from run to run.

    Raises:
        RecordingError: The domain's flows hold no such dialogue.
        TtsError: A voice cannot speak.
    """
    recordings = []
    for index in range(count):
        rng = random.Random(f"{seed}:dialogue:{index}")
        dialogue, voice = _draw_dialogue(domain, rng), draw_voice(rng, "valid")
        turns = []
        for number, turn in enumerate(dialogue, start=1):
            audio = folder / f"dialogue_{index + 1:04d}-{number}.wav"
            soundfile.write(audio, hesitate(synthesise(turn.user_text, voice), rng).pcm, SAMPLE_RATE_HZ)
            turns.append(Utterance(audio, 0.0, None, turn.user_text, turn.intent, None, strip_marks(turn.reply)))
        recordings.append(Recording(f"dialogue_{index + 1:04d}", tuple(turns)))
    return recordings


def _draw_dialogue(domain: Domain, rng: random.Random) -> Dialogue:
    for _ in range(MAX_DRAWS):
        dialogue = domain.sample_dialogue(rng, MAX_TURNS)
        if reads_back_after_change([turn.intent for turn in dialogue]):
            return dialogue
    raise RecordingError(f"domain {domain.spec.name}: its flows hold no dialogue with a read-back after a change")


def _held_out(folder: Path, seed: int) -> list[tuple[Path, str]]:
    """Audio and text of the clips that training holds out."""
    from training.user_features import recording_jobs  # needs torch, which the rest does not

    manifest = folder / "manifest.jsonl"
    read_manifest(manifest)
    kept = [(Path(job["audio"]), job["text"]) for job in recording_jobs(folder, 0, seed) if job["split"] == "valid"]
    if not kept:
        raise RecordingError(f"{manifest}: no clip with a text is held out")
    return kept


def _clip(audio: Path, text: str, intent: str, slots: dict[str, str] | None) -> Recording:
    return Recording(audio.stem, (Utterance(audio, 0.0, None, text, intent, slots, None),))
