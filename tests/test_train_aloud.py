"""The talker is tuned by the sound of what it draws."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.codec import Decoder
from models.features import FRAME_SIZE, HOP, HOPS_PER_FRAME
from models.sampling import CodeSampler
from models.score import N_ACTING, SHOWN, SLOTS
from models.source_filter import synthesise
from tests.tiny import CODEC, new_s2s, run_main
from training import train_aloud
from training.train_aloud import CROP_FRAMES, WARM_FRAMES, Listener, Spoken, crops, draw
from training.train_s2s import load_s2s
from training.train_talker import Reply

LINES = ["a <emph>large latte with oat milk please", "Would you like anything else with that?", "Sure.", ""]


def spoken(frames: int, seed: int = 0) -> Spoken:
    """A reply whose every number tells its frame, and noise for codes."""
    number = np.arange(frames)
    rng = np.random.default_rng(seed)
    return Spoken(
        Reply(
            np.tile(number[:, None], SHOWN * SLOTS).astype(np.int16),
            np.zeros((frames, N_ACTING), np.int8),
            rng.integers(0, 8, (frames, len(new_s2s().config.agent_levels))).astype(np.uint16),
        ),
        np.repeat(number, FRAME_SIZE).astype(np.int16),
        np.tile(np.repeat(number, HOPS_PER_FRAME)[:, None], 2).astype(np.float16),
    )


def test_it_draws_what_the_daemon_draws() -> None:
    """Median levels, one given the others; and the gradient reaches what they were drawn from."""
    torch.manual_seed(3)
    talker = new_s2s().talker
    with torch.no_grad():
        talker.chain.leave.normal_()
        talker.codes.weight.mul_(5.0)
    hidden = torch.randn(40, talker.codes.in_features, requires_grad=True)
    values = draw(talker, hidden)
    told = (talker.chain.told * talker.chain.before).detach().numpy()
    sampler = CodeSampler(talker.fsq.groups, (told, talker.chain.leave.detach().numpy()))
    logits, state = talker.codes(hidden).detach().numpy(), talker.chain.enter(hidden).detach().numpy()
    codes = np.stack([sampler(*row) for row in zip(logits, state, strict=True)])
    torch.testing.assert_close(values.detach(), talker.fsq.dequantize(torch.from_numpy(codes)))
    assert len({tuple(row) for row in codes}) > 10
    (gradient,) = torch.autograd.grad(values.square().sum(), hidden)
    assert (gradient.abs().amax(1) > 0).all()


@pytest.mark.parametrize("frames", [CROP_FRAMES, 30, 90])
def test_crops_are_where_their_sound_is(frames: int) -> None:
    """Sound, pitch and symbols are of the same frames; what only warms up is not counted, nor is padding."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        batch = crops([spoken(frames), spoken(60)], 0.0, rng)
        for row, size in enumerate((frames, 60)):
            at = int(batch.at[row])
            shown = batch.frames.symbols[row, :, 0]
            told = shown[at : at + CROP_FRAMES]
            assert torch.equal(told, told[0] + torch.arange(CROP_FRAMES))
            assert torch.equal((batch.pcm[row] * 32767).round().long()[::FRAME_SIZE], told)
            assert torch.equal(batch.pitch[row, ::HOPS_PER_FRAME, 0].long(), told)
            counted = batch.counted[row].nonzero().flatten()
            assert int(counted[0]) == (at if int(shown[0]) else 0)
            assert int(shown[counted[-1]]) == min(int(shown[0]) + WARM_FRAMES + CROP_FRAMES, size) - 1


def test_the_talker_learns_what_the_decoder_makes_of_its_codes() -> None:
    """Every loss reaches the talker, by sound alone it comes closer, and the decoder learns nothing."""
    torch.manual_seed(2)
    talker, decoder = new_s2s().talker, Decoder(CODEC)
    with torch.no_grad():
        decoder.head.weight.mul_(20.0)
    one = spoken(60)
    heard = replace(one, reply=replace(one.reply, symbols=one.reply.symbols % 9), pitch=np.ones_like(one.pitch))
    batch = crops([heard], 0.0, np.random.default_rng(0))
    with torch.no_grad():
        output, _ = decoder(batch.frames.codes[:1, int(batch.at) :][:, :CROP_FRAMES], decoder.init_state(1))
        sound = synthesise(batch.pitch[..., 0], batch.pitch[..., 1], *output.responses())
    batch = replace(batch, pcm=torch.cat([sound[:, HOP:], torch.zeros(1, HOP)], dim=1))
    listener = Listener(decoder)
    losses = listener.losses(talker, batch)
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, talker.codes.weight, retain_graph=True)
        assert torch.isfinite(loss), name
        assert gradient.abs().max() > 0, name
    assert not any(part.requires_grad for part in decoder.parameters())
    optimizer = torch.optim.Adam(talker.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        loss = listener.losses(talker, batch)["mel"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.9 * losses["mel"].item()


def run(tiny: Path, folder: Path, *more: object) -> str:
    """Train on LINES; returns the path of the output."""
    (folder / "lines.txt").write_text("\n".join(LINES * 3), "utf8")
    where = ["--lines", folder / "lines.txt", "--codec", tiny / "codec", "--s2s", tiny / "s2s"]
    run_main(train_aloud.main, *where, "--output", folder / "out", "--frames", 200, *more)
    return str(folder / "out")


def test_training_goes_on_with_the_talker_alone(
    tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns, the backbone stays, a run goes on where it was, and a line that nobody can say is named."""
    monkeypatch.setattr(train_aloud, "HELD_LINES", 2)
    run(tiny_models, tmp_path, "--steps", 2, "--lr", 1e-6, "--bf16")
    run(tiny_models, tmp_path, "--steps", 40, "--lr", 0.01)
    found = [line for line in capsys.readouterr().out.splitlines() if "valid_codes" in line]
    losses = [float(line.split("valid_codes ")[1].split()[0]) for line in found]
    assert len(losses) == 2 and losses[1] < 0.8 * losses[0] and " 40 " in found[1]
    start, made = load_s2s(tiny_models / "s2s").state_dict(), load_s2s(tmp_path / "out").state_dict()
    assert {name.split(".")[0] for name in start if not torch.equal(start[name], made[name])} == {"talker"}
    (tmp_path / "other").mkdir()
    monkeypatch.setattr("tests.test_train_aloud.LINES", ["two words", "<shout>louder"])
    with pytest.raises(ValueError, match=r"lines\.txt:2: .*shout"):
        run(tiny_models, tmp_path / "other", "--steps", 1)
