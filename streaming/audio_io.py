"""Local microphone and speaker through PortAudio (the sounddevice package).

PortAudio's callbacks only copy between their buffers and rings. Everything else (resampling, the playout schedule,
noticing a lost device) happens where `AudioIO.read`, `feed` and `poll` are called: on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import numpy as np

from streaming import echo
from streaming.device_stream import (
    CHANNEL_FIELD,
    AudioConfig,
    DeviceLost,
    DeviceStream,
    Direction,
    load_backend,
    reason,
)
from streaming.errors import AudioUnavailable
from streaming.frames import SAMPLE_RATE_HZ, FloatArray, ms_to_samples
from streaming.playout import Playout
from streaming.resample import LiveResampler
from streaming.ring import Chunk

__all__ = [
    "AudioConfig",
    "AudioIO",
    "DeviceLost",
    "describe_devices",
    "event_for_threads",
    "measure_level",
    "move_audio",
    "open_default",
]

_log = logging.getLogger(__name__)

_POLL_S = 0.25
_ECHO_TAIL_S = 0.3  # the room and the devices still sound after the last sample was handed over


def describe_devices(backend: Any = None) -> list[str]:
    """Return one line for each sound device: index, name, channels, rate, and whether it is a default.

    Raises:
        AudioUnavailable: The PortAudio library is not installed or fails.
    """
    backend = backend or load_backend()
    try:
        devices = list(backend.query_devices())
    except backend.PortAudioError as exc:
        raise AudioUnavailable(f"The sound system does not answer: {reason(exc)}.") from exc
    defaults = [int(index) for index in backend.default.device]
    lines = []
    for index, device in enumerate(devices):
        roles = [f"default {role}" for role, default in zip(CHANNEL_FIELD, defaults, strict=True) if default == index]
        lines.append(
            f"{index}: {device['name']}, {device['max_input_channels']} in, {device['max_output_channels']} out, "
            f"{device['default_samplerate']:.0f} Hz" + (f" ({', '.join(roles)})" if roles else "")
        )
    return lines


def _canceller(config: AudioConfig) -> echo.EchoCanceller | None:
    if not config.echo_cancellation:
        return None
    if not echo.available():
        _log.warning("without the package livekit no echo is cancelled: the microphone waits while the agent speaks")
        return None
    return echo.EchoCanceller(config.noise_suppression)


class AudioIO:
    """An open microphone and speaker, 24 kHz mono whatever the devices run at. Also a context manager."""

    def __init__(self, config: AudioConfig, backend: Any, wake: Callable[[], None]) -> None:
        """Open both devices without starting them; use `open_default` instead.

        Args:
            config: Settings.
            backend: The sounddevice module or one like it.
            wake: Called from PortAudio's threads after each block and when a device is lost. It must return at once,
                such as ``lambda: loop.call_soon_threadsafe(event.set)``.

        Raises:
            AudioUnavailable: A device is missing, busy or refuses every format.
        """
        self.echo = _canceller(config)
        suppresses = config.noise_suppression and self.echo is None and echo.available()
        self._noise = echo.NoiseSuppressor() if suppresses else None
        self._mic = DeviceStream(backend, "microphone", config, wake)
        try:
            self._speaker = DeviceStream(backend, "speaker", config, wake)
        except AudioUnavailable:
            self._mic.close()
            raise
        self._rendered = LiveResampler(self._speaker.rate_hz, SAMPLE_RATE_HZ)
        self._lead = ms_to_samples(config.speaker_lead_ms)
        self._block = ms_to_samples(config.block_ms)
        self._from_mic = LiveResampler(self._mic.rate_hz, SAMPLE_RATE_HZ)
        self._to_speaker = LiveResampler(SAMPLE_RATE_HZ, self._speaker.rate_hz)
        self._mic_next = 0  # device-rate position after the last chunk read
        self._origin = 0  # session sample of the resampler's first input
        self._position = 0
        self._lost: set[Direction] = set()
        self._cuts = 0  # of the playout, so far
        self._xruns = 0  # that the echo canceller knows of

    def start(self) -> None:
        """Begin recording and playing.

        Raises:
            AudioUnavailable: A device refuses to start.
        """
        for stream in (self._mic, self._speaker):
            stream.start()

    def close(self) -> None:
        """Stop both devices; harmless when they are stopped or lost."""
        self._mic.close()
        self._speaker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def latency_ms(self) -> tuple[float, float]:
        """What PortAudio says the microphone and the speaker add."""
        return 1000.0 * self._mic.stream.latency, 1000.0 * self._speaker.stream.latency

    @property
    def unplayed_samples(self) -> int:
        """24 kHz samples taken from the playout that the speaker has not fetched yet."""
        return self._speaker.ring.available * SAMPLE_RATE_HZ // self._speaker.rate_hz

    @property
    def counters(self) -> dict[str, int]:
        """Faults so far: xruns, 24 kHz samples lost by a late reader, times the echo was lined up anew."""
        ring = self._mic.ring
        lost = ring.refused_samples + ring.skipped_samples
        return {
            "mic_xruns": self._mic.xruns,
            "speaker_xruns": self._speaker.xruns,
            "mic_lost_samples": lost * SAMPLE_RATE_HZ // self._mic.rate_hz,
            "echo_moved": 0 if self.echo is None else self.echo.moved,
        }

    @property
    def listens_while_speaking(self) -> bool:
        """Whether the user can be heard while the speaker plays: the echo is taken out."""
        return self.echo is not None

    @property
    def description(self) -> str:
        """One line for the log: both devices, the rates they run at, and what becomes of the echo."""
        devices = f"{self._mic.name} at {self._mic.rate_hz} Hz, {self._speaker.name} at {self._speaker.rate_hz} Hz"
        return devices if self.echo is None else f"{devices}, echo cancelled"

    def read(self) -> Chunk | None:
        """Return the microphone audio that arrived, float32 at 24 kHz, or None.

        `Chunk.start` is on the session clock, where 0 is the first sample recorded; a jump is audio that was lost.
        """
        chunk = self._mic.ring.read()
        if chunk is None:
            return None
        if chunk.start != self._mic_next:
            self._origin = round(chunk.start * SAMPLE_RATE_HZ / self._mic.rate_hz)
            self._position = self._origin
            self._from_mic.reset()
            if self.echo is not None:
                self.echo.reset()
        self._mic_next = chunk.start + len(chunk.pcm)
        pcm = self._cleaned(self._from_mic.push(chunk.pcm))
        if not len(pcm):
            return None
        start = self._position
        self._position += len(pcm)
        return Chunk(pcm, start)

    def _cleaned(self, pcm: FloatArray) -> FloatArray:
        if self.echo is None or self._speaker.rendered is None:
            return pcm if self._noise is None else self._noise.clean(pcm)
        if (xruns := self._mic.xruns + self._speaker.xruns) != self._xruns:
            self._xruns = xruns
            self.echo.doubt()
        while (rendered := self._speaker.rendered.read()) is not None:
            self.echo.play(self._rendered.push(rendered.pcm))
        return self.echo.clean(pcm)

    def feed(self, playout: Playout) -> None:
        """Move audio from `playout` until the speaker is `speaker_lead_ms` ahead.

        Nothing is moved while the playout is idle, so that the next reply is heard at once. It is silent while somebody
        may be speaking over it, until a voice detector has had time to tell. What the speaker is ahead by waits with it
        when it falls silent, and is not played when it is broken off.
        """
        if self.echo is not None:
            playout.duck(self.echo.spoken_over)
        if playout.cuts != self._cuts:
            self._cuts = playout.cuts
            self._drop(playout)
        self._speaker.quiet = playout.silent
        if playout.silent:
            return
        wanted = self._lead - self.unplayed_samples
        if playout.buffered_samples:
            wanted = min(wanted, playout.buffered_samples)
        elif playout.in_reply and self._speaker.ring.available < self._speaker.block_samples:
            wanted = self._block  # an underrun: let the playout fade it
        else:
            return
        if wanted > 0:
            self._speaker.ring.write(self._to_speaker.push(playout.pull(wanted)))

    def _drop(self, playout: Playout) -> None:
        if self.unplayed_samples:
            self._speaker.ring.drop()
            self._to_speaker.reset()
            playout.drop_fade()

    def poll(self, now_s: float) -> list[DeviceLost]:
        """Return devices lost since the last call.

        Args:
            now_s: A monotonic time in seconds.
        """
        events = []
        for stream in (self._mic, self._speaker):
            event = None if stream.direction in self._lost else stream.check(now_s)
            if event is not None:
                self._lost.add(stream.direction)
                events.append(event)
        return events


def open_default(
    config: AudioConfig | None = None, wake: Callable[[], None] = lambda: None, backend: Any = None
) -> AudioIO:
    """Open the microphone and the speaker of `config`, the system's default ones if it names none, and start them.

    Args:
        config: Settings.
        wake: See `AudioIO`.
        backend: Used instead of the sounddevice module.

    Raises:
        AudioUnavailable: No PortAudio library, no such device, or the device is busy; the text says which.
    """
    audio = AudioIO(config or AudioConfig(), backend or load_backend(), wake)
    try:
        audio.start()
    except AudioUnavailable:
        audio.close()
        raise
    return audio


def measure_level(devices: AudioIO, seconds: float) -> float:
    """Listen for so long, blocking; the level of the loudest 10 ms in dB against full scale, -120 for nothing."""
    until, loudest = time.monotonic() + seconds, 1e-12
    while time.monotonic() < until:
        time.sleep(0.01)
        while (chunk := devices.read()) is not None:
            block = ms_to_samples(10)
            for start in range(0, len(chunk.pcm), block):
                loudest = max(loudest, float(np.square(chunk.pcm[start : start + block]).mean()))
    return 10.0 * math.log10(loudest)


def event_for_threads() -> tuple[asyncio.Event, Callable[[], None]]:
    """An event of the running loop, and what sets it from any thread: the ``wake`` of `open_default`."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def set_event() -> None:
        loop.call_soon_threadsafe(event.set)

    return event, set_event


async def move_audio(
    devices: AudioIO,
    playout: Playout,
    hear: Callable[[FloatArray], Awaitable[object]],
    wake: asyncio.Event,
    listen_while_speaking: bool,
) -> None:
    """Carry audio between the devices, a playout and whoever hears, until cancelled.

    Args:
        devices: Open and started.
        playout: What the speaker plays.
        hear: Takes microphone audio, float32 [n].
        wake: Set by the devices after each block.
        listen_while_speaking: Whether the microphone counts while the speaker plays; if not, it is silent then.

    Raises:
        AudioUnavailable: A device went away.
    """
    speaking_until = 0.0
    while True:
        wake.clear()
        devices.feed(playout)
        now = time.monotonic()
        if not playout.idle or devices.unplayed_samples:
            speaking_until = now + _ECHO_TAIL_S
        for lost in devices.poll(now):
            raise AudioUnavailable(lost.reason)
        while (chunk := devices.read()) is not None:
            deaf = now < speaking_until and not listen_while_speaking
            await hear(np.zeros_like(chunk.pcm) if deaf else chunk.pcm)
        try:
            async with asyncio.timeout(_POLL_S):
                await wake.wait()
        except TimeoutError:
            continue
