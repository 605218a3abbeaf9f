"""The daemon: loads the engine, owns the model thread, serves WebSocket clients and the local microphone."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import signal
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from agent.actions import Actions
from agent.config import AgentConfig
from agent.errors import ServeError, StepError
from agent.local import talk
from agent.session import Session
from agent.telegraph import Telegraph
from agent.worker import StepEngine, Worker
from streaming.errors import AudioUnavailable
from streaming.websocket import Client, RealtimeServer

logger = logging.getLogger(__name__)

_TIDY_AFTER_S = 3.0  # a closed session's connection is gone by then


class Daemon:
    """Serves one engine.

    Args:
        engine: the loaded models.
        config: everything else.
        audio: whether to use the local microphone and speaker.
        started_at: ``time.monotonic()`` when the program began, for the readiness line.
        actions: what replies do; None when they only speak.

    Raises:
        MqttUnavailable: the settings name a broker, but MQTT cannot be set up.
    """

    def __init__(
        self,
        engine: StepEngine,
        config: AgentConfig,
        *,
        audio: bool = False,
        started_at: float | None = None,
        actions: Actions | None = None,
    ) -> None:
        self._engine = engine
        self._config = config
        self._audio = audio
        self._actions = actions
        self._telegraph = Telegraph(config.mqtt, self.stop, package_version()) if config.mqtt.host else None
        self._started_at = time.monotonic() if started_at is None else started_at
        self._stop: asyncio.Event | None = None
        self._tidying = False
        self.sessions: set[Session] = set()
        self.port: int | None = None

    def stop(self) -> None:
        """Ask :meth:`run` to return; on the loop only."""
        if self._stop is not None:
            self._stop.set()

    async def run(self, on_ready: Callable[[int], None] | None = None, *, signals: bool = False) -> None:
        """Serve until :meth:`stop`.

        Args:
            on_ready: told the port once clients can connect.
            signals: stop on SIGINT and SIGTERM.

        Raises:
            ServeError: the address cannot be bound.
        """
        self._stop = asyncio.Event()
        server_config = self._config.server
        _warn_if_public(server_config.host)
        with _stop_on_signals(self._stop) if signals else contextlib.nullcontext():
            async with Worker(self._engine) as worker, contextlib.AsyncExitStack() as stack:
                if self._telegraph is not None:  # first, so that it still tells how the sessions end
                    await stack.enter_async_context(self._telegraph.running())
                server = RealtimeServer(server_config, lambda client: self._serve(client, worker), _health)
                try:
                    await stack.enter_async_context(server)
                except OSError as exc:
                    raise ServeError(_bind_failure(server_config.host, server_config.port, exc)) from exc
                self.port = server.port
                took = time.monotonic() - self._started_at
                logger.info("ready on ws://%s:%d/v1/realtime in %.1f s", _shown(server_config.host), self.port, took)
                if on_ready is not None:
                    on_ready(self.port)
                await self._until_stopped(worker, self._stop)
        logger.info("stopped")

    async def _until_stopped(self, worker: Worker, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            local = tasks.create_task(self._talk(worker), name="local audio") if self._audio else None
            await stop.wait()
            if local is not None:
                local.cancel()

    async def _talk(self, worker: Worker) -> None:
        config = self._config
        try:
            settings = (config.audio, config.vad, config.turn, config.reply, config.local)
            await talk(worker, *settings, self._actions, self._telegraph)
        except* AudioUnavailable as group:
            logger.warning("no local audio: %s Clients can still connect.", group.exceptions[0])
        except* StepError as group:
            logger.error("local audio has ended", exc_info=group.exceptions[0])

    async def _serve(self, client: Client, worker: Worker) -> None:
        config = self._config
        settings = (config.vad, config.turn, config.reply, config.session)
        session = Session(client, worker, *settings, actions=self._actions, telegraph=self._telegraph)
        self.sessions.add(session)
        try:
            await session.run()
        finally:
            self.sessions.discard(session)
            self._tidy_soon()

    def _tidy_soon(self) -> None:
        """Free what ended sessions held: their parts know each other, so only the collector can; it looks seldom."""
        if not self._tidying:
            self._tidying = True
            asyncio.get_running_loop().call_later(_TIDY_AFTER_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = False
        gc.collect()


def _health() -> dict[str, Any]:
    return {"version": package_version()}


def package_version() -> str:
    """The installed version, "unknown" when run from a tree that is not installed."""
    try:
        return version("repartee")
    except PackageNotFoundError:
        return "unknown"


@contextlib.contextmanager
def _stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    wanted = (signal.SIGINT, signal.SIGTERM)
    for number in wanted:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)


def _warn_if_public(host: str) -> None:
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        logger.warning("listening on %s: anyone who can reach this machine can talk to the agent", host or "all hosts")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bind_failure(host: str, port: int, exc: OSError) -> str:
    if "in use" in str(exc).lower():
        return f"port {port} on {host} is already in use; choose another one with --port"
    return f"cannot listen on {host}:{port}: {exc.strerror or exc}"
