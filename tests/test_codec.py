from collections.abc import Sequence

import numpy as np
import pytest
import torch

from models.codec import AcousticEncoder, Codec, CodecConfig, Decoder, SemanticEncoder
from models.features import HOPS_PER_FRAME, analyse, new_history
from tests.tiny import CODEC, cuts, new_codec, speech_like, stream

FRAMES = 24
SIZES = [(1,), (3, 7, 2)]


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Random weights."""
    return new_codec()


@pytest.fixture(scope="module")
def features() -> list[torch.Tensor]:
    """mel32, mel64 and pitch of two sounds, [2, 8 FRAMES, ...]."""
    parts = [analyse(speech_like(FRAMES * 0.08, seed), new_history()) for seed in (0, 1)]
    return [torch.from_numpy(np.stack([getattr(p, name) for p in parts])) for name in ("mel32", "mel64", "pitch")]


def _hops(sizes: Sequence[int]) -> list[slice]:
    return cuts(FRAMES * HOPS_PER_FRAME, sizes, HOPS_PER_FRAME)


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_semantic_encoder_chunked_equals_whole(
    codec: Codec, features: list[torch.Tensor], sizes: tuple[int, ...]
) -> None:
    """Codes do not depend on how the audio was cut."""
    net: SemanticEncoder = codec.semantic
    whole, _ = net(features[0], net.init_state(2))
    assert whole.shape == (2, FRAMES, 2)
    chunked = torch.cat(stream(net, features[:1], _hops(sizes)), dim=1)
    assert (chunked == whole).float().mean() > 0.98  # a level on the edge may round either way
    assert len(whole.unique()) > 20


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_acoustic_encoder_chunked_equals_whole(
    codec: Codec, features: list[torch.Tensor], sizes: tuple[int, ...]
) -> None:
    """Latents, and so codes, do not depend on how the audio was cut."""
    net: AcousticEncoder = codec.acoustic
    whole, _ = net.latents(features[1], features[2], net.init_state(2))
    chunked = torch.cat(stream(net, features[1:], _hops(sizes), "latents"), dim=1)
    torch.testing.assert_close(chunked, whole)
    codes, _ = net(features[1], features[2], net.init_state(2))
    assert codes.shape == (2, FRAMES, 1 + len(CODEC.acoustic_levels))


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_decoder_chunked_equals_whole(codec: Codec, features: list[torch.Tensor], sizes: tuple[int, ...]) -> None:
    """Synthesis parameters do not depend on how the codes were cut."""
    net: Decoder = codec.decoder
    codes, _ = codec.acoustic(features[1], features[2], codec.acoustic.init_state(2))
    whole, _ = net(codes, net.init_state(2))
    chunks = stream(net, [codes], cuts(FRAMES, sizes))
    for name in ("octave", "voicing_logit", "log_harmonic", "angle", "log_noise"):
        expected = getattr(whole, name)
        assert expected.shape[:2] == (2, FRAMES * HOPS_PER_FRAME)
        torch.testing.assert_close(torch.cat([getattr(chunk, name) for chunk in chunks], dim=1), expected)


@torch.no_grad()
def test_encoders_are_causal_and_rows_independent(codec: Codec, features: list[torch.Tensor]) -> None:
    """One row's prefix, encoded alone, is the prefix of its codes in the batch."""
    mel32, mel64, pitch = features
    part = slice(0, 10 * HOPS_PER_FRAME)
    heard, _ = codec.semantic(mel32, codec.semantic.init_state(2))
    alone, _ = codec.semantic(mel32[1:, part], codec.semantic.init_state(1))
    assert (alone == heard[1:, :10]).float().mean() > 0.9
    latents, _ = codec.acoustic.latents(mel64, pitch, codec.acoustic.init_state(2))
    own, _ = codec.acoustic.latents(mel64[1:, part], pitch[1:, part], codec.acoustic.init_state(1))
    torch.testing.assert_close(own, latents[1:, :10])


@torch.no_grad()
def test_decoder_is_causal_and_rows_independent(codec: Codec) -> None:
    """Later codes and other rows change nothing."""
    codes = torch.randint(0, 1000, (2, 12, 3), generator=torch.Generator().manual_seed(0))
    both, _ = codec.decoder(codes, codec.decoder.init_state(2))
    alone, _ = codec.decoder(codes[1:, :5], codec.decoder.init_state(1))
    torch.testing.assert_close(alone.log_noise, both.log_noise[1:, : 5 * HOPS_PER_FRAME])


@torch.no_grad()
def test_parameters_stay_in_range(codec: Codec) -> None:
    """Even absurd latents give an F0 the source can make and bounded gains."""
    values = torch.randn(1, 20, codec.decoder.fsq.dims) * 1e4
    out, _ = codec.decoder.from_values(values, codec.decoder.init_state(1))
    harmonic, noise = out.responses()
    assert out.octave.min() >= -1.0
    assert out.octave.max() <= 1.9
    assert harmonic.abs().max() <= 1.0 + 1e-6
    assert noise.max() < 1.0
    assert 0.0 <= out.voicing.min() <= out.voicing.max() <= 1.0


def test_agent_groups_are_prosody_then_acoustic() -> None:
    """The S2S model's agent alphabet is what the decoder takes."""
    config = CodecConfig()
    assert config.agent_levels == (config.prosody_levels, *config.acoustic_levels)
    assert Decoder(CODEC).fsq.sizes == [3375, 1000, 1000]
