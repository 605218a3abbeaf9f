"""The neural codec: 24 kHz audio to 12.5 Hz grouped-FSQ codes and back, causal and streaming on both sides.

* Semantic codes carry words and phones: Google's speech_embedding (it has heard people), two GRU layers, FSQ.
* One prosody code carries F0, voicing and energy; the acoustic codes carry the spectral envelope.
* The decoder predicts F0, voicing and two spectral responses a hop from prosody and acoustic codes; the waveform is
  made by the source-filter synthesis outside the network.
* ``forward``-style methods take a state list and return the new one; a fresh state means silence before.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.conv import CausalConv1d, CausalGRU, Chain, ConvNeXtBlock, State
from models.features import HOPS_PER_FRAME, N_MEL
from models.quantize import GroupedFSQ
from models.speech_embedding import EMBEDDING_DIM, SpeechEmbedding
from models.synthesis import N_BINS

SUB_FRAMES = 4  # 20 ms units inside a frame


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of the codec; the group levels define the code alphabet."""

    semantic_levels: tuple[tuple[int, ...], ...] = ((8, 5, 5, 5),) * 4
    prosody_levels: tuple[int, ...] = (15, 9, 5, 5)
    acoustic_levels: tuple[tuple[int, ...], ...] = ((8, 5, 5, 5),) * 4
    semantic_dim: int = 256
    encoder_dim: int = 128
    decoder_dim: int = 192
    context_dim: int = 256
    heard_dim: int = 96
    """Of speech_embedding's numbers a frame: the first 96, its embedding, or all 480, with what it was pooled from."""

    @property
    def agent_levels(self) -> tuple[tuple[int, ...], ...]:
        """Groups the decoder needs: prosody, then acoustic."""
        return (self.prosody_levels, *self.acoustic_levels)


@dataclass(frozen=True)
class DecoderOutput:
    """What synthesis needs: octave, voicing [B, T]; harmonic complex, noise [B, T, N_BINS]; T in hops."""

    octave: Tensor
    voicing_logit: Tensor
    log_harmonic: Tensor
    angle: Tensor
    log_noise: Tensor

    @property
    def voicing(self) -> Tensor:
        """Probability of voice, [B, T]."""
        return torch.sigmoid(self.voicing_logit)

    def responses(self) -> tuple[Tensor, Tensor]:
        """(complex harmonic response, noise magnitude response)."""
        return torch.polar(torch.exp(self.log_harmonic), self.angle), torch.exp(self.log_noise)


class SemanticEncoder(nn.Module):
    """mel32 [B, 8 T, 32] -> semantic codes [B, T, n]."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: CodecConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.front = SpeechEmbedding()
        assert config.heard_dim <= EMBEDDING_DIM, f"heard_dim must be at most {EMBEDDING_DIM}, got {config.heard_dim}"
        self.register_buffer("mean", torch.zeros(config.heard_dim))
        self.register_buffer("std", torch.ones(config.heard_dim))
        self.enter = nn.Linear(config.heard_dim, config.semantic_dim)
        self.context = CausalGRU(config.semantic_dim, 2, dropout)
        self.fsq = GroupedFSQ(config.semantic_levels)
        self.leave = nn.Linear(config.semantic_dim, self.fsq.dims)
        self.front_states = len(self.front.state_shapes)

    def init_state(self, batch: int) -> State:
        """Silence before the first frame."""
        return self.front.init_state(batch) + self.context.init_state(batch)

    def latents(self, embedding: Tensor, state: State) -> tuple[Tensor, State]:
        """Embeddings [B, T, D] -> pre-quantiser latents [B, T, dims]; ``state`` is the context part only."""
        heard = embedding[..., : self.enter.in_features]
        x, state = self.context(self.enter((heard - self.mean) / self.std), state)
        return self.leave(x), state

    def forward(self, mel: Tensor, state: State) -> tuple[Tensor, State]:
        """mel32 [B, 8 T, 32] -> codes int64 [B, T, n] and the new state."""
        embedding, front = self.front(mel, state[: self.front_states])
        latents, context = self.latents(embedding, state[self.front_states :])
        return self.fsq.to_codes(self.fsq.indices(latents)), front + context


class AcousticEncoder(nn.Module):
    """mel64 [B, 8 T, 64] and pitch [B, 8 T, 3] -> prosody and acoustic codes [B, T, 1 + n]."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.stem = CausalConv1d(N_MEL, dim, 4, stride=2)
        self.body = Chain([ConvNeXtBlock(dim, 3 * dim) for _ in range(3)])
        self.fold = nn.Linear(SUB_FRAMES * dim, config.context_dim)
        self.fsq = GroupedFSQ(config.agent_levels)
        self.prosody_dims = len(config.prosody_levels)
        self.leave = nn.Linear(config.context_dim, self.fsq.dims - self.prosody_dims)
        self.prosody = nn.Sequential(
            nn.Linear(3 * HOPS_PER_FRAME, 96), nn.GELU(), nn.Linear(96, 96), nn.GELU(), nn.Linear(96, self.prosody_dims)
        )

    def init_state(self, batch: int) -> State:
        """Silence before the first frame."""
        return self.stem.init_state(batch) + self.body.init_state(batch)

    def latents(self, mel: Tensor, pitch: Tensor, state: State) -> tuple[Tensor, State]:
        """Pre-quantiser latents [B, T, dims], prosody first."""
        x, stem = self.stem((mel + 4.0) / 2.0, state[:1])  # [B, 4 T, D]
        x, body = self.body(x, state[1:])
        x = F.gelu(self.fold(x.reshape(x.shape[0], -1, SUB_FRAMES * x.shape[2])))  # [B, T, C]
        octave, strength, level = pitch.unbind(-1)
        voiced = torch.sigmoid((strength - 0.55) * 20.0)
        tracks = torch.stack([octave * voiced, voiced, (level + 4.0) / 2.0], dim=-1)
        prosody = self.prosody(tracks.reshape(x.shape[0], x.shape[1], -1))
        return torch.cat([prosody, self.leave(x)], dim=-1), stem + body

    def forward(self, mel: Tensor, pitch: Tensor, state: State) -> tuple[Tensor, State]:
        """Features of 8 T hops -> codes int64 [B, T, 1 + n] and the new state."""
        latents, state = self.latents(mel, pitch, state)
        return self.fsq.to_codes(self.fsq.indices(latents)), state


class Decoder(nn.Module):
    """Prosody and acoustic codes [B, T, 1 + n] -> synthesis parameters of 8 T hops."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.fsq = GroupedFSQ(config.agent_levels)
        self.enter = nn.Linear(self.fsq.dims, config.context_dim)
        self.context = CausalGRU(config.context_dim, 1)
        self.unfold = nn.Linear(config.context_dim, SUB_FRAMES * dim)
        self.body = Chain([ConvNeXtBlock(dim, 3 * dim) for _ in range(5)])
        self.head = nn.Linear(dim, 2 * (2 + 3 * N_BINS))
        with torch.no_grad():
            self.head.weight.mul_(0.3)

    def init_state(self, batch: int) -> State:
        """Silence before the first frame."""
        return self.context.init_state(batch) + self.body.init_state(batch)

    def from_values(self, values: Tensor, state: State) -> tuple[DecoderOutput, State]:
        """Dequantised values [B, T, dims] -> parameters."""
        x, context = self.context(self.enter(values), state[:1])
        x = self.unfold(x)
        x, body = self.body(x.reshape(x.shape[0], -1, x.shape[2] // SUB_FRAMES), state[1:])  # [B, 4 T, D]
        x = self.head(x)
        x = x.reshape(x.shape[0], -1, x.shape[2] // 2)  # [B, 8 T, 2 + 3 N_BINS]
        octave, voicing, harmonic, angle, noise = x.split([1, 1, N_BINS, N_BINS, N_BINS], dim=-1)
        output = DecoderOutput(
            octave.squeeze(-1).clamp(-1.0, 1.9),
            voicing.squeeze(-1),
            harmonic.clamp(-12, 3) - 3.0,
            angle,
            noise.clamp(-12, 3) - 4.0,
        )
        return output, context + body

    def forward(self, codes: Tensor, state: State) -> tuple[DecoderOutput, State]:
        """Codes int64 [B, T, 1 + n] -> parameters of 8 T hops and the new state."""
        return self.from_values(self.fsq.dequantize(codes), state)


class Codec(nn.Module):
    """Both encoders and the decoder; semantic codes first, then prosody, then acoustic."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.semantic = SemanticEncoder(config)
        self.acoustic = AcousticEncoder(config)
        self.decoder = Decoder(config)
