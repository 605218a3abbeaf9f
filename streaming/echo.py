"""Takes the agent's own voice out of the microphone: WebRTC's echo canceller (AEC3) and its noise suppressor.

They come with the ``livekit`` package, which is a wrapper of the native library and optional here (extra ``echo``).
While the speaker plays, what is left of the microphone counts only if most of it was no echo: right after a pause, or
while the delay moves, the canceller leaves a residue that a speech detector takes for speech.
"""

from typing import Any

import numpy as np

from streaming.errors import AudioUnavailable
from streaming.frames import SAMPLE_RATE_HZ, FloatArray

FRAME = SAMPLE_RATE_HZ // 100  # what the library takes at once
_MAX_BEHIND = SAMPLE_RATE_HZ // 5  # played audio kept for a microphone that is late; the canceller looks further back
_KEPT = SAMPLE_RATE_HZ // 25
_PLAYING = 1e-5  # mean square of a frame that can be heard
_HOLD_FRAMES = 25  # an echo may come this much later
_SMOOTH = 0.1  # share of the newest frame in the levels that are compared
_LEAST_LEFT = 10**-0.9  # of the microphone's power, that makes it a voice of its own


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
        self._before, self._after = 0.0, 0.0  # smoothed power of the microphone, and of what is left
        self._echoing = 0  # frames in which there may be an echo

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
        pcm = self._heard[start : start + FRAME]
        heard = self._frame(pcm)
        self._module.process_stream(heard)
        return self._gate(played, pcm, np.frombuffer(heard.data, np.int16).astype(np.float32) / np.float32(32_768))

    def _gate(self, played: FloatArray, heard: FloatArray, left: FloatArray) -> FloatArray:
        """``left``, or silence where it is what remains of an echo."""
        self._echoing = _HOLD_FRAMES if np.square(played).mean() > _PLAYING else max(self._echoing - 1, 0)
        self._before += _SMOOTH * (float(np.square(heard).mean()) - self._before)
        self._after += _SMOOTH * (float(np.square(left).mean()) - self._after)
        residue = self._echoing and self._after < _LEAST_LEFT * self._before
        return np.zeros_like(left) if residue else left

    def _frame(self, pcm: FloatArray) -> Any:
        samples = np.clip(np.round(pcm * 32_768), -32_768, 32_767).astype("<i2")
        return self._rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE_HZ, 1, FRAME)
