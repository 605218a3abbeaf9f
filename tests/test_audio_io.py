"""Microphone and speaker: everything against a fake PortAudio, and once against a real sound server."""

import builtins
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from streaming import device_stream
from streaming.audio_io import AudioConfig, AudioIO, DeviceLost, describe_devices, open_default
from streaming.errors import AudioUnavailable
from streaming.playout import Playout


class FakeStream:
    """A PortAudio stream driven by the test through `run`."""

    def __init__(self, backend: "FakeBackend", **settings: Any) -> None:
        if backend.open_error:
            raise backend.open_error
        self.backend, self.settings, self.latency, self.closed, self.started = backend, settings, 0.02, False, False

    def start(self) -> None:
        if self.backend.start_error:
            raise self.backend.start_error
        self.started = True

    def close(self, ignore_errors: bool = True) -> None:
        self.closed = True
        self.settings["finished_callback"]()

    def run(self, block: np.ndarray, status: Any = None) -> np.ndarray:
        """Call the callback once with `block` of shape [frames, channels]; return it (the speaker's is filled)."""
        self.settings["callback"](block, len(block), None, status)
        return block


class FakeBackend:
    """As much of the sounddevice module as is used: one device, index 0."""

    class PortAudioError(Exception):
        """What PortAudio reports: a text and a number."""

    def __init__(self, rates: tuple[int, ...] = (24_000,), channels: int = 1, devices: int = 1) -> None:
        self.rates, self.channels = rates, channels
        self.min_channels = 1
        self.default = SimpleNamespace(device=[0, 0])
        self.open_error: Exception | None = None
        self.start_error: Exception | None = None
        self.devices = [
            {
                "name": "Fake",
                "max_input_channels": channels,
                "max_output_channels": channels,
                "default_samplerate": float(rates[-1]),
            }
        ][:devices]
        self.streams: list[FakeStream] = []

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        if kind is None:
            return self.devices
        if not self.devices:
            raise self.PortAudioError("Error querying device -1")
        if device not in (None, 0, "Fake"):
            raise ValueError(f"No device matching {device!r}")
        return self.devices[0]

    def check_input_settings(self, device: Any, channels: int, dtype: str, samplerate: int) -> None:
        if samplerate not in self.rates or channels < self.min_channels:
            raise self.PortAudioError("Invalid sample rate", -9997)

    check_output_settings = check_input_settings

    def _stream(self, **settings: Any) -> FakeStream:
        stream = FakeStream(self, **settings)
        self.streams.append(stream)
        return stream

    InputStream = OutputStream = _stream

    @property
    def mic(self) -> FakeStream:
        return self.streams[0]

    @property
    def speaker(self) -> FakeStream:
        return self.streams[1]


def opened(backend: FakeBackend, wake: Callable[[], None] = lambda: None, **config: Any) -> AudioIO:
    return open_default(AudioConfig(**{"echo_cancellation": False, **config}), wake, backend)


def column(pcm: np.ndarray, channels: int = 1) -> np.ndarray:
    return np.repeat(np.asarray(pcm, np.float32)[:, None], channels, axis=1)


@pytest.mark.parametrize("echo_cancellation", [True, False])
def test_steady_noise_is_taken_out(echo_cancellation: bool, rng: np.random.Generator) -> None:
    """With an echo canceller or without one."""
    hiss = rng.normal(0.0, 0.02, 4 * 24_000).astype(np.float32)
    levels = []
    for suppressed in (False, True):
        backend = FakeBackend()
        audio = opened(backend, echo_cancellation=echo_cancellation, noise_suppression=suppressed)
        heard = []
        for begin in range(0, len(hiss), 240):
            backend.speaker.run(column(np.zeros(240)))
            backend.mic.run(column(hiss[begin : begin + 240]))
            while (chunk := audio.read()) is not None:
                heard.append(chunk.pcm)
        levels.append(np.square(np.concatenate(heard)[3 * 24_000 :]).mean())
    assert levels[1] < 0.1 * levels[0]


def test_microphone_audio_arrives_with_its_position() -> None:
    """Blocks come back joined, on the session clock, and every block wakes the reader once."""
    backend, wakes = FakeBackend(), []
    audio = opened(backend, lambda: wakes.append(1))
    assert audio.read() is None
    pcm = np.linspace(-1, 1, 480, dtype=np.float32)
    backend.mic.run(column(pcm[:240]))
    backend.mic.run(column(pcm[240:]))
    chunk = audio.read()
    assert chunk is not None and chunk.start == 0
    assert np.array_equal(chunk.pcm, pcm)
    assert len(wakes) == 2


@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_the_speakers_echo_is_taken_out(rate: int) -> None:
    """What the speaker was given is known to the canceller, at any rate of the devices: the microphone falls silent."""
    backend = FakeBackend(rates=(rate,))
    audio, playout, block = opened(backend, echo_cancellation=True), Playout(), rate // 100
    rng = np.random.default_rng(4)
    speech = np.convolve(rng.standard_normal(5 * 24_000), np.exp(-np.arange(60) / 12.0), "same").astype(np.float32)
    room, heard, cleaned = np.zeros(block * 6, np.float32), [], []
    for begin in range(0, len(speech), 240):
        playout.push(0.02 * speech[begin : begin + 240], 1)
        audio.feed(playout)
        played = backend.speaker.run(np.zeros((block, 1), np.float32))[:, 0].copy()
        room = np.concatenate([room[block:], 0.5 * played])  # 60 ms away
        backend.mic.run(column(room[:block]))
        heard.append(room[:block])
        if (chunk := audio.read()) is not None:
            cleaned.append(chunk.pcm)
    assert audio.echo is not None and audio.echo.trusted
    backend.speaker.run(np.zeros((block, 1), np.float32), status=True)
    backend.mic.run(column(room[:block]))
    audio.read()
    assert not audio.echo.trusted  # after a fault of the driver the delay may be another
    late = np.concatenate(cleaned)[3 * 24_000 :]
    assert np.square(late).mean() < np.square(np.concatenate(heard)[3 * rate :]).mean() / 300


def test_a_late_reader_sees_a_gap() -> None:
    """Half a second unread is lost, counted, and shows as a jump of the position."""
    backend = FakeBackend()
    audio = opened(backend, mic_ring_ms=500)
    for _ in range(60):
        backend.mic.run(column(np.zeros(240)))
    assert audio.read() is None
    backend.mic.run(column(np.ones(240)))
    chunk = audio.read()
    assert chunk is not None
    assert chunk.start == 60 * 240 and chunk.pcm.min() == 1
    assert audio.counters["mic_lost_samples"] == 60 * 240


def test_a_device_at_another_rate_is_resampled() -> None:
    """Both directions run at 48 kHz, and the session still has 24 kHz, also after a gap."""
    backend = FakeBackend(rates=(48_000,))
    audio = opened(backend)
    assert backend.mic.settings["samplerate"] == 48_000
    tone = np.sin(2 * np.pi * 440 * np.arange(9600) / 48_000).astype(np.float32)
    for i in range(0, 9600, 480):
        backend.mic.run(column(tone[i : i + 480]))
    chunk = audio.read()
    assert chunk is not None
    expected = np.sin(2 * np.pi * 440 * np.arange(len(chunk.pcm)) / 24_000)
    assert 4700 < len(chunk.pcm) <= 4800
    assert np.abs(chunk.pcm - expected)[100:].max() < 0.01
    for _ in range(60):
        backend.mic.run(column(np.zeros(480)))
    assert audio.read() is None
    backend.mic.run(column(np.zeros(480)))
    after = audio.read()
    assert after is not None and after.start == 4800 + 60 * 240

    playout = Playout()
    playout.push(tone[:4800].copy(), 0)
    audio.feed(playout)
    out = backend.speaker.run(column(np.zeros(480)))[:, 0]
    assert 0.9 < np.abs(out).max() < 1.1
    assert playout.played_samples == 960


def test_a_device_without_mono_gets_two_channels() -> None:
    """The first microphone channel is used and the speaker plays the same on both."""
    backend = FakeBackend(channels=2)
    backend.min_channels = 2
    audio = opened(backend)
    backend.mic.run(np.array([[0.25, 0.5]] * 240, np.float32))
    chunk = audio.read()
    assert chunk is not None and set(chunk.pcm.tolist()) == {0.25}
    playout = Playout()
    playout.push(np.full(2400, 0.5, np.float32), 0)
    audio.feed(playout)
    assert set(backend.speaker.run(np.zeros((240, 2), np.float32)).ravel().tolist()) == {0.5}


def test_feed_keeps_the_speaker_a_little_ahead() -> None:
    """No more than the lead leaves the playout, so that an interruption is quick."""
    backend = FakeBackend()
    audio = opened(backend, speaker_lead_ms=40)
    playout = Playout()
    playout.push(np.ones(9600, np.float32), 0)
    audio.feed(playout)
    audio.feed(playout)
    assert playout.played_samples == audio.unplayed_samples == 960
    assert backend.speaker.run(column(np.zeros(240))).min() == 1
    assert audio.unplayed_samples == 720
    audio.feed(playout)
    assert playout.played_samples == 1200


def test_an_idle_playout_leaves_the_speaker_empty() -> None:
    """Silence is not queued: the next reply is in the first block after it was pushed."""
    backend = FakeBackend()
    audio = opened(backend)
    playout = Playout()
    audio.feed(playout)
    assert not backend.speaker.run(column(np.full(240, 9))).any()
    playout.push(np.ones(480, np.float32), 0)
    audio.feed(playout)
    assert backend.speaker.run(column(np.zeros(240))).min() == 1


def test_an_underrun_is_faded_by_the_playout() -> None:
    """When a reply runs dry the last samples die away, and the playout counts it."""
    backend = FakeBackend()
    audio = opened(backend)
    playout = Playout()
    playout.push(np.ones(240, np.float32), 0)
    audio.feed(playout)
    backend.speaker.run(column(np.zeros(240)))
    audio.feed(playout)
    out = backend.speaker.run(column(np.zeros(240)))[:, 0]
    assert 0.9 < out[0] < 1 and not out[120:].any()
    assert playout.underruns == 1


def _rising(count: int) -> np.ndarray:
    return np.linspace(0.25, 0.75, count, dtype=np.float32)


def _next(backend: FakeBackend) -> np.ndarray:
    return backend.speaker.run(column(np.full(240, 9)))[:, 0].copy()


def _fades_from(level: float, block: np.ndarray) -> None:
    """The block begins there, falls, and is silent after 5 ms."""
    assert block[0] == level
    assert (np.diff(block[:120]) < 0).all()
    assert not block[120:].any()


def test_a_held_reply_is_silent_at_once_and_loses_nothing() -> None:
    """Not even what the speaker is ahead by is played on: it fades out within 5 ms, and waits."""
    backend = FakeBackend()
    audio, playout = opened(backend, speaker_lead_ms=40), Playout()
    pcm = _rising(2_400)
    playout.push(pcm, 0)
    audio.feed(playout)
    np.testing.assert_array_equal(_next(backend), pcm[:240])
    playout.hold()
    audio.feed(playout)
    _fades_from(pcm[240], _next(backend))
    for _ in range(5):
        audio.feed(playout)
        assert not _next(backend).any()
    playout.resume()
    audio.feed(playout)
    rising = _next(backend)
    assert rising[0] == 0.0
    np.testing.assert_array_equal(rising[120:], pcm[360:480])
    audio.feed(playout)
    after = []
    for _ in range(8):
        after.append(_next(backend))
        audio.feed(playout)
    np.testing.assert_array_equal(np.concatenate(after), pcm[480:])


def test_a_reply_that_is_broken_off_ends_at_once() -> None:
    """What the speaker is ahead by is dropped; the next reply is heard from its first sample."""
    backend = FakeBackend()
    audio, playout = opened(backend, speaker_lead_ms=40), Playout()
    pcm = _rising(4_800)
    playout.push(pcm, 0)
    audio.feed(playout)
    _next(backend)
    playout.cancel(1)
    audio.feed(playout)
    assert audio.unplayed_samples == 0
    _fades_from(pcm[240], _next(backend))
    audio.feed(playout)
    assert not _next(backend).any()
    playout.push(pcm, 1)
    audio.feed(playout)
    np.testing.assert_array_equal(_next(backend), pcm[:240])


def test_a_held_reply_that_is_broken_off_is_not_heard_again() -> None:
    """Nor is it faded out a second time before the next one."""
    backend = FakeBackend()
    audio, playout = opened(backend, speaker_lead_ms=40), Playout()
    playout.push(_rising(4_800), 0)
    audio.feed(playout)
    _next(backend)
    playout.hold()
    audio.feed(playout)
    _next(backend)
    playout.cancel(1)
    playout.push(-_rising(4_800), 1)
    audio.feed(playout)
    np.testing.assert_array_equal(_next(backend), -_rising(4_800)[:240])


def test_a_reply_that_follows_another_lets_it_end() -> None:
    """What the speaker still has of a complete reply is played."""
    backend = FakeBackend()
    audio, playout = opened(backend, speaker_lead_ms=40), Playout()
    playout.push(np.full(480, 0.5, np.float32), 0)
    playout.end(0)
    audio.feed(playout)
    playout.push(np.full(480, -0.5, np.float32), 1)
    audio.feed(playout)
    assert [set(_next(backend)) for _ in range(4)] == [{0.5}] * 2 + [{-0.5}] * 2


def test_an_unplugged_device_is_an_event() -> None:
    """A stream that ends by itself is reported once, after waking the loop; closing it ourselves is not a loss."""
    backend, wakes = FakeBackend(), []
    audio = opened(backend, lambda: wakes.append(1))
    assert audio.poll(0.0) == []
    backend.mic.settings["finished_callback"]()
    assert wakes
    assert audio.poll(0.1) == [DeviceLost("microphone", "The microphone (Fake) was disconnected.")]
    assert audio.poll(0.2) == []
    audio.close()
    assert audio.poll(0.3) == []
    assert backend.mic.closed and backend.speaker.closed


def test_a_silent_device_counts_as_lost() -> None:
    """A callback that stops running is noticed by the time that passes, one that runs is not."""
    backend = FakeBackend()
    audio = opened(backend, stall_ms=1000)
    audio.poll(10.0)
    backend.mic.run(column(np.zeros(240)))
    audio.poll(10.9)
    assert audio.poll(11.1) == [DeviceLost("speaker", "The speaker (Fake) stopped responding.")]


def test_a_stream_that_does_not_close_is_abandoned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PortAudio once waited for ever for a sound server that had died; closing gives up instead."""
    monkeypatch.setattr(device_stream, "_CLOSE_TIMEOUT_S", 0.01)
    backend, release = FakeBackend(), threading.Event()
    audio = opened(backend)
    monkeypatch.setattr(backend.mic, "close", release.wait)
    audio.close()
    release.set()
    assert backend.speaker.closed
    assert caplog.messages == ["the microphone (Fake) does not close and is abandoned"]


def test_without_the_package_the_microphone_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Echo cancellation is asked for by default; where it cannot be had, one line says so, and nothing is cancelled."""
    assert open_default(AudioConfig(), backend=FakeBackend()).listens_while_speaking
    monkeypatch.setattr("streaming.echo.available", lambda: False)
    audio = open_default(AudioConfig(), backend=FakeBackend())
    assert not audio.listens_while_speaking
    assert caplog.messages == [
        "without the package livekit no echo is cancelled: the microphone waits while the agent speaks"
    ]


def test_several_devices_of_a_name_are_listed() -> None:
    """A name that fits more than one is no missing device."""
    backend = FakeBackend()

    def query(device: Any = None, kind: str | None = None) -> Any:
        raise ValueError("Multiple input devices found for 'USB':\n[1] USB one\n[2] USB two")

    backend.query_devices = query  # type: ignore[method-assign]
    with pytest.raises(AudioUnavailable, match=r"(?s)^More than one microphone is called 'USB'.*USB one.*USB two"):
        opened(backend, microphone="USB")


def test_xruns_are_counted() -> None:
    """What the driver reports ends up in the counters."""
    backend = FakeBackend()
    audio = opened(backend)
    backend.mic.run(column(np.zeros(240)), status="input overflow")
    backend.speaker.run(column(np.zeros(240)), status="output underflow")
    assert audio.counters == {"mic_xruns": 1, "speaker_xruns": 1, "mic_lost_samples": 0, "echo_moved": 0}
    assert audio.latency_ms == (20.0, 20.0)
    assert audio.description == "Fake at 24000 Hz, Fake at 24000 Hz"


def test_leaving_the_context_closes() -> None:
    """The context manager closes both streams."""
    backend = FakeBackend()
    with opened(backend):
        assert backend.mic.started and backend.speaker.started
    assert backend.mic.closed and backend.speaker.closed


def test_no_device_is_one_plain_sentence() -> None:
    """A machine without a microphone, and a name that fits none, say so."""
    with pytest.raises(AudioUnavailable, match=r"^No microphone was found\.$"):
        opened(FakeBackend(devices=0))
    with pytest.raises(AudioUnavailable, match=r"^No speaker called 'Harp' was found\.$"):
        opened(FakeBackend(), speaker="Harp")
    with pytest.raises(AudioUnavailable, match=r"^The device Fake has no microphone\.$"):
        opened(FakeBackend(channels=0))


def test_a_busy_device_is_one_plain_sentence() -> None:
    """PortAudio's "unavailable" means another program has it; other failures keep PortAudio's words."""
    backend = FakeBackend()
    backend.open_error = backend.PortAudioError("Error opening InputStream", -9985)
    with pytest.raises(AudioUnavailable, match=r"^The microphone \(Fake\) is in use by another program\.$"):
        opened(backend)
    backend.open_error = backend.PortAudioError("Host went away.", -1)
    with pytest.raises(AudioUnavailable, match=r"cannot be opened: Host went away\.$"):
        opened(backend)
    with pytest.raises(AudioUnavailable, match="cannot be opened: Invalid sample rate"):
        backend = FakeBackend(rates=(8000,))
        backend.rates = ()
        opened(backend)


def test_a_failed_start_closes_what_was_open() -> None:
    """Nothing stays open when the second step fails."""
    backend = FakeBackend()
    backend.start_error = backend.PortAudioError("Error starting stream", -9985)
    with pytest.raises(AudioUnavailable):
        opened(backend)
    assert backend.mic.closed and backend.speaker.closed


def test_a_missing_library_is_one_plain_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sounddevice raises OSError on import without PortAudio; the user reads what to install."""
    real_import = builtins.__import__

    def failing_import(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sounddevice":
            raise OSError("PortAudio library not found")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", failing_import)
    with pytest.raises(AudioUnavailable, match="apt install libportaudio2"):
        open_default()
    with pytest.raises(AudioUnavailable, match="PortAudio library is not installed"):
        describe_devices()


def test_devices_are_described() -> None:
    """One line a device, with what it can do and whether it is a default."""
    assert describe_devices(FakeBackend()) == ["0: Fake, 1 in, 1 out, 24000 Hz (default microphone, default speaker)"]
    assert describe_devices(FakeBackend(devices=0)) == []


def test_config_is_strict() -> None:
    """Unknown keys are refused."""
    with pytest.raises(ValidationError):
        AudioConfig.model_validate({"mic": "x"})


# A real sound server -------------------------------------------------------------------------------------------------

CLIENT = """
import json, sys, threading, time
import numpy as np
from streaming.audio_io import AudioConfig, describe_devices, open_default
from streaming.playout import Playout

block = threading.Event()
playout = Playout()
heard, events = [], []
with open_default(AudioConfig(echo_cancellation=False), block.set) as audio:
    end = None
    tone = (0.5 * np.sin(2 * np.pi * 500 * np.arange(24000) / 24000)).astype(np.float32)
    while (end is None or time.monotonic() < end) and not events:
        block.wait(0.1)
        block.clear()
        chunk = audio.read()
        if chunk is not None:
            heard.append(chunk)
        if chunk is not None and end is None:
            end = time.monotonic() + float(sys.argv[1])
            print(json.dumps({"open": audio.description, "devices": describe_devices()}), flush=True)
            playout.push(tone, 0)
            playout.end(0)
        audio.feed(playout)
        events += audio.poll(time.monotonic())
    counters = audio.counters
gaps = sum(b.start != a.start + len(a.pcm) for a, b in zip(heard, heard[1:]))
np.save(sys.argv[2], np.concatenate([c.pcm for c in heard]) if heard else np.zeros(0, np.float32))
print(json.dumps({"events": [[e.device, e.reason] for e in events], "counters": counters, "gaps": gaps,
                  "played": playout.played_samples}), flush=True)
"""


@pytest.fixture
def sound_server(tmp_path: Path) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """A private PulseAudio with a virtual microphone (fed by sink `micsrc`) and speaker (`spk`); env and process."""
    missing = [tool for tool in ("pulseaudio", "pactl", "paplay", "parec") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (apt install pulseaudio pulseaudio-utils libasound2-plugins)")
    tmp_path.chmod(0o700)
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PULSE_")},
        "XDG_RUNTIME_DIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    modules = (
        "module-native-protocol-unix",
        "module-null-sink sink_name=spk",
        "module-null-sink sink_name=micsrc",
        "module-virtual-source source_name=mic master=micsrc.monitor",
    )
    command = ["pulseaudio", "--daemonize=no", "--exit-idle-time=-1", "-n", *(f"--load={module}" for module in modules)]
    log = (tmp_path / "pulse.log").open("wb")
    server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        wait = "until pactl info >/dev/null 2>&1; do sleep 0.1; done"
        ready = f"{wait}; pactl set-default-sink spk; pactl set-default-source mic"
        subprocess.run(["timeout", "15", "sh", "-c", ready], env=env, check=True)
        yield env, server
    finally:
        server.kill()
        server.wait()
        log.close()


@contextmanager
def running_client(env: dict[str, str], seconds: float, output: Path, root: Path) -> Iterator[Callable[[], Any]]:
    """Run the client until `seconds` after the first audio; yields a function that returns its next report."""
    command = ["timeout", "-s", "KILL", "40", sys.executable, "-c", CLIENT, str(seconds), str(output)]
    with subprocess.Popen(command, env=env, cwd=root, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        stdout = client.stdout
        yield lambda: json.loads(stdout.readline() or '"the client was killed"')
        assert client.wait(40) == 0


def best_correlation(signal_: np.ndarray, reference: np.ndarray) -> float:
    """Largest normalised cross-correlation of `reference` with any stretch of `signal_`."""
    size = 1 << (len(signal_) + len(reference)).bit_length()
    spectrum = np.fft.rfft(signal_, size) * np.conj(np.fft.rfft(reference, size))
    cross = np.fft.irfft(spectrum, size)[: len(signal_) - len(reference) + 1]
    energy = np.convolve(signal_.astype(np.float64) ** 2, np.ones(len(reference)), "valid")
    return float((cross / np.sqrt(energy * (reference.astype(np.float64) ** 2).sum() + 1e-9)).max())


@pytest.mark.device
def test_a_real_microphone_and_speaker(
    sound_server: tuple[dict[str, str], subprocess.Popen[bytes]],
    tmp_path: Path,
    repo_root: Path,
    rng: np.random.Generator,
) -> None:
    """What is played into the microphone is captured whole, and what the playout holds comes out of the speaker."""
    env, _ = sound_server
    noise = np.convolve(rng.standard_normal(24_000), np.hanning(9) / 4, "same")
    question = (0.2 * noise).astype(np.float32)
    soundfile.write(tmp_path / "question.wav", question, 24_000)
    record = ["parec", "-d", "spk.monitor", "--format=s16le", "--rate=24000", "--channels=1", "--latency-msec=20"]
    with (tmp_path / "speaker.raw").open("wb") as speaker_file:
        recorder = subprocess.Popen(record, env=env, stdout=speaker_file)
        with running_client(env, 4.0, tmp_path / "mic.npy", repo_root) as next_report:
            assert "24000 Hz" in next_report()["open"]
            play = ["paplay", "--device=micsrc", str(tmp_path / "question.wav")]
            subprocess.run(play, env=env, check=True, timeout=20)
            report = next_report()
        recorder.send_signal(signal.SIGTERM)
        recorder.wait(10)
    assert report["events"] == [] and report["gaps"] == 0
    assert report["played"] == 24_000
    captured = np.load(tmp_path / "mic.npy")
    assert len(captured) > 3.0 * 24_000
    assert best_correlation(captured, question) > 0.95
    speaker = np.frombuffer((tmp_path / "speaker.raw").read_bytes(), "<i2").astype(np.float32) / 32768
    tone = np.sin(2 * np.pi * 500 * np.arange(20_000) / 24_000).astype(np.float32)
    assert best_correlation(speaker, tone) > 0.95


@pytest.mark.device
def test_a_real_server_that_dies_is_an_event(
    sound_server: tuple[dict[str, str], subprocess.Popen[bytes]], tmp_path: Path, repo_root: Path
) -> None:
    """Losing the sound server ends neither the program nor its loop: both devices or one are reported."""
    env, server = sound_server
    with running_client(env, 20.0, tmp_path / "mic.npy", repo_root) as next_report:
        next_report()
        server.kill()
        report = next_report()
    assert report["events"][0][0] in ("microphone", "speaker")
