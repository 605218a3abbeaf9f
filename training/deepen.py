"""Give a trained S2S model more layers without changing what it does, to train it on.

``python -m training.deepen --s2s runs/s2s --after 1 3 5 --output runs/deeper``, then ``train_s2s --init runs/deeper``

A new layer is a copy of the one before it whose two outputs are zero, so that it adds nothing yet (progressive growth
that preserves the function: Chen et al., "Net2Net", arXiv 1511.05641).
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from models.checkpoint import read_header, save_model
from models.errors import ModelError
from models.s2s import S2S
from training.train_s2s import load_s2s


def deepen(model: S2S, after: Sequence[int]) -> S2S:
    """The same model with a new layer after each of these, counted from 0.

    Raises:
        ValueError: it has no such layer, or its backbone is no Llama-style one.
    """
    count = model.config.backbone.get("num_hidden_layers", 0)
    if model.config.backbone["model_type"] != "llama" or not all(0 <= layer < count for layer in after):
        raise ValueError(f"layers {list(after)}: this backbone ({model.config.backbone['model_type']}) has {count}")
    backbone = {**model.config.backbone, "num_hidden_layers": count + len(after)}
    deeper = S2S(replace(model.config, backbone=backbone))
    layers: list[nn.Module] = []
    for index, layer in enumerate(model.backbone.layers):
        layers.append(layer)
        for _ in range(list(after).count(index)):
            new = copy.deepcopy(layer)
            nn.init.zeros_(new.self_attn.o_proj.weight)
            nn.init.zeros_(new.mlp.down_proj.weight)
            layers.append(new)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone.layers.")}
    for index, layer in enumerate(layers):
        weights |= {f"backbone.layers.{index}.{name}": value for name, value in layer.state_dict().items()}
    deeper.load_state_dict(weights)
    return deeper


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s2s", type=Path, required=True, help="checkpoint directory")
    parser.add_argument("--after", type=int, nargs="+", required=True, help="layers, counted from 0")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        provenance = read_header(args.s2s, "repartee-s2s")["provenance"]
        with torch.no_grad():
            deeper = deepen(load_s2s(args.s2s), args.after)
        save_model(args.output, "repartee-s2s", deeper, deeper.config, provenance)
    except (ModelError, ValueError) as exc:
        sys.exit(f"training.deepen: {exc}")


if __name__ == "__main__":
    main()
