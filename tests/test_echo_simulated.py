import numpy as np

from agent.bench.echo_room import Room, User
from agent.bench.echo_simulated import InlineWorker, Loop
from agent.bench.echo_verdict import Verdict
from agent.config import load_config
from tests.fakes import FakeEngine

SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=300", "turn.end_of_turn_threshold=2")
LOUD_ECHO = np.array([4.0], np.float32)  # the room's response: 12 dB louder than a real one


async def _talk(response: np.ndarray, *settings: str) -> Verdict:
    """Twenty seconds of conversation with an agent whose replies last four."""
    config = load_config(None, [*SETTINGS, *settings])
    said = np.random.default_rng(1).standard_normal(24_000).astype(np.float32)  # the agent's tone is nothing like it
    loop = Loop(config, Room(response, 60.0), User([said], 12.0))
    async with InlineWorker(FakeEngine(reply_frames=50)) as worker:
        return await loop.run(worker, 20.0)


async def test_with_headphones_nobody_but_the_user_interrupts() -> None:
    """Without an echo nothing happens on its own, and a reply that is spoken over falls silent soon."""
    verdict = await _talk(np.zeros(1, np.float32))
    assert verdict.replies >= 2
    assert verdict.caught >= 1
    assert verdict.self_interruptions == verdict.self_triggered_turns == verdict.self_holds == 0
    assert all(0.0 < wait < 1_000.0 for wait in verdict.waits)


async def test_an_echo_that_is_left_in_is_found_out() -> None:
    """An agent that hears itself and does nothing about it is seen to act on it."""
    verdict = await _talk(LOUD_ECHO, "audio.echo_cancellation=false")
    assert verdict.self_holds + verdict.self_triggered_turns + verdict.self_interruptions > 0
