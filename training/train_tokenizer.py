"""Collect the text pieces of a conversation data set.

``python -m training.train_tokenizer --data_dir data/conversations --output runs/codec/tokenizer.json``
"""

import argparse
import json
from pathlib import Path

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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--domain", type=Path, help="domain file whose words are all kept")
    parser.add_argument("--max_words", type=int, default=4000)
    args = parser.parse_args()
    texts = conversation_texts(args.data_dir)
    if args.domain:
        domain = load_domain(args.domain)
        texts += [*domain.words(), *domain.reply_words()]
    tokenizer = Tokenizer.train(texts, args.max_words)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(args.output)
    print(f"{len(tokenizer)} ids -> {args.output}")


if __name__ == "__main__":
    main()
