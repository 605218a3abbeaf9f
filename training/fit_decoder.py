r"""Fit the codec's decoder to the codes that the talker makes.

    python -m training.fit_decoder --codec runs/codec --s2s runs/speaking --open_text data/open_text.txt \
        --output runs/fitted

The teacher speaks the lines of a text file. The talker says each frame of them as it would, the teacher's codes before
it given, so its codes and the teacher's audio are in step: the decoder learns what the talker means by codes that the
encoder would not have said so (as vocoders are fitted to the mel spectra of their acoustic model: Shen et al., "Natural
TTS synthesis by conditioning WaveNet on mel spectrogram predictions", arXiv 1712.05884). Codes and encoder stay as they
are, and half of what the decoder hears are the teacher's own codes.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.errors import ProsodyTagError
from models.s2s import evaluating
from models.score import Score
from models.talker import Talker
from models.tokenizer import Tokenizer
from training.audio_data import Clip, make_clip
from training.encode_dataset import EncodedTurn, Speaker
from training.encoders import CodecEncoders, load_codec_config
from training.run import Budget
from training.train_acoustic import Source
from training.train_acoustic import train as train_acoustic
from training.train_s2s import load_s2s
from training.train_talker import Reply, collate, reply_of
from training.tts import TtsError

BATCH, CROP_FRAMES = 6, 20
TOGETHER = 16  # replies of similar length that are told at once


@torch.inference_mode()
def tell(talker: Talker, replies: list[Reply]) -> list[np.ndarray]:
    """Values float16 [T, D] that the talker would say in every frame of some replies, the codes before it given."""
    batch = collate(replies, 0.0, np.random.default_rng(0))
    hidden, _ = talker(batch.symbols, batch.acting, batch.before, talker.init_state(len(replies)))
    said = []
    for row, reply in zip(hidden, replies, strict=True):
        frames = row[: len(reply.codes)]
        said.append(talker.chain.likeliest(talker.codes(frames), talker.chain.enter(frames)).half().numpy())
    return said


def speak_lines(path: Path, limit: int, speaker: Speaker) -> list[tuple[EncodedTurn, np.ndarray]]:
    """The first lines of a text file, spoken and encoded; ``limit`` 0: all of them.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line cannot be spoken; the message names it.
    """
    lines = [line for line in path.read_text("utf8").splitlines() if line.strip()]
    spoken = []
    for line in tqdm(lines[: limit or None], unit="line"):
        try:
            spoken.append(speaker.speak(line))
        except (TtsError, ProsodyTagError) as exc:
            raise ValueError(f"{path}: {line!r}: {exc}") from exc
    return spoken


def told_clips(spoken: list[tuple[EncodedTurn, np.ndarray]], talker: Talker, score: Score, lead: int) -> list[Clip]:
    """The teacher's audio with what the talker says of it."""
    pairs = sorted(((reply_of(turn, score, lead), pcm) for turn, pcm in spoken), key=lambda pair: len(pair[1]))
    clips: list[Clip] = []
    with evaluating(talker):
        for first in tqdm(range(0, len(pairs), TOGETHER), unit="batch"):
            part = pairs[first : first + TOGETHER]
            values = tell(talker, [reply for reply, _ in part])
            clips += [replace(make_clip(pcm), told=told) for (_, pcm), told in zip(part, values, strict=True)]
    return clips


def fit(codec: Path, output: Path, sources: list[Source], budget: Budget, lr: float, seed: int) -> None:
    """Train the decoder of a codec and nothing else; ``output`` becomes a whole codec, and a run in it is continued.

    Raises:
        ArtefactError: the codec is incomplete.
    """
    settings = argparse.Namespace(
        seed=seed, threads=1, init=codec, decoder_only=True, output=output, lr=lr, steps=budget.steps,
        minutes=budget.minutes, batch=BATCH, frames=CROP_FRAMES,
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    for name in ("semantic.safetensors", "semantic.json"):
        shutil.copy(codec / name, output / name)
    Tokenizer.load(codec / "tokenizer.json").save(output / "tokenizer.json")
    train_acoustic(settings, sources, load_codec_config(codec))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--s2s", type=Path, required=True, help="S2S checkpoint with a trained talker")
    parser.add_argument("--open_text", type=Path, required=True, help="sentences to speak, one a line")
    parser.add_argument("--limit", type=int, default=4000, help="of them; 0 = all")
    parser.add_argument("--tts", default="hibari:heart", help="the teacher's voice")
    parser.add_argument("--cache_dir", type=Path, help="where its utterances are kept between runs")
    parser.add_argument("--output", type=Path, required=True, help="codec directory; a run in it is continued")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps; 0 = no limit")
    parser.add_argument("--minutes", type=float, default=15.0, help="wall-clock budget; 0 = no limit")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    encoders, model = CodecEncoders(args.codec), load_s2s(args.s2s)
    spoken = speak_lines(args.open_text, args.limit, Speaker(args.tts, args.cache_dir, encoders))
    clips = told_clips(spoken, model.talker, Score.of(encoders.tokenizer), model.config.lead_frames)
    sources = [Source("talker", 0.5, clips), Source("agent", 0.5, [replace(clip, told=None) for clip in clips])]
    fit(args.codec, args.output, sources, Budget(args.steps, args.minutes), args.lr, args.seed)


if __name__ == "__main__":
    main()
