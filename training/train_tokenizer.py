"""Collect the text pieces of a conversation data set.

``python -m training.train_tokenizer --data_dir data/conversations --output runs/codec/tokenizer.json``

``--open_text`` files (one sentence a line) give a lexicon and sounds (:mod:`training.pronounce`), so that any text can
be spoken.
"""

import argparse
import json
from pathlib import Path

from models.prosody import strip_marks
from models.tokenizer import Tokenizer
from training.domain import load_domain
from training.pronounce import build_lexicon, learn_sounds


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
    parser.add_argument("--data_dir", type=Path, help="conversation folders")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--domain", type=Path, help="domain file whose words are all kept")
    parser.add_argument(
        "--open_text", type=Path, action="append", default=[], help="sentences to learn sounds from, one a line"
    )
    parser.add_argument("--sounds", type=int, default=900, help="how many sounds")
    parser.add_argument("--lexicon", type=int, default=80_000, help="how many common words can be pronounced")
    parser.add_argument("--max_words", type=int, default=4000)
    args = parser.parse_args()
    texts = conversation_texts(args.data_dir) if args.data_dir else []
    if args.domain:
        domain = load_domain(args.domain)
        texts += [*domain.words(), *domain.reply_words()]
    if not texts:
        parser.error("give --data_dir, --domain or both")
    lines = [line for path in args.open_text for line in path.read_text("utf8").splitlines() if line.strip()]
    sounds, lexicon = [], None
    if lines:
        lexicon, counts = build_lexicon(map(strip_marks, lines), args.lexicon)
        sounds = learn_sounds(lexicon, counts, args.sounds)
    tokenizer = Tokenizer.train(texts, args.max_words, sounds, lexicon)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(args.output)
    print(f"{len(tokenizer)} ids, {len(sounds)} of them sounds -> {args.output}")


if __name__ == "__main__":
    main()
