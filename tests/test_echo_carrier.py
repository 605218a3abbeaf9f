"""The room of the live loop, between the devices of a real sound server."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
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


@contextlib.contextmanager
def _recorded(carrier: Carrier, path: Path) -> Iterator[None]:
    """The microphone, as another program hears it, in a file of raw samples."""
    record = ["parec", "--device=mic", "--format=s16le", f"--rate={RATE}", "--channels=1", "--latency-msec=20"]
    with path.open("wb") as heard:
        recorder = subprocess.Popen(record, stdout=heard)
        try:
            _wait_for(carrier, carrier.now / RATE + 0.3)
            yield
        finally:
            recorder.terminate()
            recorder.wait(10)


def _play(path: Path) -> None:
    subprocess.run(["paplay", "--device=spk", str(path)], check=True, timeout=20)


def _samples(path: Path) -> np.ndarray:
    return np.frombuffer(path.read_bytes(), "<i2").astype(np.float32) / 32_768


@pytest.mark.device
def test_the_microphone_hears_the_speaker_and_the_user(tmp_path: Path) -> None:
    """A tone that is played comes back through the room, the user speaks, and what was played is told at the end."""
    times = np.arange(2 * RATE) / RATE
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 500 * times), RATE)
    user = User([np.sin(2 * np.pi * 2_000 * times[:RATE]).astype(np.float32)], 0.0)
    with sound_server() as microphone:
        carrier = Carrier(Room(np.ones(1, np.float32), 60.0), user, microphone)
        with carrier.running(), _recorded(carrier, tmp_path / "mic.raw"):
            _play(tmp_path / "tone.wav")
            _wait_for(carrier, 3.5)
    assert len(carrier.played) >= 3 * RATE
    assert carrier.said and not carrier.said[0].over
    for pcm, tones in ((carrier.played, (500,)), (_samples(tmp_path / "mic.raw"), (500, 2_000))):
        power = np.abs(np.fft.rfft(pcm)) ** 2
        near = [np.abs(np.arange(len(power)) * RATE / len(pcm) - hz) < 20 for hz in tones]
        assert all(power[band].sum() > 1_000 * np.median(power) for band in near)
        assert sum(power[band].sum() for band in near) > 0.9 * power.sum()


@pytest.mark.device
def test_the_echo_is_no_later_after_a_stumble_of_the_sound_server(tmp_path: Path) -> None:
    """Nothing waits on the way to the microphone: what it hears of the speaker stays where it was."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(tmp_path / "noise.wav", noise, RATE)
    nobody = User([np.zeros(RATE, np.float32)], 0.0)
    with sound_server() as microphone:
        carrier = Carrier(Room(np.ones(1, np.float32), 60.0), nobody, microphone)
        server = int((microphone.parent / "pulse" / "pid").read_text())
        with carrier.running(), _recorded(carrier, tmp_path / "mic.raw"):
            _play(tmp_path / "noise.wav")
            os.kill(server, signal.SIGSTOP)
            time.sleep(0.1)
            os.kill(server, signal.SIGCONT)
            _play(tmp_path / "noise.wav")
            _wait_for(carrier, carrier.now / RATE + 1.0)
    heard = _samples(tmp_path / "mic.raw")
    lags = [_arrivals(pcm, noise) for pcm in (carrier.played, heard)]
    assert np.diff(lags[0]) == pytest.approx(np.diff(lags[1]), abs=RATE // 1000)


def _arrivals(pcm: np.ndarray, sound: np.ndarray) -> list[int]:
    """Where the two loudest copies of ``sound`` begin."""
    likeness = np.abs(scipy.signal.correlate(pcm, sound, "valid", "fft"))
    first = int(likeness.argmax())
    likeness[max(0, first - RATE // 2) : first + RATE // 2] = 0.0
    return sorted((first, int(likeness.argmax())))
