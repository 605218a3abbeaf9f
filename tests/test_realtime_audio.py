import numpy as np
import pytest

from streaming.g711 import Law
from streaming.realtime_audio import AudioDecoder, AudioEncoder, G711Format, PcmFormat
from tests.fakes import FRAME, tone

FORMATS: list[PcmFormat | G711Format] = [PcmFormat(), G711Format(type="audio/pcmu"), G711Format(type="audio/pcma")]


def encoded(pcm: np.ndarray, format: PcmFormat | G711Format, speed: float = 1.0) -> bytes:
    """A reply that comes in frames."""
    encoder = AudioEncoder(*format.coding, speed)
    return b"".join([encoder.push(pcm[at : at + FRAME]) for at in range(0, len(pcm), FRAME)] + [encoder.flush()])


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.type)
def test_there_and_back(format: PcmFormat | G711Format) -> None:
    """What comes back is what was sent, in time to the sample, with the noise of the format; no sample is lost."""
    pcm = tone(10 * FRAME, 440.0)
    data = encoded(pcm, format)
    assert len(data) == (len(pcm) // 3 if isinstance(format, G711Format) else 2 * len(pcm))
    decoder = AudioDecoder(*format.coding)
    back = np.concatenate([*(decoder.push(data[at : at + 320]) for at in range(0, len(data), 320)), decoder.flush()])
    assert len(back) == len(pcm)
    noise = (back - pcm)[1_000:-1_000]
    assert 20 * np.log10(np.std(pcm) / np.std(noise)) > 30


@pytest.mark.parametrize("chunk", [1, 7, 160, 4_000])
def test_cutting_the_bytes_differently_changes_nothing(chunk: int) -> None:
    """Appends of any size are the same stream."""
    data = encoded(tone(5 * FRAME), FORMATS[1])

    def decoded(size: int) -> np.ndarray:
        decoder = AudioDecoder(*FORMATS[1].coding)
        return np.concatenate(
            [*(decoder.push(data[at : at + size]) for at in range(0, len(data), size)), decoder.flush()]
        )

    np.testing.assert_array_equal(decoded(chunk), decoded(len(data)))


def test_what_a_faster_reply_takes() -> None:
    """The encoder counts what the listener gets, not what was spoken."""
    encoder = AudioEncoder("mu", 8_000, 1.5)
    size = len(encoder.push(tone(10 * FRAME))) + len(encoder.flush())
    assert encoder.sent_samples == 10 * FRAME / 1.5
    assert size == round(10 * FRAME / 1.5 / 3)


def test_odd_bytes_are_no_16_bit_audio() -> None:
    """Half a sample is refused."""
    with pytest.raises(ValueError, match="even number"):
        AudioDecoder(None, 24_000).push(b"\0")


def test_no_decoding_takes_for_ever() -> None:
    """More than some minutes at once are refused, in time and not in bytes, and leave the stream as it is."""
    formats: tuple[tuple[Law | None, int, int], ...] = ((None, 24_000, 2), ("mu", 8_000, 1))
    for law, rate, size in formats:
        decoder = AudioDecoder(law, rate)
        with pytest.raises(ValueError, match="more than 300 s at once"):
            decoder.push(bytes(301 * rate * size))
        assert len(decoder.push(bytes(2 * rate * size))) > 24_000
