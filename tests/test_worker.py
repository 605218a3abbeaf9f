"""The model threads."""

import asyncio
import threading
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from agent.bench.figures import QUESTION
from agent.errors import StepError
from agent.worker import ModelConfig, Worker, warm_up
from models.runtime import Engine, Mode, StepOut
from streaming.sound_files import read_audio
from tests.fakes import FRAME, FakeEngine

FRAME_OF_SILENCE = np.zeros(FRAME, np.float32)


async def test_one_thread_runs_everything() -> None:
    """All sessions share one thread, and it is not the loop's."""
    engine = FakeEngine()
    async with Worker(engine) as worker:
        lanes = [await worker.open() for _ in range(3)]
        await asyncio.gather(*(lane.step(FRAME_OF_SILENCE, Mode.IDLE) for lane in lanes))
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


async def test_sessions_take_turns() -> None:
    """First come, first served: two busy sessions alternate."""
    order: list[str] = []
    async with Worker(FakeEngine(step_s=0.001)) as worker:

        async def steps(name: str) -> None:
            lane = await worker.open()
            for _ in range(4):
                await lane.step(FRAME_OF_SILENCE, Mode.IDLE)
                order.append(name)

        await asyncio.gather(steps("a"), steps("b"))
    assert order == ["a", "b"] * 4


async def test_sessions_have_states_of_their_own() -> None:
    """What one session hears does not reach another one's state."""
    engine = FakeEngine()
    async with Worker(engine) as worker:
        first, second = await worker.open(), await worker.open()
        await first.step(FRAME_OF_SILENCE, Mode.LISTEN)
        await second.step(FRAME_OF_SILENCE, Mode.IDLE)
    assert [state.modes for state in engine.states] == [[Mode.LISTEN], [Mode.IDLE]]


async def test_a_failure_stays_in_its_session() -> None:
    """A step that raises is that session's error; the thread serves the others."""
    async with Worker(FakeEngine()) as worker:
        bad, good = await worker.open(), await worker.open()
        with pytest.raises(StepError, match="1920") as caught:
            await bad.step(np.zeros(5, np.float32), Mode.LISTEN)
        assert isinstance(caught.value.__cause__, ValueError)
        assert (await good.step(FRAME_OF_SILENCE, Mode.LISTEN)).user_text == " w1"


async def test_a_session_has_one_call_at_a_time() -> None:
    """A second call of the same session while one runs is a programming error."""
    async with Worker(FakeEngine(step_s=0.01)) as worker:
        lane = await worker.open()
        first = asyncio.create_task(lane.step(FRAME_OF_SILENCE, Mode.IDLE))
        await asyncio.sleep(0)
        with pytest.raises(AssertionError):
            await lane.step(FRAME_OF_SILENCE, Mode.IDLE)
        await first


async def test_cancel_counts_generations() -> None:
    """Each cancel begins a new generation."""
    async with Worker(FakeEngine()) as worker:
        lane = await worker.open()
        assert (lane.generation, lane.cancel(), lane.generation) == (0, 1, 1)


async def test_work_is_counted() -> None:
    """Calls and the seconds they took are there for the benchmark."""
    async with Worker(FakeEngine(step_s=0.002)) as worker:
        lane = await worker.open()
        await lane.step(FRAME_OF_SILENCE, Mode.IDLE)
        assert worker.calls == 2
        assert worker.busy_s >= 0.002


def test_warm_up_runs_every_kind_of_step() -> None:
    """After it no mode runs for the first time."""
    engine = FakeEngine()
    warm_up(engine)
    (state,) = engine.states
    assert set(state.modes) == {Mode.IDLE, Mode.LISTEN, Mode.SPEAK}


def test_models_that_do_not_run_are_one_sentence() -> None:
    """A model that fails in its first step stops the start."""
    with pytest.raises(StepError, match="the models do not run"):
        warm_up(FakeEngine(fail_at=1))


async def test_sessions_run_side_by_side() -> None:
    """With two threads two sessions are in the engine at the same moment, and both are counted."""
    meeting = threading.Barrier(2)

    class Meeting(FakeEngine):
        def step(self, pcm: np.ndarray | None, state: object, mode: Mode) -> StepOut:
            meeting.wait(timeout=10)
            return super().step(pcm, state, mode)

    told: list[str] = []
    async with Worker(Meeting(), lambda kind, *_: told.append(kind), threads=2) as worker:
        lanes = [await worker.open(), await worker.open()]
        for _ in range(20):
            await asyncio.gather(*(lane.step(FRAME_OF_SILENCE, Mode.IDLE) for lane in lanes))
        assert (worker.calls, told.count("idle")) == (42, 40)


@pytest.mark.shipped
async def test_two_threads_compute_what_one_does(shipped_models: Path) -> None:
    """Two sessions in the same graphs at the same time: every sample, word and probability as if each were alone."""
    engine = Engine.load(shipped_models / "codec", shipped_models / "s2s")
    question = read_audio(QUESTION)
    frames = question[: len(question) // 1920 * 1920].reshape(-1, 1920)[-24:]

    async def session(worker: Worker, gain: float) -> list[StepOut]:
        lane = await worker.open()
        heard = [await lane.step(frame * np.float32(gain), Mode.LISTEN) for frame in frames]
        return heard + [await lane.step(None, Mode.SPEAK) for _ in range(16)]

    async with Worker(engine) as one:
        alone = [await session(one, gain) for gain in (1.0, 0.5)]
    async with Worker(engine, threads=2) as two:
        together = await asyncio.gather(*(session(two, gain) for gain in (1.0, 0.5)))
    assert alone[0][-1].pcm is not None
    for expected, found in zip(chain(*alone), chain(*together), strict=True):
        assert (found.text, found.user_text, found.done) == (expected.text, expected.user_text, expected.done)
        assert found.end_of_turn == expected.end_of_turn
        np.testing.assert_array_equal(
            np.zeros(0) if found.pcm is None else found.pcm, np.zeros(0) if expected.pcm is None else expected.pcm
        )
    assert any(a.end_of_turn != b.end_of_turn for a, b in zip(*alone, strict=True))  # they are not the same session


def test_how_many_threads() -> None:
    """A number is a number; else there are two where there are two cores."""
    assert ModelConfig(threads=3).count() == 3
    assert ModelConfig().count() in (1, 2)
