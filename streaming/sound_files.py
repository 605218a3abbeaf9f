"""Sound files in and out: any format to 24 kHz mono, and back as 16-bit WAV."""

import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from streaming.errors import SoundFileError
from streaming.frames import SAMPLE_RATE_HZ
from streaming.resample import resample

_MAX_INPUT_S = 600.0


def read_audio(path: Path) -> np.ndarray:
    """Read any sound file: channels are averaged, the rate is converted. -> float32 [n], 24 kHz mono.

    Raises:
        SoundFileError: the file is missing, no sound file, empty or too long; the message names it.
    """
    if not path.is_file():
        raise SoundFileError(f"there is no file {path}")
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames > _MAX_INPUT_S * file.samplerate:
                raise SoundFileError(f"{path} is longer than {_MAX_INPUT_S:.0f} s")
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, OSError) as exc:
        raise SoundFileError(f"{path} is no sound file that can be read ({exc})") from exc
    if not len(samples):
        raise SoundFileError(f"{path} holds no audio")
    mono = np.nan_to_num(samples.mean(axis=1, dtype=np.float32))
    return resample(mono, rate, SAMPLE_RATE_HZ)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, when it is missing.

    Raises:
        SoundFileError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SoundFileError(f"the folder {path} cannot be made ({exc.strerror or exc})") from exc


def write_audio(path: Path, pcm: np.ndarray) -> None:
    """Write float32 [n] as a 24 kHz mono 16-bit WAV file; the file appears whole or not at all.

    Raises:
        SoundFileError: the file cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(suffix=".wav", dir=path.parent)
        os.close(handle)
        try:
            soundfile.write(temporary, np.clip(pcm, -1.0, 1.0), SAMPLE_RATE_HZ, subtype="PCM_16", format="WAV")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except (soundfile.SoundFileError, OSError) as exc:
        why = getattr(exc, "strerror", None) or exc  # without the name of the temporary file
        raise SoundFileError(f"{path} cannot be written ({why})") from exc
