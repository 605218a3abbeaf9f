"""The server's shell: paths, admission, limits; over real sockets on the loopback."""

import asyncio
import contextlib
import http.client
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.typing import Origin, Subprotocol

from agent.logs import fields_of
from streaming.connection import Client
from streaming.tls import self_signed
from streaming.websocket import RealtimeServer, ServerConfig
from tests.fakes import eventually


async def echo(client: Client) -> None:
    """Send every message back."""
    while (message := await client.receive()) is not None:
        await client.send(f"{type(message).__name__} {len(message)} {client.query('model')}")


@contextlib.asynccontextmanager
async def listening(
    handler: Callable[[Client], Awaitable[None]] = echo, token: str | None = None, **settings: Any
) -> AsyncIterator[RealtimeServer]:
    config = ServerConfig(port=0, **settings)
    async with RealtimeServer(config, handler, lambda: {"version": "1.2"}, token=token) as server:
        yield server


def url(server: RealtimeServer, path: str = "/v1/realtime?model=local") -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


async def get(server: RealtimeServer, path: str) -> tuple[int, str, str]:
    """Status, content type and body of a plain GET."""

    def request() -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(request)


async def last_words(websocket: Any) -> tuple[dict[str, Any], int]:
    """The error event before a close, and the close code."""
    event = json.loads(await websocket.recv())
    with pytest.raises(ConnectionClosed) as caught:
        await websocket.recv()
    assert caught.value.rcvd is not None
    return event, caught.value.rcvd.code


@pytest.mark.parametrize("path", ["/v1/realtime?model=local", "/realtime?model=local", "/v1/realtime/?model=local"])
async def test_paths_that_upgrade(path: str) -> None:
    """Both paths lead to the handler, which sees the query."""
    async with listening() as server, connect(url(server, path)) as websocket:
        await websocket.send("hello")
        assert await websocket.recv() == "str 5 local"


async def test_room_is_asked_for_where_no_number_is_given() -> None:
    """With max_sessions auto, who comes is let in as long as there is room, and the load shows how much there is."""
    asked: list[int] = []

    def room(sessions: int) -> int:
        asked.append(sessions)
        return 2 if sessions < 2 else 1

    server = RealtimeServer(ServerConfig(port=0), echo, dict, room=room)
    async with server, connect(url(server)) as first, connect(url(server)) as second, connect(url(server)) as third:
        event, code = await last_words(third)
        assert (event["error"]["code"], code) == ("server_at_capacity", 1013)
        assert "(1 sessions)" in event["error"]["message"]
        for websocket in (first, second):
            await websocket.send("hello")
            await websocket.recv()
        _, _, body = await get(server, "/healthz")
        assert (json.loads(body)["status"], json.loads(body)["capacity"]) == ("full", 1)
    assert asked[:3] == [0, 1, 2]


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "many", None])
def test_a_number_of_sessions_or_auto(wrong: object) -> None:
    """Anything else is named."""
    with pytest.raises(ValidationError, match=r"max_sessions\n.*a number from 1 on, or auto"):
        ServerConfig.model_validate({"max_sessions": wrong})


async def test_other_paths_are_not_found() -> None:
    """Any other path is 404, with and without an upgrade."""
    async with listening() as server:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url(server, "/v1/live")):
                pass
        assert caught.value.response.status_code == 404
        assert (await get(server, "/nothing"))[0] == 404


async def test_health() -> None:
    """/healthz is JSON with the load."""
    async with listening(max_sessions=1) as server:
        status, kind, body = await get(server, "/healthz")
        assert (status, kind) == (200, "application/json")
        assert json.loads(body) == {"status": "ok", "sessions": 0, "capacity": 1, "version": "1.2"}
        async with connect(url(server)) as websocket:
            await websocket.send("x")
            await websocket.recv()
            assert json.loads((await get(server, "/healthz"))[2])["status"] == "full"


async def test_the_realtime_subprotocol_is_taken() -> None:
    """A browser's key stays out of the answer; without an offer there is none."""
    async with listening() as server:
        offered = [Subprotocol("realtime"), Subprotocol("openai-insecure-api-key.x")]
        async with connect(url(server), subprotocols=offered) as websocket:
            assert websocket.subprotocol == "realtime"
        async with connect(url(server)) as websocket:
            assert websocket.subprotocol is None


async def test_nothing_is_compressed() -> None:
    """Compression costs latency, so it is not negotiated."""
    async with listening() as server, connect(url(server)) as websocket:
        assert websocket.response is not None
        assert "Sec-WebSocket-Extensions" not in websocket.response.headers


async def test_a_full_server_says_so() -> None:
    """One client too many gets an error event and 1013; a place that becomes free is given away."""
    async with listening(max_sessions=1) as server:
        async with connect(url(server)) as first:
            await first.send("x")
            await first.recv()
            async with connect(url(server)) as second:
                event, code = await last_words(second)
            assert event["type"] == "error"
            assert event["error"]["code"] == "server_at_capacity"
            assert code == 1013
            await first.send("still here")
            assert await first.recv() == "str 10 local"
        await eventually(lambda: not server.sessions)
        async with connect(url(server)) as third:
            await third.send("x")
            assert await third.recv() == "str 1 local"
            assert server.refused == {"capacity": 1}


async def test_a_large_message_closes_its_own_connection() -> None:
    """20 MB is 1009 for who sent it and nothing for the others."""
    async with listening() as server, connect(url(server)) as other:
        websocket = await connect(url(server))  # not closed again: the client library stumbles over its own abort
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.send("x" * 20_000_000)
            await websocket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        await other.send("y" * 15_000_000)
        assert await other.recv() == "str 15000000 local"


async def test_binary_messages_reach_the_handler() -> None:
    """What to make of them is the protocol's business."""
    async with listening() as server, connect(url(server)) as websocket:
        await websocket.send(b"123")
        assert await websocket.recv() == "bytes 3 local"


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/v1/realtime", {"OpenAI-Beta": "realtime=v1"}, "beta_api_not_supported"),
        ("/v1/realtime?intent=transcription", {}, "transcription_not_supported"),
        ("/v1/realtime?call_id=c", {}, "calls_not_supported"),
    ],
)
async def test_other_protocols_are_refused(path: str, headers: dict[str, str], code: str) -> None:
    """Clients of what is not served hear why, and are not to retry (1008)."""
    async with listening() as server, connect(url(server, path), additional_headers=headers) as websocket:
        event, close_code = await last_words(websocket)
    assert event["error"]["code"] == code
    assert close_code == 1008


async def test_a_client_that_does_not_read_times_out() -> None:
    """Sending to a client that stopped reading fails after the deadline."""
    failed = asyncio.Event()

    async def flood(client: Client) -> None:
        try:
            while True:
                await client.send("x" * 1_000_000)
        except TimeoutError:
            failed.set()

    async with listening(flood, send_timeout_s=0.1) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        async with asyncio.timeout(10):
            await failed.wait()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_client_that_leaves_is_noticed_without_receiving() -> None:
    """The end of the connection is known while a message still waits to be received."""
    noticed = asyncio.Event()

    async def deaf(client: Client) -> None:
        await client.wait_closed()
        noticed.set()

    async with listening(deaf) as server, asyncio.timeout(5):
        async with connect(url(server)) as websocket:
            await websocket.send("hello")
        await noticed.wait()


async def test_stopping_says_going_away() -> None:
    """When the server stops, clients are closed with 1001."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(listening())
        websocket = await stack.enter_async_context(connect(url(server)))
        await websocket.send("x")
        await websocket.recv()
        stop = asyncio.create_task(server.__aexit__(None, None, None))
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
        await stop
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001


async def test_a_draining_server_says_so() -> None:
    """Who is there may stay, who comes hears why and is told to try again."""
    async with listening() as server, connect(url(server)) as first:
        await first.send("x")
        await first.recv()
        server.draining = True
        async with connect(url(server)) as second:
            event, code = await last_words(second)
        await first.send("still here")
        assert await first.recv() == "str 10 local"
    assert (event["error"]["code"], code) == ("server_shutting_down", 1013)
    assert server.refused == {"draining": 1}


async def test_sessions_an_address_may_have() -> None:
    """One address cannot take all the places; one that it gives up is its own again."""
    async with listening(max_sessions_per_address=1) as server:
        async with connect(url(server)) as first:
            await first.send("x")
            await first.recv()
            async with connect(url(server)) as second:
                event, code = await last_words(second)
            assert (event["error"]["code"], code) == ("too_many_sessions", 1013)
        await eventually(lambda: not server.sessions)
        async with connect(url(server)) as third:
            await third.send("x")
            assert await third.recv() == "str 1 local"
    assert server.refused == {"address": 1}


TOKEN = "correct-horse-battery-staple"
KEY = Subprotocol(f"openai-insecure-api-key.{TOKEN}")


@pytest.mark.parametrize(
    "offer",
    [{"additional_headers": {"Authorization": f"Bearer {TOKEN}"}}, {"subprotocols": [Subprotocol("realtime"), KEY]}],
)
async def test_the_token_opens(offer: dict[str, Any]) -> None:
    """As a header and as a subprotocol, which is not repeated in the answer."""
    async with listening(token=TOKEN) as server, connect(url(server), **offer) as websocket:
        await websocket.send("x")
        assert await websocket.recv() == "str 1 local"
        assert websocket.subprotocol in (None, "realtime")


async def test_without_the_token_there_is_no_upgrade(caplog: pytest.LogCaptureFixture) -> None:
    """401 before the upgrade, in the API's words; what was brought is not logged."""
    caplog.set_level(logging.DEBUG)
    wrong = {"Authorization": "Bearer sesame-sesame-sesame"}
    async with listening(token=TOKEN) as server:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url(server), additional_headers=wrong):
                pass
        assert server.refused == {"token": 1}
        assert server.sessions == 0
    response = caught.value.response
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert json.loads(response.body or b"")["error"]["code"] == "invalid_api_key"
    ours = [record for record in caplog.records if record.name.startswith("streaming")]
    assert [fields_of(record)["reason"] for record in ours] == ["invalid_api_key"]
    assert "sesame" not in "".join(f"{record.getMessage()} {fields_of(record)}" for record in ours)


async def test_a_strange_page_is_refused_before_the_upgrade() -> None:
    """403 for pages that are not listed, whatever they bring; the daemon's own pages connect."""
    async with listening() as server:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url(server), origin=Origin("http://evil.example")):
                pass
        assert caught.value.response.status_code == 403
        assert server.refused == {"origin": 1}
        async with connect(url(server), origin=Origin(f"http://127.0.0.1:{server.port}")) as websocket:
            await websocket.send("x")
            await websocket.recv()


async def test_tls(tmp_path: Path) -> None:
    """With a certificate the server speaks wss:// and https://, to clients that trust it, and nothing else."""
    cert, key = self_signed(tmp_path)
    trust = ssl.create_default_context(cafile=str(cert))
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    async with listening(tls_cert=cert, tls_key=key) as server:
        address = url(server).replace("ws://", "wss://")
        async with connect(address, ssl=trust) as websocket:
            await websocket.send("x")
            assert await websocket.recv() == "str 1 local"
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connect(address):
                pass
        with pytest.raises((InvalidMessage, ConnectionError)):
            async with connect(url(server)):
                pass


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/realtime?\xff=%zz HTTP/1.1\r\nHost: x\r\nOrigin: http://[\r\n\r\n",
        b"POST / HTTP/1.0\r\n\r\n",
        b"POST /v1/realtime/client_secrets HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/realtime/client_secrets HTTP/1.1\r\nContent-Length: 90000\r\n\r\n{" + b"[" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    ],
)
async def test_noise_harms_nobody(noise: bytes) -> None:
    """Whatever is thrown at the port, the connection ends and the others go on."""
    async with listening() as server, connect(url(server)) as other:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(noise)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert answer == b"" or b" 40" in answer.split(b"\r\n")[0] or b" 413" in answer
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await other.send("x")
        assert await other.recv() == "str 1 local"
