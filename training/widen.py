"""Give a codec more semantic codes a frame, and an S2S model ears for them, without changing what the two do.

``python -m training.widen --codec runs/codec --s2s runs/s2s --codes 4 --output runs/wider``, then ``encode_dataset
--keep_heard`` and ``train_s2s --tune_codes --init runs/wider`` with ``runs/wider/codec``

The new codes are random and the model's weights for them are zero: what they are worth is learnt (growth that
preserves the function: Chen et al., "Net2Net", arXiv 1511.05641).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from models.checkpoint import load_overlap, read_header, save_model
from models.codec import CodecConfig, SemanticEncoder
from models.errors import ModelError
from models.s2s import S2S
from training.encoders import load_codec_config, save_codec
from training.export import check_alphabet
from training.train_s2s import load_s2s


def widen(codec: Path, model: S2S, codes: int) -> tuple[SemanticEncoder, CodecConfig, S2S]:
    """The codec's semantic encoder with so many codes more, each as fine as its last one, and a model that takes them.

    Raises:
        ValueError: ``codes`` is not positive.
        ArtefactError: a part of the codec is missing or damaged.
    """
    if codes < 1:
        raise ValueError(f"{codes} codes more: not a positive number")
    old = load_codec_config(codec)
    levels = old.semantic_levels + old.semantic_levels[-1:] * codes
    config = replace(old, semantic_levels=levels)
    encoder = SemanticEncoder(config)
    load_overlap(encoder, codec, "semantic")
    wide = S2S(replace(model.config, user_levels=levels))
    weights = model.state_dict()
    heard = wide.get_parameter("user_embed.0.weight")
    heard.zero_()
    heard[:, : weights["user_embed.0.weight"].shape[1]] = weights["user_embed.0.weight"]
    wide.load_state_dict({**weights, "user_embed.0.weight": heard})
    return encoder, config, wide


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, required=True, help="codec directory")
    parser.add_argument("--s2s", type=Path, required=True, help="checkpoint directory")
    parser.add_argument("--codes", type=int, required=True, help="how many more")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory, the codec in OUTPUT/codec")
    args = parser.parse_args(argv)
    try:
        provenance = read_header(args.s2s, "repartee-s2s")["provenance"]
        narrow = load_s2s(args.s2s)
        check_alphabet(args.codec, args.s2s, narrow.config)
        with torch.no_grad():
            encoder, config, model = widen(args.codec, narrow, args.codes)
        told = read_header(args.codec, "repartee-codec", "semantic")["provenance"]
        save_codec(args.output / "codec", args.codec, encoder, config, told)
        save_model(args.output, "repartee-s2s", model, model.config, provenance)
    except (ModelError, ValueError) as exc:
        sys.exit(f"training.widen: {exc}")


if __name__ == "__main__":
    main()
