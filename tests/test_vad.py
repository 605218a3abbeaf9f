import numpy as np
import pytest
from pydantic import ValidationError

from streaming.frames import FloatArray
from streaming.vad import (
    Detector,
    EnergyDetector,
    Event,
    Hysteresis,
    SileroDetector,
    SpeechStarted,
    SpeechStopped,
    Vad,
    VadConfig,
    WebrtcDetector,
)

CHUNK = 480  # 20 ms at 24 kHz
CONFIG = VadConfig(threshold=0.5, prefix_padding_ms=100, silence_duration_ms=200, min_speech_ms=40)
DETECTORS = [SileroDetector, WebrtcDetector, EnergyDetector]


class LoudnessDetector:
    """Says the mean absolute value of the chunk, so a test can write probabilities as audio."""

    rate_hz = 24_000
    chunk_samples = CHUNK

    def probability(self, chunk: FloatArray) -> float:
        return float(np.abs(chunk).mean())

    def reset(self) -> None:
        pass


def run(probabilities: list[float], config: VadConfig = CONFIG) -> list[Event]:
    machine = Hysteresis(config)
    return [e for i, p in enumerate(probabilities) for e in machine.step(p, i * CHUNK, (i + 1) * CHUNK)]


def vowel(seconds: float, rate_hz: int = 24_000) -> np.ndarray:
    """A voice-like sound: harmonics of a moving pitch under two formants, in syllables."""
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 1.5 * time)) / rate_hz
    sound = np.zeros_like(time)
    for harmonic in range(1, 30):
        hz = 120 * harmonic
        level = sum(np.exp(-(((hz - centre) / width) ** 2)) for centre, width in ((600, 150), (1200, 200), (2500, 300)))
        sound += (level + 0.02) * np.sin(harmonic * phase)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    return (0.3 * syllables * sound / np.abs(sound).max()).astype(np.float32)


def turn(rng: np.random.Generator) -> np.ndarray:
    """One second of room noise, one of voice, one of room noise."""
    pcm = 0.0005 * rng.standard_normal(72_000).astype(np.float32)
    pcm[24_000:48_000] += vowel(1.0)
    return pcm


def test_a_turn_has_a_start_and_an_end() -> None:
    """The start reaches back by the padding, the end lies where the silence began."""
    events = run([0.0] * 10 + [0.9] * 10 + [0.0] * 15)
    assert events == [
        SpeechStarted(at=12 * CHUNK, audio_start=5 * CHUNK),
        SpeechStopped(at=30 * CHUNK, speech_end=20 * CHUNK),
    ]


def test_padding_never_reaches_before_the_session_or_the_last_turn() -> None:
    """Turns do not overlap, and none starts before sample 0."""
    config = CONFIG.model_copy(update={"prefix_padding_ms": 1000})
    events = run([0.9] * 5 + [0.0] * 10 + [0.9] * 5, config)
    assert [e.audio_start for e in events if isinstance(e, SpeechStarted)] == [0, 15 * CHUNK]


def test_a_short_burst_is_no_turn() -> None:
    """Less speech than `min_speech_ms` causes nothing."""
    assert run([0.0] * 5 + [0.9] + [0.0] * 20) == []


def test_a_pause_shorter_than_the_silence_keeps_the_turn() -> None:
    """Speech in between starts the silence anew."""
    events = run([0.9] * 5 + [0.0] * 9 + [0.9] * 2 + [0.0] * 10)
    assert events[1:] == [SpeechStopped(at=26 * CHUNK, speech_end=16 * CHUNK)]


def test_scores_between_the_thresholds_change_nothing() -> None:
    """Just under the threshold neither ends speech nor, in silence, starts it."""
    assert run([0.4] * 50) == []
    assert len(run([0.9] * 3 + [0.4] * 50)) == 1


def test_zero_limits_react_at_once() -> None:
    """With no silence and no minimum asked for, one chunk is enough both ways."""
    config = VadConfig(prefix_padding_ms=0, silence_duration_ms=0, min_speech_ms=0)
    assert run([0.9, 0.0], config) == [SpeechStarted(CHUNK, 0), SpeechStopped(2 * CHUNK, CHUNK)]


@pytest.mark.parametrize("size", [7, 480, 1920, 5000])
def test_chunked_equals_whole(size: int, rng: np.random.Generator) -> None:
    """Events and their times do not depend on how the audio was cut, resampling included."""
    pcm = turn(rng)[20_000:60_000]
    expected = Vad(CONFIG, WebrtcDetector()).push(pcm)
    vad = Vad(CONFIG, WebrtcDetector())
    got = [event for i in range(0, len(pcm), size) for event in vad.push(pcm[i : i + size])]
    assert got == expected
    assert [type(event) for event in got] == [SpeechStarted, SpeechStopped]


@pytest.mark.parametrize("make", DETECTORS)
def test_every_detector_finds_a_voice(make: type[Detector], rng: np.random.Generator) -> None:
    """One turn is found around the voice, to within 150 ms, on the session clock."""
    started, stopped = Vad(VadConfig(silence_duration_ms=300, prefix_padding_ms=0), make()).push(turn(rng))
    assert isinstance(started, SpeechStarted) and isinstance(stopped, SpeechStopped)
    assert abs(started.audio_start - 24_000) < 3600
    assert abs(stopped.speech_end - 48_000) < 3600
    assert stopped.at - stopped.speech_end >= 7200


@pytest.mark.parametrize("make", DETECTORS)
def test_detector_reset_equals_fresh(make: type[Detector], rng: np.random.Generator) -> None:
    """A used detector that was reset scores like a new one."""
    used, fresh = make(), make()
    chunks = turn(rng)[23_000:].reshape(-1)[: 40 * used.chunk_samples].reshape(40, -1)
    first = [used.probability(chunk) for chunk in chunks]
    used.reset()
    assert [used.probability(chunk) for chunk in chunks] == first
    assert [fresh.probability(chunk) for chunk in chunks] == first
    assert min(first) >= 0.0 and max(first) <= 1.0


@pytest.mark.parametrize("make", DETECTORS)
def test_detectors_refuse_other_lengths(make: type[Detector]) -> None:
    """A chunk of another size is an error that names the size expected."""
    detector = make()
    with pytest.raises(ValueError, match=f"{detector.chunk_samples} samples"):
        detector.probability(np.zeros(detector.chunk_samples + 1, np.float32))


def test_detectors_of_two_sessions_are_independent(rng: np.random.Generator) -> None:
    """Interleaving two Silero streams changes neither."""
    chunks = turn(rng)[24_000 : 24_000 + 20 * 512].reshape(20, 512)
    alone = SileroDetector()
    expected = [alone.probability(chunk) for chunk in chunks]
    one, other = SileroDetector(), SileroDetector()
    got = []
    for chunk, noise in zip(chunks, reversed(chunks), strict=True):
        got.append(one.probability(chunk))
        other.probability(noise)
    assert got == expected


def test_energy_follows_a_louder_room(rng: np.random.Generator) -> None:
    """Steady noise counts as speech only until the floor has risen to it."""
    detector = EnergyDetector()
    noise = (0.01 * rng.standard_normal((1000, CHUNK))).astype(np.float32)
    scores = [detector.probability(chunk) for chunk in noise]
    assert scores[0] > 0.9 and scores[-1] < 0.1


def test_reset_equals_fresh(rng: np.random.Generator) -> None:
    """A reset `Vad` gives the events of a new one, moved to its new origin."""
    pcm = turn(rng)
    vad = Vad(CONFIG)
    expected = vad.push(pcm)
    vad.push(pcm[:30_001])
    vad.reset(1000)
    assert vad.position == 1000 and not vad.speaking
    assert [event.at - 1000 for event in vad.push(pcm)] == [event.at for event in expected]


def test_a_gap_moves_the_clock_and_keeps_the_turn_open() -> None:
    """Lost audio inside a turn does not end it; lost audio in a silence counts as silence."""
    vad = Vad(CONFIG, LoudnessDetector())
    loud, quiet = np.full(10 * CHUNK, 0.9, np.float32), np.zeros(CHUNK, np.float32)
    assert len(vad.push(loud)) == 1
    assert vad.push(loud, start=100 * CHUNK) == [] and vad.speaking
    assert vad.push(quiet) == [] and vad.silence_samples == CHUNK
    assert vad.push(quiet, start=200 * CHUNK) == [SpeechStopped(at=201 * CHUNK, speech_end=110 * CHUNK)]
    assert not vad.speaking and vad.silence_samples == 0


def test_a_turn_is_quiet_by_the_level_before_the_detector_says_so() -> None:
    """The level falls by 40 dB while the detector still hears speech; in noise the detector alone counts."""
    loud, faint = np.full(10 * CHUNK, 0.9, np.float32), np.full(3 * CHUNK, 0.009, np.float32)
    vad = Vad(CONFIG.model_copy(update={"threshold": 0.005}), LoudnessDetector())
    vad.push(faint)
    assert vad.speaking and vad.quiet_samples == 0
    vad.push(loud)
    vad.push(faint)
    assert (vad.silence_samples, vad.quiet_samples) == (0, 3 * CHUNK)
    vad.push(faint, start=vad.position + CHUNK)
    assert vad.quiet_samples == 7 * CHUNK
    vad.push(loud)
    assert vad.quiet_samples == 0
    noisy = Vad(CONFIG, LoudnessDetector())
    noisy.push(loud)
    noisy.push(np.full(3 * CHUNK, 0.3, np.float32))
    assert (noisy.silence_samples, noisy.quiet_samples) == (3 * CHUNK, 6 * CHUNK)


def test_without_an_open_turn_nothing_is_quiet() -> None:
    """Before a turn and after it."""
    vad = Vad(CONFIG, LoudnessDetector())
    vad.push(np.zeros(5 * CHUNK, np.float32))
    assert vad.quiet_samples == 0
    vad.push(np.full(10 * CHUNK, 0.9, np.float32))
    vad.push(np.zeros(20 * CHUNK, np.float32))
    assert not vad.speaking and vad.quiet_samples == 0


def test_audio_from_the_past_is_refused() -> None:
    """A start before audio already taken is an error."""
    vad = Vad(CONFIG, LoudnessDetector())
    vad.push(np.zeros(CHUNK, np.float32))
    with pytest.raises(ValueError, match="arrived after"):
        vad.push(np.zeros(CHUNK, np.float32), start=3)


def test_settings_can_change_inside_a_turn() -> None:
    """A shorter silence takes effect at once, another detector keeps the turn and the clock."""
    vad = Vad(CONFIG, LoudnessDetector())
    vad.push(np.full(10 * CHUNK, 0.9, np.float32))
    vad.configure(CONFIG.model_copy(update={"silence_duration_ms": 20}))
    assert vad.push(np.zeros(CHUNK, np.float32)) == [SpeechStopped(at=11 * CHUNK, speech_end=10 * CHUNK)]
    vad.push(np.full(10 * CHUNK, 0.9, np.float32))
    vad.configure(CONFIG.model_copy(update={"detector": "energy"}))
    assert vad.speaking and vad.position == 21 * CHUNK
    assert vad.probability == pytest.approx(0.9)


def test_config_is_strict() -> None:
    """Unknown keys and values out of range are refused."""
    for bad in ({"treshold": 0.5}, {"threshold": 1.5}, {"silence_duration_ms": -1}, {"detector": "ear"}):
        with pytest.raises(ValidationError):
            VadConfig.model_validate(bad)


def test_webrtc_knows_three_chunk_lengths() -> None:
    """Another length is an error."""
    assert WebrtcDetector(30).chunk_samples == 480
    with pytest.raises(ValueError, match="10, 20 or 30"):
        WebrtcDetector(25)  # type: ignore[arg-type]
