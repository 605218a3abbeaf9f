"""Single-threaded processes that train one model together: they average their gradients (gloo).

Worker 0 decides when to stop and to save, logs, validates and writes checkpoints; the others follow its trainer state.
"""

import argparse
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from training.run import Budget, Run, cosine, seed_everything

LOG_EVERY = 25  # steps


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker does besides the loop.

    restart: go on with batches that differ from those before a step. learn: the loss of the next batch, and what to log
    of it. check: the validation. save: write the model, given its provenance.
    """

    budget: Budget
    restart: Callable[[int], None]
    learn: Callable[[], tuple[Tensor, dict[str, float]]]
    check: Callable[[], dict[str, float]]
    save: Callable[[dict[str, Any]], None]


def add_arguments(parser: argparse.ArgumentParser, minutes: float, frames: int, lr: float, port: int) -> None:
    """The options that :func:`begin`, :func:`fit` and :func:`start` read, with a trainer's defaults."""
    parser.add_argument("--steps", type=int, default=0, help="0 = no limit")
    parser.add_argument("--minutes", type=float, default=minutes, help="wall-clock budget; 0 = no limit")
    parser.add_argument("--frames", type=int, default=frames, help="frames in a batch, per worker")
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--validate_every", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bf16", action="store_true", help="matrix products in bfloat16: twice as fast with AVX512-BF16"
    )
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--seed", type=int, default=0)


def start(train: Callable[[int, argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run ``train(rank, args)`` in ``--workers`` processes, or in this one."""
    if args.workers > 1:
        spawn(train, (args,), nprocs=args.workers)
    else:
        train(0, args)


def begin(rank: int, args: argparse.Namespace) -> None:
    """What a worker does first: meet the others on this machine, and seed."""
    torch.set_num_threads(args.threads)
    if args.workers > 1:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # sent when the parent ends
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(args.port))
        dist.init_process_group("gloo", rank=rank, world_size=args.workers)
    seed_everything(args.seed)


def average_gradients(model: torch.nn.Module, world: int) -> None:
    """Replace every gradient by the mean over workers."""
    trained = [p for p in model.parameters() if p.requires_grad]
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world
    for parameter, part in zip(trained, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


def new_optimizer(model: torch.nn.Module, lr: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decay, plain = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def step_together(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, task: Task, args: argparse.Namespace
) -> dict[str, float]:
    """One step of all workers; returns what to log of this one's batch.

    Raises:
        FloatingPointError: the gradient is not finite.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        loss, values = task.learn()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if args.workers > 1:
        average_gradients(model, args.workers)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"gradient is not finite; {values}")
    optimizer.step()
    return values


def fit(rank: int, args: argparse.Namespace, model: torch.nn.Module, task: Task) -> None:
    """Train what of ``model`` asks for gradients until the budget is used up; a run in ``--output`` is continued."""
    optimizer = new_optimizer(model, args.lr)
    directory = args.output / "run" if rank == 0 else args.output / f"run_{rank}"
    run = Run(directory, {key: str(value) for key, value in vars(args).items()}, task.budget)
    run.resume_from(args.output / "run")
    step = run.resume(model, optimizer)
    task.restart(step)

    def save() -> None:
        run.save(model, optimizer, step)
        task.save({**run.provenance, "step": step})

    while True:
        control = torch.tensor([task.budget.progress(step), float(run.due)])  # decided by worker 0
        if args.workers > 1:
            dist.broadcast(control, 0)
        if control[0] >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = cosine(float(control[0]), args.lr)
        values = step_together(model, optimizer, task, args)
        if rank == 0 and step % LOG_EVERY == 0:
            run.log(step, values)
        if rank == 0 and step and step % args.validate_every == 0:
            run.log(step, task.check())
        step += 1
        if control[1] and rank == 0:
            save()
    if rank == 0:
        save()
        run.log(step, task.check())
    run.close()
    if args.workers > 1:
        dist.barrier()
        dist.destroy_process_group()
