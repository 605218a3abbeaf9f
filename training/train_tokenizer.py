"""Collect the text pieces of a conversation data set.

``python -m training.train_tokenizer --data_dir data/conversations --output runs/codec/tokenizer.json``

``--open_text`` files (one sentence a line) give parts of words, learnt by byte-pair encoding (Sennrich et al., arXiv
1508.07909), so that any text can be spoken without being spelt.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from models.tokenizer import Tokenizer
from training.domain import load_domain


def conversation_texts(data_dir: Path) -> list[str]:
    """All user and assistant texts below ``data_dir``, unmarked.

    Raises:
        ValueError: there are no conversation folders.
    """
    texts: list[str] = []
    for path in sorted(data_dir.glob("conv_*/meta.json")):
        for turn in json.loads(path.read_text("utf8"))["turns"]:
            texts += [turn["user"]["text"], turn["assistant"]["text"]]
    if not texts:
        raise ValueError(f"{data_dir}: no conv_*/meta.json below it")
    return texts


def word_parts(sentences: Iterable[str], size: int) -> list[str]:
    """About ``size`` parts of the words of lower-case sentences, with a leading space where they begin a word."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, show_progress=False)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "merged_with_next")
    model.train_from_iterator([f" {' '.join(sentence.lower().split())}" for sentence in sentences], trainer)
    return sorted(part for part in model.get_vocab() if len(part.strip()) > 1 and part.isascii())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--domain", type=Path, help="domain file whose words are all kept")
    parser.add_argument(
        "--open_text", type=Path, action="append", default=[], help="sentences to learn word parts from"
    )
    parser.add_argument("--parts", type=int, default=1500, help="how many word parts")
    parser.add_argument("--max_words", type=int, default=4000)
    args = parser.parse_args()
    texts = conversation_texts(args.data_dir)
    if args.domain:
        domain = load_domain(args.domain)
        texts += [*domain.words(), *domain.reply_words()]
    sentences = [line for path in args.open_text for line in path.read_text("utf8").splitlines() if line.strip()]
    tokenizer = Tokenizer.train(texts, args.max_words, word_parts(sentences, args.parts) if sentences else ())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(args.output)
    print(f"{len(tokenizer)} ids -> {args.output}")


if __name__ == "__main__":
    main()
