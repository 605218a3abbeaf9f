"""A real daemon for tests to talk to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from agent.actions import Actions
from agent.config import load_config
from agent.daemon import Daemon
from agent.worker import StepEngine


@contextlib.asynccontextmanager
async def running_daemon(
    engine: StepEngine, *settings: str, audio: bool = False, actions: Actions | None = None, token: str | None = None
) -> AsyncIterator[Daemon]:
    """A daemon on a free port, stopped in the end; what ends it before it is ready is raised.

    It takes eight sessions, so that the engine's first steps are those of the test, unless the settings say "auto".
    """
    config = load_config(None, ["server.port=0", "server.max_sessions=8", *settings])
    daemon = Daemon(engine, config, audio=audio, actions=actions, token=token)
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(daemon.run(ready.set_result))
    task.add_done_callback(lambda _: ready.cancel())
    await ready
    try:
        yield daemon
    finally:
        daemon.stop()
        async with asyncio.timeout(10):
            await task
