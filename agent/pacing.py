"""How far a reply may run ahead of what the listener can have heard. Pure: times in, delays out."""

import math

_ROUNDING_S = 1e-6


class Pacer:
    """Schedules the frames of one reply against the clock of whoever plays them.

    The listener is taken to play a frame the moment it is sent, or when the frames before it have ended.

    Args:
        frame_s: seconds in a frame.
        max_lead_s: seconds of audio that may be ahead of the listener; None without limit.
    """

    def __init__(self, frame_s: float, max_lead_s: float | None) -> None:
        self._frame_s = frame_s
        self._max_lead_s = max_lead_s
        self._ends_at: float | None = None  # when the listener will have played everything
        self.frames = 0

    def delay_s(self, now: float) -> float:
        """Seconds until the next frame may be sent; 0 when it may be now."""
        if self._max_lead_s is None or self._ends_at is None:
            return 0.0
        delay_s = self._ends_at + self._frame_s - now - self._max_lead_s
        return delay_s if delay_s > _ROUNDING_S else 0.0

    def sent(self, now: float, length_s: float) -> bool:
        """A frame of so many seconds leaves now; returns whether it did before the ones before it had ended."""
        in_time = self._ends_at is None or self._ends_at >= now
        self._ends_at = (now if self._ends_at is None else max(self._ends_at, now)) + length_s
        self.frames += 1
        return in_time

    def resumed(self, now: float, waited_s: float, stopped: bool) -> None:
        """Nothing was sent for ``waited_s``; the listener has ``stopped`` meanwhile, or played what it had."""
        if self._ends_at is not None:
            self._ends_at = self._ends_at + waited_s if stopped else max(self._ends_at, now)

    def repeated(self, now: float, frames: int) -> None:
        """The last ``frames`` are sent once more, now: the listener has not played them."""
        if self._ends_at is not None:
            self._ends_at = max(self._ends_at, now + min(frames, self.frames) * self._frame_s)

    def heard_frames(self, now: float) -> int:
        """Frames the listener can have heard by now, a begun one included."""
        if self._ends_at is None:
            return 0
        unheard = math.floor(self.unheard_s(now) / self._frame_s + 1e-9)
        return max(0, self.frames - unheard)

    def unheard_s(self, now: float) -> float:
        """Seconds of audio that were sent and not played."""
        return 0.0 if self._ends_at is None else max(0.0, self._ends_at - now)
