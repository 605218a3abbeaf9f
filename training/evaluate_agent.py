"""Speaks recordings to the agent and scores what it understood, how fast it answered and whom it cut off.

    python -m training.evaluate_agent --data DIR --json runs/understood.json
    python -m training.evaluate_agent --data DIR --via openai --url http://127.0.0.1:8765/v1 --parallel 4

- `--via engine` runs the daemon's own conversation, voice detector, turn taker and model thread, as fast as the machine
  can: session time is the sample clock, and after every chunk the agent gets the time it needs. The end of a turn is
  thus decided on exactly the audio a live daemon would have heard; the time the model takes is measured beside it.
- `--via openai` streams in real time to a running daemon through the official SDK.
- Each recording is one session; its turns are spoken in order, each after the answer to the one before was heard.
"""

import argparse
import asyncio
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from tqdm import tqdm

from agent.bench import provenance
from agent.config import AgentConfig, load_config
from agent.conversation import Conversation
from agent.errors import AgentError
from agent.worker import StepEngine, Worker
from models.errors import ModelError
from models.runtime import Engine
from streaming import realtime_events as events
from training.answers import Answer, Exchange, pair, report, save_audio, to_json, to_lines
from training.domain import DomainError, load_domain
from training.intelligibility import domain_path
from training.realtime_client import ClientError, answer_over_wire
from training.recordings import SAMPLE_RATE_HZ, Recording, RecordingError, Utterance, end_of_speech, find_recordings

P = ParamSpec("P")
R = TypeVar("R")

CHUNK = SAMPLE_RATE_HZ // 50  # 20 ms, what microphones and clients deliver
LEAD_S = 0.3  # of silence before the first turn
ANSWER_WITHIN_S = 5.0  # after the end of the recording; later is no answer
BETWEEN_TURNS_S = 0.4
_IDLE_ROUNDS = 10  # turns of the event loop without a model call: nobody has anything left to do
SHIPPED = Path("models/pretrained/coffee-en")


class _WatchedWorker(Worker):
    """A worker that knows whether a call is under way."""

    def __init__(self, engine: StepEngine) -> None:
        super().__init__(engine)
        self._under_way = 0

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Counts the call while it runs."""
        self._under_way += 1
        try:
            return await super().call(function, *args, **kwargs)
        finally:
            self._under_way -= 1

    async def settle(self) -> None:
        """Waits until the conversation has done all it can do without more audio."""
        rounds = 0
        while rounds < _IDLE_ROUNDS:
            rounds = 0 if self._under_way else rounds + 1
            await asyncio.sleep(0.0005 if self._under_way else 0)


class _Ear:
    """Collects what the agent does during one turn."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.stopped_at: int | None = None  # sample of the latest end-of-turn decision
        self.replying = False
        self.done = False
        self._stopped_wall = 0.0
        self._text = ""
        self._audio: list[np.ndarray] = []

    def take(self, event: events.Event) -> None:
        """One event of the conversation."""
        match event:
            case events.UserStarted():
                self.done = False  # whatever was answered, the user has not finished
            case events.UserStopped():
                self.stopped_at, self._stopped_wall = event.at, time.perf_counter()
                self.answer.first_audio_ms = None
            case events.UserText():
                self.answer.transcript += event.text
            case events.UserTextDone():
                self.answer.transcript += " "
            case events.ReplyStarted():
                self.replying, self.done, self._text, self._audio = True, False, "", []
            case events.ReplyText():
                self._text += event.text
            case events.ReplyAudio():
                if self.answer.first_audio_ms is None:
                    self.answer.first_audio_ms = (time.perf_counter() - self._stopped_wall) * 1000
                self._audio.append(event.pcm)
            case events.ReplyDone():
                self._close(event.status)

    def _close(self, status: str) -> None:
        self.replying = False
        if status == "cancelled":
            self.answer.interrupted += 1
            return
        self.done = True
        self.answer.reply = self._text
        self.answer.pcm = np.concatenate([np.zeros(0, np.float32), *self._audio])


class EngineSession:
    """One session of the daemon's conversation, on the sample clock.

    Args:
        worker: the model thread.
        config: the daemon's settings.
    """

    def __init__(self, worker: _WatchedWorker, config: AgentConfig) -> None:
        self._worker = worker
        self._config = config
        self._ear = _Ear()
        self._now = 0  # samples fed
        self._conversation: Conversation

    async def run(self, recording: Recording) -> list[Answer]:
        """Speaks every turn of a recording.

        Raises:
            StepError: The engine failed.
            RecordingError: The audio cannot be read.
        """
        config = self._config
        lane = await self._worker.open()
        self._conversation = Conversation(lane, self._take, config.vad, config.turn, config.reply, clock=self._seconds)
        thinking = asyncio.create_task(self._conversation.run(), name="think")
        try:
            await self._feed(_silence(LEAD_S))
            answers = [await self._turn(utterance) for utterance in recording.turns]
            if thinking.done():
                thinking.result()
            return answers
        finally:
            thinking.cancel()
            await asyncio.gather(thinking, return_exceptions=True)

    def _take(self, event: events.Event) -> None:
        self._ear.take(event)

    def _seconds(self) -> float:
        return self._now / SAMPLE_RATE_HZ

    async def _turn(self, utterance: Utterance) -> Answer:
        pcm = utterance.load()
        true_end = self._now + end_of_speech(pcm)
        ear = self._ear = _Ear()
        stops: list[int] = []
        for start in range(0, len(pcm), CHUNK):
            await self._feed(pcm[start : start + CHUNK])
            if ear.stopped_at is not None and ear.stopped_at not in stops:
                stops.append(ear.stopped_at)
        deadline = self._now + round(ANSWER_WITHIN_S * SAMPLE_RATE_HZ)
        while not ear.done and (ear.replying or self._now < deadline):
            await self._feed(_silence(CHUNK / SAMPLE_RATE_HZ))
        if ear.stopped_at is not None:
            ear.answer.decision_ms = (ear.stopped_at - true_end) * 1000 / SAMPLE_RATE_HZ
        ear.answer.cut_in = any(stop < true_end for stop in stops)
        ear.answer.transcript = " ".join(ear.answer.transcript.split())
        await self._feed(_silence(len(ear.answer.pcm) / SAMPLE_RATE_HZ + BETWEEN_TURNS_S))
        return ear.answer

    async def _feed(self, pcm: np.ndarray) -> None:
        for start in range(0, len(pcm), CHUNK):
            chunk = pcm[start : start + CHUNK]
            self._now += len(chunk)
            await self._conversation.hear(chunk)
            await self._worker.settle()


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)


async def answer_with_engine(
    engine: StepEngine, config: AgentConfig, recordings: Sequence[Recording], progress: Callable[[], object]
) -> list[list[Answer]]:
    """Speaks recordings to an engine, one session each.

    Raises:
        StepError: The engine failed.
        RecordingError: A recording cannot be read.
    """
    answers = []
    async with _WatchedWorker(engine) as worker:
        for recording in recordings:
            answers.append(await EngineSession(worker, config).run(recording))
            progress()
    return answers


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="recordings or conversations")
    parser.add_argument("--domain", default="coffee", help="a name in configs/domains, or a path")
    parser.add_argument("--split", choices=("train", "valid"), help="of conversations, take only these")
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N recordings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and every turn here")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the spoken answers and their texts here")
    parser.add_argument("--via", choices=("engine", "openai"), default="engine", help="how to reach the agent")
    parser.add_argument("--codec", type=Path, metavar="PATH", default=SHIPPED / "codec", help="codec artefacts")
    parser.add_argument("--s2s", type=Path, metavar="PATH", default=SHIPPED / "s2s", help="speech model artefacts")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: configs/agent.yaml)")
    parser.add_argument("--url", default="http://127.0.0.1:8765/v1", help="of the daemon, with --via openai")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="clients at once, with --via openai")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single settings of the daemon")
    args = parser.parse_intermixed_args(argv)
    if args.parallel < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--parallel and --limit must be at least 1")
    return args


def evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], list[Exchange]]:
    """Runs the recordings and returns the report and the exchanges.

    Raises:
        RecordingError, DomainError, AgentError, ModelError, ClientError: See the modules they come from.
    """
    domain = load_domain(domain_path(args.domain))
    recordings = find_recordings(args.data, args.limit, args.split)
    began = time.monotonic()
    with tqdm(total=len(recordings), unit="recording", disable=None) as bar:
        if args.via == "openai":
            answers = asyncio.run(answer_over_wire(args.url, recordings, args.parallel, bar.update))
        else:
            default = Path("configs/agent.yaml")
            config = load_config(args.config or (default if default.is_file() else None), args.overrides)
            engine = Engine.load(args.codec, args.s2s)
            answers = asyncio.run(answer_with_engine(engine, config, recordings, bar.update))
    exchanges = pair(recordings, answers)
    result = report(domain, exchanges)
    result["took_s"] = round(time.monotonic() - began, 1)
    return result, exchanges


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        result, exchanges = evaluate(args)
    except (RecordingError, DomainError, AgentError, ModelError, ClientError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print("\n".join(to_lines(result)))
    if args.save:
        save_audio(exchanges, args.save)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["python", "-m", "training.evaluate_agent", *(sys.argv[1:] if argv is None else argv)])
        body = {"command": command, **provenance(), **to_json(result)}
        args.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
