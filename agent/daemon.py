"""The daemon: loads the engine, owns the model threads, serves WebSocket clients and the local microphone."""

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from agent.actions import Actions
from agent.capacity import Capacity, time_steps, together
from agent.config import AgentConfig
from agent.errors import ServeError, StepError
from agent.local import talk
from agent.recording import Recording, check_directory
from agent.session import Session
from agent.telegraph import Telegraph
from agent.telemetry import CONTENT_TYPE, Gauges, Telemetry
from agent.worker import StepEngine, Worker
from streaming.admission import is_loopback
from streaming.connection import Client
from streaming.errors import AudioUnavailable
from streaming.tls import fingerprint
from streaming.websocket import RealtimeServer, ServerConfig

logger = logging.getLogger(__name__)

_TIDY_AFTER_S = 3.0  # a closed session's connection is gone by then
_DRAIN_LOOK_S = 0.05  # a reply's end has no event of its own


class Daemon:
    """Serves one engine.

    Args:
        engine: the loaded models.
        config: everything else.
        audio: whether to use the local microphone and speaker.
        started_at: ``time.monotonic()`` when the program began, for the readiness line.
        actions: what replies do; None when they only speak.
        token: what clients must bring; needed to listen beyond this machine.

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
        token: str | None = None,
    ) -> None:
        self._engine = engine
        self._config = config
        self._audio = audio
        self._actions = actions
        self._telegraph = Telegraph(config.mqtt, self.drain, package_version()) if config.mqtt.host else None
        self._started_at = time.monotonic() if started_at is None else started_at
        self._token = token
        self._drain: asyncio.Event | None = None
        self._stop: asyncio.Event | None = None
        self._telemetry = Telemetry(engine.frame_size / engine.sample_rate, package_version())
        self._capacity: Capacity | None = None
        self._tidying = False
        self.sessions: set[Session] = set()
        self.port: int | None = None

    def stop(self) -> None:
        """Ask :meth:`run` to return at once; on the loop only."""
        if self._drain is not None and self._stop is not None:
            self._drain.set()
            self._stop.set()

    def drain(self) -> None:
        """Ask :meth:`run` to let nobody in, finish the replies that are being given, and return; on the loop only."""
        if self._drain is not None:
            self._drain.set()

    async def run(self, on_ready: Callable[[int], None] | None = None, *, signals: bool = False) -> None:
        """Serve until :meth:`stop`.

        Args:
            on_ready: told the port once clients can connect.
            signals: drain on SIGINT and SIGTERM, and stop on the second one.

        Raises:
            ServeError: the address cannot be bound, or may not be without a token.
            TlsError: the certificate cannot be used.
            RecordingError: sessions are to be recorded, and cannot be.
            StepError: the engine failed when its speed was measured.
        """
        self._drain, self._stop = asyncio.Event(), asyncio.Event()
        config = self._config.server
        _check_reach(config, self._token)
        check_directory(self._config.recording)
        with self._ended_by_signals() if signals else contextlib.nullcontext():
            threads = self._config.model.count()
            async with Worker(self._engine, self._took, threads) as worker, contextlib.AsyncExitStack() as stack:
                if self._telegraph is not None:  # first, so that it still tells how the sessions end
                    await stack.enter_async_context(self._telegraph.running())
                if config.max_sessions == "auto":
                    self._capacity = await self._measure(worker)
                server = RealtimeServer(
                    config,
                    lambda client: self._serve(client, worker),
                    _health,
                    self._figures,
                    self._token,
                    self,
                    self._room,
                )
                self._telemetry.gauges = lambda: self._gauges(worker, server)
                try:
                    await stack.enter_async_context(server)
                except OSError as exc:
                    raise ServeError(_bind_failure(config.host, config.port, exc)) from exc
                self.port = server.port
                took = time.monotonic() - self._started_at
                where, places = _address(config, self.port), server.capacity
                logger.info("ready on %s in %.1f s for %d session%s", where, took, places, "s" * (places != 1))
                if on_ready is not None:
                    on_ready(self.port)
                await self._until_drained(worker, server)
        logger.info("stopped")

    async def _measure(self, worker: Worker) -> Capacity:
        """What this machine can hold; with all model threads busy, before they have anything else to do."""
        calls = [worker.call("measure", time_steps, self._engine) for _ in range(worker.threads)]
        times = together(await asyncio.gather(*calls))
        return Capacity(times, self._engine.frame_size / self._engine.sample_rate, worker.threads)

    def _room(self, sessions: int) -> int:
        """How many clients there may be while there are ``sessions``; the local conversation has its place."""
        assert self._capacity is not None, "measured before anybody can connect"
        local = int(self._audio)
        return max(1, self._capacity.now(sessions + local) - local)

    def _took(self, kind: str, waited_s: float, took_s: float) -> None:
        self._telemetry.step(kind, waited_s, took_s)
        if self._capacity is not None:
            self._capacity.took(kind, waited_s, took_s)

    async def _until_drained(self, worker: Worker, server: RealtimeServer) -> None:
        assert self._drain is not None and self._stop is not None, "running"
        async with asyncio.TaskGroup() as tasks:
            local = tasks.create_task(self._talk(worker), name="local audio") if self._audio else None
            await self._drain.wait()
            server.draining = True
            until = time.monotonic() + self._config.server.drain_s
            if self.sessions:
                logger.info("draining", extra={"fields": {"sessions": len(self.sessions)}})
            while (
                (self.sessions or (local and not local.done())) and not self._stop.is_set() and time.monotonic() < until
            ):
                for session in self.sessions:
                    if session.at_rest:
                        session.leave()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_DRAIN_LOOK_S):
                        await self._stop.wait()
            for session in self.sessions:
                session.leave()
            if local is not None:
                local.cancel()

    async def _talk(self, worker: Worker) -> None:
        config = self._config
        settings = (config.audio, config.vad, config.turn, config.reply, config.local)
        try:
            with self._telemetry.watch() as metrics:
                await talk(worker, *settings, self._actions, metrics, self._telegraph, self._drain)
        except* AudioUnavailable as group:
            logger.warning("no local audio: %s Clients can still connect.", group.exceptions[0])
        except* StepError as group:
            logger.error("local audio has ended", exc_info=group.exceptions[0])

    async def _serve(self, client: Client, worker: Worker) -> None:
        config = self._config
        settings = (config.vad, config.turn, config.reply, config.session)
        with self._telemetry.watch() as metrics:
            session = Session(
                client, worker, *settings, actions=self._actions, metrics=metrics, telegraph=self._telegraph
            )
            self.sessions.add(session)
            self._telemetry.opened += 1
            try:
                async with self._recorded(session):
                    await session.run()
            finally:
                self.sessions.discard(session)
                self._telemetry.closed[session.ended_by] += 1
                self._tidy_soon()

    async def resume(self, client: Client) -> bool:
        """Let a client go on with the session it asks for, until its connection ends; False: it may not."""
        wanted = client.query("session_id")
        session = next((session for session in self.sessions if session.id == wanted), None)
        return session is not None and await session.door.knock(client)

    def give_up(self, ip: str | None) -> bool:
        """End the session that has waited longest for its client, of this address (None: of any); False: none waits."""
        away = [session for session in self.sessions if session.away_since is not None]
        away = [session for session in away if ip is None or session.door.ip == ip]
        return any(session.door.give_up() for session in sorted(away, key=lambda session: session.away_since or 0.0))

    @contextlib.asynccontextmanager
    async def _recorded(self, session: Session) -> AsyncIterator[None]:
        if self._config.recording.directory is None:
            yield
            return
        recording = Recording(self._config.recording, session.id)
        session.tap = recording.take
        try:
            yield
        finally:
            self._telemetry.recordings["kept" if await recording.close() else "failed"] += 1

    def _figures(self) -> tuple[str, bytes]:
        return CONTENT_TYPE, self._telemetry.exposition()

    def _gauges(self, worker: Worker, server: RealtimeServer) -> Gauges:
        queues = {"model": worker.waiting, "inbox": 0, "outgoing": 0}
        for session in self.sessions:
            for queue, items in session.waiting.items():
                queues[queue] = max(queues[queue], items)
        away = sum(session.away_since is not None for session in self.sessions)
        return Gauges(len(self.sessions), server.capacity, server.draining, queues, server.refused, away)

    def _tidy_soon(self) -> None:
        """Free what ended sessions held: their parts know each other, so only the collector can; it looks seldom."""
        if not self._tidying:
            self._tidying = True
            asyncio.get_running_loop().call_later(_TIDY_AFTER_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = False
        gc.collect()

    @contextlib.contextmanager
    def _ended_by_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        wanted = (signal.SIGINT, signal.SIGTERM)

        def end() -> None:
            if self._drain is not None and self._drain.is_set():
                self.stop()
            else:
                self.drain()

        for number in wanted:
            loop.add_signal_handler(number, end)
        try:
            yield
        finally:
            for number in wanted:
                loop.remove_signal_handler(number)


def _health() -> dict[str, Any]:
    return {"version": package_version()}


def package_version() -> str:
    """The installed version, "unknown" when run from a tree that is not installed."""
    try:
        return version("repartee")
    except PackageNotFoundError:
        return "unknown"


def _check_reach(config: ServerConfig, token: str | None) -> None:
    if is_loopback(config.host):
        return
    host = config.host or "all addresses"
    if token is None:
        raise ServeError(
            f"listening on {host} lets others reach this machine's agent, so it needs a token: "
            "set REPARTEE_TOKEN, server.token_file or --token (openssl rand -hex 32 makes one)"
        )
    if config.tls_cert is None:
        logger.warning("listening on %s without TLS: the token and what is said can be read on the way", host)


def _address(config: ServerConfig, port: int) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    if config.tls_cert is None:
        return f"ws://{host}:{port}/v1/realtime"
    return f"wss://{host}:{port}/v1/realtime (certificate {fingerprint(config.tls_cert)})"


def _bind_failure(host: str, port: int, exc: OSError) -> str:
    if "in use" in str(exc).lower():
        return f"port {port} on {host} is already in use; choose another one with --port"
    return f"cannot listen on {host}:{port}: {exc.strerror or exc}"
