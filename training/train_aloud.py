"""Tune the talker by what is heard of it: its codes go through the codec's decoder, and the sound is compared.

``python -m training.train_aloud --s2s runs/speaking --codec runs/codec --lines data/open_text.txt --minutes 60
--output runs/aloud``

To :mod:`training.train_talker` every dimension of a code counts the same, whatever it does to the sound. Here the
talker draws codes as the daemon does, the median level of each dimension given those before it, and the decoder, which
stays as it is, makes sound of them; the losses are those of :mod:`training.train_acoustic`, and the codes' own beside
them. Gradients go straight through the choice of a level to its expectation (Bengio et al., arXiv 1308.3432).

OUTPUT is a copy of the S2S checkpoint with the tuned talker in it. The run resumes from its directory.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.checkpoint import load_weights, read_header, save_model
from models.codec import Decoder
from models.features import FRAME_SIZE, HOPS_PER_FRAME
from models.s2s import evaluating
from models.score import Score
from models.source_filter import synthesise
from models.talker import Talker
from training.audio_data import held_pitch, lasting, make_clip
from training.encode_dataset import Speaker
from training.encoders import CodecEncoders
from training.losses import SoundLoss, pitch_loss
from training.run import Budget
from training.together import Task, add_arguments, begin, fit, start
from training.train_acoustic import WEIGHTS, in_step
from training.train_s2s import load_s2s
from training.train_talker import Reply, ReplyBatch, collate, frame_loss, to_reply
from training.tts import spoken_lines

WARM_FRAMES = 28  # as far back as the talker looks
CROP_FRAMES = 20  # that are decoded
HELD_LINES = 80  # the first


@dataclass(frozen=True, slots=True)
class Spoken:
    """A reply of T frames and its sound: pcm int16 [T * FRAME_SIZE], held pitch float16 [8 T, 2]."""

    reply: Reply
    pcm: np.ndarray
    pitch: np.ndarray


@dataclass(frozen=True, slots=True)
class Crops:
    """Up to WARM_FRAMES + CROP_FRAMES of replies, and the sound of CROP_FRAMES of each.

    counted: bool [B, T], frames that are not there to warm up. at: int64 [B], where the sound begins.
    pcm: float [B, CROP_FRAMES * FRAME_SIZE]. pitch: float [B, CROP_FRAMES * HOPS_PER_FRAME, 2].
    """

    frames: ReplyBatch
    counted: Tensor
    at: Tensor
    pcm: Tensor
    pitch: Tensor


def speak(path: Path, speaker: Speaker, score: Score, lead: int, which: slice) -> Iterator[Spoken]:
    """Lines of a text file, which may hold prosody tokens, in the agent's voice; those too short for a crop not.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line cannot be spoken; the message names it.
    """
    for turn, pcm in spoken_lines(path, speaker.aloud, which):
        if len(turn.agent) >= CROP_FRAMES:
            clip = make_clip(pcm)
            yield Spoken(to_reply(turn, score, lead), clip.pcm, held_pitch(clip.pitch).astype(np.float16))


def crops(spoken: Sequence[Spoken], corrupt: float, rng: np.random.Generator) -> Crops:
    """One crop of each, anywhere; ``corrupt`` is the share of fed-back codes that are disturbed."""
    cut, counted, at, pcm, pitch = [], [], [], [], []
    for one in spoken:
        first = int(rng.integers(0, len(one.reply.codes) - CROP_FRAMES + 1))
        begin = max(first - WARM_FRAMES, 0)
        span = slice(begin, begin + WARM_FRAMES + CROP_FRAMES)
        cut.append(Reply(one.reply.symbols[span], one.reply.acting[span], one.reply.codes[span]))
        counted.append(np.arange(WARM_FRAMES + CROP_FRAMES) >= (first - begin if begin else 0))
        at.append(first - begin)
        pcm.append(one.pcm[first * FRAME_SIZE : (first + CROP_FRAMES) * FRAME_SIZE].astype(np.float32) / 32767)
        hops = slice(first * HOPS_PER_FRAME, (first + CROP_FRAMES) * HOPS_PER_FRAME)
        pitch.append(one.pitch[hops].astype(np.float32))
    frames = collate(cut, corrupt, rng)
    told = torch.from_numpy(np.stack(counted))[:, : frames.codes.shape[1]] & (frames.codes[..., 0] >= 0)
    return Crops(frames, told, torch.tensor(at), *(torch.from_numpy(np.stack(part)) for part in (pcm, pitch)))


def draw(talker: Talker, hidden: Tensor) -> Tensor:
    """Values [N, dims] in -1 to 1 of what the talker says, given its outputs [N, 2 * dim].

    Each dimension is the median level given those before it, as in :class:`models.sampling.CodeSampler`; its gradient
    is that of the expected level.
    """
    chain, levels = talker.chain, talker.fsq.levels.tolist()
    plain, leave = talker.codes(hidden).split(levels, -1), chain.leave.split(levels)
    state = chain.enter(hidden)
    values = state.new_zeros(len(state), 0)
    for dim, size in enumerate(levels):
        inner = F.silu(state + values @ chain.told[:dim, dim])
        shares = (plain[dim] + inner @ leave[dim].T).softmax(-1)
        grid = torch.linspace(-1.0, 1.0, size, device=state.device)
        expected = shares @ grid
        with torch.no_grad():
            median = grid[(shares.cumsum(-1) < 0.5).sum(-1).clamp_max(size - 1)]
        values = torch.cat([values, (expected + (median - expected).detach())[:, None]], dim=1)
    return values


class Listener:
    """What is lost between the sound of crops and that of the codes the talker draws for them."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder.requires_grad_(False).eval()
        self._sound_loss = SoundLoss()

    def losses(self, talker: Talker, batch: Crops) -> dict[str, Tensor]:
        """By name; ``codes`` is that of :mod:`training.train_talker`, the others those of the codec's decoder."""
        frames = batch.frames
        hidden, _ = talker(frames.symbols, frames.acting, frames.before, talker.init_state(len(frames.codes)))
        rows = torch.arange(len(hidden))[:, None]
        shown = hidden[rows, batch.at[:, None] + torch.arange(CROP_FRAMES)]
        codes = frame_loss(talker, hidden[batch.counted], frames.codes[batch.counted])
        with torch.autocast("cpu", enabled=False):  # sound is not for half precision
            values = draw(talker, shown.float().flatten(0, 1)).unflatten(0, shown.shape[:2])
            return {"codes": codes, **self._sound(values, batch)}

    def _sound(self, values: Tensor, batch: Crops) -> dict[str, Tensor]:
        output, _ = self._decoder.from_values(values, self._decoder.init_state(len(values)))
        made = synthesise(batch.pitch[..., 0], batch.pitch[..., 1], *output.responses())
        pitch = pitch_loss(output.octave, output.voicing_logit, batch.pitch)
        return pitch | self._sound_loss(*in_step(made, batch.pcm))


def validate(talker: Talker, listener: Listener, held: Sequence[Spoken], size: int) -> dict[str, float]:
    """Losses of held-out lines, a crop of each, always the same."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    with evaluating(talker):
        for first in range(0, len(held), size):
            for name, loss in listener.losses(talker, crops(held[first : first + size], 0.0, rng)).items():
                found.setdefault(f"valid_{name}", []).append(loss.item())
    return {name: float(np.mean(values)) for name, values in found.items()}


def train(rank: int, args: argparse.Namespace) -> None:
    """One worker's training; worker 0 logs, validates and writes checkpoints."""
    begin(rank, args)
    model = load_s2s(args.s2s)
    talker = model.talker
    encoders = CodecEncoders(args.codec)
    decoder = Decoder(encoders.config)
    load_weights(decoder, args.codec, "decoder")
    score = Score.of(encoders.tokenizer)
    if len(score.symbols) != model.config.symbols:
        raise ValueError(f"{args.s2s}: knows {model.config.symbols} phone symbols, {args.codec} {len(score.symbols)}")
    speaker = Speaker(args.tts, args.cache_dir, encoders)
    spoken = partial(speak, args.lines, speaker, score, model.config.lead_frames)
    held = list(spoken(slice(HELD_LINES)))
    mine = spoken(slice(HELD_LINES + rank, None, args.workers))
    heard = lasting(mine, args.max_seconds, lambda one: len(one.pcm))
    if not heard:
        raise ValueError(f"{args.lines}: nothing but {len(held)} lines to validate with")
    listener = Listener(decoder)
    size = max(args.frames // (WARM_FRAMES + CROP_FRAMES), 1)
    rng = np.random.default_rng(0)
    weights = WEIGHTS | {"codes": args.codes}

    def restart(step: int) -> None:
        nonlocal rng
        rng = np.random.default_rng([args.seed * 1000 + rank, step])

    def learn() -> tuple[Tensor, dict[str, float]]:
        picks = rng.integers(len(heard), size=size)
        losses = listener.losses(talker, crops([heard[pick] for pick in picks], args.corrupt, rng))
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return loss, {name: value.item() for name, value in losses.items()}

    def save(provenance: dict[str, Any]) -> None:
        made = read_header(args.s2s, "repartee-s2s")["provenance"] | {"talker": provenance}
        save_model(args.output, "repartee-s2s", model, model.config, made)

    check = partial(validate, talker, listener, held, size)
    fit(rank, args, talker, Task(Budget(args.steps, args.minutes), restart, learn, check, save))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, required=True, help="text to speak, a sentence a line; tokens allowed")
    parser.add_argument("--tts", default="hibari:heart", help="the agent's voice")
    parser.add_argument("--cache_dir", type=Path, help="where its utterances are kept between runs")
    parser.add_argument("--max_seconds", type=float, default=20_000.0, help="audio held in memory, per worker")
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--s2s", type=Path, required=True, help="S2S checkpoint whose talker is tuned")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory; a run in it is continued")
    parser.add_argument("--codes", type=float, default=1.0, help="weight of the codes' own loss")
    parser.add_argument("--corrupt", type=float, default=0.25, help="share of disturbed fed-back codes")
    add_arguments(parser, minutes=60.0, frames=800, lr=1e-4, port=29_514)
    start(train, parser.parse_args())


if __name__ == "__main__":
    main()
