"""One connection that was let in, as the session behind it sees it."""

import asyncio
import hashlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from streaming.admission import credential_of
from streaming.http_api import LIVE_PATHS
from streaming.http_request import RequestReader

GOING_AWAY, POLICY, INTERNAL_ERROR, TRY_AGAIN_LATER = 1001, 1008, 1011, 1013

_FOR_GOOD = (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)


class Connection(ServerConnection):
    """A WebSocket that may begin with a POST, and knows when something came."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = RequestReader()
        self.heard = asyncio.Event()
        """Set whenever something comes, be it a pong or a part of a message."""

    def data_received(self, data: bytes) -> None:
        """Take what came (called by the loop)."""
        self.heard.set()
        if not self.http.done:
            data = self.http.feed(data)
        if data:
            super().data_received(data)


class Client:
    """One admitted connection, as its handler sees it.

    Args:
        connection: the WebSocket.
        send_timeout_s: see :class:`streaming.websocket.ServerConfig`.
        preset: the ``session`` that the client's secret was made with.
    """

    def __init__(self, connection: Connection, send_timeout_s: float, preset: dict[str, Any] | None = None) -> None:
        self.preset = preset or {}
        self._connection = connection
        self._send_timeout_s = send_timeout_s
        assert connection.request is not None, "the handshake is over"
        self._query = parse_qs(urlsplit(connection.request.path).query)
        credential = credential_of(connection.request.headers)
        self.credential = None if credential is None else hashlib.sha256(credential.encode()).digest()
        """What tells the tokens that clients bring apart; None for a client that brought none."""

    @property
    def address(self) -> str:
        """Who is connected, for the log."""
        return address_of(self._connection)

    @property
    def ip(self) -> str:
        """The address without its port."""
        return ip_of(self._connection)

    @property
    def live(self) -> bool:
        """Whether the client speaks the Live protocol."""
        assert self._connection.request is not None, "the handshake is over"
        return urlsplit(self._connection.request.path).path.rstrip("/") in LIVE_PATHS

    @property
    def lost(self) -> bool:
        """Whether the connection, which is closed, broke: the client did not leave and did nothing that is wrong.

        It is gone without a word, or it answered no pings, or did not take what it was sent, or it closed with another
        code than those for good (1000, 1001, or none).
        """
        ends = self._connection.protocol
        if ends.close_rcvd is not None and ends.close_rcvd_then_sent:
            return ends.close_rcvd.code not in _FOR_GOOD
        return ends.close_sent is None or ends.close_sent.code in (INTERNAL_ERROR, TRY_AGAIN_LATER)

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

    async def answers(self, within_s: float) -> bool:
        """Whether somebody is there: after a ping, anything at all comes from the client in time."""
        self._connection.heard.clear()
        try:
            async with asyncio.timeout(within_s):
                await self._connection.ping()
                await self._connection.heard.wait()
        except (TimeoutError, ConnectionClosed):
            return False
        return True

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

    def abort(self) -> None:
        """Drop the connection without a word: nobody is there to hear one."""
        self._connection.transport.abort()


def ip_of(connection: ServerConnection) -> str:
    """The client's address without its port."""
    peer = connection.remote_address
    return str(peer[0]) if isinstance(peer, tuple) else str(peer)


def address_of(connection: ServerConnection) -> str:
    """Who is connected, for the log."""
    peer = connection.remote_address
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else str(peer)
