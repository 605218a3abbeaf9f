"""Train the talker of an S2S model: from phones over time to the agent's codes, on all that the agent voice has said.

``python -m training.train_talker --s2s runs/s2s --data_dir data/codes --codec runs/codec --minutes 40 --workers 2
--output runs/s2s_talking``

OUTPUT is a copy of the S2S checkpoint with the trained talker in it; the backbone of ``--s2s`` is read anew whenever
OUTPUT is written, so both can be trained at the same time. The run resumes from its directory.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import read_header, save_model
from models.s2s import agent_cross_entropy, evaluating
from models.score import Score, sounding
from models.talker import Talker
from models.tokenizer import Tokenizer
from training.encode_dataset import EncodedTurn
from training.run import Budget
from training.s2s_data import place
from training.together import Task, add_arguments, begin, fit, start
from training.train_s2s import load_s2s, read_dialogues

PROSODY_WEIGHT = 2.0  # the prosody code's dimensions count this much more than acoustic ones
UNHEARD_SHARE = 0.5  # of disturbed codes are missing, the others are those of another frame


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of T frames: symbols int16 [T, SHOWN * SLOTS], acting int8 [T, N_ACTING], codes uint16 [T, groups]."""

    symbols: np.ndarray
    acting: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True, slots=True)
class ReplyBatch:
    """Padded replies: talker inputs as in :meth:`models.talker.Talker.forward`, and ``codes``, negative in padding."""

    symbols: Tensor
    acting: Tensor
    before: Tensor
    codes: Tensor


def prepare(turns: Sequence[EncodedTurn], score: Score, lead_frames: int) -> list[Reply]:
    """The different replies among turns: one voice says a sentence one way."""
    replies: dict[tuple[str, int, int], Reply] = {}
    for turn in turns:
        size = len(turn.agent)
        key = (turn.agent_text, size, sum(len(ids) for ids, _ in turn.agent_words))
        if size and key not in replies:
            replies[key] = to_reply(turn, score, lead_frames)
    return list(replies.values())


def to_reply(turn: EncodedTurn, score: Score, lead_frames: int) -> Reply:
    """What the talker is told of a turn's reply, and the codes it should say."""
    size = len(turn.agent)
    row = place(turn.agent_words, 0, size + lead_frames - 1).tolist()
    return Reply(*sounding(row, score, lead_frames, range(size)), turn.agent)


def collate(replies: Sequence[Reply], corrupt: float, rng: np.random.Generator) -> ReplyBatch:
    """Pad at the end; ``corrupt`` is the share of fed-back codes that are disturbed."""
    longest = max(len(reply.codes) for reply in replies)

    def stack(name: str, fill: int) -> np.ndarray:
        rows = [getattr(reply, name).astype(np.int64) for reply in replies]
        return np.stack([np.pad(row, [(0, longest - len(row)), (0, 0)], constant_values=fill) for row in rows])

    codes = stack("codes", -1)
    before = np.concatenate([np.full_like(codes[:, :1], -1), codes[:, :-1]], axis=1)
    if corrupt:
        known = before[..., 0] >= 0
        hit = (rng.random(known.shape) < corrupt) & known
        unheard = rng.random(known.shape) < UNHEARD_SHARE
        others = before[known]
        before[hit & ~unheard] = others[rng.integers(len(others), size=(hit & ~unheard).sum())]
        before[hit & unheard] = -1
    return ReplyBatch(
        torch.from_numpy(stack("symbols", 0)), torch.from_numpy(stack("acting", 0)).float(),
        torch.from_numpy(before), torch.from_numpy(codes),
    )  # fmt: skip


class ReplyBatches:
    """Endless batches of about ``frames`` frames, of replies of similar length; each epoch in another order."""

    def __init__(self, replies: Sequence[Reply], frames: int, corrupt: float, seed: int) -> None:
        self._replies, self._frames, self._corrupt, self._seed = replies, frames, corrupt, seed
        self._lengths = np.array([len(reply.codes) for reply in replies])
        self.restart(0)

    def restart(self, step: int) -> None:
        """Go on with batches that differ from those before ``step``: what a resumed run calls."""
        self._rng, self._queue = np.random.default_rng([self._seed, step]), list[list[int]]()

    def an_epoch(self) -> list[list[int]]:
        """Indices of the replies of every batch of an epoch."""
        batches: list[list[int]] = []
        count = 0
        for pick in np.argsort(self._lengths * self._rng.uniform(0.9, 1.1, len(self._lengths))):
            if not batches or (count + 1) * self._lengths[pick] > self._frames:
                batches.append([])
                count = 0
            batches[-1].append(int(pick))
            count += 1
        self._rng.shuffle(batches)  # type: ignore[arg-type]
        return batches

    def next(self) -> ReplyBatch:
        """The next batch."""
        if not self._queue:
            self._queue = self.an_epoch()
        return collate([self._replies[pick] for pick in self._queue.pop()], self._corrupt, self._rng)


def code_loss(talker: Talker, batch: ReplyBatch) -> Tensor:
    """Mean cross-entropy of the code dimensions, those of the prosody code counting PROSODY_WEIGHT."""
    hidden, _ = talker(batch.symbols, batch.acting, batch.before, talker.init_state(len(batch.codes)))
    real = batch.codes[..., 0] >= 0
    return frame_loss(talker, hidden[real], batch.codes[real])


def frame_loss(talker: Talker, hidden: Tensor, codes: Tensor) -> Tensor:
    """:func:`code_loss` of frames' outputs [N, 2 * dim] and codes [N, groups]."""
    loss = agent_cross_entropy(talker.logits(hidden, codes), codes, talker.fsq)
    weights = loss.new_ones(loss.shape[-1])
    weights[: len(talker.fsq.groups[0])] = PROSODY_WEIGHT
    return (loss * weights).sum(-1).mean() / weights.sum()


def validate(talker: Talker, replies: Sequence[Reply], frames: int) -> dict[str, float]:
    """The loss on up to 20 batches of unseen replies, and what it is when no codes are heard."""
    batches = ReplyBatches(replies, frames, 0.0, 0)
    order = batches.an_epoch()[:20] if replies else []
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"valid_codes": [], "valid_codes_unheard": []}
    with evaluating(talker):
        for picks in order:
            batch = collate([replies[pick] for pick in picks], 0.0, rng)
            found["valid_codes"].append(code_loss(talker, batch).item())
            deaf = ReplyBatch(batch.symbols, batch.acting, torch.full_like(batch.before, -1), batch.codes)
            found["valid_codes_unheard"].append(code_loss(talker, deaf).item())
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def train(rank: int, args: argparse.Namespace) -> None:
    """One worker's training; worker 0 logs, validates and writes checkpoints."""
    begin(rank, args)
    model = load_s2s(args.s2s)
    talker, lead = model.talker, model.config.lead_frames
    score = Score.of(Tokenizer.load(args.codec / "tokenizer.json"))
    if len(score.symbols) != model.config.symbols:
        raise ValueError(f"{args.s2s}: knows {model.config.symbols} phone symbols, {args.codec} {len(score.symbols)}")
    splits = read_dialogues(args.data_dir)
    turns = {split: [turn for dialogue in dialogues for turn in dialogue] for split, dialogues in splits.items()}
    replies = prepare(turns["train"], score, lead)[rank :: args.workers]
    held = prepare(turns["valid"], score, lead) if rank == 0 else []
    batches = ReplyBatches(replies, args.frames, args.corrupt, args.seed * 1000 + rank)

    def learn() -> tuple[Tensor, dict[str, float]]:
        loss = code_loss(talker, batches.next())
        return loss, {"codes": loss.item()}

    def save(provenance: dict[str, Any]) -> None:
        whole = load_s2s(args.s2s)
        whole.talker.load_state_dict(talker.state_dict())
        made = read_header(args.s2s, "repartee-s2s")["provenance"] | {"talker": provenance}
        save_model(args.output, "repartee-s2s", whole, whole.config, made)

    check = partial(validate, talker, held, args.frames)
    fit(rank, args, talker, Task(Budget(args.steps, args.minutes), batches.restart, learn, check, save))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="output of training.encode_dataset")
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--s2s", type=Path, required=True, help="S2S checkpoint whose talker is trained")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory; a run in it is continued")
    parser.add_argument("--corrupt", type=float, default=0.25, help="share of disturbed fed-back codes")
    add_arguments(parser, minutes=40.0, frames=2400, lr=1.5e-3, port=29_513)
    start(train, parser.parse_args())


if __name__ == "__main__":
    main()
