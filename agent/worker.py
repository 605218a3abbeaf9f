"""The model thread: the only place where the engine runs.

* One thread serves all sessions, first come first served; a session never has more than one call waiting, so the
  queue is bounded by the number of sessions and no session can starve another.
* A call that fails raises :class:`agent.errors.StepError` in its own session only.
* Cancelling is a number: :meth:`Lane.cancel` raises the lane's generation, and whatever was made for an older one is
  dropped by whoever holds it.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import numpy as np

from agent.errors import InputError, StepError
from models.runtime import Mode, StepOut

_WARM_UP_SPEAKS = 6  # text leads the audio: the decoder has its first turn after some steps

P = ParamSpec("P")
R = TypeVar("R")


class StepEngine(Protocol):
    """What the worker needs of an engine; :class:`models.runtime.Engine` is one."""

    sample_rate: int
    frame_size: int
    tail_frames: int

    def new_state(self) -> Any:
        """State of one session."""

    def step(self, pcm: np.ndarray | None, state: Any, mode: Mode) -> StepOut:
        """One frame of 80 ms."""

    def truncate_reply(self, state: Any, heard_frames: int) -> None:
        """Forget the part of the reply that was not heard."""

    def fork(self, state: Any, heard_frames: int) -> Any:
        """A copy that listens while the session waits in its reply."""

    def pieces(self, text: str) -> list[int]:
        """What a text is made of; ValueError for one that cannot be read or recalled. Safe on any thread."""

    def read(self, text: str, state: Any, say: bool) -> int:
        """Take what the user typed, or what the next reply has to be (``say``); returns the number of its pieces."""

    def recall(self, text: str, state: Any) -> None:
        """Make the next reply this text."""

    def aside(self, state: Any) -> Any:
        """A state that remembers nothing and hears on with ``state``."""


def _tell_nobody(kind: str, waited_s: float, took_s: float) -> None:
    pass


class Worker:
    """Runs engine calls of many sessions on one thread; use as ``async with``.

    Args:
        engine: the loaded models.
        tell: told the kind of each call, and the seconds it waited and took, on the model thread.
    """

    def __init__(self, engine: StepEngine, tell: Callable[[str, float, float], None] = _tell_nobody) -> None:
        self.engine = engine
        self.calls = 0
        self.busy_s = 0.0
        self.waiting = 0
        self._tell = tell
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

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
        """Run one engine call on the model thread; ``kind`` is its name for the figures.

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
                self.calls += 1
                self.busy_s += took_s
                self._tell(kind, begin - asked, took_s)

        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, timed)
        except Exception as exc:  # the model thread: whatever went wrong there ends one session
            raise StepError(f"the model failed: {exc}") from exc
        finally:
            self.waiting -= 1


class Lane:
    """One session's way to the model thread."""

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

    async def truncate_reply(self, heard_frames: int) -> None:
        """Forget the frames of the latest reply that were not heard.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        await self._alone("truncate", self._worker.engine.truncate_reply, self._state, heard_frames)

    async def fork(self, heard_frames: int) -> Any:
        """A copy of the session's state, interrupted after so many frames of the latest reply, for :meth:`overhear`.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        return await self._alone("fork", self._worker.engine.fork, self._state, heard_frames)

    async def overhear(self, pcm: np.ndarray, ear: Any) -> StepOut:
        """Let a copy listen to one frame; the session does not hear it.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        return await self._alone("overhear", self._worker.engine.step, pcm, ear, Mode.LISTEN)

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
