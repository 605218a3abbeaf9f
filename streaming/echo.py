"""Takes the agent's own voice out of the microphone, and steady noise: WebRTC's echo canceller (AEC3) and suppressor.

They come with the ``livekit`` package, which wraps the native library. The canceller finds the delay between speaker
and microphone by itself, up to half a second, and follows it when it changes. What it needs is a reference on the
microphone's clock (:mod:`streaming.far_end`); what it leaves is judged by :mod:`streaming.echo_guard`.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np

from streaming.double_talk import DoubleTalk
from streaming.echo_guard import EchoGuard
from streaming.errors import AudioUnavailable
from streaming.far_end import FarEnd
from streaming.frames import SAMPLE_RATE_HZ, FloatArray

FRAME = SAMPLE_RATE_HZ // 100  # what the library takes at once


def available() -> bool:
    """Whether the package is installed."""
    try:
        return find_spec("livekit.rtc") is not None
    except ModuleNotFoundError:
        return False


class EchoCanceller:
    """One microphone beside one speaker, both at 24 kHz, each on its own clock.

    Args:
        suppress_noise: also take steady noise out of the microphone.
        double_talk: also know at once when somebody speaks over the echo (:attr:`spoken_over`).

    Raises:
        AudioUnavailable: the package is not installed.
    """

    def __init__(self, suppress_noise: bool = False, double_talk: bool = True) -> None:
        self._rtc = _library()
        self._module = self._rtc.AudioProcessingModule(
            echo_cancellation=True, high_pass_filter=True, noise_suppression=suppress_noise
        )
        self._far_end = FarEnd()
        self._guard = EchoGuard()
        self._double_talk = DoubleTalk() if double_talk else None
        self.spoken_over = False
        """Whether somebody may be speaking over the echo: known before the canceller lets them through."""
        self._heard = np.zeros(0, np.float32)

    @property
    def trusted(self) -> bool:
        """Whether it has shown that it takes the echo out; until then the microphone is silent while one may sound."""
        return self._guard.trusting

    @property
    def taken_out_db(self) -> float:
        """How far what was left of the echo is below it (the echo return loss enhancement)."""
        return self._guard.taken_out_db

    @property
    def drift_ppm(self) -> float:
        """How much faster the speaker's clock runs than the microphone's, in millionths."""
        return 1e6 * self._far_end.drift

    @property
    def moved(self) -> int:
        """Times audio was lost on the way, and speaker and microphone were lined up anew."""
        return self._far_end.moved

    def play(self, pcm: FloatArray) -> None:
        """Take what left the speaker, float32 [n], silence included."""
        self._far_end.play(pcm)

    def clean(self, pcm: FloatArray) -> FloatArray:
        """Take what the microphone heard, float32 [n], after what was played meanwhile.

        Returns:
            The same without the echo, in whole frames of 10 ms: up to 239 samples wait for the next call.
        """
        self._heard = np.concatenate([self._heard, pcm])
        count = len(self._heard) // FRAME
        if count and self._far_end.line_up(len(self._heard)):
            self._guard.doubt()
        cleaned = [self._step(self._heard[index * FRAME : (index + 1) * FRAME]) for index in range(count)]
        self._heard = self._heard[count * FRAME :]
        return np.concatenate([np.zeros(0, np.float32), *cleaned])

    def doubt(self) -> None:
        """The speaker or the microphone stumbled, so the delay between them may be another: it has to show anew."""
        self._far_end.stumbled()
        self._guard.doubt()

    def reset(self) -> None:
        """A device was opened again, or lost audio: line both up anew, keep what is known of the room."""
        self._heard = np.zeros(0, np.float32)
        self._far_end.reset()
        self._guard.doubt()

    def _step(self, pcm: FloatArray) -> FloatArray:
        played = self._far_end.read(FRAME)
        self._module.process_reverse_stream(_frame(self._rtc, played))
        left = _processed(self._rtc, self._module, pcm)
        powers = [float(np.square(part).mean()) for part in (played, pcm, left)]
        if self._double_talk is not None:
            self.spoken_over = self._double_talk.somebody_speaks(played, pcm) and self._guard.trusting
        return np.zeros_like(left) if self._guard.is_echo(*powers) else left


class NoiseSuppressor:
    """Takes steady noise out of speech at 24 kHz; without an echo to cancel.

    Raises:
        AudioUnavailable: the package is not installed.
    """

    def __init__(self) -> None:
        self._rtc = _library()
        self._module = self._rtc.AudioProcessingModule(noise_suppression=True, high_pass_filter=True)
        self._heard = np.zeros(0, np.float32)

    def clean(self, pcm: FloatArray) -> FloatArray:
        """Take float32 [n] and return it without the noise, in whole frames of 10 ms; the rest waits."""
        self._heard = np.concatenate([self._heard, pcm])
        count = len(self._heard) // FRAME
        frames, self._heard = self._heard[: count * FRAME].reshape(count, FRAME), self._heard[count * FRAME :]
        return np.concatenate(
            [np.zeros(0, np.float32), *(_processed(self._rtc, self._module, frame) for frame in frames)]
        )

    def flush(self) -> FloatArray:
        """Return what still waits, at most 239 samples, as it is."""
        rest, self._heard = self._heard, np.zeros(0, np.float32)
        return rest


def _library() -> Any:
    try:
        from livekit import rtc
    except ImportError as exc:
        sentence = "Echo cancellation and noise suppression need the Python package livekit: pip install livekit."
        raise AudioUnavailable(sentence) from exc
    return rtc


def _frame(rtc: Any, pcm: FloatArray) -> Any:
    samples = np.clip(np.round(pcm * 32_768), -32_768, 32_767).astype("<i2")
    return rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE_HZ, 1, FRAME)


def _processed(rtc: Any, module: Any, pcm: FloatArray) -> FloatArray:
    frame = _frame(rtc, pcm)
    module.process_stream(frame)
    return np.frombuffer(frame.data, np.int16).astype(np.float32) / np.float32(32_768)
