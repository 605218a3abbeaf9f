"""A real MQTT broker, started and killed at will, and somebody who listens there."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.fakes import eventually, free_port


class Broker:
    """A mosquitto in a folder of its own, on a free port that stays the same.

    Args:
        folder: an empty one.
        settings: more lines for its configuration.
    """

    def __init__(self, folder: Path, *settings: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        lines = [
            f"listener {self.port} 127.0.0.1",
            "set_tcp_nodelay true",
            "persistence true",
            f"persistence_location {folder}/",
            *([] if os.getuid() else ["user root"]),
            *(settings or ["allow_anonymous true"]),
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    async def start(self) -> None:
        """Run it, until it can be reached."""
        path = os.environ["PATH"] + ":/usr/sbin"
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "mosquitto", "-c", str(self._folder / "mosquitto.conf"), stderr=log, env={**os.environ, "PATH": path}
            )
        async with asyncio.timeout(10):
            while True:
                assert self._process.returncode is None, (self._folder / "mosquitto.log").read_text()
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(0.01)

    async def save(self) -> None:
        """Write down what it knows, to know it after :meth:`kill`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)
        await eventually((self._folder / "mosquitto.db").exists)

    async def freeze(self) -> None:
        """Let it answer nothing any more, while everybody stays connected."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        status = Path(f"/proc/{self._process.pid}/stat")
        await eventually(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")

    async def kill(self) -> None:
        """End it at once, with nothing written down."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def running_broker(folder: Path, *settings: str) -> AsyncIterator[Broker]:
    """A broker that runs until the end of the block."""
    broker = Broker(folder, *settings)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


class Ear:
    """Hears everything at a broker, across its restarts, and sends commands."""

    def __init__(self) -> None:
        self.heard: list[aiomqtt.Message] = []
        self.client: aiomqtt.Client | None = None

    def payloads(self, topic: str) -> list[str]:
        """What came on a topic, in order."""
        return [bytes(message.payload).decode() for message in self.heard if message.topic.value == topic]  # type: ignore[arg-type]

    def bodies(self, topic: str) -> list[dict[str, Any]]:
        """The same, as JSON."""
        return [json.loads(payload) for payload in self.payloads(topic)]

    async def next_body(self, topic: str, after: int = 0) -> dict[str, Any]:
        """The message number ``after`` on a topic, as soon as it has come."""
        await eventually(lambda: len(self.payloads(topic)) > after)
        return self.bodies(topic)[after]

    async def until(self, topic: str, payload: str) -> None:
        """Wait until the latest on a topic is this."""
        await eventually(lambda: self.payloads(topic)[-1:] == [payload])

    async def command(self, name: str, body: object = None, base: str = "repartee") -> dict[str, Any]:
        """Send a command, bytes as they are and all else as JSON, and return the agent's reply to it."""
        before = len(self.payloads(f"{base}/reply"))
        await self.send(f"{base}/command/{name}", body if isinstance(body, bytes) else json.dumps(body or {}).encode())
        return await self.next_body(f"{base}/reply", before)

    async def send(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish with QoS 1."""
        assert self.client is not None
        await self.client.publish(topic, payload, 1, retain=retain)

    async def listen(self, broker: Broker, **login: Any) -> None:
        """Stay connected until cancelled; what comes while away is kept for us by the broker."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3_600
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1",
                    broker.port,
                    identifier="ear",
                    protocol=aiomqtt.ProtocolVersion.V5,
                    clean_start=False,
                    properties=properties,
                    socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
                    **login,
                ) as client:
                    await client.subscribe("#", qos=1)
                    self.client = client
                    async for message in client.messages:
                        self.heard.append(message)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def listening(broker: Broker, **login: Any) -> AsyncIterator[Ear]:
    """Somebody who hears everything from now on."""
    ear = Ear()
    task = asyncio.create_task(ear.listen(broker, **login))
    try:
        await eventually(lambda: ear.client is not None)
        yield ear
    finally:
        while not task.done():  # Python 3.11's wait_for, inside aiomqtt, may swallow a cancellation
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
