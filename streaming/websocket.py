"""The server's shell: upgrades, admission and limits around one handler a connection. No protocol logic.

* ``/v1/realtime`` and ``/v1/live/sessions`` (or without ``/v1``) upgrade to a WebSocket, ``GET /healthz`` answers JSON,
  anything else is 404.
* A full server accepts, says so in an error event and closes with 1013, so that clients know to try again.
* A message over the limit closes its own connection with 1009; a client that does not read is left after a deadline.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from streaming.realtime_messages import error_body

logger = logging.getLogger(__name__)

PATHS = ("/v1/realtime", "/realtime")
LIVE_PATHS = ("/v1/live/sessions", "/live/sessions")
POLICY, INTERNAL_ERROR, TRY_AGAIN_LATER = 1008, 1011, 1013
_CLOSE_TIMEOUT_S = 2.0
_PING_TIMEOUT_S = 60.0  # a client that sends faster than real time has its pong far behind its own audio


class ServerConfig(BaseModel):
    """Where to listen and what to admit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, le=65535)
    """0 lets the system choose."""
    max_sessions: int = Field(8, ge=1)
    max_message_mib: float = Field(16.0, gt=0.0)
    send_timeout_s: float = Field(5.0, gt=0.0)
    """A client that has not taken a message by then is closed with 1013."""


class Client:
    """One admitted connection, as its handler sees it."""

    def __init__(self, connection: ServerConnection, send_timeout_s: float) -> None:
        self._connection = connection
        self._send_timeout_s = send_timeout_s
        assert connection.request is not None, "the handshake is over"
        self._query = parse_qs(urlsplit(connection.request.path).query)

    @property
    def address(self) -> str:
        """Who is connected, for the log."""
        peer = self._connection.remote_address
        return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else str(peer)

    @property
    def live(self) -> bool:
        """Whether the client speaks the Live protocol."""
        assert self._connection.request is not None, "the handshake is over"
        return urlsplit(self._connection.request.path).path.rstrip("/") in LIVE_PATHS

    def query(self, name: str) -> str | None:
        """A parameter of the URL, None when absent."""
        values = self._query.get(name)
        return values[0] if values else None

    async def receive(self) -> str | bytes | None:
        """The next message, None once the connection is closed (by whom and why does not matter here)."""
        try:
            return await self._connection.recv()
        except ConnectionClosed:
            return None

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, also while messages still wait to be received."""
        await self._connection.wait_closed()

    async def send(self, text: str) -> None:
        """Send one text message; does nothing on a closed connection.

        Raises:
            TimeoutError: the client did not make room for it in time.
        """
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await self._connection.send(text)
        except ConnectionClosed:
            return

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; gives up on the handshake after a short while."""
        await self._connection.close(code, reason)


class RealtimeServer:
    """Listens and runs ``handler`` for every admitted client; use as ``async with``.

    Args:
        config: where and what.
        handler: owns one client from admission to the end; the connection is closed when it returns.
        health: the body of /healthz, without ``status``, ``sessions`` and ``capacity``.
    """

    def __init__(
        self, config: ServerConfig, handler: Callable[[Client], Awaitable[None]], health: Callable[[], dict[str, Any]]
    ) -> None:
        self._config = config
        self._handler = handler
        self._health = health
        self._server: Server | None = None
        self.sessions = 0
        self.refused = 0

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            OSError: the address cannot be bound.
        """
        self._server = await serve(
            self._admit,
            self._config.host,
            self._config.port,
            process_request=self._answer_http,
            select_subprotocol=_select_subprotocol,
            compression=None,  # latency matters more than bytes
            max_size=int(self._config.max_message_mib * 2**20),
            ping_timeout=_PING_TIMEOUT_S,
            close_timeout=_CLOSE_TIMEOUT_S,
            server_header="repartee",
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None, "entered before"
        self._server.close()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None, "the server is not running"
        return int(next(iter(self._server.sockets)).getsockname()[1])

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path.rstrip("/")
        if path in PATHS + LIVE_PATHS:
            return None
        if path == "/healthz":
            body = {
                "status": "full" if self.sessions >= self._config.max_sessions else "ok",
                "sessions": self.sessions,
                "capacity": self._config.max_sessions,
                **self._health(),
            }
            response = connection.respond(HTTPStatus.OK, json.dumps(body) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        return connection.respond(HTTPStatus.NOT_FOUND, "the WebSocket is at /v1/realtime, the health at /healthz\n")

    async def _admit(self, connection: ServerConnection) -> None:
        client = Client(connection, self._config.send_timeout_s)
        refusal = _refusal(connection, client)
        if refusal is not None:
            await _refuse(client, POLICY, *refusal)
            return
        if self.sessions >= self._config.max_sessions:
            self.refused += 1
            logger.info("refused %s: all %d sessions are taken", client.address, self._config.max_sessions)
            message = f"the server is at capacity ({self._config.max_sessions} sessions); try again later"
            await _refuse(client, TRY_AGAIN_LATER, "server_at_capacity", message, "server_error")
            return
        self.sessions += 1
        try:
            await self._handler(client)
        finally:
            self.sessions -= 1


def _select_subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("realtime") if "realtime" in offered else None


def _refusal(connection: ServerConnection, client: Client) -> tuple[str, str] | None:
    """Code and message for a client that wants another protocol, None for one that is welcome."""
    assert connection.request is not None, "the handshake is over"
    headers = connection.request.headers
    beta = headers.get_all("OpenAI-Beta") + headers.get_all("Sec-WebSocket-Protocol")
    if any("realtime=v1" in value or "openai-beta.realtime-v1" in value for value in beta):
        return "beta_api_not_supported", "only the GA Realtime API is served; leave the OpenAI-Beta header out"
    if client.query("intent") == "transcription":
        return "transcription_not_supported", "transcription sessions are not served"
    if client.query("call_id") is not None:
        return "calls_not_supported", "there are no calls to join"
    return None


async def _refuse(
    client: Client, close_code: int, code: str, message: str, kind: str = "invalid_request_error"
) -> None:
    event = {"type": "error", "event_id": f"event_{secrets.token_hex(10)}", "error": error_body(kind, code, message)}
    try:
        await client.send(json.dumps(event))
    except TimeoutError:
        logger.info("%s did not read why it was refused", client.address)
    await client.close(close_code, message[:120])
