import numpy as np
import pytest

from models.features import HISTORY, HOP, N_MEL, N_MEL_LOW, analyse, analyse_mel32, mel_bank, new_history
from tests.tiny import cuts, speech_like


@pytest.mark.parametrize("sizes", [(1,), (8,), (3, 1, 7, 2), (50,)], ids=str)
def test_chunked_equals_whole(sizes: tuple[int, ...]) -> None:
    """Any cut into whole hops gives the same features."""
    pcm = speech_like(1.6)
    whole = analyse(pcm, new_history())
    history = new_history()
    parts = [analyse(pcm[piece], history) for piece in cuts(len(pcm), sizes, HOP)]
    for name in ("mel32", "mel64", "pitch"):
        np.testing.assert_allclose(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name), atol=1e-4)


def test_only_the_past_matters() -> None:
    """Features of a prefix are the prefix of the features."""
    pcm = speech_like(1.6)
    whole, prefix = analyse(pcm, new_history()), analyse(pcm[: 40 * HOP], new_history())
    np.testing.assert_allclose(prefix.mel64, whole.mel64[:40], atol=1e-5)
    np.testing.assert_allclose(prefix.pitch, whole.pitch[:40], atol=1e-4)


def test_history_of_zeros_is_a_fresh_start() -> None:
    """Zeroing the history in place, as the engine does at a reply, forgets everything heard."""
    pcm = speech_like(1.2)
    history = new_history()
    first = analyse_mel32(pcm, history)
    assert history.any()
    history[:] = 0.0
    np.testing.assert_array_equal(analyse_mel32(pcm, history), first)


def test_mel32_alone_is_the_mel32_of_all() -> None:
    """The semantic encoder's shortcut is the same analysis."""
    pcm = speech_like(0.8)
    np.testing.assert_array_equal(analyse_mel32(pcm, new_history()), analyse(pcm, new_history()).mel32)


@pytest.mark.parametrize("hz", [80.0, 137.0, 240.0, 390.0])
def test_pitch_of_a_pulse_train(hz: float) -> None:
    """A steady voice-like sound is voiced and its F0 is found within a quarter tone."""
    time = np.arange(48_000) / 24_000
    pcm = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 9)) * 0.1
    octave, strength, _ = analyse(np.asarray(pcm, np.float32), new_history()).pitch[20:].T
    np.testing.assert_allclose(120.0 * 2.0**octave, hz, rtol=0.03)
    assert strength.min() > 0.7


def test_noise_and_silence_are_unvoiced(rng: np.random.Generator) -> None:
    """Neither noise nor digital silence looks voiced, and nothing is infinite."""
    noise = analyse(rng.standard_normal(24_000).astype(np.float32) * np.float32(0.1), new_history())
    silence = analyse(np.zeros(24_000, np.float32), new_history())
    assert np.median(noise.pitch[10:, 1]) < 0.5
    assert silence.pitch[:, 1].max() < 0.1
    assert all(np.isfinite(part).all() for part in (silence.mel32, silence.mel64, silence.pitch))


def test_a_tone_excites_its_own_band() -> None:
    """The loudest mel band of a tone lies at its frequency, in both banks."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(9600) / 24_000).astype(np.float32)
    features = analyse(tone, new_history())
    for name, bands, low, high in (("mel32", N_MEL_LOW, 60.0, 3800.0), ("mel64", N_MEL, 40.0, 8000.0)):
        expected = int(np.argmax(mel_bank(bands, low, high)[32]))  # bin 32 is 1000 Hz
        assert abs(int(np.argmax(getattr(features, name)[-1])) - expected) <= 1


@pytest.mark.parametrize("shape", [(0,), (HOP + 1,), (HOP, 1)], ids=str)
def test_other_lengths_are_refused(shape: tuple[int, ...]) -> None:
    """Audio that is not a positive number of whole hops is an error, and the history stays as it was."""
    history = np.ones(HISTORY, np.float32)
    with pytest.raises(ValueError, match="240-sample hops"):
        analyse(np.zeros(shape, np.float32), history)
    assert (history == 1).all()
