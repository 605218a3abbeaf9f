"""The whole road at toy size, as `make tiny` goes it: data, codec, codes, S2S model, export, a spoken answer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.runtime import Engine, Mode

LIMIT_S = 400


@pytest.fixture(scope="module")
def tiny(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make tiny` leaves behind."""
    folder = tmp_path_factory.mktemp("road") / "tiny"
    command = ["make", "tiny", f"TINY={folder}", f"PY={sys.executable}", "-o", "setup-train"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


def test_tiny_models_answer_a_recording(tiny: Path) -> None:
    """The last step of the road wrote audible-format speech: 24 kHz, mono, some of it."""
    info = soundfile.info(tiny / "answer.wav")
    assert (info.samplerate, info.channels) == (24_000, 1)
    assert info.frames > 0


def test_exported_models_step_without_torch(tiny: Path) -> None:
    """The runtime opens what export wrote, listens, and speaks until it is done, with finite samples."""
    engine = Engine.load(tiny / "models" / "codec", tiny / "models" / "s2s")
    state = engine.new_state()
    for _ in range(5):
        engine.step(np.zeros(engine.frame_size, np.float32), state, Mode.LISTEN)
    frames = []
    for _ in range(1000):
        out = engine.step(None, state, Mode.SPEAK)
        frames += [] if out.pcm is None else [out.pcm]
        if out.done:
            break
    assert out.done
    assert all(frame.shape == (engine.frame_size,) and np.isfinite(frame).all() for frame in frames)


def test_checkpoints_say_how_they_were_made(tiny: Path) -> None:
    """Settings and TensorBoard logs lie beside the weights."""
    assert list(tiny.glob("s2s/**/settings.json"))
    assert list(tiny.glob("s2s/**/events.out.tfevents*"))
    assert list(tiny.glob("codec/**/*.safetensors"))
