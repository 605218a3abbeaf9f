"""Takes the agent's own voice out of the microphone: WebRTC's echo canceller (AEC3) and its noise suppressor.

They come with the ``livekit`` package, which is a wrapper of the native library and optional here (extra ``echo``).
"""

from typing import Any

import numpy as np

from streaming.errors import AudioUnavailable
from streaming.frames import SAMPLE_RATE_HZ, FloatArray

FRAME = SAMPLE_RATE_HZ // 100  # what the library takes at once
_MAX_BEHIND = SAMPLE_RATE_HZ // 5  # played audio kept for a microphone that is late; the canceller looks further back
_KEPT = SAMPLE_RATE_HZ // 25


class EchoCanceller:
    """One microphone beside one speaker, both at 24 kHz, in step: as much is heard as is played, silence included.

    Args:
        suppress_noise: also take steady noise out of the microphone.

    Raises:
        AudioUnavailable: the package is not installed.
    """

    def __init__(self, suppress_noise: bool = False) -> None:
        try:
            from livekit import rtc
        except ImportError as exc:
            sentence = "Echo cancellation needs the Python package livekit: pip install 'repartee[echo]'."
            raise AudioUnavailable(sentence) from exc
        self._rtc = rtc
        self._module = rtc.AudioProcessingModule(
            echo_cancellation=True, high_pass_filter=True, noise_suppression=suppress_noise
        )
        self._heard, self._played = np.zeros(0, np.float32), np.zeros(0, np.float32)

    def play(self, pcm: FloatArray) -> None:
        """Take what left the speaker, float32 [n], silence included."""
        self._played = np.concatenate([self._played, pcm])

    def clean(self, pcm: FloatArray) -> FloatArray:
        """Take what the microphone heard, float32 [n], after what was played meanwhile.

        Returns:
            The same without the echo, in whole frames of 10 ms: up to 239 samples wait for the next call.
        """
        self._heard = np.concatenate([self._heard, pcm])
        if len(self._played) - len(self._heard) > _MAX_BEHIND:  # the microphone lost audio: what was played is old
            self._played = self._played[-_KEPT - len(self._heard) :]
        count = len(self._heard) // FRAME
        cleaned = [self._step(index * FRAME) for index in range(count)]
        self._heard, self._played = self._heard[count * FRAME :], self._played[count * FRAME :]
        return np.concatenate([np.zeros(0, np.float32), *cleaned])

    def reset(self) -> None:
        """The microphone lost audio: forget what waits, keep what is known of the room."""
        self._heard, self._played = np.zeros(0, np.float32), np.zeros(0, np.float32)

    def _step(self, start: int) -> FloatArray:
        played = np.zeros(FRAME, np.float32)
        known = self._played[start : start + FRAME]
        played[: len(known)] = known
        self._module.process_reverse_stream(self._frame(played))
        heard = self._frame(self._heard[start : start + FRAME])
        self._module.process_stream(heard)
        return np.frombuffer(heard.data, np.int16).astype(np.float32) / np.float32(32_768)

    def _frame(self, pcm: FloatArray) -> Any:
        samples = np.clip(np.round(pcm * 32_768), -32_768, 32_767).astype("<i2")
        return self._rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE_HZ, 1, FRAME)
