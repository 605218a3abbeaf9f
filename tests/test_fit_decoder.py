from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoint import load_weights
from models.codec import AcousticEncoder, Decoder
from models.score import Score
from tests.tiny import CODEC, run_main, tokenizer
from training import fit_decoder
from training.audio_data import crop
from training.encode_dataset import Speaker
from training.encoders import CodecEncoders
from training.fit_decoder import speak_lines, told_clips
from training.train_acoustic import Source, draw_batch
from training.train_s2s import load_s2s

LINES = "a large latte\n\nsure, <emph>coffee\n"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text(LINES, "utf8")
    return path


def fit(lines: Path, tiny: Path, output: Path, *more: object) -> tuple[AcousticEncoder, Decoder]:
    where = ["--codec", tiny / "codec", "--s2s", tiny / "s2s", "--open_text", lines, "--output", output]
    run_main(fit_decoder.main, *where, "--minutes", 0, *more)
    encoder, decoder = AcousticEncoder(CODEC), Decoder(CODEC)
    load_weights(encoder, output, "acoustic")
    load_weights(decoder, output, "decoder")
    return encoder, decoder


def test_what_the_talker_says_is_in_step_with_the_teacher(lines: Path, tiny_models: Path) -> None:
    """A row of levels for every frame of the teacher's audio; what is told is what the decoder hears."""
    model, encoders = load_s2s(tiny_models / "s2s"), CodecEncoders(tiny_models / "codec")
    spoken = speak_lines(lines, 0, Speaker("hibari:heart", None, encoders))
    clips = told_clips(spoken, model.talker, Score.of(tokenizer()), model.config.lead_frames)
    assert sorted(len(clip.told) for clip in clips if clip.told is not None) == sorted(
        len(turn.agent) for turn, _ in spoken
    )
    levels = torch.tensor([level for group in CODEC.agent_levels for level in group])
    for clip in clips:
        assert clip.told is not None
        assert len(clip.pcm) == len(clip.told) * 1920
        index = (torch.from_numpy(clip.told.astype(np.float32)) + 1) / 2 * (levels - 1)
        torch.testing.assert_close(index, index.round(), atol=0.01, rtol=0)
    _, told = draw_batch([Source("talker", 1.0, clips)], 3, 4, np.random.default_rng(0))
    assert told is not None
    assert told.shape == (3, 4, len(levels))
    *_, beyond = crop(clips[0], len(clips[0].told) + 3, np.random.default_rng(0))  # type: ignore[arg-type]
    assert beyond is not None
    assert np.isnan(beyond[-3:]).all()
    assert not np.isnan(beyond[:-3]).any()


def test_the_decoder_is_fitted_and_nothing_else(lines: Path, tiny_models: Path, tmp_path: Path) -> None:
    """Encoder, codes and tokenizer stay; the output is a whole codec."""
    encoder, decoder = fit(lines, tiny_models, tmp_path / "out", "--steps", 2)
    before, old = AcousticEncoder(CODEC), Decoder(CODEC)
    load_weights(before, tiny_models / "codec", "acoustic")
    load_weights(old, tiny_models / "codec", "decoder")
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), before.parameters(), strict=True))
    assert not torch.equal(decoder.head.weight, old.head.weight)
    codes, same = (
        CodecEncoders(codec).acoustic(np.zeros(3840, np.float32)) for codec in (tmp_path / "out", tiny_models / "codec")
    )
    np.testing.assert_array_equal(codes, same)


def test_a_line_that_cannot_be_spoken_is_named(lines: Path, tiny_models: Path, tmp_path: Path) -> None:
    lines.write_text("an <emp>espresso\n", "utf8")
    with pytest.raises(ValueError, match=r"lines\.txt: 'an <emp>espresso': unknown prosody tag"):
        fit(lines, tiny_models, tmp_path / "out")
