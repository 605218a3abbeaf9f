"""Train the codec's semantic codes on user turns: phones frame by frame and by CTC, words by CTC.

``python -m training.train_semantic --features data/features --minutes 20 --output runs/codec``

All objectives read the quantised values only, so whatever they need has to pass through the codes. Synthetic speech has
exact phone times, and its phones are asked for two frames late (they are clearer with what follows); whether anybody
speaks is asked for at once, since the end of a turn cannot be known before silence is. Recordings of people have only
their text, whose dictionary phones CTC places (Graves et al., 2006). Words are asked for where all of them are whole
pieces and, with ``--domain``, words of the domain.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checkpoint import load_overlap, load_weights, save_model
from models.codec import CodecConfig, SemanticEncoder
from models.tokenizer import Tokenizer
from training.domain import load_domain
from training.lexicon import phone_labels
from training.phones import PHONES, SILENCE
from training.run import Budget, Run, cosine, read_section, seed_everything
from training.scoring import word_errors
from training.semantic_batches import Collated, Example, collate, draw_mixed
from training.user_features import FRONT_END, SUB_FRAMES, UNKNOWN_PHONE, UserFeatures, load_features

WEIGHTS = {"ctc": 1.0, "phone": 0.6, "spoken": 0.4, "active": 0.6}
CONFIG_FIELDS = [field.name for field in dataclasses.fields(CodecConfig)]
BLANK_PHONE = PHONES.index(SILENCE)
WORD_BLANK = 0


class SemanticHeads(nn.Module):
    """Training-only readers of the quantised values [B, T, dims]."""

    def __init__(self, dims: int, vocabulary: int, hidden: int = 256) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(dims, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.words = nn.Linear(hidden, vocabulary)
        self.phones = nn.Linear(hidden, SUB_FRAMES * len(PHONES))
        self.spoken = nn.Linear(hidden, SUB_FRAMES * len(PHONES))
        self.active = nn.Linear(hidden, SUB_FRAMES)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits: words [B, T, V]; timed phones, CTC phones (SIL is the blank) [B, 4 T, P]; speech [B, 4 T]."""
        x = self.trunk(values)
        timed, spoken = (head(x).reshape(x.shape[0], -1, len(PHONES)) for head in (self.phones, self.spoken))
        return self.words(x), timed, spoken, self.active(x).flatten(1)


class SemanticTrainee(nn.Module):
    """Encoder with its training heads."""

    def __init__(self, config: CodecConfig, vocabulary: int) -> None:
        super().__init__()
        self.encoder = SemanticEncoder(config, dropout=0.1)
        self.heads = SemanticHeads(self.encoder.fsq.dims, vocabulary)

    def forward(self, embedding: Tensor, hard: Tensor | bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings [B, T, D] -> logits of :class:`SemanticHeads`; ``hard`` rows pass the quantiser."""
        latents, _ = self.encoder.latents(embedding, self.encoder.context.init_state(embedding.shape[0]))
        return self.heads(self.encoder.fsq(latents.float(), hard))


def spoken_phones(turn: UserFeatures) -> tuple[int, ...]:
    """Phones of a turn in order: from its times, else from the dictionary; empty where neither knows them."""
    if (turn.phones != UNKNOWN_PHONE).any():
        steps = turn.phones[np.flatnonzero(np.diff(turn.phones, prepend=BLANK_PHONE))]
        return tuple(int(phone) for phone in steps if phone not in (BLANK_PHONE, UNKNOWN_PHONE))
    return phone_labels(turn.text)


def load_examples(
    folders: Sequence[Path], tokenizer: Tokenizer, known: frozenset[str] = frozenset()
) -> tuple[dict[str, list[Example]], int]:
    """Turns by split, and how many classes their words are.

    Where a word is not one piece, or not ``known``, only the phones are asked for. Classes are the pieces of training
    words from 1 on: CTC over all pieces of the tokenizer would take a third of the time. 0 is the blank.
    """
    splits: dict[str, list[Example]] = {"train": [], "people_train": [], "valid": [], "people": []}
    for path in (path for folder in folders for path in sorted(folder.glob("*.npz"))):
        turns, meta = load_features(path)
        for turn in turns:
            ids = [tokenizer.encode(word) for word in turn.text.split()]
            usable = all(len(pieces) == 1 for pieces in ids) and (not known or known.issuperset(turn.text.split()))
            split = str(meta["split"])
            if meta["kind"] == "recording":
                split = "people" if split == "valid" else "people_train"
            words = [piece for pieces in ids for piece in pieces] if usable else []
            spoken = spoken_phones(turn)
            if (words or spoken) and len(words) < len(turn.embedding):
                splits[split].append(Example(turn.embedding, turn.phones, words, turn.text, spoken))
    heard = {piece for name in ("train", "people_train") for example in splits[name] for piece in example.words}
    classes = {piece: index for index, piece in enumerate(sorted(heard), WORD_BLANK + 1)}
    for examples in splits.values():
        for index, example in enumerate(examples):
            usable = classes.keys() >= set(example.words)
            words = [classes[piece] for piece in example.words] if usable else []
            examples[index] = dataclasses.replace(example, words=words)
    return splits, len(classes) + 1


def ctc(logits: Tensor, labels: Sequence[Sequence[int]], lengths: Tensor, blank: int) -> Tensor:
    """CTC loss per label of logits [B, T, C]; rows without labels are left out."""
    rows = [row for row, label in enumerate(labels) if len(label)]
    if not rows:
        return logits.sum() * 0.0
    sizes = torch.tensor([len(labels[row]) for row in rows])
    flat = torch.tensor([token for row in rows for token in labels[row]], device=logits.device)
    log_probs = logits[rows].float().log_softmax(-1).transpose(0, 1)
    loss = F.ctc_loss(log_probs, flat, lengths[rows], sizes, blank=blank, reduction="sum", zero_infinity=True)
    return loss / len(flat)


def objectives(trainee: SemanticTrainee, batch: Collated, hard: Tensor | bool) -> dict[str, Tensor]:
    """Word CTC (per word), timed phones, phone CTC (per phone) and whether anybody speaks, of a batch."""
    word_logits, phone_logits, spoken_logits, active_logits = trainee(batch.embedding, hard)
    known, timed = batch.phones != UNKNOWN_PHONE, batch.now != UNKNOWN_PHONE
    word_loss = ctc(word_logits, batch.words, batch.lengths, WORD_BLANK)
    phone = active = word_loss.new_zeros(())
    if bool(known.any()):
        phone = F.cross_entropy(phone_logits[known], batch.phones[known])
        speech = (batch.now[timed] != BLANK_PHONE).float()
        active = F.binary_cross_entropy_with_logits(active_logits[timed].float(), speech)
    spoken_loss = ctc(spoken_logits, batch.spoken, batch.lengths * SUB_FRAMES, BLANK_PHONE)
    return {"ctc": word_loss, "phone": phone, "spoken": spoken_loss, "active": active}


def collapse(labels: Tensor, blank: int) -> list[int]:
    """Greedy CTC path [T] -> labels."""
    return [label for label in torch.unique_consecutive(labels).tolist() if label != blank]


@torch.no_grad()
def evaluate(trainee: SemanticTrainee, examples: Sequence[Example]) -> dict[str, float]:
    """Greedy word and phone errors, turns without a word error, frames right in phones and in speech, by hard codes."""
    trainee.eval()
    errors = total = exact = turns = right = frames = phone_errors = phone_total = active = heard_frames = 0
    for start in range(0, len(examples), 32):
        part = examples[start : start + 32]
        batch = collate(part, None)
        word_logits, phone_logits, spoken_logits, active_logits = trainee(batch.embedding, True)
        known, timed = batch.phones != UNKNOWN_PHONE, batch.now != UNKNOWN_PHONE
        active += int(((active_logits > 0) == (batch.now != BLANK_PHONE))[timed].sum())
        heard_frames += int(timed.sum())
        right += int((phone_logits.argmax(-1) == batch.phones)[known].sum())
        frames += int(known.sum())
        for row, example in enumerate(part):
            length = int(batch.lengths[row])
            made = collapse(word_logits[row, :length].argmax(-1), WORD_BLANK)
            if example.words:
                wrong = word_errors(list(map(str, example.words)), list(map(str, made)))
                errors, total, exact, turns = (
                    errors + wrong,
                    total + len(example.words),
                    exact + (wrong == 0),
                    turns + 1,
                )
            heard = collapse(spoken_logits[row, : length * SUB_FRAMES].argmax(-1), BLANK_PHONE)
            if example.spoken:
                phone_errors += word_errors(list(map(str, example.spoken)), list(map(str, heard)))
                phone_total += len(example.spoken)
    trainee.train()
    return {
        "wer": errors / max(total, 1),
        "exact": exact / max(turns, 1),
        "per": phone_errors / max(phone_total, 1),
        "phone_acc": right / max(frames, 1),
        "active_acc": active / max(heard_frames, 1),
    }


def log_scores(
    run: Run,
    step: int,
    trainee: SemanticTrainee,
    splits: dict[str, list[Example]],
    most: int | None,
) -> None:
    """Log :func:`evaluate` on up to ``most`` turns of unseen voices and of held-out people."""
    for name in ("valid", "people"):
        scores = evaluate(trainee, splits[name][:most])
        run.log(step, {f"{name}_{key}": value for key, value in scores.items()})


def set_statistics(encoder: SemanticEncoder, examples: Sequence[Example]) -> None:
    """Standardise embeddings by the training set's mean and deviation."""
    sample = np.concatenate([example.embedding for example in examples[:2000]]).astype(np.float32)
    sample = sample[:, : len(encoder.mean)]
    encoder.mean.copy_(torch.from_numpy(sample.mean(0)))
    encoder.std.copy_(torch.from_numpy(sample.std(0) + 1e-3))


def read_splits(args: argparse.Namespace, tokenizer: Tokenizer) -> tuple[dict[str, list[Example]], int]:
    """:func:`load_examples` as the command line asks for; people sorted by length.

    Raises:
        ValueError: there is nothing to train on.
    """
    known = frozenset(load_domain(args.domain).words()) if args.domain else frozenset()
    splits, classes = load_examples(args.features, tokenizer, known)
    if not splits["train"]:  # people alone
        splits["train"], splits["people_train"] = splits["people_train"], []
    if not splits["train"]:
        raise ValueError(f"no training turn in {', '.join(map(str, args.features))}")
    splits["people_train"].sort(key=lambda example: len(example.embedding))
    return splits, classes


def train(args: argparse.Namespace) -> None:
    """Train until the budget is used up, then write the codec's semantic part."""
    seed_everything(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.load(args.output / "tokenizer.json")
    config = CodecConfig(**read_section(args.config, "codec", CONFIG_FIELDS))
    splits, classes = read_splits(args, tokenizer)
    trainee = SemanticTrainee(config, classes)
    load_weights(trainee.encoder.front, FRONT_END)
    trainee.encoder.front.requires_grad_(False)
    set_statistics(trainee.encoder, splits["train"])
    if args.init:
        partial = load_overlap(trainee.encoder, args.init, "semantic")
        print(f"started from {args.init}; not whole: {', '.join(partial) or 'nothing'}", flush=True)
    trained = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=1e-2)
    run = Run(
        args.output / "semantic_run",
        {key: str(value) for key, value in vars(args).items()},
        Budget(args.steps, args.minutes),
    )
    first = run.resume(trainee, optimizer)
    rng = np.random.default_rng(args.seed + first)
    deviation = trainee.encoder.std.clone()
    step = first - 1  # a finished run is continued with no steps
    for step in run.steps(first):
        progress = run.budget.progress(step)
        for group in optimizer.param_groups:
            group["lr"] = cosine(progress, args.lr)
        batch = collate(draw_mixed(splits, args.batch, rng), rng)
        embedding = batch.embedding[..., : config.heard_dim]
        noise = torch.randn_like(embedding) * deviation * args.feature_noise
        share = 0.0 if progress < 0.05 and not args.init else min(1.0, 0.5 + progress)  # of rows that are quantised
        hard = torch.rand(len(embedding), 1, 1) < share
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            losses = objectives(trainee, batch._replace(embedding=embedding + noise), hard)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 50 == 0:
            run.log(step, {name: value.item() for name, value in losses.items()})
        if step and step % 400 == 0:
            log_scores(run, step, trainee, splits, 256)
        if run.due:
            run.save(trainee, optimizer, step + 1)
    run.save(trainee, optimizer, step + 1)
    log_scores(run, step + 1, trainee, splits, None)
    run.close()
    save_model(args.output, "repartee-codec", trainee.encoder, config, run.provenance, "semantic")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, action="append", required=True, help="of training.user_features")
    parser.add_argument("--output", type=Path, required=True, help="codec directory (holds tokenizer.json); continued")
    parser.add_argument("--domain", type=Path, help="domain file: other words are heard as phones only")
    parser.add_argument("--init", type=Path, help="codec directory to start from; sizes may differ")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--feature_noise", type=float, default=0.2, help="noise on embeddings, in their deviations")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bf16", action="store_true", help="matrix products in bfloat16: twice as fast with AVX512-BF16"
    )
    parser.add_argument("--config", type=Path, help="YAML with a section 'codec'")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
