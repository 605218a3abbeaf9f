"""Jobs that need the engine, in this process or split over several: what is said to the agent, and what it hears.

- A job is a function of (engine, settings, one argument); each process loads the engine once.
- Every session is a rehearsal on the sample clock (`agent.rehearsal`), so the split changes no figure but wall times.
"""

import argparse
import asyncio
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from tqdm import tqdm

from agent.bench.figures import loud_span, provenance
from agent.config import AgentConfig, load_config
from agent.rehearsal import Rehearsal, RehearsalWorker
from agent.worker import StepEngine
from models.artefacts import SHIPPED
from models.runtime import Engine
from training.answers import Answer
from training.recordings import SAMPLE_RATE_HZ, Recording, read_pcm

SETTINGS = Path("configs/agent.yaml")
HISS_S, HISS_RMS = 10.0, 10 ** (-70 / 20)  # of a piece of silence
SETTLE_S = 3.0  # of silence after a stretch, in which a turn that is still open ends

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Agent:
    """Who is evaluated: exported models and the daemon's settings."""

    codec: Path
    s2s: Path
    config: AgentConfig


def add_agent_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say who is evaluated and with how many processes."""
    parser.add_argument("--codec", type=Path, metavar="PATH", default=SHIPPED / "codec", help="codec artefacts")
    parser.add_argument("--s2s", type=Path, metavar="PATH", default=SHIPPED / "s2s", help="speech model artefacts")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {SETTINGS})")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the recordings")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single settings of the daemon")


def agent_from(args: argparse.Namespace) -> Agent:
    """Who the flags name.

    Raises:
        ConfigError: The settings cannot be read, or one is wrong.
    """
    config = load_config(args.config or (SETTINGS if SETTINGS.is_file() else None), args.overrides)
    return Agent(args.codec, args.s2s, config)


def origin(module: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """The command, the commit and the machine that a report belongs to; `argv` None is the process's own."""
    return {"command": shlex.join(["python", "-m", module, *(sys.argv[1:] if argv is None else argv)]), **provenance()}


@dataclass(frozen=True, slots=True)
class Unprompted:
    """What the agent did while a piece without speech was heard: turns that it thought had begun, replies it gave."""

    audio: str
    seconds: float
    turns: int
    replies: int


class EnginePool:
    """Runs jobs; use as ``with``.

    Args:
        agent: who is evaluated.
        workers: processes; 1 stays in this one.
    """

    def __init__(self, agent: Agent, workers: int = 1) -> None:
        self._agent = agent
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers > 1:
            self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[[StepEngine, AgentConfig, Job], Result], jobs: Sequence[Job], title: str = ""
    ) -> list[Result]:
        """The results of a function of a module, one a job, in order; shows a progress bar.

        Raises:
            ArtefactError: The models cannot be loaded.
            Exception: What the function raises.
        """
        work = [(self._agent, function, job) for job in jobs]
        done = map(_work, work) if self._pool is None else self._pool.map(_work, work)
        return list(tqdm(done, total=len(work), desc=title, unit="job", disable=None))


_engines: dict[tuple[Path, Path], Engine] = {}  # of this process


def _work(work: tuple[Agent, Callable[[StepEngine, AgentConfig, Any], Any], Any]) -> Any:
    agent, function, job = work
    if (agent.codec, agent.s2s) not in _engines:
        _engines.clear()
        _engines[agent.codec, agent.s2s] = Engine.load(agent.codec, agent.s2s)
    return function(_engines[agent.codec, agent.s2s], agent.config, job)


def speak(engine: StepEngine, config: AgentConfig, recording: Recording) -> list[Answer]:
    """Speaks the turns of a recording in one session, each after the answer to the one before was heard.

    Raises:
        StepError: The engine failed.
        RecordingError: A recording cannot be read.
    """
    return asyncio.run(_speak(engine, config, recording))


async def _speak(engine: StepEngine, config: AgentConfig, recording: Recording) -> list[Answer]:
    async with (
        RehearsalWorker(engine) as worker,
        Rehearsal(worker, config, recording.load_background()) as session,
    ):
        return [await _speak_turn(session, utterance.load()) for utterance in recording.turns]


async def _speak_turn(session: Rehearsal, pcm: np.ndarray) -> Answer:
    turn = await session.speak(pcm)
    true_end = turn.began + loud_span(pcm)[1]
    answer = Answer(
        turn.reply,
        " ".join(turn.transcript.split()),
        turn.pcm,
        first_audio_ms=turn.first_audio_ms,
        calls_before_audio=turn.calls_before_audio,
        calls=turn.calls,
        interrupted=turn.interrupted,
        replies=tuple(turn.replies),
    )
    if turn.stops:
        answer.decision_ms = (turn.stops[-1] - true_end) * 1000 / SAMPLE_RATE_HZ
        answer.cut_in = turn.stops[0] < true_end
    return answer


def listen(engine: StepEngine, config: AgentConfig, pieces: Sequence[Path | None]) -> list[Unprompted]:
    """Lets the agent hear files one after the other in one session in which nobody speaks to it.

    Args:
        engine: The engine.
        config: The daemon's settings.
        pieces: Files; None stands for 10 s of silence (hiss at -70 dBFS).

    Raises:
        StepError: The engine failed.
        RecordingError: A file cannot be read.
    """
    return asyncio.run(_listen(engine, config, pieces))


async def _listen(engine: StepEngine, config: AgentConfig, pieces: Sequence[Path | None]) -> list[Unprompted]:
    hiss = np.random.default_rng(0).standard_normal(round(HISS_S * SAMPLE_RATE_HZ)) * HISS_RMS
    heard = []
    async with RehearsalWorker(engine) as worker, Rehearsal(worker, config) as session:
        for number, piece in enumerate(pieces, start=1):
            pcm = hiss.astype(np.float32) if piece is None else read_pcm(piece)
            record = await session.listen(pcm, SETTLE_S if number == len(pieces) else 0.0)
            name = "silence" if piece is None else piece.stem
            heard.append(Unprompted(name, len(pcm) / SAMPLE_RATE_HZ, len(record.starts), len(record.replies)))
    return heard
