"""Sounds that are no turn: noises of the house, coughs, "mm hmm". The model learns to hear nothing in them.

``python -m training.interjections --noise_dir NOISE --codec runs/codec --output data/codes/sounds.npz``

Half are cuts from recordings of noise (every ``HELD_OUT_EVERY``-th is left for :mod:`training.interruptions`), half are
short sounds that people make while they listen, by the voices of training users. ``training.train_s2s`` puts them
before what users say.
"""

import argparse
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models.features import FRAME_SIZE, SAMPLE_RATE
from training.audio_data import read_audio
from training.encoders import CodecEncoders
from training.evaluation_sets import find_noises
from training.tts import TtsError, synthesise
from training.user_features import DITHER, Augmenter, FrontEnd
from training.voices import draw_voice

HELD_OUT_EVERY = 7
HELD_OUT_VOICES = ("flite:rms", "hibari:heart")  # that the evaluation speaks with
LISTENING = ("mm hmm", "mm", "mhm", "uh huh", "hm", "hmm", "ah", "oh", "uh", "ahem", "aha", "huh", "mm mm")
NOISE_S = (0.15, 2.0)
LEVEL_DB = (-34.0, -8.0)  # of the loudest sample
AROUND_FRAMES = (2, 10)  # silence on either side
AUGMENTED_SHARE = 0.5
_FADE = SAMPLE_RATE // 200


def cut_noise(pcm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece of a recording, its edges faded."""
    size = min(int(rng.uniform(*NOISE_S) * SAMPLE_RATE), len(pcm))
    start = int(rng.integers(0, len(pcm) - size + 1))
    piece = pcm[start : start + size].copy()
    ramp = np.linspace(0, 1, min(_FADE, size), dtype=np.float32)
    piece[: len(ramp)] *= ramp
    piece[len(piece) - len(ramp) :] *= ramp[::-1]
    return piece


def listening_sound(rng: random.Random) -> np.ndarray:
    """Somebody who listens and says so, in a voice of training users."""
    while True:
        voice = draw_voice(rng, "train")
        if voice.startswith(HELD_OUT_VOICES):
            continue
        try:
            return synthesise(rng.choice(LISTENING), voice).pcm
        except TtsError:
            continue  # nothing to say for this voice


def surround(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound at some level, with near silence around it: float32, whole frames."""
    before, after = (int(frames) * FRAME_SIZE for frames in rng.integers(*AROUND_FRAMES, 2))
    gain = 10 ** (rng.uniform(*LEVEL_DB) / 20) / max(float(np.abs(sound).max(initial=0.0)), 1e-4)
    size = before + len(sound) + after
    size += -size % FRAME_SIZE
    pcm = rng.standard_normal(size).astype(np.float32) * np.float32(DITHER)
    pcm[before : before + len(sound)] += (sound * gain).astype(np.float32)
    return pcm


def save_sounds(path: Path, sounds: Sequence[np.ndarray]) -> None:
    """Write the codes [T, groups] of sounds to one npz, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, user=np.concatenate(sounds), frames=np.array([len(sound) for sound in sounds]))
    os.replace(part, path)


def load_sounds(path: Path) -> list[np.ndarray]:
    """What :func:`save_sounds` wrote; nothing where there is no file.

    Raises:
        ValueError: not such a file; the message names it.
    """
    if not path.exists():
        return []
    try:
        with np.load(path, allow_pickle=False) as data:
            return np.split(data["user"], np.cumsum(data["frames"])[:-1])
    except (OSError, EOFError, ValueError, KeyError) as exc:
        raise ValueError(f"{path}: not a file of training.interjections ({exc})") from exc


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise_dir", type=Path, required=True)
    parser.add_argument("--rooms_dir", type=Path)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    noises = [path for at, path in enumerate(find_noises(args.noise_dir)) if at % HELD_OUT_EVERY]
    augmenter, front, encoders = Augmenter(args.noise_dir, args.rooms_dir), FrontEnd(), CodecEncoders(args.codec)
    rng, voices = np.random.default_rng(args.seed), random.Random(args.seed)
    sounds = []
    for index in tqdm(range(args.count), unit="sound"):
        noise = index % 2 == 0
        sound = cut_noise(read_audio(noises[rng.integers(len(noises))]), rng) if noise else listening_sound(voices)
        pcm = surround(sound, rng)
        if rng.random() < AUGMENTED_SHARE:
            pcm = augmenter(pcm, rng)
        sounds.append(encoders.semantic(front(pcm)))
    save_sounds(args.output, sounds)
    print(f"{len(sounds)} sounds -> {args.output}")


if __name__ == "__main__":
    main()
