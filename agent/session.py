"""One WebSocket client: the protocol on one side, a conversation on the other.

* Four tasks, one group: receive, think (the conversation's mind), send, watch (whether the client is still there
  while receive waits for the model). The first to end ends the session.
* The last hop is the sender: audio of a reply that was interrupted meanwhile is dropped there.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agent.actions import Actions
from agent.conversation import Conversation
from agent.errors import SlowReader, StepError
from agent.reply import ReplyConfig
from agent.telegraph import Telegraph
from agent.turn import TurnConfig
from agent.worker import Worker
from streaming import realtime_events as events
from streaming.realtime import OutMessage, RealtimeProtocol
from streaming.realtime_config import SessionConfig
from streaming.vad import VadConfig
from streaming.websocket import INTERNAL_ERROR, TRY_AGAIN_LATER, Client

_LIFETIME_S = 24 * 3600  # told to the client; nothing ends then


class SessionLimits(BaseModel):
    """Bounds of one WebSocket session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outgoing_messages: int = Field(1_024, ge=64)
    """Messages that may wait for a slow client; over it the session is closed with 1013."""
    outgoing_mib: float = Field(32.0, gt=0.0)
    """Their size together, with the same policy; a single message may be larger."""
    greeting_timeout_s: float = Field(30.0, gt=0.0)
    """Time a new session may wait for the model thread."""


class _Ended(Exception):
    """The client has gone."""


class Session:
    """Serves one client; create it and await :meth:`run`.

    Args:
        client: the connection.
        worker: the model thread.
        vad: detector settings; the client may change its thresholds.
        turns: turn-taking settings.
        replies: lead and bounds of replies.
        limits: bounds of the session.
        clock: seconds, monotonic.
        actions: what replies do; None when they only speak.
        telegraph: who is told over MQTT; None: nobody.
    """

    def __init__(
        self,
        client: Client,
        worker: Worker,
        vad: VadConfig,
        turns: TurnConfig,
        replies: ReplyConfig,
        limits: SessionLimits,
        clock: Callable[[], float] = time.monotonic,
        actions: Actions | None = None,
        telegraph: Telegraph | None = None,
    ) -> None:
        self._client = client
        self._worker = worker
        self._settings = (vad, turns, replies)
        self._limits = limits
        self._clock = clock
        self._actions = actions
        self._telegraph = telegraph
        config = initial_config(client.query("model"), actions.tools if actions else [])
        self._protocol = RealtimeProtocol(config, expires_at=int(time.time()) + _LIFETIME_S)
        self._outgoing: asyncio.Queue[OutMessage] = asyncio.Queue(limits.outgoing_messages)
        self._outgoing_bytes = 0
        self._conversation: Conversation | None = None
        self._logger = _SessionLogger(logging.getLogger(__name__), {"session": self._protocol.session_id})

    @property
    def conversation(self) -> Conversation:
        """The conversation, once :meth:`run` has opened it."""
        assert self._conversation is not None, "the session has not begun"
        return self._conversation

    async def run(self) -> None:
        """Serve until the client leaves; the connection is closed when this returns."""
        began = self._clock()
        close: tuple[int, str] | None = None
        try:
            async with asyncio.timeout(self._limits.greeting_timeout_s):
                lane = await self._worker.open()
            self._conversation = Conversation(lane, self._emit, *self._settings, self._clock, self._actions)
            self._logger.info("opened for %s", self._client.address)
            with self._joined(self._conversation):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._receive(), name="receive")
                    tasks.create_task(self._conversation.run(), name="think")
                    tasks.create_task(self._send(), name="send")
                    tasks.create_task(self._watch(), name="watch")
        except* _Ended:
            pass
        except* SlowReader as group:
            self._logger.warning("closed: %s", group.exceptions[0])
            close = (TRY_AGAIN_LATER, "the client does not read what it is sent")
        except* (StepError, TimeoutError) as group:
            self._logger.error("the model failed", exc_info=group.exceptions[0])
            close = (INTERNAL_ERROR, "the model failed")
        except* Exception as group:  # the session boundary: a fault here must not touch the other sessions
            self._logger.exception("internal error", exc_info=group)
            close = (INTERNAL_ERROR, "internal error")
        finally:
            self._drop_outgoing()
            if self._conversation is not None:
                seconds = self._clock() - began
                self._logger.info("closed after %.1f s: %s", seconds, self._conversation.metrics.summary())
        if close is not None:
            await self._part(*close)

    def _joined(self, conversation: Conversation) -> AbstractContextManager[None]:
        if self._telegraph is None:
            return contextlib.nullcontext()
        return self._telegraph.joined(self._protocol.session_id, conversation)

    async def _receive(self) -> None:
        self._protocol.open()
        self._flush()
        while (message := await self._client.receive()) is not None:
            commands = self._protocol.receive(message)
            self._flush()
            for command in commands:
                await self.conversation.do(command)
        raise _Ended

    async def _watch(self) -> None:
        await self._client.wait_closed()
        raise _Ended

    async def _send(self) -> None:
        while True:
            message = await self._outgoing.get()
            self._outgoing_bytes -= len(message.text)
            if message.reply is not None and self.conversation.is_stale(message.reply):
                self.conversation.metrics.stale_messages += 1
                continue
            try:
                await self._client.send(message.text)
            except TimeoutError as exc:
                raise SlowReader("a message was not taken in time") from exc

    def _emit(self, event: events.Event) -> None:
        self._protocol.send(event)
        self._flush()

    def _flush(self) -> None:
        for message in self._protocol.messages_to_send():
            self._outgoing_bytes += len(message.text)  # the text is ASCII
            if self._outgoing_bytes > self._limits.outgoing_mib * 2**20 and not self._outgoing.empty():
                raise SlowReader(f"more than {self._limits.outgoing_mib:g} MiB were waiting")
            try:
                self._outgoing.put_nowait(message)
            except asyncio.QueueFull as exc:
                raise SlowReader(f"more than {self._limits.outgoing_messages} messages were waiting") from exc

    def _drop_outgoing(self) -> None:
        while not self._outgoing.empty():  # a failure's traceback may keep the session alive for long
            self._outgoing.get_nowait()

    async def _part(self, code: int, reason: str) -> None:
        if code == INTERNAL_ERROR:
            self._protocol.send(events.Broken("internal_error", reason))
            for message in self._protocol.messages_to_send()[-1:]:
                try:
                    await self._client.send(message.text)
                except TimeoutError:
                    break
        await self._client.close(code, reason)


class _SessionLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the session's id before every line."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        assert self.extra is not None, "made with an id"
        return f"{self.extra['session']} {msg}", kwargs


def initial_config(model: str | None, tools: list[dict[str, Any]]) -> SessionConfig:
    """The configuration a session starts with: the domain's tools, and all else as it is by default."""
    return SessionConfig(model=model or "local", tools=tools)
