"""Train the S2S transformer on encoded dialogues.

``python -m training.train_s2s --data_dir data/codes --codec runs/codec --minutes 60 --workers 2 --output runs/s2s``

With ``--domain``, ``--written_share`` of the batches are dialogues in text alone, drawn anew from the domain file: they
teach the conversation's state at a fraction of the frames. A share of 1 needs no codes at all.

What is trained is the backbone: what is said and when. How it sounds is :mod:`training.train_talker`'s.

Workers are single-threaded processes that average gradients (gloo); on a GPU use one. The run resumes from its
directory; the learning rate follows the larger of the used share of steps, epochs and wall-clock budget.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from models.checkpoint import load_weights, read_dataclass, save_model
from models.s2s import S2S, S2SConfig, evaluating
from models.score import Score
from models.tokenizer import PAD, Tokenizer
from training.encode_dataset import EncodedTurn, load_codes
from training.encoders import load_codec_config
from training.interjections import load_sounds
from training.run import Budget, Run, cosine, read_section, seed_everything
from training.s2s_batches import Batch, Batcher
from training.s2s_data import IGNORE
from training.warm_start import start_from
from training.written import has_marks, written_dialogues

PAD_WEIGHT = 0.3
RECENT_DIM = 128
WEIGHTS = {"text": 2.0, "transcript": 1.5, "turn": 0.4}


def load_s2s(directory: Path) -> S2S:
    """The model of a checkpoint directory.

    Raises:
        ArtefactError: missing, damaged, of another version, or weights that do not fit the config.
    """
    model = S2S(read_dataclass(directory, "repartee-s2s", S2SConfig))
    load_weights(model, directory)
    return model


def token_loss(
    head: torch.nn.Module, hidden: Tensor, target: Tensor, pad_weight: float = PAD_WEIGHT
) -> tuple[Tensor, float]:
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


def objectives(model: S2S, batch: Batch, pad_weight: float = PAD_WEIGHT) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The three losses of a batch, the agent's PAD counting ``pad_weight``, and accuracies on non-PAD targets."""
    hidden = model.hidden(batch.frame, batch.padding)
    text, text_right = token_loss(model.text_head, hidden, batch.text, pad_weight)
    transcript, transcript_right = token_loss(model.transcript_head, hidden, batch.transcript)
    losses = {
        "text": text,
        "transcript": transcript,
        "turn": turn_loss(model, hidden, batch.turn),
    }
    return losses, {"text_acc": text_right, "transcript_acc": transcript_right}


def average_gradients(model: torch.nn.Module, world: int) -> None:
    """Replace every gradient by the mean over workers."""
    trained = [p for p in model.parameters() if p.requires_grad]
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world
    for parameter, part in zip(trained, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


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
    args: argparse.Namespace, dialogues: list[list[EncodedTurn]], config: S2SConfig, rank: int, tokenizer: Tokenizer
) -> Batcher:
    """One worker's stream of batches.

    Raises:
        ValueError: no dialogue fits into the context.
    """
    written = written_dialogues(args.domain, tokenizer, has_marks(dialogues)) if args.domain else None
    share = args.written_share if written else 0.0
    unknown = tokenizer.unknown_word if args.corrupt else None
    sounds = load_sounds(args.data_dir / "sounds.npz") if args.data_dir and args.corrupt else ()
    seed = args.seed * 1000 + rank
    batcher = Batcher(dialogues, config, args.frames, args.corrupt, seed, written, share, unknown, sounds)
    if config.notes and any(turn.note is None and len(turn.user) for turns in dialogues for turn in turns):
        raise ValueError(f"{args.data_dir}: replies without notes: run training.encode_dataset with --domain, too")
    if not batcher.usable and share < 1.0:
        raise ValueError(f"{args.data_dir}: no dialogue fits into the window of {config.window} frames")
    return batcher


def new_optimizer(model: torch.nn.Module, lr: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decay, plain = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def join_workers(rank: int, world: int, port: int) -> None:
    """Meet the other workers on this machine."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)


def save(run: Run, output: Path, model: S2S, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what the run needs to go on, and the model as it is."""
    run.save(model, optimizer, step)
    save_model(output, "repartee-s2s", model, model.config, {**run.provenance, "step": step})


def learn(
    model: S2S, optimizer: torch.optim.Optimizer, batch: Batch, bf16: bool, world: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """One step of all workers; returns :func:`objectives` of this one's batch.

    Raises:
        FloatingPointError: the gradient is not finite.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses, scores = objectives(model, batch)
    optimizer.zero_grad(set_to_none=True)
    torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
    if world > 1:
        average_gradients(model, world)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"gradient is not finite; losses { ({key: x.item() for key, x in losses.items()}) }")
    optimizer.step()
    return losses, scores


def train(rank: int, args: argparse.Namespace) -> None:
    """One worker's training loop; worker 0 logs, validates and writes checkpoints."""
    world = args.workers
    torch.set_num_threads(args.threads)
    if world > 1:
        join_workers(rank, world, args.port)
    seed_everything(args.seed)
    tokenizer = Tokenizer.load(args.codec / "tokenizer.json")
    model = build(args, tokenizer)
    model.backbone.config._attn_implementation = "eager"  # a fifth faster than sdpa where rows are this short
    config = model.config
    splits = read_dialogues(args.data_dir) if args.data_dir else {"train": [], "valid": []}
    batcher = new_batcher(args, splits["train"], config, rank, tokenizer)
    optimizer = new_optimizer(model, args.lr)
    budget = Budget(learning_steps(args, batcher, world), args.minutes)
    directory = args.output / "run" if rank == 0 else args.output / f"run_{rank}"
    run = Run(directory, {key: str(value) for key, value in vars(args).items()}, budget)
    run.resume_from(args.output / "run")
    step = run.resume(model, optimizer)
    batcher.restart(step)
    while True:
        control = torch.tensor([budget.progress(step), float(run.due)])  # decided by worker 0
        if world > 1:
            dist.broadcast(control, 0)
        if control[0] >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = cosine(float(control[0]), args.lr)
        losses, scores = learn(model, optimizer, batcher.next(), args.bf16, world)
        if rank == 0 and step % 25 == 0:
            run.log(step, {name: loss.item() for name, loss in losses.items()} | scores)
        if rank == 0 and step and step % args.validate_every == 0:
            run.log(step, validate(model, splits["valid"], config, args.frames))
        step += 1
        if control[1] and rank == 0:
            save(run, args.output, model, optimizer, step)
    if rank == 0:
        save(run, args.output, model, optimizer, step)
        run.log(step, validate(model, splits["valid"], config, args.frames))
    run.close()
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


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
    parser.add_argument("--steps", type=int, default=0, help="0 = no limit")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock budget; 0 = no limit")
    parser.add_argument("--frames", type=int, default=1600, help="steps in a batch, per worker")
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--corrupt", type=float, default=0.08, help="share of disturbed fed-back inputs")
    parser.add_argument("--validate_every", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bf16", action="store_true", help="matrix products in bfloat16: twice as fast with AVX512-BF16"
    )
    parser.add_argument("--port", type=int, default=29_511)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.data_dir is None and (args.domain is None or args.written_share < 1.0):
        parser.error("without --data_dir, give --domain and --written_share 1")
    if args.workers > 1:
        spawn(train, (args,), nprocs=args.workers)
    else:
        train(0, args)


if __name__ == "__main__":
    main()
