"""Single-producer single-consumer ring of float32 samples, safe without a lock.

Each counter is written by one side only, and an index is published after the samples it covers. When a block does not
fit, the producer refuses it and everything after it (counted) until the reader has noticed; the reader then skips what
the ring still holds, which is old by then, and goes on with the newest audio. The loss shows as a jump in `start`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming.frames import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Audio read from a ring.

    Attributes:
        pcm: float32 [samples].
        start: Position of the first sample among all samples offered to the ring, refused ones included.
    """

    pcm: FloatArray
    start: int


class Ring:
    """Preallocated ring; `write` belongs to one thread, the `read` methods to one other."""

    def __init__(self, capacity: int) -> None:
        """Allocate a ring.

        Args:
            capacity: Samples it can hold, at least 1.

        Raises:
            ValueError: `capacity` is below 1.
        """
        if capacity < 1:
            raise ValueError(f"a ring needs room for at least one sample, got {capacity}")
        self.capacity = capacity
        self._samples = np.zeros(capacity, np.float32)
        # producer's
        self._written = 0
        self._refused = 0
        self._overflows = 0
        self._run = 0  # the overflow after which `_offset` became valid
        self._offset = 0  # refused samples before the present run
        self._dropped = 0  # what was written before that is not to be read any more
        # reader's
        self._read = 0
        self._skipped = 0
        self._seen = 0

    @property
    def available(self) -> int:
        """Samples that can be read."""
        return self._written - max(self._read, self._dropped)

    @property
    def free(self) -> int:
        """Samples that can be written."""
        return self.capacity - (self._written - self._read)

    @property
    def dropping(self) -> bool:
        """Whether the producer dropped samples that the reader has not passed over yet."""
        return self._read < self._dropped

    @property
    def refused_samples(self) -> int:
        """Samples the producer turned away because the ring was full."""
        return self._refused

    @property
    def skipped_samples(self) -> int:
        """Samples the reader passed over to reach the newest audio."""
        return self._skipped

    @property
    def overflows(self) -> int:
        """Times the ring ran full."""
        return self._overflows

    def write(self, pcm: FloatArray) -> bool:
        """Copy a block in; False when it was refused (all of it, never a part).

        Args:
            pcm: float32 [samples].
        """
        count = len(pcm)
        if self._overflows != self._seen:
            self._refused += count
            return False
        if self._run != self._overflows:
            self._offset = self._refused
            self._run = self._overflows
        if count > self.capacity - (self._written - self._read):
            self._refused += count
            self._overflows += 1
            return False
        begin = self._written % self.capacity
        first = min(count, self.capacity - begin)
        self._samples[begin : begin + first] = pcm[:first]
        self._samples[: count - first] = pcm[first:]
        self._written += count
        return True

    def drop(self) -> None:
        """Have the reader pass over what waits; the producer's."""
        self._dropped = self._written

    def read(self, limit: int | None = None) -> Chunk | None:
        """Return the oldest audio, up to `limit` samples, or None when there is none.

        After an overflow the first call skips to the newest audio and returns None.
        """
        count = self._readable()
        if limit is not None:
            count = min(count, limit)
        if count < 1:
            return None
        start = self._read + self._offset
        pcm = np.empty(count, np.float32)
        self._copy_out(pcm)
        return Chunk(pcm, start)

    def read_into(self, out: FloatArray) -> int:
        """Fill the front of `out` and return how many samples were copied; the rest of `out` is left alone."""
        count = min(self._readable(), len(out))
        if count:
            self._copy_out(out[:count])
        return count

    def peek_into(self, out: FloatArray) -> int:
        """Like `read_into`, but the samples stay, and dropped ones are among them."""
        count = min(self._written - self._read, len(out))
        if count:
            self._copy(out[:count])
        return count

    def _readable(self) -> int:
        self._read = max(self._read, self._dropped)
        overflows = self._overflows
        if overflows != self._seen:
            self._skipped += self._written - self._read
            self._read = self._written
            self._seen = overflows
            return 0
        if self._run != overflows:
            return 0
        return self._written - self._read

    def _copy_out(self, out: FloatArray) -> None:
        self._copy(out)
        self._read += len(out)

    def _copy(self, out: FloatArray) -> None:
        begin = self._read % self.capacity
        first = min(len(out), self.capacity - begin)
        out[:first] = self._samples[begin : begin + first]
        out[first:] = self._samples[: len(out) - first]
