"""The OpenAI Realtime protocol (GA) on the server's side, without I/O.

* Client messages go in through :meth:`RealtimeProtocol.receive` and come out as commands; what the conversation does
  goes in through :meth:`RealtimeProtocol.send`; the JSON to put on the wire waits in ``messages_to_send``.
* Only the GA names are spoken; every server message carries an ``event_id``.
* A message that cannot be honoured becomes one ``error`` event, and the session goes on.
* The model remembers the items: what is added at the end is heard or read, and when an earlier one is added, deleted
  or truncated, the past is given to it anew, as text.
* What a reply did leaves as tool calls, before its response.done, when the session has tools of these names. The agent
  has then said what there is to say: a client's ``function_call_output`` is kept and changes nothing, and a
  response.create after it, with nothing said in between, is answered by a response with empty output.
"""

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from streaming import realtime_events as events
from streaming import realtime_messages as messages
from streaming.frames import FloatArray, ms_to_samples
from streaming.realtime_audio import AudioDecoder
from streaming.realtime_config import RequestError, SessionConfig, function_names, merge
from streaming.realtime_items import Item, ItemList, check_truncation
from streaming.realtime_requests import CheckText, ReadTokens, RequestReader
from streaming.realtime_response import Response, empty_response
from streaming.realtime_turns import UserTurns

Json = dict[str, Any]

MAX_ITEMS = 1_000


def random_id(kind: str) -> str:
    """A fresh identifier such as ``item_6f0c…``."""
    return f"{kind}_{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class OutMessage:
    """One message for the wire. ``reply`` is set on audio: it may be dropped once that reply was interrupted."""

    text: str
    reply: int | None = None
    event_id: str = ""


class RealtimeProtocol:
    """One session's half of the protocol.

    Args:
        config: the configuration the session starts with.
        expires_at: seconds since the epoch, told to the client.
        new_id: makes an identifier from its kind ("event", "item", …).
        check_text: raises ValueError for a text that the model cannot take.
        holds: whether the client wants to know when a reply is held, and goes on, to stop playing meanwhile.
        prosody: whether the client may put prosody tokens into a reply, and wants to know when tokens enter it.
        read_tokens: names of prosody tokens; raises ValueError for others.
    """

    def __init__(
        self,
        config: SessionConfig,
        expires_at: int,
        new_id: Callable[[str], str] = random_id,
        check_text: CheckText = str,
        holds: bool = False,
        prosody: bool = False,
        read_tokens: ReadTokens = tuple,
    ) -> None:
        self.config = config
        self._holds, self._prosody = holds, prosody
        self.session_id = new_id("sess")
        self.closed = False  # the client just leaves
        self._conversation_id = new_id("conv")
        self._expires_at = expires_at
        self._new_id = new_id
        self._items = ItemList(MAX_ITEMS)
        self._reader = RequestReader(self._items, new_id, check_text, read_tokens)
        self._turns = UserTurns(self._items, new_id, self._emit, self._add_item)
        self._hearing = AudioDecoder(*config.audio.input.format.coding)
        self._response: Response | None = None
        self._last_response: Response | None = None  # of the conversation
        self._spoken = False
        self._outgoing: list[OutMessage] = []

    # --- both directions ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Greet the client; call once."""
        self._emit("session.created", session=self._session_json())

    def resume(self, *, complete: bool) -> None:
        """Greet the client that comes back on a new connection.

        Args:
            complete: whether it is sent all that has happened since the event that it named; else it can ask for items.
        """
        self._hearing = AudioDecoder(*self.config.audio.input.format.coding)  # half a sample was lost with the rest
        resumed = {
            "complete": complete,
            "last_item_id": self._items.last_id,
            "response_id": None if self._response is None else self._response.id,
        }
        self._emit("session.created", session=self._session_json(), resumed=resumed)

    def messages_to_send(self) -> list[OutMessage]:
        """Take the messages that wait for the wire, oldest first."""
        waiting, self._outgoing = self._outgoing, []
        return waiting

    def receive(self, message: str | bytes) -> list[events.Command]:
        """Take one client message; answers and errors are queued, the rest is returned as commands."""
        event_id: str | None = None
        try:
            parsed = messages.parse_message(message)
            event_id = parsed.event_id
            return self._dispatch(parsed)
        except RequestError as exc:
            self._error("invalid_request_error", exc.code, exc.message, exc.param, exc.event_id or event_id)
            return []

    def send(self, event: events.Event) -> None:
        """Tell the client what happened; the messages are queued."""
        match event:
            case events.ReplyTakenBack():
                self._forget_reply()
            case events.ReplyHeld() | events.ReplyResumed():  # the protocol has no word for it
                if self._holds:
                    self._emit(
                        "repartee.reply.held" if isinstance(event, events.ReplyHeld) else "repartee.reply.resumed"
                    )
            case events.ProsodyEntered():
                if self._prosody and self._response is not None:
                    self._emit("repartee.prosody.entered", **self._response.entered(event))
            case events.Recalled():
                pass
            case events.Refused():
                self._error("invalid_request_error", event.code, event.message, event.param, event.event_id)
            case events.Broken():
                self._error("server_error", event.code, event.message, None, None)
            case events.ReplyStarted():
                self._open_response(event)
            case events.ReplyText() | events.ReplyAudio() | events.ReplyDone():
                self._continue_response(event)
            case _:
                self._turns.send(event)

    # --- client messages ----------------------------------------------------------------------------------------------

    def _dispatch(self, message: messages.ClientMessage) -> list[events.Command]:
        match message:
            case messages.SessionUpdate():
                return [self._configure(message.session)]
            case messages.AudioAppend():
                return [events.AppendAudio(self._decode(message.audio))]
            case messages.AudioCommit():
                return self._audio_commit(message)
            case messages.AudioClear():
                self._hearing.flush()
                return [events.ClearAudio()]
            case messages.ResponseCreate():
                return self._response_create(message)
            case messages.ResponseCancel():
                return [self._response_cancel(message)]
            case messages.ItemCreate():
                return self._item_create(message)
            case messages.ItemRetrieve():
                item = self._items.get(message.item_id, code="item_retrieve_invalid_item_id")
                self._emit("conversation.item.retrieved", item=item.as_json())
            case messages.ItemDelete():
                return self._item_delete(message.item_id)
            case messages.ItemTruncate():
                return self._item_truncate(message)
            case messages.ProsodyInject() if self._prosody:
                return [events.InjectProsody(tuple(message.tokens), message.event_id)]
            case messages.ProsodyInject():
                raise RequestError("unknown_event", f"{message.type} is for sessions with ?prosody=true", "type")
        return []

    def _configure(self, update: Json) -> events.ConfigureSession:
        before, self.config = self.config, merge(self.config, update, spoken=self._spoken)
        if self.config.audio.input.format != before.audio.input.format:
            self._hearing = AudioDecoder(*self.config.audio.input.format.coding)
        self._turns.transcribe = self.config.audio.input.transcription is not None
        self._emit("session.updated", session=self._session_json())
        return events.ConfigureSession(self.config)

    def _decode(self, audio: str) -> FloatArray:
        data = messages.decode_base64(audio, "audio")
        try:
            return self._hearing.push(data)
        except ValueError as exc:
            raise RequestError("invalid_audio", f"audio: {exc}", "audio") from exc

    def _audio_commit(self, message: messages.AudioCommit) -> list[events.Command]:
        commit = events.CommitAudio(message.event_id)
        if self.config.audio.input.turn_detection is not None:
            return [commit]
        return [events.AppendAudio(self._hearing.flush()), commit]

    def _response_create(self, message: messages.ResponseCreate) -> list[events.Command]:
        options = message.response or messages.ResponseOptions()
        command = self._reader.response(options, self.config, message.event_id)
        if self._response is None and self._items.only_answered and not command.apart:
            start = events.ReplyStarted(0, command)
            self._emit_all(empty_response(self._new_id("resp"), self._conversation_id, start, self.config))
            return []
        return [command]

    def _response_cancel(self, message: messages.ResponseCancel) -> events.CancelResponse:
        active = self._response.id if self._response else None
        if message.response_id is not None and message.response_id != active:
            raise RequestError(
                "response_cancel_not_active",
                f"Cancellation failed: response {message.response_id[:256]!r} is not active",
                "response_id",
            )
        return events.CancelResponse(message.event_id)

    def _item_create(self, message: messages.ItemCreate) -> list[events.Command]:
        item, pcm = self._reader.item(message.item, self.config.audio.input.format)
        if pcm is not None and message.previous_item_id not in (None, self._items.last_id or "root"):
            sentence = "audio is heard when it comes: its item can only be added at the end"
            raise RequestError("unsupported_value", sentence, "previous_item_id")
        self._add_item(item, message.previous_item_id)
        if pcm is not None:
            return [events.HearItem(pcm, self._turns.item_added(item, pcm.size))]
        if item.line is None:
            return []
        if self._items.is_last_line(item):
            return [events.AddLine(item.line)]
        return [self._recollect()]

    def _recollect(self, *, latest_reply: bool = False) -> events.Recollect:
        return events.Recollect(partial(self._items.lines, self._items.added), latest_reply)

    def _item_delete(self, item_id: str) -> list[events.Command]:
        if self._response is not None and self._response.item.id == item_id:
            raise RequestError("item_in_progress", "the item is still being written", "item_id")
        item = self._items.get(item_id, code="item_delete_invalid_item_id")
        latest = self._last_response is not None and self._last_response.item is item
        change = self._recollect(latest_reply=latest and self._items.is_last_line(item))
        self._items.remove(item_id)
        self._emit("conversation.item.deleted", item_id=item_id)
        return [change] if item.line is not None or item.content_type == "input_audio" else []

    def _item_truncate(self, message: messages.ItemTruncate) -> list[events.Command]:
        item = self._items.get(message.item_id, code="item_truncate_invalid_item_id")
        if self._response is not None and self._response.item is item:
            raise RequestError("item_in_progress", "the item is still being spoken; cancel the response", "item_id")
        check_truncation(item, message.content_index, message.audio_end_ms)
        heard, before = ms_to_samples(message.audio_end_ms), item.line
        item.trim(heard)
        self._emit("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=message.audio_end_ms)
        last = self._last_response
        if last is not None and item is last.item and self._items.is_last_line(item):
            return [events.TruncateReply(round(heard * last.start.options.speed))]
        known = item.status == "incomplete"  # it was broken off: the model knows by the daemon's own clock
        return [self._recollect()] if item.line != before and not known else []

    # --- what the assistant does --------------------------------------------------------------------------------------

    def _open_response(self, start: events.ReplyStarted) -> None:
        assert self._response is None, "a reply began while another was open"
        kind = "output_text" if start.options.text_only else "output_audio"
        given = start.options.say is not None
        item = Item(self._new_id("item"), "assistant", kind, status="in_progress", given=given)
        apart = start.options.apart
        previous = None if apart else self._items.add(item)
        conversation_id = None if apart else self._conversation_id
        self._response = Response(self._new_id("resp"), conversation_id, start, item, previous, self.config)
        self._emit_all(self._response.opening())

    def _continue_response(self, event: events.ReplyText | events.ReplyAudio | events.ReplyDone) -> None:
        response = self._response
        assert response is not None, "a reply event came outside a reply"
        match event:
            case events.ReplyText():
                response.item.add_text(event.text)
                self._emit_all([response.delta(event.text)])
            case events.ReplyAudio():
                self._spoken = True
                self._send_audio(response, response.encoder.push(event.pcm))
            case events.ReplyDone():
                if event.status != "cancelled":
                    self._send_audio(response, response.encoder.flush())
                response.item.status = "completed" if event.status == "completed" else "incomplete"
                self._response = None
                if response.conversation_id is not None:
                    self._last_response = response
                self._call_tools(response, event.actions)
                self._emit_all(response.closing(event))

    def _send_audio(self, response: Response, data: bytes) -> None:
        response.item.samples = response.encoder.sent_samples
        if data:
            delta = base64.b64encode(data).decode("ascii")
            self._emit("response.output_audio.delta", response.start.reply, **response.address(), delta=delta)

    def _forget_reply(self) -> None:
        if (last := self._last_response) is None or last.item.id not in self._items:
            return
        last.item.take_back()
        self._emit("conversation.item.truncated", item_id=last.item.id, content_index=0, audio_end_ms=0)
        for call, _ in last.calls:
            if call.id in self._items:
                self._item_delete(call.id)

    def _call_tools(self, response: Response, actions: tuple[events.Action, ...]) -> None:
        allowed = response.start.options.tools
        if allowed is None:
            allowed = function_names(self.config.tools, self.config.tool_choice)
        for action in actions:
            if action.name in allowed:
                arguments = json.dumps(action.arguments)
                tool = {"call_id": self._new_id("call"), "name": action.name, "arguments": arguments}
                item = Item(self._new_id("item"), "assistant", "function_call", tool=tool)
                previous = None if response.conversation_id is None else self._items.add(item)
                response.calls.append((item, previous))

    def _add_item(self, item: Item, after: str | None = None) -> None:
        previous = self._items.add(item, after)
        self._emit("conversation.item.added", previous_item_id=previous, item=item.as_json())
        self._emit("conversation.item.done", previous_item_id=previous, item=item.as_json())

    # --- wire ---------------------------------------------------------------------------------------------------------

    def _session_json(self) -> Json:
        return self.config.as_json(self.session_id, self._expires_at)

    def _error(self, kind: str, code: str, message: str, param: str | None, event_id: str | None) -> None:
        self._emit("error", error=messages.error_body(kind, code, message, param, event_id))

    def _emit_all(self, bodies: list[Json]) -> None:
        for body in bodies:
            self._emit(body.pop("type"), **body)

    def _emit(self, type: str, reply: int | None = None, /, **fields: Any) -> None:
        event_id = self._new_id("event")
        body = {"type": type, "event_id": event_id, **fields}
        self._outgoing.append(OutMessage(json.dumps(body, separators=(",", ":")), reply, event_id))
