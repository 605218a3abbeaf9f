"""A model between two that were trained from the same one: better than either, where it is a long way between them.

``python -m training.average --s2s BEFORE AFTER --output runs/between``

The weights lie ``--share`` of the way from the first to the second ("Robust fine-tuning of zero-shot models",
Wortsman et al., arXiv 2109.01903). Both have to have the same sizes: where the second is deeper, :mod:`training.deepen`
the first.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from models.checkpoint import read_header, save_model
from models.errors import ModelError
from training.train_s2s import load_s2s

M = TypeVar("M", bound=nn.Module)


def between(first: M, second: M, share: float) -> M:
    """The second model with weights so far on the way to it.

    Raises:
        ValueError: the two have other sizes, or ``share`` is not from 0 to 1.
    """
    start, end = first.state_dict(), second.state_dict()
    if {name: value.shape for name, value in start.items()} != {name: value.shape for name, value in end.items()}:
        raise ValueError("the two models have other sizes")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share {share:g} is not from 0 to 1")
    second.load_state_dict({name: start[name].lerp(value, share) for name, value in end.items()})
    return second


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s2s", type=Path, nargs=2, required=True, metavar="DIR", help="checkpoint directories")
    parser.add_argument("--share", type=float, default=0.5, help="of the second (default: 0.5)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    averaged = f"{args.share:g} of the way from"
    try:
        first, second = map(load_s2s, args.s2s)
        provenance = read_header(args.s2s[1], "repartee-s2s")["provenance"]
        if first.config != second.config:
            raise ValueError("the two models have other sizes")
        with torch.no_grad():
            model = between(first, second, args.share)
        told = {**provenance, "averaged": f"{averaged} {args.s2s[0]}"}
        save_model(args.output, "repartee-s2s", model, model.config, told)
    except (ModelError, ValueError) as exc:
        sys.exit(f"training.average: {exc}")


if __name__ == "__main__":
    main()
