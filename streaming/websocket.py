"""The server's shell: upgrades, admission and limits around one handler a connection. No protocol logic.

* ``/v1/realtime`` and ``/v1/live/sessions`` (or without ``/v1``) upgrade to a WebSocket, unless
  :mod:`streaming.admission` refuses the request, with 401 or 403; what else is served over HTTP is in
  :mod:`streaming.http_api`.
* A client may come back to a session that its connection was lost from, and takes no place of its own then; such a
  session is the first to go when there is no room for somebody new.
* A server that is full, or about to stop, accepts, says so in an error event and closes with 1013, so that clients know
  to try again.
* A message over the limit closes its own connection with 1009; a client that does not read is left after a deadline.
"""

import asyncio
import json
import logging
import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from streaming.admission import Gate, Refusal
from streaming.connection import POLICY, TRY_AGAIN_LATER, Client, Connection, address_of, ip_of
from streaming.http_api import Answer, HttpApi, Load, refused
from streaming.realtime_messages import error_body
from streaming.tls import server_context

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 2.0
_WAITING_MESSAGES = 4  # of a client, until it has to wait itself: they may be large
_PING_INTERVAL_S = 20.0
_PING_TIMEOUT_S = 60.0  # a client that sends faster than real time has its pong far behind its own audio


def _number_or_auto(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("expected a number from 1 on, or auto")


class ServerConfig(BaseModel):
    """Where to listen and what to admit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, le=65535)
    """0 lets the system choose."""
    max_sessions: Annotated[int | Literal["auto"], PlainValidator(_number_or_auto)] = "auto"
    """"auto": as many as the machine can serve in real time."""
    max_sessions_per_address: int | None = Field(None, ge=1)
    max_message_mib: float = Field(16.0, gt=0.0)
    send_timeout_s: float = Field(5.0, gt=0.0)
    """A client that has not taken a message by then is closed with 1013."""
    drain_s: float = Field(10.0, ge=0.0)
    """When the daemon is told to end, replies may be finished for this long."""
    token_file: Path | None = None
    """Holds the token that clients must bring, in one line."""
    origins: tuple[str, ...] = ()
    """Web pages that may connect, beside those of the daemon's own address."""
    tls_cert: Path | None = None
    """PEM, with the chain; ``tls_key`` is its key."""
    tls_key: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        return self


class _Turned(NamedTuple):
    """Why a client that was let in is turned away at once."""

    reason: str
    code: str
    message: str
    kind: str = "server_error"
    close_code: int = TRY_AGAIN_LATER


class Absences(Protocol):
    """Sessions whose connection was lost, and that wait for their client."""

    async def resume(self, client: Client) -> bool:
        """Go on with the session that this client asks for, to the end of the connection; False: there is none."""

    def give_up(self, ip: str | None) -> bool:
        """End the one that has waited longest, of this address (None: of any); False: there is none. It ends soon."""


class RealtimeServer:
    """Listens and runs ``handler`` for every admitted client; use as ``async with``.

    Args:
        config: where and what.
        handler: owns one client from admission to the end; the connection is closed when it returns.
        health: the body of /healthz, without ``status``, ``sessions`` and ``capacity``.
        metrics: the content type and the body of /metrics.
        token: what clients must bring; None lets everybody in.
        absences: sessions that clients may come back to; None: there are none.
        room: how many sessions there may be now, told how many there are; asked where ``max_sessions`` is auto.
    """

    def __init__(
        self,
        config: ServerConfig,
        handler: Callable[[Client], Awaitable[None]],
        health: Callable[[], dict[str, Any]],
        metrics: Callable[[], tuple[str, bytes]] | None = None,
        token: str | None = None,
        absences: Absences | None = None,
        room: Callable[[int], int] = lambda _: sys.maxsize,
    ) -> None:
        self._config = config
        self._handler = handler
        self._absences = absences
        self._left = asyncio.Event()  # somebody has, since it was cleared
        self._room = room
        self._gate = Gate(token, config.origins)
        self._http = HttpApi(self._gate, self._load, health, metrics)
        self._server: Server | None = None
        self._addresses: Counter[str] = Counter()  # sessions of each
        self.sessions = 0
        self.draining = False
        """Set it to let nobody in any more."""
        self.refused: Counter[str] = Counter()
        """Clients that were not let in, by reason."""

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            OSError: the address cannot be bound.
            TlsError: the certificate cannot be used.
        """
        config = self._config
        tls = (config.tls_cert, config.tls_key) if config.tls_cert is not None and config.tls_key is not None else None
        self._server = await serve(
            self._admit,
            config.host,
            config.port,
            process_request=self._answer_http,
            select_subprotocol=_select_subprotocol,
            compression=None,  # latency matters more than bytes
            max_size=int(config.max_message_mib * 2**20),
            max_queue=_WAITING_MESSAGES,
            ping_interval=_PING_INTERVAL_S,
            ping_timeout=_PING_TIMEOUT_S,
            close_timeout=_CLOSE_TIMEOUT_S,
            server_header="repartee",
            create_connection=Connection,
            ssl=None if tls is None else server_context(*tls),
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

    @property
    def capacity(self) -> int:
        """How many sessions there may be now."""
        fixed = self._config.max_sessions
        return self._room(self.sessions) if fixed == "auto" else fixed

    def _load(self) -> Load:
        return Load(self.sessions, self.capacity, self.draining)

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        assert isinstance(connection, Connection), "made by this server"
        http, path = connection.http, request.path.partition("?")[0].rstrip("/")
        answer = self._http.answer(http.method, path, request.headers, http.body)
        if isinstance(answer, Refusal):
            self.refused[answer.reason] += 1
            logger.info("client refused", extra={"fields": {"address": address_of(connection), "reason": answer.code}})
            answer = refused(answer)
        return None if answer is None else _response(answer, with_body=http.method != "HEAD")

    async def _admit(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Connection) and connection.request is not None, "the handshake is over"
        grant = self._gate.grant(connection.request.headers)
        client = Client(connection, self._config.send_timeout_s, grant.session if grant else None)
        ip = ip_of(connection)
        why = _unsupported(connection, client)
        if why is None and not self.draining and self._absences is not None and await self._absences.resume(client):
            return
        if (why := why or await self._find_room(ip)) is not None:
            self.refused[why.reason] += 1
            logger.info("client refused", extra={"fields": {"address": client.address, "reason": why.code}})
            await _refuse(client, why)
            return
        self.sessions += 1
        self._addresses[ip] += 1
        try:
            await self._handler(client)
        finally:
            self.sessions -= 1
            self._addresses[ip] -= 1
            self._addresses += Counter()  # forgets who has none
            self._left.set()

    async def _find_room(self, ip: str) -> _Turned | None:
        """Why there is no room for one more, even when nobody waits to be resumed."""
        while (why := self._no_room(ip)) is not None and self._absences is not None and why.reason != "draining":
            if not self._absences.give_up(ip if why.reason == "address" else None):
                break
            self._left.clear()
            await self._left.wait()
        return why

    def _no_room(self, ip: str) -> _Turned | None:
        config = self._config
        if self.draining:
            return _Turned("draining", "server_shutting_down", "the server is shutting down; try again later")
        if self.sessions >= (capacity := self.capacity):
            message = f"the server is at capacity ({capacity} sessions); try again later"
            return _Turned("capacity", "server_at_capacity", message)
        limit = config.max_sessions_per_address
        if limit is not None and self._addresses[ip] >= limit:
            message = f"your address has as many sessions as it may ({limit}); close one, or try again later"
            return _Turned("address", "too_many_sessions", message)
        return None


def _select_subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("realtime") if "realtime" in offered else None


def _unsupported(connection: ServerConnection, client: Client) -> _Turned | None:
    """What a client wants that is not served, None when it is welcome."""
    assert connection.request is not None, "the handshake is over"
    headers = connection.request.headers
    beta = headers.get_all("OpenAI-Beta") + headers.get_all("Sec-WebSocket-Protocol")
    if any("realtime=v1" in value or "openai-beta.realtime-v1" in value for value in beta):
        code, message = "beta_api_not_supported", "only the GA Realtime API is served; leave the OpenAI-Beta header out"
    elif client.query("intent") == "transcription":
        code, message = "transcription_not_supported", "transcription sessions are not served"
    elif client.query("call_id") is not None:
        code, message = "calls_not_supported", "there are no calls to join"
    else:
        return None
    return _Turned("protocol", code, message, "invalid_request_error", POLICY)


async def _refuse(client: Client, why: _Turned) -> None:
    body = error_body(why.kind, why.code, why.message)
    event = {"type": "error", "event_id": f"event_{secrets.token_hex(10)}", "error": body}
    try:
        await client.send(json.dumps(event))
    except TimeoutError:
        logger.info("client did not read why it was refused", extra={"fields": {"address": client.address}})
    await client.close(why.close_code, why.message[:120])


def _response(answer: Answer, with_body: bool) -> Response:
    headers = Headers(
        {
            "Date": formatdate(usegmt=True),
            "Connection": "close",
            "Content-Length": str(len(answer.body)),
            "Content-Type": answer.content_type,
            **answer.headers,
        }
    )
    return Response(answer.status.value, answer.status.phrase, headers, answer.body if with_body else b"")
