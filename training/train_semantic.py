"""Train the codec's semantic codes on user turns: phones frame by frame, words by CTC.

``python -m training.train_semantic --features data/features --minutes 20 --output runs/codec``

Both objectives read the quantised values only, so whatever they need has to pass through the codes. Phones are asked
for two frames late (they are clearer with what follows), words whenever CTC finds them.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checkpoint import load_weights, save_model
from models.codec import CodecConfig, SemanticEncoder
from models.tokenizer import PAD, Tokenizer
from training.phones import PHONES
from training.run import Budget, Run, cosine, read_section, seed_everything
from training.scoring import word_errors
from training.user_features import FRONT_END, SUB_FRAMES, UNKNOWN_PHONE, load_features

PHONE_DELAY_FRAMES = 2
PHONE_WEIGHT = 0.6


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """embedding float16 [T, 96]; phones uint8 [4 T]; words: token ids."""

    embedding: np.ndarray
    phones: np.ndarray
    words: list[int]
    text: str


class SemanticHeads(nn.Module):
    """Training-only readers of the quantised values [B, T, dims]."""

    def __init__(self, dims: int, vocabulary: int, hidden: int = 256) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(dims, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.words = nn.Linear(hidden, vocabulary)
        self.phones = nn.Linear(hidden, SUB_FRAMES * len(PHONES))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Word logits [B, T, V], phone logits [B, 4 T, P]."""
        x = self.trunk(values)
        return self.words(x), self.phones(x).reshape(x.shape[0], -1, len(PHONES))


class SemanticTrainee(nn.Module):
    """Encoder with its training heads."""

    def __init__(self, config: CodecConfig, vocabulary: int) -> None:
        super().__init__()
        self.encoder = SemanticEncoder(config, dropout=0.1)
        self.heads = SemanticHeads(self.encoder.fsq.dims, vocabulary)

    def forward(self, embedding: Tensor, hard: Tensor | bool) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, 96] -> word and phone logits; ``hard`` rows pass the quantiser."""
        latents, _ = self.encoder.latents(embedding, self.encoder.context.init_state(embedding.shape[0]))
        return self.heads(self.encoder.fsq(latents, hard))


def load_examples(folders: Sequence[Path], tokenizer: Tokenizer) -> dict[str, list[Example]]:
    """Turns by split; recordings with a word outside the tokenizer's whole words are left out (CTC has no room)."""
    splits: dict[str, list[Example]] = {"train": [], "valid": [], "people": []}
    for path in (path for folder in folders for path in sorted(folder.glob("*.npz"))):
        turns, meta = load_features(path)
        for turn in turns:
            ids = [tokenizer.encode(word) for word in turn.text.split()]
            if any(len(pieces) != 1 for pieces, word in zip(ids, turn.text.split(), strict=True)):
                continue
            words = [pieces[0] for pieces in ids]
            split = str(meta["split"])
            if split == "valid" and meta["kind"] == "recording":
                split = "people"
            if 0 < len(words) < len(turn.embedding):
                splits[split].append(Example(turn.embedding, turn.phones, words, turn.text))
    return splits


def collate(
    examples: Sequence[Example], rng: np.random.Generator | None
) -> tuple[Tensor, Tensor, Tensor, list[list[int]]]:
    """Padded embeddings [B, T, 96], delayed phones [B, 4 T], lengths [B], words. ``rng`` turns on time masking."""
    longest = max(len(example.embedding) for example in examples)
    embedding = np.zeros((len(examples), longest, 96), np.float32)
    phones = np.full((len(examples), longest * SUB_FRAMES), UNKNOWN_PHONE, np.uint8)
    delay = PHONE_DELAY_FRAMES * SUB_FRAMES
    for row, example in enumerate(examples):
        size = len(example.embedding)
        embedding[row, :size] = example.embedding
        embedding[row, size:] = example.embedding[-1]
        phones[row, delay : size * SUB_FRAMES] = example.phones[: size * SUB_FRAMES - delay]
        if rng is not None:
            for _ in range(int(rng.integers(0, 3))):
                begin = int(rng.integers(0, size))
                width = int(rng.integers(1, 3))
                embedding[row, begin : begin + width] = embedding[row, max(begin - 1, 0)]
    lengths = torch.tensor([len(example.embedding) for example in examples])
    return (
        torch.from_numpy(embedding),
        torch.from_numpy(phones).long(),
        lengths,
        [example.words for example in examples],
    )


def objectives(
    trainee: SemanticTrainee, batch: tuple[Tensor, Tensor, Tensor, list[list[int]]], hard: Tensor | bool
) -> dict[str, Tensor]:
    """Word CTC (per word) and phone cross-entropy of a batch."""
    embedding, phones, lengths, words = batch
    word_logits, phone_logits = trainee(embedding, hard)
    sizes = torch.tensor([len(row) for row in words])
    flat = torch.tensor([token for row in words for token in row])
    log_probs = word_logits.log_softmax(-1).transpose(0, 1)
    ctc = F.ctc_loss(log_probs, flat, lengths, sizes, blank=PAD, reduction="sum", zero_infinity=True) / len(flat)
    known = phones != UNKNOWN_PHONE
    phone = F.cross_entropy(phone_logits[known], phones[known]) if bool(known.any()) else ctc.new_zeros(())
    return {"ctc": ctc, "phone": phone}


@torch.no_grad()
def evaluate(trainee: SemanticTrainee, examples: Sequence[Example], tokenizer: Tokenizer) -> dict[str, float]:
    """Greedy word error rate, share of turns without an error and phone frame accuracy, all through hard codes."""
    trainee.eval()
    errors = total = exact = right = frames = 0
    for start in range(0, len(examples), 32):
        part = examples[start : start + 32]
        embedding, phones, lengths, _ = collate(part, None)
        word_logits, phone_logits = trainee(embedding, True)
        known = phones != UNKNOWN_PHONE
        right += int((phone_logits.argmax(-1) == phones)[known].sum())
        frames += int(known.sum())
        for row, length, example in zip(word_logits.argmax(-1), lengths.tolist(), part, strict=True):
            ids = torch.unique_consecutive(row[:length]).tolist()
            made = tokenizer.decode(token for token in ids if token != PAD).split()
            wrong = word_errors(example.text.split(), made)
            errors, total, exact = errors + wrong, total + len(example.text.split()), exact + (wrong == 0)
    trainee.train()
    size = max(len(examples), 1)
    return {"wer": errors / max(total, 1), "exact": exact / size, "phone_acc": right / max(frames, 1)}


def log_scores(
    run: Run,
    step: int,
    trainee: SemanticTrainee,
    splits: dict[str, list[Example]],
    tokenizer: Tokenizer,
    most: int | None,
) -> None:
    """Log :func:`evaluate` on up to ``most`` turns of unseen voices and of held-out people."""
    for name in ("valid", "people"):
        scores = evaluate(trainee, splits[name][:most], tokenizer)
        run.log(step, {f"{name}_{key}": value for key, value in scores.items()})


def set_statistics(encoder: SemanticEncoder, examples: Sequence[Example]) -> None:
    """Standardise embeddings by the training set's mean and deviation."""
    sample = np.concatenate([example.embedding for example in examples[:2000]]).astype(np.float32)
    encoder.mean.copy_(torch.from_numpy(sample.mean(0)))
    encoder.std.copy_(torch.from_numpy(sample.std(0) + 1e-3))


def draw(examples: Sequence[Example], size: int, rng: np.random.Generator) -> list[Example]:
    """Examples of similar lengths: a larger sample is sorted, and a window of it taken."""
    pool = sorted(rng.integers(len(examples), size=size * 6), key=lambda index: len(examples[index].embedding))
    start = int(rng.integers(0, 6)) * size
    return [examples[index] for index in pool[start : start + size]]


def train(args: argparse.Namespace) -> None:
    """Train until the budget is used up, then write the codec's semantic part."""
    seed_everything(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.load(args.output / "tokenizer.json")
    fields = [field.name for field in dataclasses.fields(CodecConfig)]
    config = CodecConfig(**read_section(args.config, "codec", fields))
    trainee = SemanticTrainee(config, len(tokenizer))
    load_weights(trainee.encoder.front, FRONT_END)
    trainee.encoder.front.requires_grad_(False)
    splits = load_examples(args.features, tokenizer)
    if not splits["train"]:
        raise ValueError(f"no training turn in {', '.join(map(str, args.features))}")
    set_statistics(trainee.encoder, splits["train"])
    trained = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=1e-2)
    run = Run(
        args.output / "semantic_run",
        {key: str(value) for key, value in vars(args).items()},
        Budget(args.steps, args.minutes),
    )
    first = run.resume(trainee, optimizer)
    rng = np.random.default_rng(args.seed + first)
    examples = splits["train"]
    deviation = trainee.encoder.std.clone()
    step = first - 1  # a finished run is continued with no steps
    for step in run.steps(first):
        progress = run.budget.progress(step)
        for group in optimizer.param_groups:
            group["lr"] = cosine(progress, args.lr)
        batch = collate(draw(examples, args.batch, rng), rng)
        noise = torch.randn_like(batch[0]) * deviation * args.feature_noise
        share = 0.0 if progress < 0.05 else min(1.0, 0.5 + progress)  # first without the quantiser, then with it
        hard = torch.rand(len(batch[0]), 1, 1) < share
        losses = objectives(trainee, (batch[0] + noise, *batch[1:]), hard)
        optimizer.zero_grad(set_to_none=True)
        (losses["ctc"] + PHONE_WEIGHT * losses["phone"]).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 50 == 0:
            run.log(step, {name: value.item() for name, value in losses.items()})
        if step and step % 400 == 0:
            log_scores(run, step, trainee, splits, tokenizer, 256)
        if run.due:
            run.save(trainee, optimizer, step + 1)
    run.save(trainee, optimizer, step + 1)
    log_scores(run, step + 1, trainee, splits, tokenizer, None)
    run.close()
    save_model(args.output, "repartee-codec", trainee.encoder, config, run.provenance, "semantic")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, action="append", required=True, help="of training.user_features")
    parser.add_argument("--output", type=Path, required=True, help="codec directory (holds tokenizer.json); continued")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--feature_noise", type=float, default=0.2, help="noise on embeddings, in their deviations")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--config", type=Path, help="YAML with a section 'codec'")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
