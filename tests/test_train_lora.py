import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file

from agent.local import say
from models.prosody import PROSODY_IDS
from models.runtime import Engine
from models.runtime_lora import with_adapter
from models.tokenizer import FIRST_PROSODY, Tokenizer
from run_agent import main as run_agent
from tests.tiny import speech_like
from training import compare_voices, train_lora
from training.encoders import CodecEncoders
from training.prepare_prosody import read_dataset
from training.train_lora import encode_item


def _item(name: str, mark: str, folder: Path, seed: int) -> dict[str, Any]:
    pcm = speech_like(2.4, seed)
    sf.write(folder / f"{name}.wav", pcm, 24_000)
    words = [
        {"word": word, "start_s": 0.3 + 0.5 * at, "end_s": 0.7 + 0.5 * at}
        for at, word in enumerate(("a", "large", "latte"))
    ]
    tokens = [{"token": mark, "id": PROSODY_IDS[mark], "word": 1, "time": 0.8, "source": "transcript"}]
    return {
        "id": name, "text": f"a {mark} large latte", "audio_file": f"{name}.wav", "duration": len(pcm) / 24_000,
        "prosody_tokens": tokens, "words": words,
    }  # fmt: skip


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of five segments, one of them for validation."""
    folder = tmp_path_factory.mktemp("voice")
    items = [_item(f"segment_{n}", "<pitch_low>" if n % 2 else "<emph>", folder, n) for n in range(5)]
    dataset = {"format": "repartee-prosody-dataset", "version": 1, "train": items[:4], "validation": items[4:],
               "pauses": {"<pause_short>": 0.2}}  # fmt: skip
    (folder / "prosody_dataset.json").write_text(json.dumps(dataset))
    return folder


def _train(voice: Path, models: Path, output: Path, *more: object) -> None:
    where = ["--dataset", voice / "prosody_dataset.json", "--codec", models / "codec", "--s2s", models / "s2s"]
    train_lora.main([str(part) for part in (*where, "--output", output, "--log_every", 1, *more)])


@pytest.fixture(scope="module")
def trained(voice: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the exported toy model, its decoder fitted, too."""
    output = tmp_path_factory.mktemp("adapter") / "lora"
    _train(voice, tiny_models / "models", output, "--epochs", 2, "--batch-size", 2, "--decoder_minutes", 0.01)
    return output


def test_marks_stand_before_their_words(voice: Path, tiny_models: Path) -> None:
    """A segment is text to be said: nobody is heard, the token is a piece of its word, and words begin in time."""
    encoders = CodecEncoders(tiny_models / "codec")
    item = read_dataset(voice / "prosody_dataset.json")["train"][1]
    turn = encode_item(item, encoders)
    assert len(turn.user) == 0
    ids, frame = turn.agent_words[1]
    assert ids[0] == FIRST_PROSODY + list(PROSODY_IDS).index("<pitch_low>")
    assert "".join(encoders.tokenizer.piece(token) for token in ids).strip() == "large"
    assert frame == pytest.approx((0.8 - (0.3 - 0.02)) / 0.08 - 1)
    assert len(turn.agent) == pytest.approx((1.7 - 0.3 + 0.12) / 0.08, abs=1)


def test_a_voice_is_trained_saved_and_spoken_with(trained: Path, tiny_models: Path, tmp_path: Path) -> None:
    """The adapter's files are there; the agent speaks with it, and differently from its base."""
    names = {path.name for path in trained.iterdir()}
    assert {"adapter_model.safetensors", "lora.json", "prosody_tokens.json", "tokenizer.json", "s2s", "codec"} <= names
    assert json.loads((trained / "prosody_tokens.json").read_text())["<emph>"]["seen"] == 2
    assert (
        Tokenizer.load(trained / "tokenizer.json").pieces
        == Tokenizer.load(tiny_models / "codec" / "tokenizer.json").pieces
    )
    assert any((trained / "run" / "tensorboard").iterdir())
    assert json.loads((trained / "s2s" / "config.json").read_text())["pause_steps"] == {
        "<pause_short>": 2,
        "<pause_long>": 9,
    }
    base = tiny_models / "models" / "codec", tiny_models / "models" / "s2s"
    one, other = (say(Engine.load(*where), "large latte") for where in (base, with_adapter(*base, trained)))
    assert len(one) != len(other) or not np.allclose(one, other)
    where = [
        "--codec",
        base[0],
        "--s2s",
        base[1],
        "--lora",
        trained,
        "--say",
        "large latte",
        "--output",
        tmp_path / "o.wav",
    ]
    assert run_agent([str(part) for part in where]) == 0
    np.testing.assert_allclose(sf.read(tmp_path / "o.wav")[0], np.clip(other, -1, 1), atol=1e-3)


def test_a_wrong_adapter_ends_with_what_is_wrong(
    trained: Path, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the shipped models the toy's adapter is refused by name; so is a directory that is none."""
    assert run_agent(["--lora", str(trained), "--say", "hello", "--output", str(tmp_path / "o.wav")]) == 2
    assert "made for another base" in capsys.readouterr().err
    assert run_agent(["--lora", str(tmp_path), "--say", "hello", "--output", str(tmp_path / "o.wav")]) == 2
    assert "lora.json: not found" in capsys.readouterr().err


def test_losses_fall_and_are_shown(
    voice: Path, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step shows loss, learning rate and time; after 15 epochs of four segments it knows them far better."""
    _train(voice, tiny_models, tmp_path / "lora", "--epochs", 15, "--batch-size", 4, "--lr", 0.02)
    out = capsys.readouterr().out
    assert "all frozen; adapter: " in out
    lines = [line for line in out.splitlines() if line.startswith("step") and "  loss " in line]
    assert all("lr " in line and "elapsed" in line for line in lines)
    losses = [float(line.split("  codes ")[1].split()[0]) for line in lines]
    assert len(losses) == 15
    assert losses[-1] < 0.8 * losses[0]
    assert "epoch 15  valid_text" in out


def test_a_stopped_run_ends_as_if_it_had_not(
    voice: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a fault in its second epoch and started again, it makes the adapter of an unbroken run."""
    more = ("--epochs", 2, "--batch-size", 2, "--keep_share", 0)
    _train(voice, tiny_models, tmp_path / "whole", *more)
    at = train_lora.VoiceBatches.at

    def breaks(self: train_lora.VoiceBatches, step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return at(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(train_lora.VoiceBatches, "at", breaks)
        with pytest.raises(KeyboardInterrupt):
            _train(voice, tiny_models, tmp_path / "broken", *more)
    assert not (tmp_path / "broken" / "lora.json").exists()
    _train(voice, tiny_models, tmp_path / "broken", *more)
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "broken"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, msg=name)


def test_an_adapter_alone_can_be_merged(trained: Path, tiny_models: Path, tmp_path: Path) -> None:
    """From its files and its base, the same graphs elsewhere: they say the same."""
    codec, s2s = tiny_models / "models" / "codec", tiny_models / "models" / "s2s"
    where = ["--codec", codec, "--s2s", s2s]
    train_lora.main([str(part) for part in ("--merge", trained, *where, "--output", tmp_path / "again")])
    one, other = (
        say(Engine.load(*with_adapter(codec, s2s, lora)), "a latte") for lora in (trained, tmp_path / "again")
    )
    np.testing.assert_allclose(one, other, atol=2e-3)
    first, again = ((lora / "s2s" / "config.json").read_text() for lora in (trained, tmp_path / "again"))
    assert json.loads(again)["pause_steps"] == json.loads(first)["pause_steps"]


def test_voices_are_compared(
    voice: Path, trained: Path, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recordings, both agents and both codecs in one table, as JSON and as a picture."""
    where = ["--codec", tiny_models / "models" / "codec", "--s2s", tiny_models / "models" / "s2s", "--lora", trained]
    more = ["--dataset", voice / "prosody_dataset.json", "--json", tmp_path / "v.json", "--plot", tmp_path / "v.png"]
    compare_voices.main([str(part) for part in (*where, *more, "--save", tmp_path / "said")])
    assert "mel-cepstral distortion, dB" in capsys.readouterr().out
    figures = json.loads((tmp_path / "v.json").read_text())["voices"]
    assert list(figures) == ["recordings", "base", "fine-tuned", "codec of base", "codec of fine-tuned"]
    assert figures["recordings"]["phones_per_s"] > 0
    assert figures["recordings"]["f0_median_hz"] == pytest.approx(130, abs=40)
    assert figures["codec of base"]["mcd_db"]["value"] > 0
    assert (tmp_path / "v.png").stat().st_size > 5_000
    assert len(list((tmp_path / "said").iterdir())) == 4


def test_bad_input_is_told(voice: Path, tiny_models: Path, tmp_path: Path) -> None:
    """No data set, no base, layers that are not there."""
    with pytest.raises(SystemExit, match=r"none\.json"):
        train_lora.main(["--dataset", str(tmp_path / "none.json"), "--output", str(tmp_path / "o")])
    with pytest.raises(SystemExit, match=r"model\.json"):
        _train(voice, tmp_path, tmp_path / "o")
    with pytest.raises(SystemExit, match="no layers c_attn"):
        _train(voice, tiny_models, tmp_path / "o", "--targets", "c_attn")
