"""The model threads: the only place where the engine runs.

* They serve all sessions, first come first served; a session never has more than one call waiting or running, so the
  queue is bounded by the number of sessions, no session can starve another, and none needs a thread of its own.
* A call that fails raises :class:`agent.errors.StepError` in its own session only.
* Cancelling is a number: :meth:`Lane.cancel` raises the lane's generation, and whatever was made for an older one is
  dropped by whoever holds it.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agent.errors import InputError, StepError
from models.runtime import Mode, StepOut

_WARM_UP_SPEAKS = 6  # text leads the audio: the decoder has its first turn after some steps


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


P = ParamSpec("P")
R = TypeVar("R")


class StepEngine(Protocol):
    """What the worker needs of an engine; :class:`models.runtime.Engine` is one."""

    directory: Path | None
    """Of the S2S model, where its domain file is."""
    sample_rate: int
    frame_size: int
    tail_frames: int
    in_hurry: Callable[[], bool]  # whether others wait for it

    def new_state(self) -> Any:
        """State of one session."""

    def step(self, pcm: np.ndarray | None, state: Any, mode: Mode) -> StepOut:
        """One frame of 80 ms."""

    def decide(self, state: Any) -> str:
        """Settle what was heard so far; returns the words that were not sure before."""

    def truncate_reply(self, state: Any, heard_frames: int) -> None:
        """Forget the part of the reply that was not heard."""

    def fork(self, state: Any, heard_frames: int) -> Any:
        """A copy that listens while the session waits in its reply."""

    def copy(self, state: Any) -> Any:
        """A copy that can go on in the session's place."""

    def pieces(self, text: str) -> Sequence[Any]:
        """What a text is made of; ValueError for one that cannot be read or recalled. Safe on any thread."""

    def read(self, text: str, state: Any, say: bool) -> int:
        """Take what the user typed, or what the next reply has to be (``say``); returns the number of its pieces."""

    def recall(self, text: str, state: Any) -> None:
        """Make the next reply this text."""

    def note(self, text: str, state: Any) -> None:
        """Make the note after the latest reply this text."""

    def expect(self, openings: Mapping[str, str | None], state: Any) -> None:
        """If the next reply begins with the words of an opening, it goes on as that says; None: it may not."""

    def inject(self, tokens: Sequence[str], state: Any) -> None:
        """Make prosody tokens the next pieces of the reply."""

    def aside(self, state: Any) -> Any:
        """A state that remembers nothing and hears on with ``state``."""


def _tell_nobody(kind: str, waited_s: float, took_s: float) -> None: ...


class ModelConfig(BaseModel):
    """How the models are run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int | None = Field(None, ge=1)
    """Calls of different sessions at the same time, each on one core; None: two if there are two (more hardly pay)."""

    def count(self) -> int:
        """How many threads there are to be."""
        return self.threads or min(2, _cores())


class Worker:
    """Runs engine calls of many sessions on a few threads; use as ``async with``.

    Args:
        engine: the loaded models.
        tell: told the kind of each call, and the seconds it waited and took, on a model thread, one call at a time.
        threads: how many there are.
    """

    def __init__(
        self, engine: StepEngine, tell: Callable[[str, float, float], None] = _tell_nobody, threads: int = 1
    ) -> None:
        self.engine = engine
        self.threads = threads
        self.calls = 0
        self.busy_s = 0.0
        self.waiting = 0
        self._tell = tell
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="model")
        engine.in_hurry = lambda: self.waiting > threads

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def open(self) -> "Lane":
        """Begin a session with a state of its own."""
        return Lane(self, await self.call("open", self.engine.new_state))

    def check_text(self, text: str) -> None:
        """See whether a text can be read and recalled; on any thread.

        Raises:
            ValueError: it cannot; one plain sentence says why.
        """
        self.engine.pieces(text)

    async def call(self, kind: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one engine call on a model thread; ``kind`` is its name for the figures.

        Raises:
            StepError: the call failed; the cause is chained.
        """
        asked = time.perf_counter()

        def timed() -> R:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took_s = time.perf_counter() - begin
                with self._lock:
                    self.calls += 1
                    self.busy_s += took_s
                    self._tell(kind, begin - asked, took_s)

        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        except Exception as exc:  # the model thread: whatever went wrong there ends one session
            raise StepError(f"the model failed: {exc}") from exc
        finally:
            self.waiting -= 1


class Lane:
    """One session's way to the model threads."""

    def __init__(self, worker: Worker, state: Any) -> None:
        self.generation = 0
        self.frame_size = worker.engine.frame_size
        self.tail_frames = worker.engine.tail_frames
        self._worker = worker
        self._state = state
        self._home: Any = None  # the state that was stepped aside from
        self._busy = False

    def cancel(self) -> int:
        """Begin a new generation and return it; what was made for older ones is stale."""
        self.generation += 1
        return self.generation

    def check_text(self, text: str) -> None:
        """See whether a text can be read and recalled.

        Raises:
            InputError: it cannot; the message says why.
        """
        try:
            self._worker.check_text(text)
        except ValueError as exc:
            raise InputError(str(exc)) from exc

    def can_take(self, text: str) -> bool:
        """Whether a text can be read and recalled."""
        try:
            self.check_text(text)
        except InputError:
            return False
        return True

    async def step(self, pcm: np.ndarray | None, mode: Mode) -> StepOut:
        """Run one frame, float32 [frame_size] (None in SPEAK).

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        return await self._alone(mode.name.lower(), self._worker.engine.step, pcm, self._state, mode)

    async def decide(self, copy: Any = None) -> str:
        """What the session, or a copy, heard so far is decided; returns the words that were not sure before.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        return await self._alone("decide", self._worker.engine.decide, copy or self._state)

    async def truncate_reply(self, heard_frames: int) -> None:
        """Forget the frames of the latest reply that were not heard.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        await self._alone("truncate", self._worker.engine.truncate_reply, self._state, heard_frames)

    async def fork(self, heard_frames: int) -> Any:
        """A copy of the session's state, interrupted after so many frames of the latest reply, for :meth:`step_copy`.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        return await self._alone("fork", self._worker.engine.fork, self._state, heard_frames)

    @property
    def nobody_waits(self) -> bool:
        """Whether the model thread has nothing to do."""
        return self._worker.waiting == 0

    async def copy(self) -> Any:
        """A copy of the session's state, for :meth:`step_copy`.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        return await self._alone("copy", self._worker.engine.copy, self._state)

    async def step_copy(self, pcm: np.ndarray | None, copy: Any, mode: Mode = Mode.LISTEN) -> StepOut:
        """Run one frame on a copy, as :meth:`step` does; the session does not know of it.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        return await self._alone(f"{mode.name.lower()}_copy", self._worker.engine.step, pcm, copy, mode)

    def become(self, copy: Any) -> None:
        """Go on from a copy."""
        self._state = copy

    async def read(self, text: str, *, say: bool = False) -> int:
        """Take what the user typed, or what the next reply has to be; returns the number of its pieces.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        return await self._alone("read", self._worker.engine.read, text, self._state, say)

    async def recall(self, text: str) -> None:
        """Make the next reply this text.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        await self._alone("recall", self._worker.engine.recall, text, self._state)

    async def note(self, text: str) -> None:
        """Make the note after the latest reply this text.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        await self._alone("note", self._worker.engine.note, text, self._state)

    async def expect(self, openings: Mapping[str, str | None], copy: Any = None) -> None:
        """If the next reply, also of a copy, begins with an opening, it goes on as that says; None: it may not.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        await self._alone("expect", self._worker.engine.expect, openings, copy or self._state)

    async def inject(self, tokens: Sequence[str]) -> None:
        """Make prosody tokens the next pieces of the reply.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        await self._alone("inject", self._worker.engine.inject, tokens, self._state)

    async def forget(self) -> None:
        """Forget everything that was said.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        self._state = await self._alone("aside", self._worker.engine.aside, self._state)

    async def step_aside(self) -> None:
        """Go on with an empty memory, until :meth:`step_back`.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        assert self._home is None, "aside already"
        fresh = await self._alone("aside", self._worker.engine.aside, self._state)
        self._home, self._state = self._state, fresh

    def step_back(self) -> None:
        """Forget what was said since :meth:`step_aside`, and remember what was before."""
        assert self._home is not None, "not aside"
        self._state, self._home = self._home, None

    async def _alone(self, kind: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        assert not self._busy, "a session may have one engine call at a time"
        self._busy = True
        try:
            return await self._worker.call(kind, function, *args, **kwargs)
        finally:
            self._busy = False


def warm_up(engine: StepEngine) -> None:
    """Run every kind of step once on a state of its own, so that the first user does not wait for first times.

    Raises:
        StepError: the engine cannot step.
    """
    silence = np.zeros(engine.frame_size, np.float32)
    try:
        state = engine.new_state()
        for pcm, mode in ((silence, Mode.IDLE), (silence, Mode.LISTEN), *[(None, Mode.SPEAK)] * _WARM_UP_SPEAKS):
            engine.step(pcm, state, mode)
    except Exception as exc:  # whatever is wrong with the models is one sentence at the start
        raise StepError(f"the models do not run: {exc}") from exc
