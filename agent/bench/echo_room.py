"""A room between speaker and microphone: delay, measured response, level, clocks that drift, and a user who talks."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.bench.figures import loud_span
from agent.errors import InputError
from streaming.far_end import between
from streaming.frames import SAMPLE_RATE_HZ, FloatArray
from streaming.sound_files import read_audio

BLOCK = SAMPLE_RATE_HZ // 100  # 10 ms
ECHO_DB = -30.0  # level of the agent's voice at the microphone, active speech against full scale
AGENT_DB = -22.0  # what its voice has when it leaves
NOISE_DB = -65.0
_ACTIVE = 10**-1.5  # of the loudest 20 ms
_REPLY_BEGINS_S = 8.0
_REPLY_OVER_S = 1.5
_OVER_AFTER_S = (1.2, 2.2)  # of a reply, when somebody speaks over it
_SOUNDS = 10**-5.0  # mean square


def read_response(path: Path) -> FloatArray:
    """A measured room response from its direct sound on, with the energy 1: float32 [n].

    Raises:
        StreamingError: it cannot be read.
    """
    pcm = read_audio(path)
    begin = max(0, int(np.argmax(np.abs(pcm))) - SAMPLE_RATE_HZ // 1000)
    return np.asarray(pcm[begin:] / np.sqrt(np.square(pcm[begin:]).sum()), np.float32)


def read_speech(directory: Path, limit: int | None = None) -> list[FloatArray]:
    """What users say: the recordings of a folder with a ``manifest.jsonl``, without silence around, level 1.

    Raises:
        InputError: there is no manifest.
        StreamingError: a recording cannot be read.
    """
    try:
        lines = (directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
    except OSError as exc:
        raise InputError(f"{directory} has no readable manifest.jsonl ({exc.strerror})") from exc
    return [_at_level_1(read_audio(directory / json.loads(line)["audio"])) for line in lines]


def _at_level_1(pcm: FloatArray) -> FloatArray:
    begin, end = loud_span(pcm)
    frames = pcm[begin:end][: (end - begin) // 480 * 480].reshape(-1, 480)
    power = np.square(frames).mean(axis=1)
    return np.asarray(pcm[begin:end] / np.sqrt(power[power >= _ACTIVE * power.max()].mean()), np.float32)


class Room:
    """What a microphone hears of a speaker, in blocks of 10 ms.

    Args:
        response: float32 [n] of energy 1.
        delay_ms: of the devices, both ways together.
        drift_ppm: how much faster the speaker's clock is.
        seed: of the noise.
    """

    def __init__(self, response: FloatArray, delay_ms: float, drift_ppm: float = 0.0, seed: int = 0) -> None:
        parts = -(-len(response) // BLOCK)
        padded = np.zeros((parts, 2 * BLOCK), np.float32)
        padded[:, :BLOCK] = np.pad(response, (0, parts * BLOCK - len(response))).reshape(parts, BLOCK)
        self._response = np.fft.rfft(padded * 10 ** ((ECHO_DB - AGENT_DB) / 20), axis=1)  # [parts, BLOCK + 1]
        self._spectra = np.zeros_like(self._response)
        self._before = np.zeros(BLOCK, np.float32)
        self._played = np.zeros(0, np.float32)
        self._start = 0  # the speaker's sample at its beginning
        self._blocks = 0
        self._pace = 1.0 + drift_ppm * 1e-6
        self._random = np.random.default_rng(seed)
        self.delay_ms = delay_ms

    def play(self, pcm: FloatArray) -> None:
        """Take what left the speaker, float32 [n]."""
        self._played = np.concatenate([self._played, pcm])
        if (old := len(self._played) - 3 * SAMPLE_RATE_HZ) > 0:
            self._played, self._start = self._played[old:], self._start + old

    def hear(self) -> FloatArray:
        """The next 10 ms at the microphone, with noise: float32 [240]."""
        at = (self._blocks * BLOCK + np.arange(BLOCK) - self.delay_ms * SAMPLE_RATE_HZ / 1000) * self._pace
        self._blocks += 1
        block = between(self._played, at - self._start).astype(np.float32) if len(self._played) else self._before * 0
        self._spectra = np.roll(self._spectra, 1, axis=0)
        self._spectra[0] = np.fft.rfft(np.concatenate([self._before, block]))
        self._before = block
        echo = np.fft.irfft((self._spectra * self._response).sum(axis=0))[BLOCK:]
        return np.asarray(echo + self._random.standard_normal(BLOCK) * 10 ** (NOISE_DB / 20), np.float32)


@dataclass(slots=True)
class Utterance:
    """Something the user says: samples of the microphone's clock."""

    begin: int
    end: int
    over: bool  # a reply


@dataclass
class User:
    """Says an order, listens to the whole reply, says the next, speaks over its reply, and so on.

    Args:
        speech: what can be said, each float32 [n] at level 1.
        level_db: of the user at the microphone against the agent's echo.
        seed: of what is said and when.
    """

    speech: list[FloatArray]
    level_db: float
    seed: int = 0
    said: list[Utterance] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._now = 0
        self._saying = np.zeros(0, np.float32)
        self._next_over = False  # whether the reply that comes is spoken over
        self._asked_at: int | None = None
        self._speak_at: int | None = SAMPLE_RATE_HZ
        self._over_after = 0
        self._sounded = 0  # samples of the reply that sounded so far
        self._quiet = 0  # samples since it did

    def say(self, played: FloatArray) -> FloatArray:
        """The user's next 10 ms at the microphone, given what the speaker plays meanwhile: float32 [240]."""
        sounds = float(np.square(played).mean()) > _SOUNDS
        self._quiet = 0 if sounds else self._quiet + BLOCK
        if self._asked_at is not None and not len(self._saying):
            self._sounded += BLOCK * sounds
            self._wait(sounds)
        if self._speak_at is not None and self._now >= self._speak_at and not len(self._saying):
            self._begin(over=False)
        out = np.zeros(BLOCK, np.float32)
        part = self._saying[:BLOCK]
        out[: len(part)], self._saying = part, self._saying[BLOCK:]
        self._now += BLOCK
        if self.said and not len(self._saying) and self._asked_at is None:
            self._asked_at, self._sounded = self._now, 0
        return out

    def _wait(self, sounds: bool) -> None:
        assert self._asked_at is not None, "something was asked"
        if self._next_over and self._sounded >= self._over_after and sounds:
            self._begin(over=True)
        over = self._sounded and self._quiet >= _REPLY_OVER_S * SAMPLE_RATE_HZ
        none = not self._sounded and self._now - self._asked_at > _REPLY_BEGINS_S * SAMPLE_RATE_HZ
        if self._asked_at is not None and (over or none):
            self._speak_at = self._now

    def _begin(self, *, over: bool) -> None:
        pcm = self.speech[int(self._random.integers(len(self.speech)))]
        self._saying = pcm * np.float32(10 ** ((ECHO_DB + self.level_db) / 20))
        self.said.append(Utterance(self._now, self._now + len(pcm), over))
        self._next_over = not over and not self._next_over
        self._over_after = round(self._random.uniform(*_OVER_AFTER_S) * SAMPLE_RATE_HZ)
        self._asked_at = self._speak_at = None
