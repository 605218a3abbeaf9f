"""The codec's semantic encoder, trained along with the S2S model: its codes become what that model hears best.

What was heard passes the encoder and its quantiser with a straight-through gradient; speech_embedding stays as it is.
The codes still have to tell the phones of what was said (CTC, where the dictionary has its words): people say much
that the S2S model knows as the unknown word alone, and learn nothing from it otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.codec import CodecConfig
from training.encoders import load_codec_config, load_semantic, save_codec
from training.lexicon import phone_labels
from training.phones import PHONES
from training.s2s_data import Heard
from training.train_semantic import BLANK_PHONE, ctc
from training.user_features import SUB_FRAMES

NOISE = 0.15  # added in training, of each number's deviation
DROPOUT = 0.1
HIDDEN = 256
READS = 3.5  # nats a phone: below this it can read


class SpokenPhones(nn.Module):
    """Reads phones from the values of codes, SUB_FRAMES in a frame; for training alone.

    Before it can read it learns that, and nothing is asked of the values.

    Args:
        dims: of the quantiser.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(dims, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, SUB_FRAMES * len(PHONES)))

    def forward(self, values: Tensor, pieces: Sequence[Heard]) -> Tensor:
        """CTC loss a phone of the pieces' values [N, T, dims], padded; pieces whose phones are unknown are left out."""
        loss = self._loss(values, pieces)
        return loss if loss.item() < READS else self._loss(values.detach(), pieces)

    def _loss(self, values: Tensor, pieces: Sequence[Heard]) -> Tensor:
        logits = self.read(values).reshape(len(values), -1, len(PHONES))
        lengths = torch.tensor([SUB_FRAMES * len(piece.embedding) for piece in pieces])
        return ctc(logits, [phone_labels(piece.text) for piece in pieces], lengths, BLANK_PHONE)


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
        self.encoder = load_semantic(codec, DROPOUT)
        self.encoder.front.requires_grad_(False)
        self.phones = SpokenPhones(self.encoder.fsq.dims)
        self._codec = codec

    def forward(self, codes: Tensor, heard: Sequence[tuple[int, Heard]]) -> tuple[Tensor, Tensor]:
        """Values of the user's codes, [B, T, dims], and the loss of their phones.

        Args:
            codes: int64 [B, T, groups], for steps of which nothing is kept.
            heard: row, and what was heard in it.
        """
        encoder = self.encoder
        values = encoder.fsq.dequantize(codes)
        if not heard:
            return values, values.sum() * 0.0
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
        return values.index_put(at[:2], made[at[2:]]), self.phones(made, [piece for _, piece in heard])

    def save(self, directory: Path, provenance: dict[str, Any]) -> None:
        """Write the codec with this encoder; all else of it is copied."""
        save_codec(directory, self._codec, self.encoder, self.config, provenance)
