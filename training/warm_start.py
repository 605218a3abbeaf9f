"""Starting an S2S model from the weights of another one."""

from pathlib import Path

import torch

from models.checkpoint import load_overlap
from models.s2s import S2S
from models.tokenizer import FIRST_PIECE, Tokenizer


def start_from(model: S2S, tokenizer: Tokenizer, directory: Path) -> list[str]:
    """Take over weights of a model with other sizes, codes or pieces; rows of known pieces go to where they now are.

    Returns:
        Names of the tensors that were not taken whole.

    Raises:
        ArtefactError: a file of ``directory`` is missing or damaged.
    """
    tables = [model.text_embed.weight, model.transcript_embed.weight, model.text_head.weight, model.text_head.bias,
              model.transcript_head.weight, model.transcript_head.bias]  # fmt: skip
    tables += [model.recent_embed.weight] if model.config.recent_dim else []
    fresh = [table.detach().clone() for table in tables]
    partial = load_overlap(model, directory)
    path = directory / "tokenizer.json"
    if not path.exists() or (pieces := all_pieces(Tokenizer.load(path))) == (wanted := all_pieces(tokenizer)):
        return partial
    known = {piece: FIRST_PIECE + index for index, piece in enumerate(pieces)}
    moves = [(FIRST_PIECE + index, known[piece]) for index, piece in enumerate(wanted) if piece in known]
    target, source = (torch.tensor([*range(FIRST_PIECE), *side]) for side in zip(*moves, strict=True))
    with torch.no_grad():
        for table, new in zip(tables, fresh, strict=True):
            new[target] = table[source]
            table.copy_(new)
    return partial


def all_pieces(tokenizer: Tokenizer) -> list[str]:
    """What stands behind the ids from FIRST_PIECE on; sounds are told from text by a mark."""
    return [*tokenizer.pieces, *(f"/{sound}" for sound in tokenizer.sounds)]
