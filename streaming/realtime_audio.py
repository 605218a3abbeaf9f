"""Audio as it travels: the formats of the Realtime protocol to and from 24 kHz float32, as streams."""

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from streaming import g711
from streaming.frames import SAMPLE_RATE_HZ, FloatArray
from streaming.resample import LiveResampler, float_to_pcm16, pcm16_to_float
from streaming.tempo import Tempo

MAX_PUSH_S = 300
"""Seconds of audio that are decoded at once: nobody else is served meanwhile."""


class PcmFormat(BaseModel):
    """16-bit little-endian mono PCM at 24 kHz."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000

    @property
    def coding(self) -> tuple[g711.Law | None, int]:
        """Law and rate."""
        return None, self.rate


class G711Format(BaseModel):
    """8-bit mono G.711 at 8 kHz: mu-law or A-law."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["audio/pcmu", "audio/pcma"]

    @property
    def coding(self) -> tuple[g711.Law | None, int]:
        """Law and rate."""
        return law_of(self.type), g711.RATE_HZ


AudioFormat = Annotated[PcmFormat | G711Format, Field(discriminator="type")]


def law_of(type: str) -> g711.Law | None:
    """How samples are coded in audio of this type, None for 16-bit PCM."""
    return {"audio/pcmu": "mu", "audio/pcma": "a"}.get(type)  # type: ignore[return-value]


class AudioDecoder:
    """One stream of a client's audio; what is not at 24 kHz comes out up to 3 ms late.

    Args:
        law: of G.711, None for 16-bit PCM.
        rate_hz: of its samples.
    """

    def __init__(self, law: g711.Law | None, rate_hz: int) -> None:
        self._law = law
        self._longest = MAX_PUSH_S * rate_hz * (1 if law else 2)
        self._resampler = LiveResampler(rate_hz, SAMPLE_RATE_HZ)

    def push(self, data: bytes) -> FloatArray:
        """Bytes as they travel -> float32 [n], 24 kHz.

        Raises:
            ValueError: an odd number of bytes of 16-bit audio, or more than :data:`MAX_PUSH_S` at once.
        """
        if len(data) > self._longest:
            raise ValueError(f"more than {MAX_PUSH_S} s at once")
        return self._resampler.push(g711.decode(data, self._law) if self._law else pcm16_to_float(data))

    def flush(self) -> FloatArray:
        """What is still held back; the next bytes begin another stream."""
        return self._resampler.flush()


class AudioEncoder:
    """One reply on its way to a client.

    Args:
        law: of G.711, None for 16-bit PCM.
        rate_hz: of the samples that the client wants.
        speed: how much faster it wants it than it was spoken.
    """

    def __init__(self, law: g711.Law | None, rate_hz: int, speed: float = 1.0) -> None:
        self._law = law
        self._tempo = Tempo(speed)
        self._resampler = LiveResampler(SAMPLE_RATE_HZ, rate_hz)
        self.sent_samples = 0
        """What the client has got, in samples at 24 kHz."""

    def push(self, pcm: FloatArray) -> bytes:
        """float32 [n], 24 kHz -> the bytes that are ready."""
        paced = self._tempo.push(pcm)
        self.sent_samples += len(paced)
        return self._bytes(self._resampler.push(paced))

    def flush(self) -> bytes:
        """The bytes that are still held back."""
        rest = self._tempo.flush()
        self.sent_samples += len(rest)
        return self._bytes(np.concatenate([self._resampler.push(rest), self._resampler.flush()]))

    def _bytes(self, pcm: FloatArray) -> bytes:
        return g711.encode(pcm, self._law) if self._law else float_to_pcm16(pcm)
