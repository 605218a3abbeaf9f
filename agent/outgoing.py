"""What a session has to tell its client: messages that wait, and the latest of those that were sent."""

import asyncio
from collections import deque

from agent.errors import SlowReader
from streaming.realtime import OutMessage


class Outgoing:
    """Messages for one client, in order, who may lose its connection and come back.

    * At most ``most`` messages, or ``most_bytes``, wait. Over it all are dropped, and :meth:`overrun` raises.
    * Of those that were sent the latest ``kept_bytes`` are kept, so that :meth:`rewind` can send them again.

    Args:
        most: messages that may wait.
        most_bytes: their size; a single message may be larger.
        kept_bytes: of messages that were sent; 0 keeps none.
    """

    def __init__(self, most: int, most_bytes: int, kept_bytes: int) -> None:
        self._most, self._most_bytes, self._most_kept = most, most_bytes, kept_bytes
        self._waiting: deque[OutMessage] = deque()
        self._waiting_bytes = 0
        self._sent: deque[OutMessage] = deque()
        self._sent_bytes = 0
        self._sending = False
        self._news = asyncio.Event()
        self._all_sent = asyncio.Event()
        self._over = ""
        self._overrun = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: OutMessage) -> None:
        """Add a message; dropped after an overrun."""
        if self._over:
            return
        self._waiting_bytes += len(message.text)  # the text is ASCII
        if self._waiting and self._waiting_bytes > self._most_bytes:
            self._fail(f"more than {self._most_bytes / 2**20:g} MiB were waiting")
        elif len(self._waiting) >= self._most:
            self._fail(f"more than {self._most} messages were waiting")
        else:
            self._waiting.append(message)
            self._all_sent.clear()
            self._news.set()

    def _fail(self, why: str) -> None:
        self.clear()
        self._over = why
        self._overrun.set()

    async def overrun(self) -> None:
        """Wait until there is too much.

        Raises:
            SlowReader: there is; the message says how much.
        """
        await self._overrun.wait()
        raise SlowReader(self._over)

    async def take(self) -> OutMessage:
        """The next message, to be sent now; :meth:`sent` ends that."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        message = self._waiting.popleft()
        self._waiting_bytes -= len(message.text)
        self._sending = True
        self._sent.append(message)
        self._sent_bytes += len(message.text)
        while self._sent_bytes > self._most_kept:
            self._sent_bytes -= len(self._sent.popleft().text)
        return message

    def sent(self) -> None:
        """What was taken is sent."""
        self._sending = False
        if not self._waiting:
            self._all_sent.set()

    async def drained(self) -> None:
        """Wait until everything is sent."""
        if self._waiting or self._sending:
            self._all_sent.clear()
            await self._all_sent.wait()

    def knows(self, event_id: str | None) -> bool:
        """Whether everything that came after this event can be sent again."""
        return event_id is not None and any(message.event_id == event_id for message in self._sent)

    def rewind(self, after: str | None, greeting: OutMessage) -> list[OutMessage]:
        """Begin again, on a new connection: with a greeting, then what was sent after an event, then what waits.

        Args:
            after: id of the event; nothing is sent again when it is not known.
            greeting: goes first.

        Returns:
            What is sent again, newest first.
        """
        again: list[OutMessage] = []
        if self.knows(after):
            while self._sent[-1].event_id != after:
                again.append(self._sent.pop())
        self._sending, self._over = False, ""
        self._overrun.clear()
        self._waiting.extendleft([*again, greeting])
        self._waiting_bytes = sum(len(message.text) for message in self._waiting)
        self._sent_bytes = sum(len(message.text) for message in self._sent)
        self._news.set()
        return again

    def clear(self) -> None:
        """Forget everything: there is nobody to send it to, or there is too much of it."""
        self._waiting.clear()
        self._sent.clear()
        self._waiting_bytes = self._sent_bytes = 0
