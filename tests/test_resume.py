"""A client whose connection is lost, and that comes back to its session."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from agent.daemon import Daemon
from agent.limits import SessionLimits
from agent.reply import ReplyConfig
from agent.session import Session
from agent.turn import TurnConfig
from agent.worker import Worker
from streaming.connection import Client
from streaming.vad import VadConfig
from tests.fakes import FakeClient, FakeEngine, eventually, spoken_turn
from tests.live import running_daemon
from tests.test_daemon import read_until, spoken

VAD = VadConfig(detector="energy", silence_duration_ms=500)
TURNS = TurnConfig(end_of_turn_threshold=2.0)
SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=500", "turn.end_of_turn_threshold=2")


@contextlib.asynccontextmanager
async def serving(
    engine: FakeEngine, client: FakeClient, limits: SessionLimits | None = None, replies: ReplyConfig | None = None
) -> AsyncIterator[tuple[Session, asyncio.Task[None]]]:
    """A session that runs, and its task."""
    async with Worker(engine) as worker:
        replies = replies or ReplyConfig(max_lead_ms=160)
        session = Session(cast(Client, client), worker, VAD, TURNS, replies, limits or SessionLimits())
        task = asyncio.create_task(session.run())
        try:
            yield session, task
        finally:
            session.leave()
            async with asyncio.timeout(10):
                await task


async def come_back(session: Session, after: str | None = None) -> tuple[FakeClient, asyncio.Task[bool]]:
    """Another connection of the same client."""
    client = FakeClient()
    client.after = after
    task = asyncio.create_task(session.door.knock(cast(Client, client)))
    await asyncio.sleep(0)
    return client, task


def audio_in(client: FakeClient) -> int:
    return client.types().count("response.output_audio.delta")


# --- what the client gets ---------------------------------------------------------------------------------------------


async def test_the_session_goes_on() -> None:
    """Same id, same settings, same items, same model state; the next turn is answered as if nothing had been."""
    engine, first = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, first) as (session, _):
        first.say("session.update", session={"type": "realtime", "instructions": "be kind"})
        first.speak(spoken_turn())
        done = await first.wait_for("response.done")
        item = done["response"]["output"][0]["id"]
        first.drop()
        await eventually(lambda: session.away_since is not None)
        second, coming = await come_back(session, done["event_id"])
        created = await second.wait_for("session.created")
        assert created["session"]["id"] == session.id == first.sent[0]["session"]["id"]
        assert created["session"]["instructions"] == "be kind"
        assert created["resumed"] == {"complete": True, "last_item_id": item, "response_id": None}
        second.say("conversation.item.retrieve", item_id=item)
        assert (await second.wait_for("conversation.item.retrieved"))["item"]["id"] == item
        second.speak(spoken_turn())
        await second.wait_for("response.done")
        second.leave()
        assert await coming
    assert session.ended_by == "client"
    assert len(engine.states) == 1, "one conversation, one state of the model"
    assert session.conversation.metrics.resumed == 1


async def test_what_was_missed_is_sent_again() -> None:
    """All that came after the event that the client names, in order, each message once: the two halves make a whole."""
    engine, first = FakeEngine(reply_frames=30), FakeClient()
    async with serving(engine, first) as (session, _):
        first.speak(spoken_turn())
        await first.wait_for("response.output_audio.delta", 6)
        first.drop()
        await eventually(lambda: session.away_since is not None)
        known = next(n for n, sent in enumerate(first.sent) if sent["type"] == "response.output_audio.delta") + 3
        second, _ = await come_back(session, first.sent[known]["event_id"])
        await second.wait_for("response.done")
        whole = first.sent[: known + 1] + second.sent[1:]
        assert [sent["event_id"] for sent in second.sent[1:]][: len(first.sent) - known - 1] == [
            sent["event_id"] for sent in first.sent[known + 1 :]
        ]
        assert len({sent["event_id"] for sent in whole}) == len(whole)
        assert sum(sent["type"] == "response.output_audio.delta" for sent in whole) == 30
        assert second.sent[0]["resumed"]["response_id"] == first.sent[known]["response_id"]
        assert second.sent[-1]["response"]["status"] == "completed"


@pytest.mark.parametrize("after", [None, "event_unknown"])
async def test_a_client_that_does_not_say_what_it_has_gets_the_rest(after: str | None) -> None:
    """Nothing is sent twice to it, and it is told that something may be missing."""
    engine, first = FakeEngine(reply_frames=20), FakeClient()
    async with serving(engine, first) as (session, _):
        first.speak(spoken_turn())
        await first.wait_for("response.output_audio.delta", 4)
        first.drop()
        await eventually(lambda: session.away_since is not None)
        second, _ = await come_back(session, after)
        await second.wait_for("response.done")
    assert second.sent[0]["resumed"]["complete"] is False
    ids = [sent["event_id"] for sent in first.sent + second.sent]
    assert len(set(ids)) == len(ids)
    assert audio_in(first) + audio_in(second) == 20


# --- the reply --------------------------------------------------------------------------------------------------------


async def test_a_reply_waits_for_its_listener() -> None:
    """While nobody is there no more of it is made; then it goes on with the very next sample."""
    engine, first = FakeEngine(reply_frames=40), FakeClient()
    async with serving(engine, first) as (session, _):
        first.speak(spoken_turn())
        last = await first.wait_for("response.output_audio.delta", 3)
        first.drop()
        await eventually(lambda: session.away_since is not None)
        await asyncio.sleep(0.1)  # what was under way
        made = len(engine.states[0].modes)
        await asyncio.sleep(0.4)  # five frames
        assert len(engine.states[0].modes) == made
        assert session.at_rest
        second, _ = await come_back(session, last["event_id"])
        done = await second.wait_for("response.done")
        assert done["response"]["status"] == "completed"
        assert audio_in(second) == 40 - 3
        assert not engine.states[0].truncations


async def test_a_turn_that_was_over_is_answered_when_the_client_is_back() -> None:
    """What the user said just before the break still counts: it is heard, and the answer waits."""
    engine, first = FakeEngine(reply_frames=3), FakeClient()
    async with serving(engine, first) as (session, _):
        await first.wait_for("session.created")
        first.speak(spoken_turn())
        first.drop()
        await eventually(lambda: session.away_since is not None)
        await eventually(lambda: session.conversation.metrics.replies == 1)
        assert audio_in(first) == 0
        second, _ = await come_back(session, first.sent[0]["event_id"])
        await second.wait_for("response.done")
        assert "input_audio_buffer.committed" in second.types()
        assert audio_in(second) == 3


async def test_the_user_may_interrupt_after_coming_back() -> None:
    """A reply that goes on can be ended as any other; the model remembers what was heard of it."""
    engine, first = FakeEngine(reply_frames=200), FakeClient()
    async with serving(engine, first, replies=ReplyConfig(max_lead_ms=160, take_back_ms=0)) as (session, _):
        first.speak(spoken_turn())
        await first.wait_for("response.output_audio.delta", 5)
        first.drop()
        await eventually(lambda: session.away_since is not None)
        second, _ = await come_back(session, first.sent[-1]["event_id"])
        await second.wait_for("response.output_audio.delta", 2)
        second.speak(spoken_turn(after_s=0.1))
        done = await second.wait_for("response.done")
        await eventually(lambda: bool(engine.states[0].truncations))  # the model is told after the client
    assert done["response"]["status"] == "cancelled"
    assert 5 <= engine.states[0].truncations[0] <= 20


# --- who may, and for how long ----------------------------------------------------------------------------------------


async def test_grace_ends() -> None:
    """A client that does not come in time has lost its session."""
    client = FakeClient()
    async with serving(FakeEngine(), client, SessionLimits(resume_grace_s=0.05)) as (session, task):
        await client.wait_for("session.created")
        client.drop()
        async with asyncio.timeout(5):
            await task
        assert session.ended_by == "lost"
        _, coming = await come_back(session)
        assert not await coming


@pytest.mark.parametrize("how", ["leave", "vanish", "no grace"])
async def test_who_leaves_is_not_waited_for(how: str) -> None:
    """A client that closed its connection has left; and with no grace a lost one has."""
    client = FakeClient()
    async with serving(FakeEngine(), client, SessionLimits(resume_grace_s=0.0 if how == "no grace" else 30.0)) as (
        session,
        task,
    ):
        await client.wait_for("session.created")
        {"leave": client.leave, "vanish": client.vanish, "no grace": client.drop}[how]()
        async with asyncio.timeout(5):
            await task
        assert session.ended_by == "client"


async def test_a_client_that_is_there_keeps_its_session() -> None:
    """Somebody who knows the id, while the connection stands and answers, gets nothing."""
    first = FakeClient()
    async with serving(FakeEngine(), first) as (session, _):
        await first.wait_for("session.created")
        _, coming = await come_back(session)
        assert not await coming
        first.say("input_audio_buffer.clear")
        await first.wait_for("input_audio_buffer.cleared")
        first.alive = False
        second, coming = await come_back(session)
        await second.wait_for("session.created")
        assert not coming.done()


async def test_another_credential_does_not_get_the_session() -> None:
    """Each token or secret resumes only what it opened."""
    first, other = FakeClient(), FakeClient()
    first.credential, other.credential = b"mine", b"theirs"
    async with serving(FakeEngine(), first) as (session, _):
        await first.wait_for("session.created")
        first.drop()
        await eventually(lambda: session.away_since is not None)
        assert not await session.door.knock(cast(Client, other))
        assert not await session.door.knock(cast(Client, FakeClient()))
        other.credential = b"mine"
        coming = asyncio.create_task(session.door.knock(cast(Client, other)))
        await other.wait_for("session.created")
        assert not coming.done()


async def test_a_client_that_does_not_read_may_come_back() -> None:
    """The connection is closed with 1013, the session waits, and says that something is missing."""
    first = FakeClient()
    never = asyncio.Event()

    async def stuck(text: str) -> None:
        await never.wait()

    async def close(code: int, reason: str) -> None:
        first.closed = (code, reason)
        first.drop()

    first.send, first.close = stuck, close  # type: ignore[method-assign]
    async with serving(FakeEngine(), first, SessionLimits(outgoing_messages=64)) as (session, _):
        for _ in range(80):
            first.say("session.update", session={"type": "realtime"})
        await eventually(lambda: session.away_since is not None)
        assert first.closed is not None and first.closed[0] == 1013
        second, _ = await come_back(session, "event_1")
        created = await second.wait_for("session.created")
        assert created["resumed"]["complete"] is False
        second.say("input_audio_buffer.clear")
        await second.wait_for("input_audio_buffer.cleared")


# --- over real sockets ------------------------------------------------------------------------------------------------


async def dialled(daemon: Daemon, query: str = "", **options: Any) -> tuple[ClientConnection, dict[str, Any]]:
    """A connection, and what it was greeted with."""
    socket = await connect(f"ws://127.0.0.1:{daemon.port}/v1/realtime{query}", **options)
    return socket, json.loads(await socket.recv())


def break_off(socket: ClientConnection) -> None:
    """The client is gone, without a word."""
    socket.transport.abort()


async def test_a_broken_socket_is_resumed() -> None:
    """Through the whole daemon: the reply is heard in full over two connections, and the counters tell."""
    engine = FakeEngine(reply_frames=25)
    async with running_daemon(engine, *SETTINGS) as daemon:
        first, created = await dialled(daemon)
        await spoken(first)
        seen = await read_until(first, "response.output_audio.delta")
        break_off(first)
        query = f"?session_id={created['session']['id']}&after={seen[-1]['event_id']}"
        second, again = await dialled(daemon, query)
        assert again["session"]["id"] == created["session"]["id"]
        assert again["resumed"]["complete"] is True
        seen += await read_until(second, "response.done")
        assert sum(event["type"] == "response.output_audio.delta" for event in seen) == 25
        assert len(daemon.sessions) == 1
        await second.close()
        await eventually(lambda: not daemon.sessions)
    assert len(engine.states) == 1


async def test_an_unknown_session_is_a_new_one() -> None:
    """A client that comes too late, or made the id up, begins anew: another id, and nothing about resuming."""
    async with running_daemon(FakeEngine(), *SETTINGS) as daemon:
        socket, created = await dialled(daemon, "?session_id=sess_00000000000000000000&after=event_1")
        assert created["session"]["id"] != "sess_00000000000000000000"
        assert "resumed" not in created
        await socket.close()


async def test_a_session_that_stands_is_not_taken() -> None:
    """While the first connection answers pings, the second gets a session of its own; both go on."""
    async with running_daemon(FakeEngine(reply_frames=1), *SETTINGS) as daemon:
        first, created = await dialled(daemon)
        second, other = await dialled(daemon, f"?session_id={created['session']['id']}")
        assert other["session"]["id"] != created["session"]["id"]
        for socket in (first, second):
            await spoken(socket)
            await read_until(socket, "response.done")
            await socket.close()


async def test_a_silent_peer_loses_its_session_to_its_own_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is dead says nothing: the connection stands, no pong comes, and the client's next one wins."""
    monkeypatch.setattr("agent.link.ALIVE_WITHIN_S", 0.2)
    async with running_daemon(FakeEngine(), *SETTINGS) as daemon:
        first, created = await dialled(daemon)
        first.transport.pause_reading()  # it will never see the ping
        second, again = await dialled(daemon, f"?session_id={created['session']['id']}")
        assert again["session"]["id"] == created["session"]["id"]
        await second.close()
        break_off(first)


async def test_a_dead_peer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that answers no pings is given up after a while; then its session waits for it."""
    monkeypatch.setattr("streaming.websocket._PING_INTERVAL_S", 0.1)
    monkeypatch.setattr("streaming.websocket._PING_TIMEOUT_S", 0.2)
    async with running_daemon(FakeEngine(), *SETTINGS) as daemon:
        first, _ = await dialled(daemon, ping_interval=None)
        first.transport.pause_reading()
        (session,) = daemon.sessions
        await eventually(lambda: session.away_since is not None)
        break_off(first)


async def test_the_token_is_needed_again() -> None:
    """Without it there is no connection at all; with a secret of somebody else there is another session."""
    token = "a-long-enough-token"
    bearer: dict[str, Any] = {"additional_headers": {"Authorization": f"Bearer {token}"}}
    async with running_daemon(FakeEngine(), *SETTINGS, token=token) as daemon:
        first, created = await dialled(daemon, **bearer)
        break_off(first)
        (session,) = daemon.sessions
        await eventually(lambda: session.away_since is not None)
        query = f"?session_id={created['session']['id']}"
        with pytest.raises(Exception, match="401"):
            await dialled(daemon, query)
        second, again = await dialled(daemon, query, **bearer)
        assert again["session"]["id"] == created["session"]["id"]
        await second.close()


async def test_who_waits_holds_a_place_until_somebody_wants_it() -> None:
    """Sessions that wait for their client count, and the one that has waited longest goes when a new one comes."""
    async with running_daemon(FakeEngine(), *SETTINGS, "server.max_sessions=2") as daemon:
        old, _ = await dialled(daemon)
        young, created = await dialled(daemon)
        for socket in (old, young):
            break_off(socket)
            await eventually(lambda: sum(session.away_since is not None for session in daemon.sessions) > 0)
        await eventually(lambda: all(session.away_since is not None for session in daemon.sessions))
        assert len(daemon.sessions) == 2
        new, greeting = await dialled(daemon)
        assert greeting["type"] == "session.created"
        assert len(daemon.sessions) == 2
        back, again = await dialled(daemon, f"?session_id={created['session']['id']}")
        assert again["session"]["id"] == created["session"]["id"], "the younger one is still there"
        full, refused = await dialled(daemon)
        assert refused["error"]["code"] == "server_at_capacity"
        for socket in (new, back, full):
            await socket.close()


async def test_the_daemon_does_not_wait_for_the_absent() -> None:
    """Told to end, it ends at once, though a session with half a reply waits for its client."""
    async with running_daemon(FakeEngine(reply_frames=200), *SETTINGS) as daemon:
        socket, _ = await dialled(daemon)
        await spoken(socket)
        await read_until(socket, "response.output_audio.delta")
        break_off(socket)
        (session,) = daemon.sessions
        await eventually(lambda: session.away_since is not None)
        daemon.drain()
        await eventually(lambda: not daemon.sessions, 3.0)
        assert session.ended_by == "shutdown"


async def test_ids_cannot_be_guessed() -> None:
    """80 bits from the system's generator, and none twice."""
    async with running_daemon(FakeEngine(), *SETTINGS) as daemon:
        ids = []
        for _ in range(3):
            socket, created = await dialled(daemon)
            ids.append(created["session"]["id"].removeprefix("sess_"))
            await socket.close()
        assert len(set(ids)) == 3
        bits = np.array([list(bytes.fromhex(one)) for one in ids])
        assert bits.shape == (3, 10)


# --- at every point ---------------------------------------------------------------------------------------------------


def essence(sent: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What a client was told, without names and times."""
    return [(one["type"], one.get("delta"), one.get("transcript")) for one in sent]


async def test_a_conversation_may_be_cut_after_any_message() -> None:
    """After each single message of it: the client comes back, and has been told the same in the end, all of it once."""

    async def talk(cut_after: int | None) -> list[dict[str, Any]]:
        first, arrived = FakeClient(), 0
        take = first.send

        async def send(text: str) -> None:
            nonlocal arrived
            if arrived == cut_after:
                return  # on its way when the connection broke
            await take(text)
            arrived += 1
            if arrived == cut_after:
                first.drop()

        first.send = send  # type: ignore[method-assign]
        replies = ReplyConfig(max_lead_ms=None)
        async with serving(FakeEngine(reply_frames=3, lead_steps=1), first, replies=replies) as (session, _):
            first.speak(spoken_turn())
            if cut_after is None:
                await first.wait_for("response.done")
                return first.sent
            await eventually(lambda: session.away_since is not None)
            second, _ = await come_back(session, first.sent[-1]["event_id"])
            greeting = await second.wait_for("session.created")
            assert greeting["resumed"]["complete"]
            if first.sent[-1]["type"] != "response.done":
                await second.wait_for("response.done")
            return first.sent + second.sent[1:]

    whole = essence(await talk(None))
    assert len(whole) > 20
    for cut_after in range(1, len(whole) + 1):
        assert essence(await talk(cut_after)) == whole, f"cut after {cut_after} messages"


async def some_of(client: FakeClient) -> None:
    """Wait for a few messages."""
    await eventually(lambda: len(client.sent) >= 4 or "response.done" in client.types())


async def test_cut_again_and_again() -> None:
    """A network that loses every connection after a few messages: in the end the reply was heard, each sample once."""
    engine, client = FakeEngine(reply_frames=20), FakeClient()
    heard: list[dict[str, Any]] = []
    async with serving(engine, client) as (session, _):
        client.speak(spoken_turn())
        for _ in range(30):
            await some_of(client)
            client.drop()
            await eventually(lambda: session.away_since is not None)
            heard += client.sent if not heard else client.sent[1:]
            if heard[-1]["type"] == "response.done":
                break
            client, _ = await come_back(session, client.sent[-1]["event_id"])
    assert heard[-1]["type"] == "response.done"
    assert sum(one["type"] == "response.output_audio.delta" for one in heard) == 20
    ids = [one["event_id"] for one in heard]
    assert len(set(ids)) == len(ids)


# --- the wall clock ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0])
async def test_the_wall_clock_may_jump(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set forward or back an hour while a session runs: no limit strikes, the reply keeps its pace."""
    wall = time.time
    settings = ("session.lifetime_s=60", "session.idle_timeout_s=30", "session.resume_grace_s=20")
    async with running_daemon(FakeEngine(reply_frames=12), *SETTINGS, *settings, "reply.max_lead_ms=80") as daemon:
        socket, created = await dialled(daemon)
        await spoken(socket)
        seen = await read_until(socket, "response.output_audio.delta")
        began = asyncio.get_running_loop().time()
        monkeypatch.setattr(time, "time", lambda: wall() + jump_s)
        seen += await read_until(socket, "response.done")
        took_s = asyncio.get_running_loop().time() - began
        assert took_s > 0.6, "twelve frames are not sent faster than they are heard"
        assert sum(event["type"] == "response.output_audio.delta" for event in seen) == 12
        break_off(socket)
        (session,) = daemon.sessions
        await eventually(lambda: session.away_since is not None)
        monkeypatch.setattr(time, "time", lambda: wall() - jump_s)
        query = f"?session_id={created['session']['id']}&after={seen[-1]['event_id']}"
        socket, again = await dialled(daemon, query)
        assert again["resumed"]["complete"]
        await spoken(socket)
        await read_until(socket, "response.done")
        assert session.ended_by == "client"
        await socket.close()
