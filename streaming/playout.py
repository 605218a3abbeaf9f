"""What the local speaker plays next: pure scheduling, no device and no clock.

Reply audio waits here, tagged with the generation it belongs to. Interrupting is a number: `cancel(generation)` drops
everything older, after a short fade. The audio never jumps to zero: where it breaks off, it decays.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from streaming.frames import SAMPLE_RATE_HZ, FloatArray, as_mono, ms_to_samples


class PlayoutConfig(BaseModel):
    """Settings of `Playout`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_lead_ms: int = Field(2_000, ge=20, le=60_000)
    """Reply audio that may wait; when it is reached, the producer waits."""
    fade_ms: float = Field(5.0, ge=0.0, le=50.0)
    """Length of the fades at an interruption and around an underrun."""


@dataclass(slots=True)
class _Piece:
    pcm: FloatArray
    generation: int
    counted: bool  # whether its samples are part of the reply's position


class Playout:
    """Queue of reply audio, bounded by `max_lead_ms`; the producer waits when `push` returns False."""

    def __init__(self, config: PlayoutConfig | None = None, rate_hz: int = SAMPLE_RATE_HZ) -> None:
        """Start silent, at generation 0."""
        config = config or PlayoutConfig()
        self.max_lead_samples = ms_to_samples(config.max_lead_ms, rate_hz)
        self.underruns = 0
        """Times the audio ran out in the middle of a reply."""
        self.underrun_samples = 0
        """Silent samples played because of that."""
        self.stale_samples = 0
        """Samples dropped by `cancel`, or pushed too late for it."""
        self._fade_samples = ms_to_samples(config.fade_ms, rate_hz)
        self._pieces: deque[_Piece] = deque()
        self._buffered = 0
        self._generation = 0
        self._played = 0
        self._in_reply = False
        self._starved = False
        self._held = self._ducked = False
        self._last = 0.0
        self.cuts = 0
        """Times `cancel` broke off what was there."""

    @property
    def generation(self) -> int:
        """The newest generation seen."""
        return self._generation

    @property
    def played_samples(self) -> int:
        """Reply samples of the present generation handed out by `pull`; silence and fades do not count."""
        return self._played

    @property
    def buffered_samples(self) -> int:
        """Samples waiting."""
        return self._buffered

    @property
    def in_reply(self) -> bool:
        """Whether a reply has begun and not been ended or cancelled (audio may still be waiting after its end)."""
        return self._in_reply

    @property
    def silent(self) -> bool:
        """Whether it is held or ducked."""
        return self._held or self._ducked

    @property
    def idle(self) -> bool:
        """Whether there is nothing to play and nothing more is expected."""
        return not self._in_reply and not self._buffered

    def push(self, pcm: FloatArray, generation: int) -> bool:
        """Add reply audio.

        Args:
            pcm: float32 [samples]. It is kept, not copied: do not write to it afterwards.
            generation: The reply's generation. Audio of an older one than the newest seen is dropped and counted.

        Returns:
            False when there is no room now: wait and push the same audio again. One push into an empty queue always
            succeeds.

        Raises:
            ValueError: Not float32 mono.
        """
        as_mono(pcm)
        if generation < self._generation:
            self.stale_samples += len(pcm)
            return True
        if self._buffered and self._buffered + len(pcm) > self.max_lead_samples:
            return False
        if generation > self._generation:
            self._begin(generation)
        self._in_reply = True
        if len(pcm):
            self._pieces.append(_Piece(pcm, generation, counted=True))
            self._buffered += len(pcm)
        return True

    def end(self, generation: int) -> None:
        """Say that the reply is complete, so that running out of audio is not an underrun."""
        if generation == self._generation:
            self._in_reply = False

    def hold(self) -> None:
        """Fall silent after a short fade; nothing is lost."""
        self._held = True

    def resume(self) -> None:
        """Go on with the very next sample, faded in."""
        self._held = False

    def duck(self, wanted: bool) -> None:
        """The same as long as ``wanted``, whether held or not: somebody may be speaking over it."""
        self._ducked = wanted

    def cancel(self, generation: int) -> int:
        """Drop the audio of every generation before `generation`, which becomes the newest.

        Returns:
            Samples of the interrupted reply that had been handed out, fade excluded; 0 for a generation already seen.
        """
        if generation <= self._generation:
            return 0
        played, self._played = self._played, 0
        self._generation = generation
        self._in_reply = False
        self.cuts += 1
        tail = self._take(0 if self.silent else min(self._fade_samples, self._buffered))
        self._held = False
        self.stale_samples += self._buffered
        self._pieces.clear()
        self._buffered = len(tail)
        if len(tail):
            faded = tail * np.linspace(1.0, 0.0, len(tail), dtype=np.float32)
            self._pieces.append(_Piece(faded, generation, counted=False))
        self._played = 0
        return played

    def drop_fade(self) -> None:
        """The fade of `cancel` is not wanted: what had been pulled before was not played."""
        while self._pieces and not self._pieces[0].counted:
            self._buffered -= len(self._pieces.popleft().pcm)

    def pull(self, count: int) -> FloatArray:
        """Return the next `count` samples, float32 [count]; zeros where there is nothing to play.

        Raises:
            ValueError: `count` is negative.
        """
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        out = np.zeros(count, np.float32)
        if self.silent:
            self._decay(out)
            self._starved = True
            return out
        audio = self._take(min(count, self._buffered))
        out[: len(audio)] = audio
        if len(audio):
            if self._starved:
                ramp = min(self._fade_samples, len(audio))
                out[:ramp] *= np.linspace(0.0, 1.0, ramp, endpoint=False, dtype=np.float32)
                self._starved = False
            self._last = float(out[len(audio) - 1])
        missing = count - len(audio)
        if missing:
            self._decay(out[len(audio) :])
            if self._in_reply:
                self.underruns += not self._starved
                self.underrun_samples += missing
                self._starved = True
            else:
                self._starved = False
        return out

    def _begin(self, generation: int) -> None:
        if self._in_reply or self._buffered:
            self.cancel(generation)
        self._generation, self._played = generation, 0

    def _decay(self, out: FloatArray) -> None:
        """Let the last sample played die away at the start of `out` instead of jumping to zero."""
        if not self._last:
            return
        ramp = min(self._fade_samples, len(out))
        out[:ramp] = self._last * np.linspace(1.0, 0.0, ramp + 1, dtype=np.float32)[1:]
        self._last = 0.0

    def _take(self, count: int) -> FloatArray:
        """Remove `count` buffered samples from the front."""
        out = np.empty(count, np.float32)
        filled = 0
        while filled < count:
            piece = self._pieces[0]
            part = piece.pcm[: count - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            self._played += len(part) * piece.counted
            if len(part) == len(piece.pcm):
                self._pieces.popleft()
            else:
                piece.pcm = piece.pcm[len(part) :]
        self._buffered -= count
        return out
