"""One direction of the local sound hardware: choosing a format, the PortAudio callback, its ring, noticing a loss."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from streaming.errors import AudioUnavailable
from streaming.frames import SAMPLE_RATE_HZ, ms_to_samples
from streaming.ring import Ring

Direction = Literal["microphone", "speaker"]

CHANNEL_FIELD: dict[Direction, str] = {"microphone": "max_input_channels", "speaker": "max_output_channels"}

_DEVICE_BUSY = -9985  # PortAudio's paDeviceUnavailable
_NO_LIBRARY = "The PortAudio library is not installed (on Debian and Ubuntu: apt install libportaudio2)."
_CLOSE_TIMEOUT_S = 2.0
_FADE_MS = 5

_log = logging.getLogger(__name__)


class AudioConfig(BaseModel):
    """Settings of `AudioIO`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    microphone: int | str | None = None
    """Device index or part of its name; None is the system's default."""
    speaker: int | str | None = None
    """Device index or part of its name; None is the system's default."""
    block_ms: int = Field(10, ge=5, le=100)
    """Audio a callback handles at once."""
    echo_cancellation: bool = True
    """Take the agent's own voice out of the microphone, so that the user can interrupt without headphones."""
    noise_suppression: bool = False
    """Take steady noise out of the microphone."""
    mic_ring_ms: int = Field(500, ge=100, le=800)
    """Microphone audio kept for a late reader."""
    speaker_lead_ms: int = Field(40, ge=10, le=500)
    """Audio handed to the speaker ahead of time: more survives longer pauses of the program, less interrupts sooner."""
    stall_ms: int = Field(4_000, ge=200, le=60_000)
    """A device whose callback has not run for this long counts as lost; a sleeping sound server needs 2 s to start."""


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """A device stopped working while in use; it is reported once.

    Attributes:
        device: Which one.
        reason: One plain sentence.
    """

    device: Direction
    reason: str


class DeviceStream:
    """One direction: the PortAudio stream, its ring, and the counters its callback keeps."""

    def __init__(self, backend: Any, direction: Direction, config: AudioConfig, wake: Callable[[], None]) -> None:
        """Open the device without starting it.

        Raises:
            AudioUnavailable: It is missing, busy or refuses every format.
        """
        self._backend = backend
        self.direction: Direction = direction
        self.xruns = 0
        self.callbacks = 0
        self.finished = False
        self._closing = False
        self._wake = wake
        self._seen_callbacks = 0
        self._seen_at_s: float | None = None
        self._stall_s = config.stall_ms / 1000
        device = config.microphone if direction == "microphone" else config.speaker
        self.rate_hz, channels, self.name = choose_format(backend, direction, device)
        speaker_ms = 2 * config.speaker_lead_ms + 4 * config.block_ms  # what is dropped stays for a block
        ring_ms = config.mic_ring_ms if direction == "microphone" else speaker_ms
        self.block_samples = ms_to_samples(config.block_ms, self.rate_hz)
        self.ring = Ring(ms_to_samples(ring_ms, self.rate_hz))
        echoes = direction == "speaker" and config.echo_cancellation
        self.rendered = Ring(ms_to_samples(config.mic_ring_ms, self.rate_hz)) if echoes else None
        """What the speaker was given, silence included."""
        self.quiet = False
        """Whether the speaker is silent, at once; what waits in the ring is played afterwards, unless it is dropped."""
        self._sounds = self._broken_off = False
        self._fade = np.linspace(1.0, 0.0, ms_to_samples(_FADE_MS, self.rate_hz), dtype=np.float32)
        kind = backend.InputStream if direction == "microphone" else backend.OutputStream
        try:
            self.stream = kind(
                samplerate=self.rate_hz,
                blocksize=self.block_samples,
                device=device,
                channels=channels,
                dtype="float32",
                latency="low",
                callback=self._on_input if direction == "microphone" else self._on_output,
                finished_callback=self._on_finished,
            )
        except (backend.PortAudioError, ValueError) as exc:
            raise AudioUnavailable(_open_failure(direction, self.name, exc)) from exc

    def start(self) -> None:
        """Let the callback run.

        Raises:
            AudioUnavailable: The device refuses.
        """
        try:
            self.stream.start()
        except self._backend.PortAudioError as exc:
            raise AudioUnavailable(_open_failure(self.direction, self.name, exc)) from exc

    def close(self) -> None:
        """Stop and close, waiting at most two seconds: PortAudio can wait for ever on a server that has died."""
        self._closing = True
        closer = threading.Thread(target=self.stream.close, name=f"close {self.direction}", daemon=True)
        closer.start()
        closer.join(_CLOSE_TIMEOUT_S)
        if closer.is_alive():
            _log.warning("the %s (%s) does not close and is abandoned", self.direction, self.name)
            # sounddevice would close it again at exit and hang there
            exit_handler: Any = getattr(self._backend, "_exit_handler", None)
            atexit.unregister(exit_handler)

    def check(self, now_s: float) -> DeviceLost | None:
        """Return the loss when the stream ended by itself or its callback has not run for too long."""
        if self.finished:
            return DeviceLost(self.direction, f"The {self.direction} ({self.name}) was disconnected.")
        if self.callbacks != self._seen_callbacks or self._seen_at_s is None:
            self._seen_callbacks = self.callbacks
            self._seen_at_s = now_s
        elif now_s - self._seen_at_s >= self._stall_s:
            return DeviceLost(self.direction, f"The {self.direction} ({self.name}) stopped responding.")
        return None

    def _on_input(self, data: Any, frames: int, time: Any, status: Any) -> None:
        self.callbacks += 1
        self.xruns += bool(status)
        self.ring.write(data[:, 0])
        self._wake()

    def _on_output(self, data: Any, frames: int, time: Any, status: Any) -> None:
        self.callbacks += 1
        self.xruns += bool(status)
        count = self._play(data[:, 0])
        data[count:, 0] = 0.0
        data[:, 1:] = data[:, :1]
        if self.rendered is not None:
            self.rendered.write(data[:, 0])
        self._wake()

    def _play(self, out: Any) -> int:
        """Fill the front of a block; returns how much of it. What breaks off is faded out, what goes on is faded in."""
        if self._sounds and (self.quiet or self.ring.dropping):
            count = self.ring.peek_into(out[: len(self._fade)])
            out[:count] *= self._fade[:count]
            self._sounds, self._broken_off = False, True
            return count
        if self.quiet:
            return 0
        self._broken_off = self._broken_off and not self.ring.dropping
        count = self.ring.read_into(out)
        if self._broken_off and count:
            first = out[: len(self._fade)]
            first *= self._fade[::-1][: len(first)]
            self._broken_off = False
        self._sounds = count > 0
        return count

    def _on_finished(self) -> None:
        self.finished = not self._closing
        if self.finished:
            self._wake()


def load_backend() -> Any:
    """Import sounddevice now: it fails with OSError where the PortAudio library is missing."""
    try:
        import sounddevice
    except OSError as exc:
        raise AudioUnavailable(_NO_LIBRARY) from exc
    except ImportError as exc:
        raise AudioUnavailable("The Python package sounddevice is not installed.") from exc
    return sounddevice


def choose_format(backend: Any, direction: Direction, device: int | str | None) -> tuple[int, int, str]:
    """Return rate, channels and name: 24 kHz mono if the device takes it, else its own rate, else two channels."""
    kind = "input" if direction == "microphone" else "output"
    try:
        info = backend.query_devices(device, kind)
    except (backend.PortAudioError, ValueError) as exc:
        named = "" if device is None else f" called {device!r}"
        if "Multiple" in str(exc):  # its sentence lists them
            raise AudioUnavailable(f"More than one {direction} is{named}: {reason(exc)}.") from exc
        raise AudioUnavailable(f"No {direction}{named} was found.") from exc
    check = backend.check_input_settings if direction == "microphone" else backend.check_output_settings
    own_rate_hz = round(info["default_samplerate"])
    most_channels = info[CHANNEL_FIELD[direction]]
    failure: Exception | None = None
    for channels in range(1, min(most_channels, 2) + 1):
        for rate_hz in dict.fromkeys((SAMPLE_RATE_HZ, own_rate_hz)):
            try:
                check(device=device, channels=channels, dtype="float32", samplerate=rate_hz)
            except backend.PortAudioError as exc:
                failure = exc
            else:
                return rate_hz, channels, info["name"]
    if failure is None:
        raise AudioUnavailable(f"The device {info['name']} has no {direction}.")
    raise AudioUnavailable(_open_failure(direction, info["name"], failure)) from failure


def _open_failure(direction: Direction, name: str, exc: Exception) -> str:
    if len(exc.args) > 1 and exc.args[1] == _DEVICE_BUSY:
        return f"The {direction} ({name}) is in use by another program."
    return f"The {direction} ({name}) cannot be opened: {reason(exc)}."


def reason(exc: Exception) -> str:
    """Return PortAudio's own words for a failure, without a full stop."""
    text = str(exc.args[0]) if exc.args else type(exc).__name__
    return text.rstrip(". ")
