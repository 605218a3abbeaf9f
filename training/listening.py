"""The codec's semantic encoder, trained along with the S2S model: its codes become what that model hears best.

What was heard passes the encoder and its quantiser with a straight-through gradient; speech_embedding stays as it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoint import load_weights
from models.codec import CodecConfig, SemanticEncoder
from training.encoders import load_codec_config, save_codec
from training.s2s_data import Heard

NOISE = 0.15  # added in training, of each number's deviation
DROPOUT = 0.1


class Listening(nn.Module):
    """A semantic encoder in training.

    Args:
        codec: directory with the codec's weights, from which it starts.

    Raises:
        ArtefactError: they are missing or damaged.
    """

    def __init__(self, codec: Path) -> None:
        super().__init__()
        self.config: CodecConfig = load_codec_config(codec)
        self.encoder = SemanticEncoder(self.config, DROPOUT)
        load_weights(self.encoder, codec, "semantic")
        self.encoder.front.requires_grad_(False)
        self._codec = codec

    def forward(self, codes: Tensor, heard: Sequence[tuple[int, Heard]]) -> Tensor:
        """Values of the user's codes, [B, T, dims].

        Args:
            codes: int64 [B, T, groups], for steps of which nothing is kept.
            heard: row, and what was heard in it.
        """
        encoder = self.encoder
        values = encoder.fsq.dequantize(codes)
        if not heard:
            return values
        longest = max(len(piece.embedding) for _, piece in heard)
        rows = torch.zeros(len(heard), longest, heard[0][1].embedding.shape[1])
        for index, (_, piece) in enumerate(heard):
            rows[index, : len(piece.embedding)] = torch.from_numpy(piece.embedding.astype("float32"))
        rows = rows[..., : len(encoder.std)].to(values.device)
        if self.training:
            rows = rows + torch.randn_like(rows) * encoder.std * NOISE
        latents, _ = encoder.latents(rows, [state.to(rows.device) for state in encoder.context.init_state(len(heard))])
        made = encoder.fsq(latents.float())
        where = [
            (row, piece.at + frame - piece.first, index, frame)
            for index, (row, piece) in enumerate(heard)
            for frame in range(piece.first, len(piece.embedding))
        ]
        at = torch.tensor(where, device=values.device).unbind(1)
        return values.index_put(at[:2], made[at[2:]])

    def save(self, directory: Path, provenance: dict[str, Any]) -> None:
        """Write the codec with this encoder; all else of it is copied."""
        save_codec(directory, self._codec, self.encoder, self.config, provenance)
