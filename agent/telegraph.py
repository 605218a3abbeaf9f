"""What the agent tells and is told over MQTT; the wire is :mod:`streaming.mqtt`, commands are :mod:`agent.telegrams`.

Payloads are JSON objects, but for ``availability``; ``at`` is UTC. Below the base topic (``repartee``):

| topic | QoS | kept | what |
|---|---|---|---|
| availability | 1 | yes | ``online``, or ``offline``, also as last will |
| state | 1 | yes | ``state`` of the agent, how many conversations are ``idle`` and so on, and each one's by name |
| options | 1 | yes | ``muted``, ``eagerness``, ``volume``, ``prosody`` |
| link | 1 | yes | connections, and what was waiting and dropped, when this one was made |
| action | 1 | no | what a reply did: ``name``, ``arguments``, ``conversation``, and an ``id`` to know a repetition by |
| transcript | 1 | no | ``role`` (user, agent), ``text``, ``conversation``; only with ``mqtt.transcripts`` |
| prosody | 1 | no | a token became part of a reply: ``token``, ``token_id``, ``sample`` of it, whether ``injected`` |
| metrics | 0 | no | a turn as in :class:`agent.metrics.TurnMetrics` |
| command/NAME | 1 | | commands, see :mod:`agent.telegrams` |
| reply | 1 | no | ``command``, its ``id``, ``ok``; ``conversations``, or ``error`` (``code``, ``message``, ``param``) |

When the broker is away, messages wait; if they become too many, metrics leave first, actions last.
"""

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from agent.conversation import Conversation, ConversationState
from agent.errors import CommandError, InputError
from agent.home_assistant import discovery
from agent.telegrams import ALL, LOCAL, Interrupt, Mute, Prosody, Say, SetOptions, Shutdown, id_of, parse_command
from streaming import realtime_events as events
from streaming.mqtt import MqttConfig, MqttLink
from streaming.outbox import Rank
from streaming.realtime_config import Eagerness

__all__ = ["LOCAL", "Telegraph", "TelegraphConfig"]

Json = dict[str, Any]

_STATES: tuple[ConversationState, ...] = ("speaking", "thinking", "listening", "idle")  # the first that any is in
_LOOK_S = 0.25  # a reply that stops sounding is no event
_GOODBYE_S = 3.0


class TelegraphConfig(MqttConfig):
    """The broker, and what is told and obeyed there."""

    transcripts: bool = False
    """Publish what is said, by both sides. Whoever may read the broker reads it."""
    allow_shutdown: bool = False
    """Let a command end the agent."""
    discovery_prefix: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")
    """Home Assistant's, usually ``homeassistant``; null: the agent does not announce itself."""


@dataclass(frozen=True, slots=True)
class _Options:
    muted: bool = False
    eagerness: Eagerness = "auto"
    volume: float = 1.0
    prosody: tuple[str, ...] = ()


class Telegraph:
    """Publishes what happens in all conversations, and carries out commands.

    Args:
        config: the section ``mqtt``; ``host`` is set.
        end: ends the daemon, when the replies that are being given are finished.
        version: the agent's, for Home Assistant.

    Raises:
        MqttUnavailable: MQTT cannot be set up; an absent broker is no reason.
    """

    def __init__(self, config: TelegraphConfig, end: Callable[[], None], version: str) -> None:
        self._config = config
        self._end = end
        self._link = MqttLink(config, self._command)
        self._lines: dict[str, _Line] = {}
        self._options = _Options()
        self._state: Json = {}
        self._changed = asyncio.Event()
        self._link.keep("options", json.dumps(asdict(self._options)))
        if config.discovery_prefix is not None:
            about = (config.client_id, config.base_topic, version, config.transcripts)
            self._link.keep_elsewhere(*discovery(config.discovery_prefix, *about))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connected, as far as there is a broker; in the end what waits is sent, if that takes but a moment."""
        async with asyncio.TaskGroup() as tasks:
            link = tasks.create_task(self._link.run(), name="mqtt")
            reporting = tasks.create_task(self._report(), name="mqtt state")
            try:
                yield
            finally:
                reporting.cancel()
                self._report_state()
                self._link.leave()
                await asyncio.wait({link}, timeout=_GOODBYE_S)
                link.cancel()

    @contextlib.contextmanager
    def joined(self, name: str, conversation: Conversation, hush: Callable[[], None] | None = None) -> Iterator[None]:
        """Tell of a conversation and let commands reach it, as long as this lasts.

        Args:
            name: what it is called in commands and messages.
            conversation: it.
            hush: stops the sound of what was said already, where that is in our hands.
        """
        line = _Line(name, conversation, hush)
        self._lines[name] = line
        self._apply(conversation)
        conversation.watch(lambda event: self._heard(line, event))
        self._changed.set()
        try:
            yield
        finally:
            del self._lines[name]
            self._changed.set()

    # --- out ----------------------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            self._changed.clear()
            quiet = self._report_state() == "idle"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if quiet else _LOOK_S):
                    await self._changed.wait()

    def _report_state(self) -> ConversationState:
        each = {line.name: line.conversation.state for line in self._lines.values()}
        counts = Counter(each.values())
        overall: ConversationState = next((name for name in _STATES if counts[name]), "idle")
        state: Json = {"state": overall, **{name: counts[name] for name in _STATES}, "conversations": each}
        if state != self._state:
            self._state = state
            self._link.keep("state", json.dumps(state))
        return overall

    def _heard(self, line: "_Line", event: events.Event) -> None:
        if line.conversation.state != self._state.get("conversations", {}).get(line.name):
            self._changed.set()
        match event:
            case events.UserText():
                line.user += event.text
            case events.UserTextDone():
                self._publish_transcript(line, "user", line.user)
                line.user = ""
            case events.ReplyStarted():
                line.reply = ""
            case events.ReplyText():
                line.reply += event.text
            case events.ProsodyEntered():
                body = {"token": event.token, "token_id": event.token_id, "sample": event.sample}
                self._publish("prosody", line, {**body, "injected": event.injected})
            case events.ReplyDone():
                self._changed.set()  # the state is another one right after this event
                self._publish_transcript(line, "agent", line.reply, status=event.status)
                for action in event.actions:
                    body = {"id": f"action_{secrets.token_hex(10)}", "name": action.name, "arguments": action.arguments}
                    self._publish("action", line, body, rank=Rank.HIGH)
                self._publish_metrics(line)

    def _publish_transcript(self, line: "_Line", role: str, text: str, **more: str) -> None:
        if self._config.transcripts and text.strip():
            self._publish("transcript", line, {"role": role, "text": text.strip(), **more})

    def _publish_metrics(self, line: "_Line") -> None:
        for record in line.conversation.metrics.turns:
            if record.turn > line.told and record.status is not None:
                line.told = record.turn
                body = asdict(record) | {"speech_end_to_audio_ms": record.speech_end_to_audio_ms}
                del body["decided_at"]  # on a clock that nobody else has
                rounded = {key: round(value, 1) if isinstance(value, float) else value for key, value in body.items()}
                self._publish("metrics", line, rounded, qos=0, rank=Rank.LOW)

    def _publish(self, topic: str, line: "_Line", body: Json, qos: int = 1, rank: Rank = Rank.NORMAL) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._link.publish(topic, json.dumps({"at": at, "conversation": line.name, **body}), qos, rank)

    # --- in -----------------------------------------------------------------------------------------------------------

    def _command(self, name: str, payload: bytes, retained: bool) -> None:
        answer: Json = {"command": name[:64], "id": id_of(payload)}
        try:
            answer |= {"ok": True, **self._do(name, payload, retained)}
        except CommandError as exc:
            answer |= {"ok": False, "error": {"code": exc.code, "message": str(exc), "param": exc.param}}
        self._link.publish("reply", json.dumps(answer))

    def _do(self, name: str, payload: bytes, retained: bool) -> Json:
        command = parse_command(name, payload, retained)
        match command:
            case Say():
                text = command.text
                said = self._tell(command.to, "cannot_say", lambda conversation: conversation.say(text))
                self._changed.set()
                return said
            case Prosody():
                tokens = command.tokens
                return self._tell(command.to, "cannot_inject", lambda each: each.injector.inject(tokens))
            case Interrupt():
                return {"conversations": [line.name for line in self._lines_of(command.to) if line.interrupt()]}
            case Mute():
                self._set(replace(self._options, muted=command.on))
            case SetOptions():
                changed = command.model_dump(include=set(command.OPTIONS), exclude_none=True)
                self._set(replace(self._options, **changed))
            case Shutdown():
                if not self._config.allow_shutdown:
                    raise CommandError("not_allowed", "mqtt.allow_shutdown is not set")
                self._end()
        return {}

    def _tell(self, to: str, code: str, do: Callable[[Conversation], None]) -> Json:
        """Do it in these conversations, all of which may refuse; in which it was done, and why not in others."""
        lines = self._lines_of(to)
        if not lines:
            raise CommandError("no_conversation", "there is no conversation to say it in")
        refused: dict[str, str] = {}
        for line in lines:
            try:
                do(line.conversation)
            except InputError as exc:
                refused[line.name] = str(exc)
        said = [line.name for line in lines if line.name not in refused]
        if not said:
            raise CommandError(code, "; ".join(f"{name}: {why}" for name, why in refused.items()))
        return {"conversations": said} | ({"refused": refused} if refused else {})

    def _lines_of(self, to: str) -> "list[_Line]":
        if to == ALL:
            return list(self._lines.values())
        if to not in self._lines:
            names = ", ".join(self._lines) or "none"
            raise CommandError("no_conversation", f"there is no conversation {to!r}; there are: {names}", "to")
        return [self._lines[to]]

    def _set(self, options: _Options) -> None:
        self._options = options
        for line in self._lines.values():
            self._apply(line.conversation)
        self._link.keep("options", json.dumps(asdict(options)))

    def _apply(self, conversation: Conversation) -> None:
        conversation.muted = self._options.muted
        conversation.volume = self._options.volume
        conversation.injector.standing = tuple(self._options.prosody)
        conversation.set_eagerness(self._options.eagerness)


@dataclass(slots=True)
class _Line:
    """One conversation, and what is known of it."""

    name: str
    conversation: Conversation
    hush: Callable[[], None] | None
    user: str = ""
    reply: str = ""
    told: int = 0  # the turn whose metrics were published last

    def interrupt(self) -> bool:
        """Stop what is being said; returns whether there was something that could be stopped."""
        if self.conversation.interrupt():
            return True
        if self.hush is None or self.conversation.state != "speaking":
            return False
        self.hush()
        self.conversation.hush()
        return True
