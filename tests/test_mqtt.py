"""The line to a broker, with a real one."""

import asyncio
import builtins
import contextlib
import gc
import logging
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streaming.errors import MqttUnavailable
from streaming.mqtt import Backoff, MqttConfig, MqttLink
from streaming.outbox import Rank
from tests.fakes import eventually
from tests.mosquitto import Broker, listening, running_broker

Command = tuple[str, bytes, bool]


@contextlib.asynccontextmanager
async def linked(broker: Broker, **settings: Any) -> AsyncIterator[tuple[MqttLink, list[Command]]]:
    """A link that runs, says goodbye at the end, and the commands it is told."""
    commands: list[Command] = []
    config = MqttConfig(**{"host": "127.0.0.1", "port": broker.port, **settings})
    link = MqttLink(config, lambda *command: commands.append(command))
    task = asyncio.create_task(link.run())
    try:
        yield link, commands
    finally:
        link.leave()
        async with asyncio.timeout(10):
            await task


def run(*command: str) -> None:
    """Run a command to its end; what it says is shown only when it fails."""
    subprocess.run(command, check=True, capture_output=True)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["", "a/+/b", "#", "/a", "a/", "$SYS/a", "a\x00b", "a\nb"])
def test_a_base_topic_is_a_topic(topic: str) -> None:
    """No wildcards and nothing that a broker would refuse or keep for itself."""
    with pytest.raises(ValidationError, match="base_topic"):
        MqttConfig(base_topic=topic)


def test_backoff_grows_to_its_cap_and_is_never_quite_the_same() -> None:
    """Each wait is between half of and all of twice the one before; a lasting connection begins anew."""
    longest = Backoff(0.5, 30.0, chance=lambda: 0.999_999)
    shortest = Backoff(0.5, 30.0, chance=lambda: 0.0)
    for most in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        assert longest.next_s(lived_s=1.0) == pytest.approx(most, rel=1e-5)
        assert shortest.next_s(lived_s=1.0) == pytest.approx(most / 2.0)
    assert shortest.next_s(lived_s=31.0) == pytest.approx(0.25)
    for _ in range(2_000):
        assert longest.next_s(lived_s=0.0) <= 30.0


def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    """The setting and the file are named."""
    with pytest.raises(MqttUnavailable, match=r"mqtt.password_file: .*secret cannot be read \(No such file"):
        MqttLink(MqttConfig(host="h", password_file=tmp_path / "secret"), lambda *_: None)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    """The setting and the file are named."""
    path = tmp_path / "ca.pem"
    path.write_text("hello")
    with pytest.raises(MqttUnavailable, match=r"mqtt.tls_ca: .*ca.pem holds no certificates"):
        MqttLink(MqttConfig(host="h", tls=True, tls_ca=path), lambda *_: None)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what to install."""
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "aiomqtt":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MqttUnavailable, match=r"pip install 'repartee\[mqtt\]'"):
        MqttLink(MqttConfig(host="h"), lambda *_: None)


# --- a broker ---------------------------------------------------------------------------------------------------------


async def test_messages_and_commands(tmp_path: Path) -> None:
    """Messages arrive with their QoS and retention, commands with their names."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear, linked(broker) as (link, commands):
        link.keep("state", "idle")
        link.keep_elsewhere("elsewhere/config", "{}")
        link.publish("metrics", "1", qos=0, rank=Rank.LOW)
        link.publish("action", "2")
        await eventually(lambda: len(ear.payloads("repartee/metrics")) == 1)
        assert ear.payloads("repartee/availability") == ["online"]
        assert ear.payloads("repartee/state") == ["idle"]
        assert ear.payloads("elsewhere/config") == ["{}"]
        qos = {message.topic.value: message.qos for message in ear.heard}
        assert qos["repartee/action"] == qos["repartee/state"] == 1
        assert qos["repartee/metrics"] == 0
        await ear.send("repartee/command/say", b"\x00\xff")
        await ear.send("repartee/command/too/deep", b"")
        await ear.send("repartee/commands", b"")
        await ear.send("repartee/command/", b"")
        await eventually(lambda: len(commands) == 2)
        assert commands == [("say", b"\x00\xff", False), ("", b"", False)]


async def test_what_waits_is_sent_before_leaving_and_then_offline(tmp_path: Path) -> None:
    """Leaving is the last thing that is said, and the broker keeps it."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear:
        async with linked(broker) as (link, _):
            await eventually(lambda: link.connections == 1)
            for number in range(50):
                link.publish("action", str(number))
        await ear.until("repartee/availability", "offline")
        assert ear.payloads("repartee/action") == [str(number) for number in range(50)]
        assert ear.heard[-1].topic.value == "repartee/availability"


async def test_cancelling_says_offline_too(tmp_path: Path) -> None:
    """However the link ends, nobody believes that the agent is there."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear:
        link = MqttLink(MqttConfig(host="127.0.0.1", port=broker.port), lambda *_: None)
        task = asyncio.create_task(link.run())
        await ear.until("repartee/availability", "online")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ear.until("repartee/availability", "offline")


async def test_a_cancellation_that_comes_with_a_confirmation(tmp_path: Path) -> None:
    """Python 3.11's wait_for takes what it waited for and forgets that it was cancelled; the link does not."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear:
        link = MqttLink(MqttConfig(host="127.0.0.1", port=broker.port), lambda *_: None)
        make_client = link._client

        def client() -> Any:
            made = make_client()
            confirmed = made._client.on_publish

            def confirm_and_cancel(*about: Any) -> None:
                confirmed(*about)
                made._client.on_publish = confirmed
                task.cancel()

            made._client.on_publish = confirm_and_cancel
            return made

        link._client = client  # type: ignore[method-assign]
        task = asyncio.create_task(link.run())
        async with asyncio.timeout(10.0):
            await asyncio.wait({task})
        assert task.cancelled()
        await ear.until("repartee/availability", "offline")


async def test_a_broker_that_comes_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was published before there was a broker arrives; its absence is one line of the log, not many."""
    caplog.set_level(logging.INFO)
    broker = Broker(tmp_path)
    async with linked(broker) as (link, _):
        link.keep("state", "old")
        link.keep("state", "new")
        link.publish("action", "1")
        await eventually(lambda: "no MQTT broker" in caplog.text)
        await asyncio.sleep(0.8)  # another attempt
        try:
            await broker.start()
            async with listening(broker) as ear:
                await eventually(lambda: link.connections == 1, 20.0)
                await eventually(lambda: ear.payloads("repartee/action") == ["1"])
                assert ear.payloads("repartee/state") == ["new"]
        finally:
            await broker.kill()
    lines = [record.message for record in caplog.records if record.name == "streaming.mqtt"]
    assert sum("Connection refused" in line for line in lines) <= 2  # absent before and after


async def test_a_broker_that_is_killed_forgets_nothing_that_matters(tmp_path: Path) -> None:
    """Messages made while it was gone arrive after its restart, and the state that it lost is told again."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear:
        await broker.save()  # that there is an ear, and nothing of the agent
        async with linked(broker) as (link, _):
            link.keep("state", "idle")
            link.publish("action", "before")
            await eventually(lambda: ear.payloads("repartee/action") == ["before"])
            await broker.kill()
            link.publish("action", "meanwhile 1")
            link.publish("metrics", "meanwhile 2", qos=0, rank=Rank.LOW)
            ear.heard.clear()
            await broker.start()
            await eventually(lambda: link.connections == 2, 20.0)
            await eventually(lambda: ear.payloads("repartee/metrics") == ["meanwhile 2"])
            assert ear.payloads("repartee/action") == ["meanwhile 1"]
            assert ear.payloads("repartee/state")[-1] == "idle"
            assert ear.payloads("repartee/availability")[-1] == "online"
            assert ear.bodies("repartee/link")[-1]["connections"] == 2
            assert link.counters["waiting"] == 0


async def test_what_was_in_flight_is_sent_again(tmp_path: Path) -> None:
    """A message that the broker took and never confirmed counts as lost."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear:
        await broker.save()
        async with linked(broker) as (link, _):
            await eventually(lambda: link.connections == 1 and link.counters["waiting"] == 0)
            await broker.freeze()
            link.publish("action", "1")
            link.publish("action", "2")
            await asyncio.sleep(0.1)  # the first one leaves
            assert link.counters["waiting"] == 2
            await broker.kill()
            await broker.start()
            await eventually(lambda: ear.payloads("repartee/action") == ["1", "2"], 20.0)


async def test_leaving_a_broker_that_does_not_answer(tmp_path: Path) -> None:
    """Neither the link nor its end waits for long."""
    async with running_broker(tmp_path) as broker:
        link = MqttLink(MqttConfig(host="127.0.0.1", port=broker.port), lambda *_: None)
        task = asyncio.create_task(link.run())
        await eventually(lambda: link.connections == 1 and link.counters["waiting"] == 0)
        await broker.freeze()
        link.publish("action", "1")
        link.leave()
        await asyncio.sleep(0.1)
        assert not task.done()  # it would still like to deliver that
        task.cancel()
        async with asyncio.timeout(5.0):
            await asyncio.wait({task})
        assert task.cancelled()


async def test_more_than_may_wait(tmp_path: Path) -> None:
    """What is said before there is a connection costs bounded memory: metrics go first, orders arrive."""
    few = {"outgoing_messages": 100}
    async with running_broker(tmp_path) as broker, listening(broker) as ear, linked(broker, **few) as (link, _):
        for number in range(200):
            link.publish("metrics", str(number), qos=0, rank=Rank.LOW)
        for number in range(60):
            link.publish("action", str(number), rank=Rank.HIGH)
        assert link.connections == 0
        assert link.counters["waiting"] == 100 + 1  # and that we are online
        assert link.counters["dropped_low"] == 160
        await eventually(lambda: len(ear.payloads("repartee/metrics")) == 40, 20.0)
        assert ear.payloads("repartee/action") == [str(number) for number in range(60)]
        assert ear.payloads("repartee/metrics") == [str(number) for number in range(160, 200)]
        assert ear.bodies("repartee/link")[-1]["dropped_low"] == 160


async def test_a_flood_of_commands_is_bounded(tmp_path: Path) -> None:
    """Commands that come faster than they are taken are dropped and counted; a huge one never arrives."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear, linked(broker) as (link, commands):
        await eventually(lambda: link.connections == 1)
        await ear.send("repartee/command/say", b"x" * (2 << 20))
        await asyncio.gather(*[ear.send("repartee/command/mute", b"%d" % number) for number in range(500)])
        await eventually(lambda: len(commands) + link.dropped_commands == 500)
        assert all(name == "mute" for name, _, _ in commands)
        assert link.connections == 1


async def test_a_name_and_a_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the right ones the broker lets us in; wrong ones are a line of the log. No log holds a password."""
    caplog.set_level(logging.DEBUG)
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    secret.write_text("tea for two\n", encoding="utf-8")
    wrong.write_text("coffee for one\n", encoding="utf-8")
    users = tmp_path / "users"
    run("mosquitto_passwd", "-b", "-c", str(users), "agent", "tea for two")
    users.chmod(0o644)
    async with running_broker(tmp_path, "allow_anonymous false", f"password_file {users}") as broker:
        async with linked(broker, username="agent", password_file=wrong) as (link, _):
            await eventually(lambda: "no MQTT broker" in caplog.text)
            assert "Not authorized" in caplog.text
            assert link.connections == 0
        login = {"username": "agent", "password": "tea for two"}
        async with listening(broker, **login) as ear, linked(broker, username="agent", password_file=secret):
            await ear.until("repartee/availability", "online")
    assert "for two" not in caplog.text
    assert "for one" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves a refused socket to Python
async def test_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate of an authority that we were told to trust is accepted, any other is not."""
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run(*make, "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "ca"), *name)
    (tmp_path / "key").chmod(0o644)
    settings = [f"certfile {tmp_path / 'ca'}", f"keyfile {tmp_path / 'key'}", "allow_anonymous true"]
    async with running_broker(tmp_path, *settings) as broker:
        async with linked(broker, tls=True) as (link, _):
            await eventually(lambda: "no MQTT broker" in caplog.text)
            assert "certificate verify failed" in caplog.text
            assert link.connections == 0
        del link
        gc.collect()
        async with linked(broker, tls=True, tls_ca=tmp_path / "ca") as (link, _):
            await eventually(lambda: link.connections == 1)


async def test_who_is_no_broker(caplog: pytest.LogCaptureFixture) -> None:
    """Names that do not exist, and names that are none, are an absent broker."""
    for host in ("no.such.host.invalid", "a..b"):
        caplog.clear()
        link = MqttLink(MqttConfig(host=host), lambda *_: None)
        task = asyncio.create_task(link.run())
        await eventually(lambda: "no MQTT broker" in caplog.text, 30.0)
        link.leave()
        await task
