"""What is answered over HTTP, by a real server."""

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from streaming.connection import Client
from streaming.http_request import MAX_BODY
from streaming.websocket import RealtimeServer, ServerConfig

TOKEN = "correct-horse-battery-staple"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
SECRETS = "/v1/realtime/client_secrets"


async def tell_preset(client: Client) -> None:
    """Send what the client's secret was made with."""
    await client.send(json.dumps(client.preset))


@contextlib.asynccontextmanager
async def listening(token: str | None = TOKEN) -> AsyncIterator[RealtimeServer]:
    config = ServerConfig(port=0)
    figures = lambda: ("text/plain; version=0.0.4", b"up 1\n")  # noqa: E731
    async with RealtimeServer(config, tell_preset, lambda: {"version": "1.2"}, figures, token) as server:
        yield server


async def ask(
    server: RealtimeServer, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request, its body as JSON unless it is bytes, and the answer."""

    def request() -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    return await asyncio.to_thread(request)


async def test_readiness_ends_with_draining() -> None:
    """A draining server is alive and not ready; probes need no token."""
    async with listening() as server:
        assert (await ask(server, "GET", "/readyz"))[0].status == 200
        server.draining = True
        response, body = await ask(server, "GET", "/readyz")
        assert (response.status, json.loads(body)) == (503, {"status": "draining"})
        response, body = await ask(server, "GET", "/healthz")
        assert (response.status, json.loads(body)["status"]) == (200, "draining")


async def test_figures_need_the_token() -> None:
    """Who may not talk may not count either; the content type is the one given."""
    async with listening() as server:
        assert (await ask(server, "GET", "/metrics"))[0].status == 401
        response, body = await ask(server, "GET", "/metrics", headers=AUTHORIZED)
        assert (response.status, body) == (200, b"up 1\n")
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4"


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("POST", "/healthz", 405, "GET"),
        ("POST", "/v1/realtime", 405, "GET"),
        ("GET", SECRETS, 405, "POST"),
        ("DELETE", "/metrics", 405, "GET"),
        ("POST", "/v1/nothing", 404, None),
        ("HEAD", "/healthz", 200, None),
    ],
)
async def test_methods(method: str, path: str, status: int, allowed: str | None) -> None:
    """What is not served is refused with the right method, and HEAD is a GET without a body."""
    async with listening() as server:
        response, body = await ask(server, method, path)
        assert response.status == status
        assert response.headers.get("Allow") == allowed
        assert (body == b"") is (method == "HEAD")


async def test_a_secret_opens_a_session_with_its_settings() -> None:
    """A server of yours makes one; a browser connects with it as a subprotocol, and its session begins as asked."""
    asked = {
        "expires_after": {"anchor": "created_at", "seconds": 60},
        "session": {"type": "realtime", "instructions": "hi"},
    }
    async with listening() as server:
        response, body = await ask(server, "POST", SECRETS, asked, AUTHORIZED)
        made = json.loads(body)
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        assert made["session"]["instructions"] == "hi"
        assert made["expires_at"] == made["session"]["expires_at"]
        key = f"openai-insecure-api-key.{made['value']}"
        async with connect(f"ws://127.0.0.1:{server.port}/v1/realtime", subprotocols=["realtime", key]) as websocket:  # type: ignore[list-item]
            assert json.loads(await websocket.recv()) == asked["session"]


async def test_a_secret_makes_no_secrets() -> None:
    """Making them, and reading figures, needs the token itself."""
    async with listening() as server:
        _, body = await ask(server, "POST", SECRETS, headers=AUTHORIZED)
        with_secret = {"Authorization": f"Bearer {json.loads(body)['value']}"}
        assert (await ask(server, "POST", SECRETS, headers=with_secret))[0].status == 401
        assert (await ask(server, "GET", "/metrics", headers=with_secret))[0].status == 401
        assert (await ask(server, "POST", SECRETS))[0].status == 401


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_request", None),
        ([], 400, "invalid_request", None),
        ({"expire": 5}, 400, "invalid_request", "expire"),
        ({"expires_after": {"seconds": 5}}, 400, "invalid_request", "expires_after.seconds"),
        ({"session": {"voice": "x"}}, 400, "unknown_parameter", "session.voice"),
        ({"session": {"type": "transcription"}}, 400, "unsupported_value", "session.type"),
        (b" " * (MAX_BODY + 1), 413, "request_too_large", None),
    ],
)
async def test_a_wrong_request_is_explained(body: Any, status: int, code: str, param: str | None) -> None:
    """The error names what is wrong in the API's words; the server goes on."""
    async with listening() as server:
        response, answer = await ask(server, "POST", SECRETS, body, AUTHORIZED)
        error = json.loads(answer)["error"]
        assert (response.status, error["code"], error["param"]) == (status, code, param)
        assert (await ask(server, "GET", "/healthz"))[0].status == 200


async def test_without_a_token_secrets_are_made_too() -> None:
    """A program written for secrets also runs against a daemon of this machine alone."""
    async with listening(token=None) as server:
        response, body = await ask(server, "POST", SECRETS, {"session": {"type": "realtime", "model": "x"}})
        assert response.status == 200
        assert json.loads(body)["session"]["model"] == "x"
