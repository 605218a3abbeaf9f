"""The connections of one session: the one there is, and the one a client comes back with."""

import asyncio
import contextlib
import hmac
from collections.abc import Callable

from agent.errors import SlowReader
from agent.metrics import SessionMetrics
from agent.outgoing import Outgoing
from streaming.connection import TRY_AGAIN_LATER, Client

ALIVE_WITHIN_S = 2.0


class Link:
    """One connection: the last hop before the wire."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.used = False  # a session has taken it
        self.over = asyncio.Event()

    async def send(self, outgoing: Outgoing, is_stale: Callable[[int], bool], metrics: SessionMetrics) -> None:
        """Send what there is to send until cancelled; audio of a reply that was interrupted is left out.

        Raises:
            SlowReader: the client does not take it.
        """
        while True:
            message = await outgoing.take()
            if message.reply is not None and is_stale(message.reply):
                metrics.stale_messages += 1
            else:
                try:
                    await self.client.send(message.text)
                except TimeoutError as exc:
                    raise SlowReader("a message was not taken in time") from exc
            outgoing.sent()

    async def drop(self) -> None:
        """Close it because the client does not read; it may come back."""
        await self.client.close(TRY_AGAIN_LATER, "the client does not read what it is sent")


class Door:
    """Through which a client comes back to its session when its connection was lost.

    A session belongs to the credential that it was opened with. Nobody takes it over from a client that is still
    there: where the connection stands, the client is asked (a ping), and loses the session only if nothing at all comes
    from it within two seconds.

    Args:
        client: who opened the session.
    """

    def __init__(self, client: Client) -> None:
        self.link: Link | None = Link(client)
        """The connection, None while there is none."""
        self.ip = client.ip
        self._credential = client.credential or b""
        self._next: Link | None = None
        self._knocked = asyncio.Event()
        self._locked = False

    async def knock(self, client: Client) -> bool:
        """Give the session this connection, and wait until it has ended; False: it may not have the session."""
        if self._locked or not hmac.compare_digest(self._credential, client.credential or b""):
            return False
        before = self.link
        if before is not None and await before.client.answers(ALIVE_WITHIN_S):
            return False
        if self._locked or self._next is not None or self.link not in (before, None):
            return False  # somebody was faster
        self._next = link = Link(client)
        self._knocked.set()
        if before is not None:
            before.client.abort()
        await link.over.wait()
        return link.used

    async def wait(self, seconds: float) -> Link | None:
        """Wait for the client to come back; None when it does not in time, or was given up."""
        self.link = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._knocked.wait()
        self._knocked.clear()
        self.link, self._next = self._next, None
        if self.link is None:
            self._locked = True
        else:
            self.link.used = True
        return self.link

    def give_up(self) -> bool:
        """Stop waiting; False when nobody is waited for."""
        if self._locked or self.link is not None or self._next is not None:
            return False
        self._locked = True
        self._knocked.set()
        return True

    def close(self) -> None:
        """The session has ended, and with it its connections."""
        self._locked = True
        for link in (self.link, self._next):
            if link is not None:
                link.over.set()
