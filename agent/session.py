"""One WebSocket client: the protocol on one side, a conversation on the other.

* Three tasks, one group: think (the conversation's mind), serve, keep time (limits, and the daemon's end). The first to
  end ends the session. Serving one connection is four more: receive, send, overrun, and watch (whether the client is
  still there while receive waits for the model).
* A client whose connection was lost may come back for a while. What it had sent is worked off, the reply waits, and so
  does what there is to tell it.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from agent.actions import Actions
from agent.cleaning import Cleaning, parts
from agent.client_echo import client_echo
from agent.conversation import Conversation
from agent.errors import SlowReader, StepError
from agent.limits import Allowance, SessionLimits
from agent.link import Door, Link
from agent.logs import SessionLogger
from agent.metrics import SessionMetrics
from agent.outgoing import Outgoing
from agent.protocols import protocol_for
from agent.reply import ReplyConfig
from agent.telegraph import Telegraph
from agent.transcripts import Transcripts
from agent.turn import TurnConfig
from agent.worker import Worker
from streaming import realtime_events as events
from streaming.connection import GOING_AWAY, INTERNAL_ERROR, POLICY, TRY_AGAIN_LATER, Client
from streaming.frames import SAMPLE_RATE_HZ
from streaming.realtime import RealtimeProtocol
from streaming.vad import VadConfig

_KEPT_BYTES = 4 * 2**20  # of messages that were sent, for a client that comes back: about a minute of speech


class _Ended(Exception):
    """The client has gone."""


class _Lost(Exception):
    """The connection was lost; the client may come back."""


class _Over(Exception):
    """The session may not go on; ``reason`` is for the figures, ``event`` for the client."""

    def __init__(self, reason: str, close_code: int, text: str, event: events.Refused | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.close_code = close_code
        self.event = event


class Session:
    """Serves one client; create it and await :meth:`run`.

    Args:
        client: the connection.
        worker: the model threads.
        vad: detector settings; the client may change its thresholds.
        turns: turn-taking settings.
        replies: lead and bounds of replies.
        limits: bounds of the session.
        clock: seconds, monotonic.
        actions: what replies do; None when they only speak.
        metrics: counters to fill; None for new ones.
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
        metrics: SessionMetrics | None = None,
        telegraph: Telegraph | None = None,
    ) -> None:
        self._settings = (vad, turns, replies)
        self._limits = limits
        self._worker, self._clock = worker, clock
        self._actions = actions
        self._metrics = metrics or SessionMetrics()
        self._telegraph = telegraph
        expires_at = int(time.time() + limits.lifetime_s)
        self._holds = client.query("holds") == "true"  # the client stops playing while a reply is held
        self._protocol = protocol_for(client, worker, actions, expires_at, holds=self._holds)
        self._grace_s = 0.0 if client.live else limits.resume_grace_s
        kept = _KEPT_BYTES if self._grace_s else 0
        self._outgoing = Outgoing(limits.outgoing_messages, int(limits.outgoing_mib * 2**20), kept)
        self._preset, self._address = client.preset, client.address
        self.door = Door(client)
        self.away_since: float | None = None
        """When the connection was lost; None while there is one."""
        self._conversation: Conversation | None = None
        self._cleaning, self._asked = Cleaning(), client.query("echo_cancellation")
        self._messages = Allowance(limits.messages_per_s, limits.messages_burst, clock())
        self._bytes = Allowance(limits.mib_per_s, limits.mib_burst, clock())
        self._audio = Allowance(limits.audio_speed, limits.audio_burst_s, clock())
        self._active_at = clock()  # something came from the client, or there was something to say
        self._leaving = asyncio.Event()
        self.ended_by = "client"
        """Why the session ended: client, lost, slow_reader, model, internal, expired, idle, rate or shutdown."""
        self._transcripts = Transcripts(self._protocol.session_id)
        self.tap: Callable[[events.Event | events.Command], None] | None = None
        """Told everything that crosses the protocol's inner border, in order; must not block."""
        self._logger = SessionLogger(logging.getLogger(__name__), {"session": self._protocol.session_id})

    @property
    def id(self) -> str:
        """Such as ``sess_6f0c…``."""
        return self._protocol.session_id

    @property
    def conversation(self) -> Conversation:
        """The conversation, once :meth:`run` has opened it."""
        assert self._conversation is not None, "the session has not begun"
        return self._conversation

    @property
    def at_rest(self) -> bool:
        """Whether nothing is being said, or waits to be sent; also while nobody is there to hear it."""
        if self._conversation is None or self.away_since is not None:
            return True
        return self._conversation.state == "idle" and not self._outgoing

    @property
    def waiting(self) -> dict[str, int]:
        """Items in each of the session's queues."""
        inbox = self._conversation.waiting if self._conversation is not None else 0
        return {"inbox": inbox, "outgoing": len(self._outgoing)}

    def leave(self) -> None:
        """End the session: the daemon is going away."""
        self._leaving.set()

    async def run(self) -> None:
        """Serve until the client leaves, or is lost and does not come back; the last connection is closed then."""
        began = self._clock()
        close: tuple[int, str] | None = None
        last_words: events.Event | None = None
        try:
            async with asyncio.timeout(self._limits.greeting_timeout_s):
                lane = await self._worker.open()
                self._cleaning = Cleaning(await asyncio.to_thread(client_echo, self._asked, self._clock, self._holds))
            settings = self._settings
            self._conversation = Conversation(
                lane, self._emit, *settings, self._clock, self._actions, self._holds, self._metrics
            )
            self._logger.info("session opened", extra={"fields": {"address": self._address}})
            with self._joined(self._conversation):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._conversation.run(), name="think")
                    tasks.create_task(self._serve(), name="serve")
                    tasks.create_task(self._keep_time(began), name="keep time")
        except* _Ended:
            pass
        except* _Over as group:
            over = _leaf(group)
            assert isinstance(over, _Over), "only these are caught here"
            self.ended_by, last_words = over.reason, over.event
            close = (over.close_code, str(over))
        except* SlowReader as group:
            self.ended_by = "slow_reader"
            self._logger.warning("the client does not read: %s", _leaf(group))
            close = (TRY_AGAIN_LATER, "the client does not read what it is sent")
        except* (StepError, TimeoutError) as group:
            self.ended_by = "model"
            self._logger.error("the model failed", exc_info=_leaf(group))
            close, last_words = self._broken("the model failed")
        except* Exception as group:  # the session boundary: a fault here must not touch the other sessions
            self.ended_by = "internal"
            self._logger.exception("internal error", exc_info=group)
            close, last_words = self._broken("internal error")
        finally:
            self._outgoing.clear()  # a failure's traceback may keep the session alive for long
            seconds = round(self._clock() - began, 1)
            summary = {"seconds": seconds, "reason": self.ended_by, **self._metrics.summary()}
            self._logger.info("session closed", extra={"fields": summary})
        if close is not None and self.door.link is not None:
            await self._part(self.door.link.client, *close, last_words)
        self.door.close()

    def _joined(self, conversation: Conversation) -> AbstractContextManager[None]:
        if self._telegraph is None:
            return contextlib.nullcontext()
        return self._telegraph.joined(self._protocol.session_id, conversation)

    # --- connections --------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Serve one connection after the other."""
        link = self.door.link
        assert link is not None, "it begins with one"
        self._protocol.open()
        self._flush()
        if self._preset and isinstance(self._protocol, RealtimeProtocol):
            await self._do(events.ConfigureSession(self._protocol.config))
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._receive(link.client), name="receive")
                    tasks.create_task(self._send(link), name="send")
                    tasks.create_task(self._watch(link.client), name="watch")
            except* _Lost:
                link.over.set()
            link = await self._come_back()

    async def _come_back(self) -> Link:
        """Wait for the client, and tell it what it has missed."""
        self.away_since = self._clock()
        self.conversation.pause()
        self._logger.info("connection lost")
        link = await self.door.wait(self._grace_s)
        if link is None:
            self.ended_by = "lost"
            raise _Ended
        after, self.away_since = link.client.query("after"), None
        assert isinstance(self._protocol, RealtimeProtocol), "the only one with sessions to come back to"
        self._protocol.resume(complete=self._outgoing.knows(after))
        (greeting,) = self._protocol.messages_to_send()
        again = self._outgoing.rewind(after, greeting)
        self._metrics.resumed += 1
        self._logger.info("session resumed", extra={"fields": {"address": link.client.address, "again": len(again)}})
        self._cleaning.repeat(sum(message.reply is not None for message in again))
        self.conversation.go_on([message.reply for message in again])
        return link

    def _ended(self, client: Client) -> Exception:
        return _Lost() if self._grace_s and client.lost else _Ended()

    async def _receive(self, client: Client) -> None:
        while (message := await client.receive()) is not None:
            self._active_at = math.inf  # until the message has been worked off
            if not self._messages.take(1, self._clock()):
                raise _too_much(f"more than {self._limits.messages_per_s:g} messages a second")
            if not self._bytes.take(len(message) / 2**20, self._clock()):
                raise _too_much(f"more than {self._limits.mib_per_s:g} MiB a second")
            commands = self._protocol.receive(message)
            self._flush()
            for command in commands:
                if isinstance(command, events.AppendAudio | events.HearItem):
                    self._check_audio(len(command.pcm) / SAMPLE_RATE_HZ)
                if self.tap is not None:
                    self.tap(command)
                await self._do(command)
            self._active_at = self._clock()
            if self._protocol.closed:
                await self._outgoing.drained()
                raise _Ended
        raise self._ended(client)

    async def _send(self, link: Link) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.send(self._outgoing, self.conversation.is_stale, self._metrics), name="send")
                tasks.create_task(self._outgoing.overrun(), name="overrun")
        except* SlowReader as group:
            if not self._grace_s:
                raise
            self._logger.warning("the client does not read: %s", _leaf(group))
            await link.drop()  # what it has sent is still worked off

    async def _watch(self, client: Client) -> None:
        await client.wait_closed()
        if isinstance(ended := self._ended(client), _Ended):
            raise ended

    # --- limits -------------------------------------------------------------------------------------------------------

    async def _do(self, command: events.Command) -> None:
        for part in parts(command):
            for cleaned in self._cleaning.take(part):
                await self.conversation.do(cleaned)
            await asyncio.sleep(0)

    def _check_audio(self, seconds: float) -> None:
        if not self._audio.take(seconds, self._clock()):
            limits = self._limits
            raise _too_much(f"audio more than {limits.audio_burst_s:g} s ahead of {limits.audio_speed:g} x real time")

    async def _keep_time(self, began: float) -> None:
        lifetime_s, idle_s = self._limits.lifetime_s, self._limits.idle_timeout_s
        while not self._leaving.is_set():
            now = self._clock()
            if not self.conversation.idle:
                self._active_at = max(self._active_at, now)
            left = began + lifetime_s - now
            if left <= 0.0:
                text = f"the session has reached its maximum duration of {lifetime_s:g} s"
                raise _Over("expired", GOING_AWAY, text, events.Refused("session_expired", text))
            if idle_s is not None:
                left = min(left, idle_s, self._active_at + idle_s - now)
                if left <= 0.0:
                    text = f"the client sent nothing for {idle_s:g} s"
                    raise _Over("idle", GOING_AWAY, text, events.Refused("session_idle", text))
            try:
                async with asyncio.timeout(left):
                    await self._leaving.wait()
            except TimeoutError:
                continue
        raise _Over("shutdown", GOING_AWAY, "the server is shutting down")

    # --- messages -----------------------------------------------------------------------------------------------------

    def _emit(self, event: events.Event) -> None:
        self._transcripts.take(event)
        self._cleaning.told(event)
        if self.tap is not None:
            self.tap(event)
        self._protocol.send(event)
        self._flush()

    def _flush(self) -> None:
        for message in self._protocol.messages_to_send():
            self._outgoing.put(message)

    def _broken(self, reason: str) -> tuple[tuple[int, str], events.Event]:
        return (INTERNAL_ERROR, reason), events.Broken("internal_error", reason)

    async def _part(self, client: Client, code: int, reason: str, last_words: events.Event | None) -> None:
        if last_words is not None:
            self._protocol.send(last_words)
            for message in self._protocol.messages_to_send()[-1:]:
                try:
                    await client.send(message.text)
                except TimeoutError:
                    break
        await client.close(code, reason[:120])


def _too_much(what: str) -> _Over:
    return _Over("rate", POLICY, what, events.Refused("rate_limit_exceeded", f"the client sent {what}"))


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
