"""The room of the live loop, between the devices of a real sound server."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.bench.echo_carrier import Carrier
from agent.bench.echo_live import sound_server
from agent.bench.echo_room import Room, User

RATE = 24_000


def _wait_for(carrier: Carrier, seconds: float) -> None:
    until = time.monotonic() + 20.0
    while carrier.now < seconds * RATE:
        assert time.monotonic() < until, "the room stands still"
        time.sleep(0.05)


@pytest.mark.device
def test_the_microphone_hears_the_speaker_and_the_user(tmp_path: Path) -> None:
    """A tone that is played comes back through the room, the user speaks, and what was played is told at the end."""
    times = np.arange(2 * RATE) / RATE
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 500 * times), RATE)
    user = User([np.sin(2 * np.pi * 2_000 * times[:RATE]).astype(np.float32)], 0.0)
    carrier = Carrier(Room(np.ones(1, np.float32), 60.0), user)
    with sound_server(), carrier.running(), (tmp_path / "mic.raw").open("wb") as heard:
        record = ["parec", "--device=mic", "--format=s16le", f"--rate={RATE}", "--channels=1"]
        recorder = subprocess.Popen(record, stdout=heard)
        _wait_for(carrier, 0.1)
        subprocess.run(["paplay", "--device=spk", str(tmp_path / "tone.wav")], check=True, timeout=20)
        _wait_for(carrier, 3.5)
        recorder.terminate()
        recorder.wait(10)
    assert len(carrier.played) >= 3 * RATE
    assert carrier.said and not carrier.said[0].over
    microphone = np.frombuffer((tmp_path / "mic.raw").read_bytes(), "<i2").astype(np.float32) / 32_768
    for pcm, tones in ((carrier.played, (500,)), (microphone, (500, 2_000))):
        power = np.abs(np.fft.rfft(pcm)) ** 2
        near = [np.abs(np.arange(len(power)) * RATE / len(pcm) - hz) < 20 for hz in tones]
        assert all(power[band].sum() > 1_000 * np.median(power) for band in near)
        assert sum(power[band].sum() for band in near) > 0.9 * power.sum()
