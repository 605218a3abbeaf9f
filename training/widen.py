"""Give a codec more semantic codes a frame, and an S2S model ears for them, without changing what the two do.

``python -m training.widen --codec runs/codec --s2s runs/s2s --codes 4 --output runs/wider``, then ``encode_dataset
--keep_heard`` and ``train_s2s --tune_codes --init runs/wider`` with ``runs/wider/codec``

The new codes are random and the model's weights for them are zero: what they are worth is learnt (growth that
preserves the function: Chen et al., "Net2Net", arXiv 1511.05641). With ``--mel FEATURES`` the semantic encoder gets a
branch that hears the mel itself, too; it adds nothing yet.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoint import load_overlap, read_header, save_model
from models.codec import CodecConfig, SemanticEncoder
from models.errors import ModelError
from models.s2s import S2S
from models.speech_embedding import HEARD_DIM
from training.encoders import load_codec_config, save_codec
from training.export import check_alphabet
from training.train_s2s import load_s2s
from training.train_semantic import statistics
from training.user_features import load_features

MOST_FILES = 300  # of features, for the statistics


def heard_statistics(features: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation of what was heard in some user turns, [HEARD_DIM] each.

    Raises:
        ValueError: there are none, or less was kept of them.
    """
    files = sorted(features.glob("*.npz"))[:MOST_FILES]
    heard = [turn.embedding for path in files for turn in load_features(path)[0]]
    if not heard or heard[0].shape[1] < HEARD_DIM:
        raise ValueError(f"{features}: no features with the mel: run training.user_features first")
    return statistics(heard)


def widen(codec: Path, model: S2S, codes: int, mel: Path | None = None) -> tuple[SemanticEncoder, CodecConfig, S2S]:
    """The codec's semantic encoder with so many codes more, each as fine as its last one, and a model that takes them.

    With ``mel``, features of user turns, the encoder has a branch for the mel; its configuration comes with it.

    Raises:
        ValueError: ``codes`` is negative, nothing is asked for, or the features are of no use.
        ArtefactError: a part of the codec is missing or damaged.
    """
    if codes < 0 or not (codes or mel):
        raise ValueError(f"{codes} codes more: nothing to do")
    old = load_codec_config(codec)
    levels = old.semantic_levels + old.semantic_levels[-1:] * codes
    config = replace(old, semantic_levels=levels, heard_dim=HEARD_DIM if mel else old.heard_dim)
    encoder = SemanticEncoder(config)
    load_overlap(encoder, codec, "semantic")
    if mel:
        known = old.heard_dim
        encoder.enter.weight[:, known:] = 0.0
        encoder.mean[known:], encoder.std[known:] = (part[known:] for part in heard_statistics(mel))
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
    parser.add_argument("--codes", type=int, default=0, help="how many more")
    parser.add_argument("--mel", type=Path, metavar="FEATURES", help="of training.user_features: hear the mel, too")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory, the codec in OUTPUT/codec")
    args = parser.parse_args(argv)
    try:
        provenance = read_header(args.s2s, "repartee-s2s")["provenance"]
        narrow = load_s2s(args.s2s)
        check_alphabet(args.codec, args.s2s, narrow.config)
        with torch.no_grad():
            encoder, config, model = widen(args.codec, narrow, args.codes, args.mel)
        told = read_header(args.codec, "repartee-codec", "semantic")["provenance"]
        save_codec(args.output / "codec", args.codec, encoder, config, told)
        save_model(args.output, "repartee-s2s", model, model.config, provenance)
    except (ModelError, ValueError) as exc:
        sys.exit(f"training.widen: {exc}")


if __name__ == "__main__":
    main()
