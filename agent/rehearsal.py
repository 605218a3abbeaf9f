"""A recorded user talks to the agent as fast as the machine can, exactly as a live one would have been heard.

- It is the daemon's own conversation, voice detector, turn taker and model thread; only the clock is another: time is
  the number of samples spoken so far, and after every chunk the agent gets the time it needs.
- So a turn ends on the same audio as live, replies run ahead by the same lead, and an interruption forgets the same
  unheard part. The time that the model takes is wall time and is measured beside it.
"""

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import numpy as np

from agent.actions import actions_of
from agent.config import AgentConfig
from agent.conversation import Conversation
from agent.worker import Worker
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ, ms_to_samples

P = ParamSpec("P")
R = TypeVar("R")

CHUNK = ms_to_samples(20)  # what microphones and clients deliver
LEAD_S = 0.3  # of silence before the first turn
ANSWER_WITHIN_S = 5.0  # after the end of the recording; later is no answer
BETWEEN_TURNS_S = 0.4
_IDLE_ROUNDS = 10  # rounds of the event loop without a model call: nobody has anything left to do


@dataclass(slots=True)
class TurnRecord:
    """What the agent did during one user turn.

    Attributes:
        began: Sample of the session at which the turn's audio began.
        starts: Samples at which the agent decided that the user had begun.
        stops: Samples at which the agent decided that the user had finished.
        reply: Text of the last reply that was not interrupted.
        transcript: What the agent heard, over the whole turn.
        pcm: Audio of that reply, float32 [N].
        first_audio_ms: Wall time from the last of `stops` to the first frame of reply audio.
        calls_before_audio: Engine calls in that time: what it takes on any machine.
        calls: Engine calls in the whole turn, and its answer.
        interrupted: Replies broken off.
        replies: Texts of all replies that ended, those broken off as far as they got.
        holds: Samples at which the agent held its reply, since there was sound.
        resumed: Times it went on after that.
    """

    began: int
    starts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    reply: str = ""
    transcript: str = ""
    pcm: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    first_audio_ms: float | None = None
    calls_before_audio: int | None = None
    calls: int = 0
    interrupted: int = 0
    replies: list[str] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)
    resumed: int = 0


class RehearsalWorker(Worker):
    """A model thread that knows whether a call is under way."""

    async def settle(self) -> None:
        """Waits until the conversation has done all it can do without more audio."""
        rounds = 0
        while rounds < _IDLE_ROUNDS:
            rounds = 0 if self.waiting else rounds + 1
            await asyncio.sleep(0.0005 if self.waiting else 0)


class Rehearsal:
    """One session with a state of its own; use as ``async with``.

    Args:
        worker: The model thread, entered.
        config: The daemon's settings.
        background: Sound of the room, float32 [N] at 24 kHz, heard over and over as long as the session lasts; None for
            silence.
    """

    def __init__(self, worker: RehearsalWorker, config: AgentConfig, background: np.ndarray | None = None) -> None:
        self._worker = worker
        self._config = config
        self._background = background if background is not None and len(background) else None
        self._now = 0  # samples spoken
        self._pause = round(LEAD_S * SAMPLE_RATE_HZ)  # samples of silence before the next turn
        self._replying = False
        self._text = ""
        self._audio: list[np.ndarray] = []
        self._conversation: Conversation
        self._thinking: asyncio.Task[None]
        self._begin_turn()

    async def __aenter__(self) -> Self:
        config = self._config
        lane = await self._worker.open()
        self._conversation = Conversation(
            lane, self._take, config.vad, config.turn, config.reply, clock=lambda: self.seconds,
            actions=actions_of(self._worker.engine),
        )  # fmt: skip
        self._thinking = asyncio.create_task(self._conversation.run(), name="think")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thinking.cancel()
        await asyncio.gather(self._thinking, return_exceptions=True)

    @property
    def seconds(self) -> float:
        """Spoken so far, silence included."""
        return self._now / SAMPLE_RATE_HZ

    async def speak(self, pcm: np.ndarray) -> TurnRecord:
        """Speaks one user turn and listens to the whole answer.

        Args:
            pcm: float32 [N], 24 kHz mono.

        Raises:
            StepError: The engine failed.
        """
        await self._hear(np.zeros(self._pause, np.float32))
        turn, calls = self._begin_turn(), self._worker.calls
        await self._hear(pcm)
        deadline = self._now + round(ANSWER_WITHIN_S * SAMPLE_RATE_HZ)
        while not self._done and (self._replying or self._now < deadline):
            await self._hear(np.zeros(CHUNK, np.float32))
        turn.calls = self._worker.calls - calls
        self._pause = len(turn.pcm) + round(BETWEEN_TURNS_S * SAMPLE_RATE_HZ)  # until the answer has been heard
        return turn

    async def speak_over(self, question: np.ndarray, sound: np.ndarray, after_s: float) -> TurnRecord:
        """Asks, lets the reply sound for ``after_s``, and then makes a sound over it until the reply has ended.

        Args:
            question: float32 [N], 24 kHz mono.
            sound: float32 [N].
            after_s: Seconds of the reply before the sound.

        Returns:
            What happened from the sound on; its `began` is the sound's first sample.

        Raises:
            StepError: The engine failed.
        """
        await self._hear(np.zeros(self._pause, np.float32))
        self._begin_turn()
        await self._hear(question)
        deadline = self._now + round(ANSWER_WITHIN_S * SAMPLE_RATE_HZ)
        while not self._audio and self._now < deadline:
            await self._hear(np.zeros(CHUNK, np.float32))
        await self._hear(np.zeros(round(after_s * SAMPLE_RATE_HZ), np.float32))
        replying, said, audio = self._replying, self._text, self._audio
        turn = self._begin_turn()
        self._replying, self._text, self._audio = replying, said, audio
        await self._hear(sound)
        while self._replying:
            await self._hear(np.zeros(CHUNK, np.float32))
        return turn

    async def listen(self, pcm: np.ndarray, then_quiet_s: float = 0.0) -> TurnRecord:
        """Hears audio that expects no answer, and waits for none.

        Args:
            pcm: float32 [N], 24 kHz mono.
            then_quiet_s: Silence after it, in which an open turn can end.

        Raises:
            StepError: The engine failed.
        """
        turn = self._begin_turn()
        await self._hear(np.concatenate([pcm, np.zeros(round(then_quiet_s * SAMPLE_RATE_HZ), np.float32)]))
        return turn

    def _begin_turn(self) -> TurnRecord:
        self._turn = TurnRecord(self._now)
        self._replying = self._done = False
        self._stopped, self._calls = 0.0, 0  # wall time, and engine calls until then
        self._text = ""
        self._audio = []
        return self._turn

    async def _hear(self, pcm: np.ndarray) -> None:
        for start in range(0, len(pcm), CHUNK):
            chunk = pcm[start : start + CHUNK]
            if self._background is not None:
                at = np.arange(self._now, self._now + len(chunk))
                chunk = np.clip(chunk + self._background.take(at, mode="wrap"), -1.0, 1.0)
            self._now += len(chunk)
            await self._conversation.hear(chunk)
            await self._worker.settle()
            if self._thinking.done():
                self._thinking.result()

    def _take(self, event: events.Event) -> None:
        turn = self._turn
        match event:
            case events.UserStarted():
                turn.starts.append(self._now)
                self._done = False  # whatever was answered, the user has not finished
            case events.UserStopped():
                turn.stops.append(event.at)
                turn.first_audio_ms = turn.calls_before_audio = None
                self._stopped, self._calls = time.perf_counter(), self._worker.calls
            case events.UserText():
                turn.transcript += event.text
            case events.UserTextDone():
                turn.transcript += " "
            case events.ReplyStarted():
                self._replying, self._done, self._text = True, False, ""
                self._audio.clear()
            case events.ReplyText():
                self._text += event.text
            case events.ReplyAudio():
                if turn.first_audio_ms is None:
                    turn.first_audio_ms = (time.perf_counter() - self._stopped) * 1000
                    turn.calls_before_audio = self._worker.calls - self._calls
                self._audio.append(event.pcm)
            case events.ReplyHeld():
                turn.holds.append(self._now)
            case events.ReplyResumed():
                turn.resumed += 1
            case events.ReplyDone():
                self._close(event.status)

    def _close(self, status: events.ResponseStatus) -> None:
        self._replying = False
        self._turn.replies.append(self._text)
        if status == "cancelled":
            self._turn.interrupted += 1
            return
        self._done = True
        self._turn.reply = self._text
        self._turn.pcm = np.concatenate([np.zeros(0, np.float32), *self._audio])
