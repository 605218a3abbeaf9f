"""The line to an MQTT broker: one connection that comes back, what waits to be published, and commands that arrive.

* :meth:`MqttLink.keep` and :meth:`MqttLink.publish` never wait: messages go into a bounded outbox, and out when there
  is a broker. :meth:`MqttLink.run` holds the connection; it is the only part that does I/O.
* QoS 1 arrives at least once: what was in flight when a connection broke is sent again over the next one.
* ``BASE/availability`` is ``online``, retained; ``offline`` when the agent leaves, or, as the connection's last will,
  when it dies.
* MQTT 5, with a clean start: commands sent while the agent was away are not carried out later.
* The client is aiomqtt, which is optional here (extra ``mqtt``).
"""

import asyncio
import contextlib
import json
import logging
import math
import random
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from streaming.errors import MqttUnavailable
from streaming.outbox import Letter, Outbox, Rank

logger = logging.getLogger(__name__)

MAX_PAYLOAD = 16_384  # bytes of a command that is looked at
_MAX_PACKET = 1 << 20  # the broker keeps larger ones to itself
_MAX_WAITING_COMMANDS = 64
_KEEPALIVE_S = 15  # a broker that is silent for half as long again is gone
_ANSWER_S = 10.0  # for anything the broker has to confirm
_GOODBYE_S = 1.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_PORT, _TLS_PORT = 1883, 8883


class MqttConfig(BaseModel):
    """Which broker, and who we are there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str | None = Field(None, min_length=1)
    """The broker; null: no MQTT at all."""
    port: int | None = Field(None, ge=1, le=65535)
    """null: 1883, with TLS 8883."""
    username: str | None = None
    password_file: Path | None = None
    """The password is its first line, so that it is in no settings and no process list."""
    tls: bool = False
    tls_ca: Path | None = None
    """Certificates to trust; null: the system's."""
    client_id: str = Field("repartee", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """One for each agent: two of the same name throw each other out."""
    base_topic: str = Field("repartee", min_length=1, max_length=128)
    """Every topic begins with it; one for each agent."""
    outgoing_messages: int = Field(1_000, ge=16)
    """Messages that may wait for the broker; over it the oldest of the least important leave."""

    @field_validator("base_topic")
    @classmethod
    def _is_a_topic(cls, topic: str) -> str:
        if re.search(r"[+#\x00-\x1f\x7f]", topic) or topic.startswith(("/", "$")) or topic.endswith("/"):
            raise ValueError("a topic without wildcards, without $ or / at its start and without / at its end")
        return topic


class Backoff:
    """How long to wait before the next attempt: twice as long each time, capped, and never quite the same.

    Args:
        first_s: the first wait, at most.
        longest_s: the cap.
        chance: a number in [0, 1).
    """

    def __init__(self, first_s: float, longest_s: float, chance: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._chance = chance
        self._attempts = 0

    def next_s(self, lived_s: float) -> float:
        """Seconds to wait after a connection that lasted ``lived_s``; a lasting one begins anew."""
        if lived_s >= self._longest_s:
            self._attempts = 0
        most = min(self._longest_s, self._first_s * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return most * (1.0 + self._chance()) / 2.0


class MqttLink:
    """One agent's connection to its broker.

    Args:
        config: which broker; ``host`` is set.
        on_command: told the name, the payload and whether it was retained, of each message on ``BASE/command/NAME``;
            must not block.

    Raises:
        MqttUnavailable: aiomqtt is not installed, or a file that the settings name cannot be read.
    """

    def __init__(self, config: MqttConfig, on_command: Callable[[str, bytes, bool], None]) -> None:
        try:
            import aiomqtt
        except ImportError as exc:
            raise MqttUnavailable("MQTT needs the Python package aiomqtt: pip install 'repartee[mqtt]'") from exc
        assert config.host is not None, "there is a broker"
        self._host = config.host
        self._aiomqtt = aiomqtt
        self._config = config
        self._port = config.port or (_TLS_PORT if config.tls else _PORT)
        self._address = f"{config.host}:{self._port}"
        self._password = _read_password(config.password_file)
        self._tls = _tls_context(config.tls_ca) if config.tls else None
        self._on_command = on_command
        self._outbox = Outbox(config.outgoing_messages)
        self._wake = asyncio.Event()
        self._leaving = asyncio.Event()
        self._trouble: str | None = None  # the last one that was logged
        self.connections = 0
        self.dropped_commands = 0
        self.keep("availability", "online")

    @property
    def counters(self) -> dict[str, int]:
        """Connections so far, messages waiting, and messages and commands dropped; kept under ``BASE/link``."""
        dropped = {f"dropped_{rank.name.lower()}": self._outbox.dropped[rank] for rank in Rank}
        counters = {"connections": self.connections, "waiting": len(self._outbox)}
        return counters | dropped | {"dropped_commands": self.dropped_commands}

    def topic(self, name: str) -> str:
        """The whole name of one of the agent's topics."""
        return f"{self._config.base_topic}/{name}"

    def keep(self, name: str, payload: str) -> None:
        """Make this the retained state of ``BASE/name``, now and after every reconnect."""
        self.keep_elsewhere(self.topic(name), payload)

    def keep_elsewhere(self, topic: str, payload: str) -> None:
        """The same for a topic that is not the agent's own."""
        self._outbox.keep(topic, payload)
        self._wake.set()

    def publish(self, name: str, payload: str, qos: int = 1, rank: Rank = Rank.NORMAL) -> None:
        """Send ``payload`` to ``BASE/name`` as soon as there is a broker."""
        self._outbox.put(Letter(self.topic(name), payload, qos, rank=rank))
        self._wake.set()

    def leave(self) -> None:
        """Let :meth:`run` end: with a broker, after what waits has been sent."""
        self._leaving.set()
        self._wake.set()

    async def run(self) -> None:
        """Keep the connection until :meth:`leave`. However it ends, ``offline`` is said if there is a broker."""
        backoff = Backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S)
        while not self._leaving.is_set():
            began = time.monotonic()
            try:
                await self._connect()
            except* (self._aiomqtt.MqttError, OSError, UnicodeError) as group:
                self._tell(_reason(group))
            if not self._leaving.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next_s(time.monotonic() - began)):
                        await self._leaving.wait()

    async def _connect(self) -> None:
        async with self._connection() as client:
            await self._subscribe(client)
            self._welcome()
            async with asyncio.TaskGroup() as tasks:
                receiving = tasks.create_task(self._receive(client), name="mqtt receive")
                await self._send(client)
                receiving.cancel()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A client from its welcome to its goodbye.

        The deadlines are ours: aiomqtt's use ``asyncio.wait_for``, which in Python 3.11 swallows a cancellation that
        comes together with what is waited for.
        """
        client = self._client()
        async with asyncio.timeout(_ANSWER_S):
            await client.__aenter__()
        try:
            yield client
        finally:
            try:
                await self._briefly(client.publish(self.topic("availability"), "offline", 1, retain=True))
            finally:
                await self._briefly(client.__aexit__(None, None, None))

    async def _briefly(self, farewell: Awaitable[None]) -> None:
        with contextlib.suppress(self._aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await farewell

    def _client(self) -> Any:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = _MAX_PACKET
        return self._aiomqtt.Client(
            self._host,
            self._port,
            username=self._config.username,
            password=self._password,
            identifier=self._config.client_id,
            protocol=self._aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            properties=properties,
            will=self._aiomqtt.Will(self.topic("availability"), "offline", 1, retain=True),
            keepalive=_KEEPALIVE_S,
            timeout=math.inf,
            tls_context=self._tls,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            queue_type=cast(Any, partial(_Commands, self)),
            max_queued_incoming_messages=_MAX_WAITING_COMMANDS,
        )

    async def _subscribe(self, client: Any) -> None:
        commands = self.topic("command/+")
        async with asyncio.timeout(_ANSWER_S):
            codes = await client.subscribe(commands, qos=1)
        for code in codes:
            if getattr(code, "is_failure", False):
                logger.warning("the MQTT broker does not let us read %s (%s): commands will not arrive", commands, code)

    def _welcome(self) -> None:
        self.connections += 1
        self._trouble = None
        self._outbox.renew()
        counters = self.counters
        self.keep("link", json.dumps(counters))
        logger.info("MQTT through %s: %s", self._address, ", ".join(f"{key} {n}" for key, n in counters.items()))

    async def _receive(self, client: Any) -> None:
        prefix = len(self.topic("command/"))
        async for message in client.messages:
            self._on_command(message.topic.value[prefix:], bytes(message.payload or b""), message.retain)

    async def _send(self, client: Any) -> None:
        while True:
            self._wake.clear()
            while (letter := self._outbox.first()) is not None:
                async with asyncio.timeout(_ANSWER_S):
                    await client.publish(letter.topic, letter.payload, letter.qos, retain=letter.retain)
                self._outbox.arrived(letter)
            if self._leaving.is_set():
                return
            await self._wake.wait()

    def _tell(self, reason: str) -> None:
        if reason != self._trouble:  # an absent broker is one line, not one for each attempt
            self._trouble = reason
            logger.warning("no MQTT broker at %s (%s); trying on", self._address, reason)


class _Commands(asyncio.Queue[Any]):
    """Commands that wait. Bound: ``maxsize``; policy: the newest are dropped; counter: the link's."""

    def __init__(self, link: MqttLink, maxsize: int) -> None:
        super().__init__(maxsize)
        self._link = link

    def put_nowait(self, item: Any) -> None:
        if self.full():
            self._link.dropped_commands += 1
        else:
            super().put_nowait(item)


def _reason(group: BaseExceptionGroup[Any]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error.__cause__ or error) or "no answer"


def _read_password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as exc:
        raise MqttUnavailable(f"mqtt.password_file: {path} cannot be read ({_why(exc)})") from exc


def _tls_context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as exc:
        raise MqttUnavailable(f"mqtt.tls_ca: {ca} holds no certificates that can be read ({_why(exc)})") from exc


def _why(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)
