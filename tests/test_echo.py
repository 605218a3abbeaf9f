import builtins
from typing import Any

import numpy as np
import pytest

from streaming.echo import FRAME, EchoCanceller
from streaming.errors import AudioUnavailable

RATE = 24_000


def noise(seconds: float, seed: int) -> np.ndarray:
    """Bursts of coloured noise, float32 [n]."""
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal(int(seconds * RATE))
    coloured = np.convolve(raw, np.exp(-np.arange(60) / 12.0), "same")
    bursts = np.repeat(rng.random(len(raw) // 4_800 + 1) < 0.7, 4_800)[: len(raw)]
    return (0.03 * coloured * bursts).astype(np.float32)


def echo_of(pcm: np.ndarray, delay_ms: int) -> np.ndarray:
    """What a small room gives back: delayed, half as loud, with a tail."""
    tail = np.exp(-np.arange(1_200) / 250.0) * np.random.default_rng(5).standard_normal(1_200) * 0.1
    tail[0] = 0.5
    delayed = np.concatenate([np.zeros(delay_ms * RATE // 1000), pcm])[: len(pcm)]
    return np.convolve(delayed, tail)[: len(pcm)].astype(np.float32)


def run(canceller: EchoCanceller, played: np.ndarray, heard: np.ndarray, chunk: int) -> np.ndarray:
    cleaned = []
    for start in range(0, len(heard), chunk):
        canceller.play(played[start : start + chunk])
        cleaned.append(canceller.clean(heard[start : start + chunk]))
    return np.concatenate(cleaned)


def level_db(pcm: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm)) + 1e-12))


@pytest.mark.parametrize(("delay_ms", "chunk"), [(40, 240), (150, 441)])
def test_the_agents_voice_is_taken_out(delay_ms: int, chunk: int) -> None:
    """Whatever the chunks, the delay is found, and after two seconds the echo is 30 dB down."""
    played = noise(5.0, 1)
    heard = echo_of(played, delay_ms)
    cleaned = run(EchoCanceller(), played, heard, chunk)
    assert len(heard) - FRAME < len(cleaned) <= len(heard)
    late = slice(2 * RATE, len(cleaned))
    assert level_db(cleaned[late]) < level_db(heard[late]) - 30


def test_the_user_is_left() -> None:
    """Alone, and over the agent's voice, what the user says comes through within 6 dB."""
    played, user = noise(8.0, 1), noise(8.0, 2) * 1.5
    user[: 3 * RATE] = 0.0
    played[6 * RATE :] = 0.0
    cleaned = run(EchoCanceller(), played, echo_of(played, 60) + user, 240)
    for begin, end in ((3.5, 6.0), (6.5, 8.0)):
        part = slice(int(begin * RATE), int(end * RATE))
        assert abs(level_db(cleaned[part]) - level_db(user[part])) < 6.0


def test_a_late_microphone_does_not_pile_up_what_was_played() -> None:
    """What was played while the microphone was gone is dropped, and the echo after it still goes."""
    canceller = EchoCanceller()
    played = noise(6.0, 3)
    heard = echo_of(played, 60)
    run(canceller, played[: 2 * RATE], heard[: 2 * RATE], 240)
    canceller.reset()
    canceller.play(played[2 * RATE : 3 * RATE])
    canceller.play(np.zeros(0, np.float32))
    cleaned = run(canceller, played[3 * RATE :], heard[3 * RATE :], 240)
    assert level_db(cleaned[2 * RATE :]) < level_db(heard[5 * RATE :]) - 20


def test_a_speaker_that_stumbles_is_not_heard_as_somebody() -> None:
    """It stops for 150 ms in the middle of a reply, and plays on: nothing of the rest is left, and users are heard."""
    canceller = EchoCanceller()
    said, user = noise(12.0, 3), noise(12.0, 2)
    stop, gap = 4 * RATE, 15 * FRAME
    heard = echo_of(np.concatenate([said[:stop], np.zeros(gap, np.float32), said[stop:]])[: len(said)], 60)
    heard[8 * RATE :] += 1.5 * user[8 * RATE :]
    before = run(canceller, said[:stop], heard[:stop], FRAME)
    for start in range(stop, stop + gap, FRAME):
        before = np.append(before, canceller.clean(heard[start : start + FRAME]))
    canceller.doubt()
    after = run(canceller, said[stop:-gap], heard[stop + gap :], FRAME)
    assert level_db(before[2 * RATE :]) < level_db(heard[2 * RATE : stop]) - 30
    assert level_db(after[: 3 * RATE]) < level_db(heard[5 * RATE : 8 * RATE]) - 20
    assert abs(level_db(after[5 * RATE :]) - level_db(1.5 * user[9 * RATE :])) < 6.0


def test_a_late_reader_changes_nothing() -> None:
    """Half a second of both at once keeps them in step."""
    canceller = EchoCanceller()
    played = noise(6.0, 3)
    heard = echo_of(played, 60)
    steps = np.concatenate([run(canceller, played[: 3 * RATE], heard[: 3 * RATE], 240),
                            run(canceller, played[3 * RATE :], heard[3 * RATE :], RATE // 2)])  # fmt: skip
    assert level_db(steps[4 * RATE :]) < level_db(heard[4 * RATE :]) - 30


def test_clocks_that_differ_are_followed() -> None:
    """The echo of a speaker that runs 150 millionths fast goes as that of any other."""
    canceller, ppm = EchoCanceller(), 150
    played = noise(12.0, 6)
    heard = echo_of(np.interp(np.arange(0, len(played) - 1, 1 + ppm * 1e-6), np.arange(len(played)), played), 80)
    cleaned, given = [], 0
    for start in range(0, len(heard) - FRAME, FRAME):
        due = min(int((start + FRAME) * (1 + ppm * 1e-6)) // FRAME * FRAME + FRAME, len(played))
        canceller.play(played[given:due])
        given = due
        cleaned.append(canceller.clean(heard[start : start + FRAME].astype(np.float32)))
    late = np.concatenate(cleaned)[4 * RATE :]
    assert canceller.moved == 0
    assert level_db(late) < level_db(heard[4 * RATE :]) - 30


def test_until_it_knows_the_room_the_microphone_is_silent_over_the_speaker() -> None:
    """Nothing of the echo gets through before the canceller is trusted, nor after a reset until it is again."""
    canceller = EchoCanceller()
    played = noise(6.0, 1)
    heard = echo_of(played, 60)
    assert not canceller.trusted
    first = run(canceller, played[:RATE], heard[:RATE], 240)
    assert np.square(first).max() < 1e-7
    run(canceller, played[RATE : 5 * RATE], heard[RATE : 5 * RATE], 240)
    assert canceller.trusted and canceller.taken_out_db > 20
    canceller.reset()
    assert not canceller.trusted


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plain sentence."""
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "livekit":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(AudioUnavailable, match=r"pip install livekit"):
        EchoCanceller()
