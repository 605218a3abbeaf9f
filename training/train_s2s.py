"""Train the S2S transformer on encoded dialogues.

``python -m training.train_s2s --data_dir data/codes --codec runs/codec --minutes 60 --workers 2 --output runs/s2s``

With ``--domain``, ``--written_share`` of the batches are dialogues in text alone, drawn anew from the domain file: they
teach the conversation's state at a fraction of the frames. A share of 1 needs no codes at all.

What is trained is the backbone: what is said and when. How it sounds is :mod:`training.train_talker`'s.

Workers are single-threaded processes that average gradients (gloo); on a GPU use one. The run resumes from its
directory; the learning rate follows the larger of the used share of steps, epochs and wall-clock budget.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.checkpoint import load_weights, read_dataclass, save_model
from models.s2s import S2S, S2SConfig, evaluating
from models.score import Score
from models.tokenizer import PAD, Tokenizer
from training.encode_dataset import EncodedTurn, load_codes
from training.encoders import load_codec_config
from training.interjections import load_sounds
from training.run import Budget, read_section
from training.s2s_batches import Batch, Batcher
from training.s2s_data import IGNORE, WrittenTurn
from training.together import Task, add_arguments, begin, fit, start
from training.warm_start import start_from
from training.written import has_marks, written_dialogues

HEARD_PAD_WEIGHT = 0.3  # a heard word is written as soon as it is likely
RECENT_DIM = 128
WRITTEN_CHECKS, WRITTEN_SEED = 200, 7
WEIGHTS = {"text": 3.0, "transcript": 1.5, "turn": 0.4}


def load_s2s(directory: Path) -> S2S:
    """The model of a checkpoint directory.

    Raises:
        ArtefactError: missing, damaged, of another version, or weights that do not fit the config.
    """
    model = S2S(read_dataclass(directory, "repartee-s2s", S2SConfig))
    load_weights(model, directory)
    return model


def token_loss(head: torch.nn.Module, hidden: Tensor, target: Tensor, pad_weight: float = 1.0) -> tuple[Tensor, float]:
    """Cross-entropy with PAD counting ``pad_weight``, and the accuracy on all other tokens; IGNORE is left out."""
    keep = target != IGNORE
    if not bool(keep.any()):
        return hidden.sum() * 0.0, float("nan")
    logits, target = head(hidden[keep]), target[keep]  # only where they are asked for: the vocabulary is wide
    weights = torch.where(target == PAD, pad_weight, 1.0)
    real = target != PAD
    right = (logits.detach()[real].argmax(-1) == target[real]).float().mean().item()
    return (F.cross_entropy(logits, target, reduction="none") * weights).sum() / weights.sum(), right


def turn_loss(model: S2S, hidden: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of the turn logits where the user is heard."""
    heard = target[..., 0] != IGNORE
    if not bool(heard.any()):
        return hidden.sum() * 0.0
    return F.binary_cross_entropy_with_logits(model.turn_head(hidden[heard]), target[heard].float())


def objectives(model: S2S, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The losses of a batch, and accuracies on non-PAD targets.

    The text's PAD counts in full, since when to write nothing is learnt like any word: who weighs it less speaks too
    fast.
    """
    hidden = model.hidden(batch.frame, batch.padding)
    text, text_right = token_loss(model.text_head, hidden, batch.text)
    transcript, transcript_right = token_loss(model.transcript_head, hidden, batch.transcript, HEARD_PAD_WEIGHT)
    losses = {"text": text, "transcript": transcript, "turn": turn_loss(model, hidden, batch.turn)}
    return losses, {"text_acc": text_right, "transcript_acc": transcript_right}


def validate(model: S2S, conversations: list[list[EncodedTurn]], config: S2SConfig, frames: int) -> dict[str, float]:
    """Mean losses and accuracies over up to 20 batches of unseen voices."""
    batcher = Batcher(conversations, config, frames, 0.0, 0)
    seen: dict[str, list[float]] = {}
    count = min(batcher.epoch_batches(), 20) if batcher.usable else 0
    with evaluating(model):
        for _ in range(count):
            losses, scores = objectives(model, batcher.next())
            for name, value in ({key: loss.item() for key, loss in losses.items()} | scores).items():
                seen.setdefault(name, []).append(value)
    return {f"valid_{name}": float(np.nanmean(values)) for name, values in seen.items() if not np.isnan(values).all()}


def validate_written(
    model: S2S, written: Callable[[np.random.Generator], list[WrittenTurn]], frames: int
) -> dict[str, float]:
    """The share of written dialogues whose every reply and note is right, told all words before."""
    batcher = Batcher([], model.config, frames, 0.0, WRITTEN_SEED, written, 1.0)
    whole: list[float] = []
    with evaluating(model):
        while len(whole) < WRITTEN_CHECKS:
            batch = batcher.next()
            said = model.text_head(model.hidden(batch.frame, batch.padding)).argmax(-1)
            whole += ((said == batch.text) | (batch.text == IGNORE)).all(dim=1).tolist()
    return {"valid_written_whole": float(np.mean(whole))}


def build(args: argparse.Namespace, tokenizer: Tokenizer) -> S2S:
    """A new model for the codec, sized by ``--config``, else as ``--init``, with what fits of its weights."""
    codec = load_codec_config(args.codec)
    config = S2SConfig(len(tokenizer), codec.semantic_levels, codec.agent_levels, notes=args.domain is not None,
                       recent_dim=RECENT_DIM, symbols=len(Score.of(tokenizer).symbols))  # fmt: skip
    if args.init:
        sizes = read_dataclass(args.init, "repartee-s2s", S2SConfig)
        config = replace(sizes, vocabulary=config.vocabulary, user_levels=config.user_levels,
                         agent_levels=config.agent_levels, notes=config.notes,
                         recent_dim=sizes.recent_dim or config.recent_dim, symbols=config.symbols)  # fmt: skip
    allowed = ("lead_frames", "transcript_delay_frames", "window", "talker_dim", "talker_layers", "backbone")
    model = S2S(replace(config, **read_section(args.config, "s2s", allowed)))
    model.talker.requires_grad_(False)  # it stays as it is: training.train_talker
    if args.init:
        partial = start_from(model, tokenizer, args.init)
        print(f"started from {args.init}; not whole: {', '.join(partial) or 'nothing'}", flush=True)
    return model


def learning_steps(args: argparse.Namespace, batcher: Batcher, world: int) -> int:
    """Steps that --steps or --epochs allow; 0 = no limit."""
    by_epoch = int(args.epochs * batcher.epoch_batches() / world)
    limits = [limit for limit in (args.steps, by_epoch) if limit]
    return min(limits) if limits else 0


def read_dialogues(data_dir: Path) -> dict[str, list[list[EncodedTurn]]]:
    """All dialogues of a directory's codes, by split.

    Raises:
        ValueError: there are none.
    """
    files = [load_codes(path) for path in sorted(data_dir.glob("codes_*.npz"))]
    if not files:
        raise ValueError(f"{data_dir}: no codes_*.npz: run training.encode_dataset first")
    return {split: [dialogue for file in files for dialogue in file[split]] for split in ("train", "valid")}


def new_batcher(
    args: argparse.Namespace,
    dialogues: list[list[EncodedTurn]],
    config: S2SConfig,
    rank: int,
    unknown: list[int] | None,
    written: Callable[[np.random.Generator], list[WrittenTurn]] | None,
) -> Batcher:
    """One worker's stream of batches.

    Raises:
        ValueError: no dialogue fits into the context.
    """
    share = args.written_share if written else 0.0
    sounds = load_sounds(args.data_dir / "sounds.npz") if args.data_dir and args.corrupt else ()
    seed = args.seed * 1000 + rank
    batcher = Batcher(dialogues, config, args.frames, args.corrupt, seed, written, share, unknown, sounds)
    if config.notes and any(turn.note is None and len(turn.user) for turns in dialogues for turn in turns):
        raise ValueError(f"{args.data_dir}: replies without notes: run training.encode_dataset with --domain, too")
    if not batcher.usable and share < 1.0:
        raise ValueError(f"{args.data_dir}: no dialogue fits into the window of {config.window} frames")
    return batcher


def weighted_sum(losses: dict[str, Tensor]) -> Tensor:
    """What is minimised: the losses of :func:`objectives` by WEIGHTS."""
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def train(rank: int, args: argparse.Namespace) -> None:
    """One worker's training; worker 0 logs, validates and writes checkpoints."""
    begin(rank, args)
    tokenizer = Tokenizer.load(args.codec / "tokenizer.json")
    model = build(args, tokenizer)
    model.backbone.config._attn_implementation = "eager"  # a fifth faster than sdpa where rows are this short
    splits = read_dialogues(args.data_dir) if args.data_dir else {"train": [], "valid": []}
    written = written_dialogues(args.domain, tokenizer, has_marks(splits["train"])) if args.domain else None
    unknown = tokenizer.unknown_word if args.corrupt else None
    batcher = new_batcher(args, splits["train"], model.config, rank, unknown, written)

    def learn() -> tuple[Tensor, dict[str, float]]:
        losses, scores = objectives(model, batcher.next())
        return weighted_sum(losses), {name: loss.item() for name, loss in losses.items()} | scores

    def save(provenance: dict[str, Any]) -> None:
        save_model(args.output, "repartee-s2s", model, model.config, provenance)

    budget = Budget(learning_steps(args, batcher, args.workers), args.minutes)

    def check() -> dict[str, float]:
        found = validate(model, splits["valid"], model.config, args.frames)
        return found | (validate_written(model, written, args.frames) if written else {})

    fit(rank, args, model, Task(budget, batcher.restart, learn, check, save))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="output of training.encode_dataset")
    parser.add_argument("--domain", type=Path, help="domain file to draw written dialogues from")
    parser.add_argument("--written_share", type=float, default=0.2, help="share of batches that are written dialogues")
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory; a run in it is continued")
    parser.add_argument("--init", type=Path, help="model directory to start from; sizes, codes and pieces may differ")
    parser.add_argument("--config", type=Path, help="YAML with a section 's2s'")
    parser.add_argument("--epochs", type=float, default=0.0, help="0 = no limit")
    parser.add_argument("--corrupt", type=float, default=0.08, help="share of disturbed fed-back inputs")
    add_arguments(parser, minutes=60.0, frames=1600, lr=1.2e-3, port=29_511)
    args = parser.parse_args()
    if args.data_dir is None and (args.domain is None or args.written_share < 1.0):
        parser.error("without --data_dir, give --domain and --written_share 1")
    start(train, args)


if __name__ == "__main__":
    main()
