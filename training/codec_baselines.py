"""Codecs to compare with, run as the programs that Debian packages (opus-tools, codec2)."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from models.features import SAMPLE_RATE

CODEC2_RATE_HZ = 8000
_OGG_HEADER_BYTES = 27


class BaselineError(RuntimeError):
    """A codec's program failed; the message holds what it said."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A codec: the programs it needs and the way through it: 24 kHz float32 [N] -> decoded 24 kHz, coded bits."""

    programs: tuple[str, ...]
    package: str
    round_trip: Callable[[np.ndarray], tuple[np.ndarray, int]]

    @property
    def missing(self) -> list[str]:
        """Programs that are not installed."""
        return [program for program in self.programs if shutil.which(program) is None]


def _run(command: Sequence[str], data: bytes) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf8", "replace").strip()
        raise BaselineError(f"{command[0]} failed with exit status {done.returncode}: {said}")
    return done.stdout


def _to_bytes(pcm: np.ndarray) -> bytes:
    return np.round(np.clip(pcm, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def _to_audio(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, "<i2").astype(np.float32) / np.float32(32767)


def ogg_payload_bytes(stream: bytes) -> int:
    """Bytes of the packets in an Ogg Opus stream without container and headers.

    Raises:
        ValueError: not an Ogg stream.
    """
    position = total = 0
    while position < len(stream):
        if stream[position : position + 4] != b"OggS" or len(stream) < position + _OGG_HEADER_BYTES:
            raise ValueError(f"no Ogg page at byte {position}")
        granule = int.from_bytes(stream[position + 6 : position + 14], "little", signed=True)
        segments = stream[position + 26]
        body = sum(stream[position + _OGG_HEADER_BYTES : position + _OGG_HEADER_BYTES + segments])
        total += body if granule else 0  # only the two header packets end at sample 0
        position += _OGG_HEADER_BYTES + segments + body
    return total


def opus(kbps: float) -> Baseline:
    """Opus tuned for speech at a variable rate near ``kbps``."""

    def round_trip(pcm: np.ndarray) -> tuple[np.ndarray, int]:
        source = ["--raw", "--raw-rate", str(SAMPLE_RATE), "--raw-chan", "1"]
        coded = _run(["opusenc", "--quiet", *source, "--bitrate", f"{kbps:g}", "--speech", "-", "-"], _to_bytes(pcm))
        decoded = _run(["opusdec", "--quiet", "--rate", str(SAMPLE_RATE), "-", "-"], coded)
        return _to_audio(decoded), 8 * ogg_payload_bytes(coded)

    return Baseline(("opusenc", "opusdec"), "opus-tools", round_trip)


def codec2(mode: str) -> Baseline:
    """Codec2 in one of its modes, which are bit/s (its files are padded to bytes); telephone band."""

    def round_trip(pcm: np.ndarray) -> tuple[np.ndarray, int]:
        narrow = np.asarray(soxr.resample(pcm, SAMPLE_RATE, CODEC2_RATE_HZ), np.float32)
        coded = _run(["c2enc", mode, "-", "-"], _to_bytes(narrow))
        decoded = _to_audio(_run(["c2dec", mode, "-", "-"], coded))
        return np.asarray(soxr.resample(decoded, CODEC2_RATE_HZ, SAMPLE_RATE), np.float32), round(
            int(mode) * len(pcm) / SAMPLE_RATE
        )

    return Baseline(("c2enc", "c2dec"), "codec2", round_trip)


BASELINES = {"opus-6k": opus(6), "codec2-3200": codec2("3200"), "codec2-1300": codec2("1300")}
