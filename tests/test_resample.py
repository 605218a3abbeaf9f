import numpy as np
import pytest

from streaming.resample import LiveResampler, Resampler, float_to_pcm16, pcm16_to_float, resample

RATES = [(24_000, 16_000), (16_000, 24_000), (48_000, 24_000), (24_000, 48_000), (44_100, 24_000), (8_000, 24_000)]
KINDS = [Resampler, LiveResampler]


def tone(hz: float, rate_hz: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rates", RATES, ids=str)
@pytest.mark.parametrize("chunk", [1, 160, 777, 1920])
def test_chunked_equals_whole(kind: type, rates: tuple[int, int], chunk: int, rng: np.random.Generator) -> None:
    """Cutting the input differently does not change the output."""
    pcm = rng.standard_normal(4001).astype(np.float32)
    whole, cut = kind(*rates), kind(*rates)
    expected = np.concatenate([whole.push(pcm), whole.flush()])
    parts = [cut.push(pcm[i : i + chunk]) for i in range(0, len(pcm), chunk)]
    got = np.concatenate([*parts, cut.flush()])
    assert abs(len(expected) - len(pcm) * rates[1] / rates[0]) <= 1
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_reset_equals_fresh(kind: type, rng: np.random.Generator) -> None:
    """After a reset the past has no effect; flush resets too."""
    pcm = rng.standard_normal(3000).astype(np.float32)
    stream = kind(24_000, 16_000)
    first = stream.push(pcm)
    stream.reset()
    assert np.array_equal(stream.push(pcm), first)
    stream.flush()
    assert np.array_equal(stream.push(pcm), first)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rates_pass_through(kind: type) -> None:
    """Nothing is changed or held back when there is nothing to do."""
    pcm = tone(440, 24_000)
    stream = kind(24_000, 24_000)
    assert np.array_equal(stream.push(pcm), pcm)
    assert len(stream.flush()) == 0


@pytest.mark.parametrize("rates", RATES, ids=str)
def test_live_tone_keeps_its_level_and_time(rates: tuple[int, int]) -> None:
    """A 1 kHz tone comes out as the same tone, sample for sample on the new clock."""
    in_rate_hz, out_rate_hz = rates
    stream = LiveResampler(in_rate_hz, out_rate_hz)
    out = np.concatenate([stream.push(tone(1000, in_rate_hz)), stream.flush()])
    expected = tone(1000, out_rate_hz)[: len(out)]
    middle = slice(500, len(expected) - 500)
    assert np.abs(out[middle] - expected[middle]).max() < 2e-3


def test_live_suppresses_what_would_alias() -> None:
    """A 9.5 kHz tone is above the new band and is at least 60 dB down at 16 kHz."""
    stream = LiveResampler(24_000, 16_000)
    out = stream.push(tone(9500, 24_000))[200:]
    assert 20 * np.log10(np.abs(out).max()) < -60


@pytest.mark.parametrize("rates", RATES, ids=str)
def test_live_holds_back_little(rates: tuple[int, int]) -> None:
    """The output is never more than 3 ms behind the input."""
    stream = LiveResampler(*rates)
    made = 0
    for block in range(1, 20):
        made += len(stream.push(np.zeros(rates[0] // 100, np.float32)))
        assert made / rates[1] >= block * 0.01 - 0.0031


def test_live_output_on_a_prefix_is_a_prefix(rng: np.random.Generator) -> None:
    """Later input never changes earlier output."""
    pcm = rng.standard_normal(5000).astype(np.float32)
    short = LiveResampler(48_000, 24_000).push(pcm[:2000])
    full = LiveResampler(48_000, 24_000).push(pcm)
    np.testing.assert_allclose(short, full[: len(short)], atol=1e-6)


def test_live_memory_stays_flat() -> None:
    """What is held for later is bounded by the filter, not by the session."""
    stream = LiveResampler(44_100, 24_000)
    for _ in range(200):
        stream.push(np.zeros(441, np.float32))
    assert len(stream._held) < 4 * stream.lookahead_samples


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_audio_and_rates_are_errors(kind: type) -> None:
    """Bad input is a ValueError that says what was expected."""
    with pytest.raises(ValueError, match="float32"):
        kind(24_000, 16_000).push(np.zeros(10))
    with pytest.raises(ValueError, match="positive"):
        kind(0, 16_000)


def test_resample_converts_a_whole_recording() -> None:
    """The one-shot form gives the length the rates ask for."""
    assert len(resample(tone(300, 16_000), 16_000, 24_000)) == 12_000


def test_pcm16_round_trip_is_exact() -> None:
    """Every 16-bit value survives the way to float and back."""
    data = np.arange(-32768, 32768, dtype="<i2").tobytes()
    assert float_to_pcm16(pcm16_to_float(data)) == data


def test_pcm16_clips_and_replaces_what_is_no_number() -> None:
    """Too loud is clipped, NaN is silence."""
    pcm = np.array([2.0, -2.0, np.nan, np.inf, 0.5], np.float32)
    assert np.frombuffer(float_to_pcm16(pcm), "<i2").tolist() == [32767, -32768, 0, 32767, 16384]


def test_pcm16_needs_whole_samples() -> None:
    """Half a sample is an error."""
    with pytest.raises(ValueError, match="even number of bytes, got 3"):
        pcm16_to_float(b"abc")
