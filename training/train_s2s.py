"""Train the S2S transformer on encoded dialogues.

``python -m training.train_s2s --data_dir data/codes --codec runs/codec --minutes 60 --workers 2 --output runs/s2s``

Workers are single-threaded processes that average gradients (gloo); on a GPU use one. The run resumes from its
directory; the learning rate follows the larger of the used share of steps, epochs and wall-clock budget.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from models.checkpoint import load_weights, read_dataclass, save_model
from models.s2s import S2S, S2SConfig, agent_cross_entropy, evaluating
from models.tokenizer import PAD, Tokenizer
from training.encode_dataset import EncodedTurn, load_codec_config, load_codes
from training.run import Budget, Run, cosine, read_section, seed_everything
from training.s2s_data import IGNORE, Batch, Batcher

PAD_WEIGHT = 0.3
WEIGHTS = {"text": 2.0, "transcript": 1.5, "agent": 2.0, "turn": 0.2}
PROSODY_WEIGHT = 2.0  # the prosody code's dimensions count this much more than acoustic ones


def load_s2s(directory: Path) -> S2S:
    """The model of a checkpoint directory.

    Raises:
        ArtefactError: missing, damaged, of another version, or weights that do not fit the config.
    """
    model = S2S(read_dataclass(directory, "repartee-s2s", S2SConfig))
    load_weights(model, directory)
    return model


def token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with PAD counting PAD_WEIGHT; targets IGNORE are left out."""
    keep = target != IGNORE
    if not bool(keep.any()):
        return logits.sum() * 0.0
    logits, target = logits[keep], target[keep]
    weights = torch.where(target == PAD, PAD_WEIGHT, 1.0)
    return (F.cross_entropy(logits, target, reduction="none") * weights).sum() / weights.sum()


def objectives(model: S2S, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The four losses of a batch, and accuracies on non-PAD targets."""
    output = model(batch.frame, batch.padding)
    speaking = batch.agent[..., 0] != IGNORE
    agent = agent_cross_entropy(output.agent[speaking], batch.agent[speaking], model.agent_fsq)
    weights = torch.ones(agent.shape[-1])
    weights[: len(model.config.agent_levels[0])] = PROSODY_WEIGHT
    heard = batch.turn[..., 0] != IGNORE
    losses = {
        "text": token_loss(output.text, batch.text),
        "transcript": token_loss(output.transcript, batch.transcript),
        "agent": (agent * weights.to(agent.device)).sum(-1).mean() / weights.sum(),
        "turn": F.binary_cross_entropy_with_logits(output.turn[heard], batch.turn[heard].float()),
    }
    scores = {}
    with torch.no_grad():
        for name, logits, target in (
            ("text_acc", output.text, batch.text),
            ("transcript_acc", output.transcript, batch.transcript),
        ):
            real = (target != IGNORE) & (target != PAD)
            scores[name] = (logits[real].argmax(-1) == target[real]).float().mean().item()
    return losses, scores


def average_gradients(model: torch.nn.Module, world: int) -> None:
    """Replace every gradient by the mean over workers."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world
    for parameter, part in zip(model.parameters(), torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


def validate(model: S2S, conversations: list[list[EncodedTurn]], config: S2SConfig, frames: int) -> dict[str, float]:
    """Mean losses and accuracies over up to 20 batches of unseen voices."""
    batcher = Batcher(conversations, config, frames, 0.0, 0)
    totals: dict[str, float] = {}
    count = min(batcher.epoch_batches(), 20) if batcher.usable else 0
    with evaluating(model):
        for _ in range(count):
            losses, scores = objectives(model, batcher.next())
            for name, value in ({key: loss.item() for key, loss in losses.items()} | scores).items():
                totals[name] = totals.get(name, 0.0) + value / count
    return {f"valid_{name}": value for name, value in totals.items()}


def build(args: argparse.Namespace, vocabulary: int) -> S2S:
    """The model to train: from ``--init``, or new from the codec's alphabet and ``--config``."""
    if args.init:
        return load_s2s(args.init)
    codec = load_codec_config(args.codec)
    config = S2SConfig(vocabulary, codec.semantic_levels, codec.agent_levels)
    allowed = ("lead_frames", "transcript_delay_frames", "window", "backbone")
    config = replace(config, **read_section(args.config, "s2s", allowed))
    return S2S(config)


def learning_steps(args: argparse.Namespace, batcher: Batcher, world: int) -> int:
    """Steps that --steps or --epochs allow; 0 = no limit."""
    by_epoch = int(args.epochs * batcher.epoch_batches() / world)
    limits = [limit for limit in (args.steps, by_epoch) if limit]
    return min(limits) if limits else 0


def read_copies(data_dir: Path) -> list[dict[str, list[list[EncodedTurn]]]]:
    """Every encoding of the data set.

    Raises:
        ValueError: there is none.
    """
    copies = [load_codes(path) for path in sorted(data_dir.glob("codes_*.npz"))]
    if not copies:
        raise ValueError(f"{data_dir}: no codes_*.npz: run training.encode_dataset first")
    return copies


def new_batcher(args: argparse.Namespace, dialogues: list[list[EncodedTurn]], config: S2SConfig, rank: int) -> Batcher:
    """One worker's stream of batches.

    Raises:
        ValueError: no dialogue fits into the context.
    """
    batcher = Batcher(dialogues, config, args.frames, args.corrupt, args.seed * 1000 + rank)
    if not batcher.usable:
        raise ValueError(f"{args.data_dir}: no dialogue fits into the window of {config.window} frames")
    return batcher


def new_optimizer(model: torch.nn.Module, lr: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def join_workers(rank: int, world: int, port: int) -> None:
    """Meet the other workers on this machine."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)


def save(run: Run, output: Path, model: S2S, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what the run needs to go on, and the model as it is."""
    run.save(model, optimizer, step)
    save_model(output, "repartee-s2s", model, model.config, {**run.provenance, "step": step})


def train(rank: int, args: argparse.Namespace) -> None:
    """One worker's training loop; worker 0 logs, validates and writes checkpoints."""
    world = args.workers
    torch.set_num_threads(args.threads)
    if world > 1:
        join_workers(rank, world, args.port)
    seed_everything(args.seed)
    model = build(args, len(Tokenizer.load(args.codec / "tokenizer.json")))
    config = model.config
    copies = read_copies(args.data_dir)
    batcher = new_batcher(args, [dialogue for copy in copies for dialogue in copy["train"]], config, rank)
    optimizer = new_optimizer(model, args.lr)
    budget = Budget(learning_steps(args, batcher, world), args.minutes)
    directory = args.output / "run" if rank == 0 else args.output / f"run_{rank}"
    run = Run(directory, {key: str(value) for key, value in vars(args).items()}, budget)
    run.resume_from(args.output / "run")
    step = run.resume(model, optimizer)
    batcher.restart(step)
    control = torch.zeros(2)  # progress and "a checkpoint is due", decided by worker 0
    while True:
        control[0], control[1] = budget.progress(step), float(run.due)
        if world > 1:
            dist.broadcast(control, 0)
        if control[0] >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = cosine(float(control[0]), args.lr)
        losses, scores = objectives(model, batcher.next())
        optimizer.zero_grad(set_to_none=True)
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        if world > 1:
            average_gradients(model, world)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient is not finite at step {step}")
        optimizer.step()
        if rank == 0 and step % 25 == 0:
            run.log(step, {name: loss.item() for name, loss in losses.items()} | scores)
        if rank == 0 and step and step % args.validate_every == 0:
            run.log(step, validate(model, copies[0]["valid"], config, args.frames))
        step += 1
        if control[1] and rank == 0:
            save(run, args.output, model, optimizer, step)
    if rank == 0:
        save(run, args.output, model, optimizer, step)
        run.log(step, validate(model, copies[0]["valid"], config, args.frames))
    run.close()
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="output of training.encode_dataset")
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory; a run in it is continued")
    parser.add_argument("--init", type=Path, help="checkpoint directory to start from")
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
    parser.add_argument("--port", type=int, default=29_511)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.workers > 1:
        spawn(train, (args,), nprocs=args.workers)
    else:
        train(0, args)


if __name__ == "__main__":
    main()
