"""The OpenAI Realtime protocol (GA) on the server's side, without I/O.

* Client messages go in through :meth:`RealtimeProtocol.receive` and come out as commands; what the conversation does
  goes in through :meth:`RealtimeProtocol.send`; the JSON to put on the wire waits in ``messages_to_send``.
* Only the GA names are spoken; every server message carries an ``event_id``.
* A message that cannot be honoured becomes one ``error`` event, and the session goes on.
* What a reply did leaves as tool calls, before its response.done, when the session has tools of these names. The agent
  has then said what there is to say: a client's ``function_call_output`` is kept and changes nothing, and a
  response.create after it, with nothing said in between, is answered by a response with empty output.
"""

import base64
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streaming import realtime_events as events
from streaming import realtime_messages as messages
from streaming.frames import SAMPLE_RATE_HZ, ms_to_samples, samples_to_ms
from streaming.realtime_config import RequestError, SessionConfig, function_names, merge
from streaming.realtime_items import Item, ItemList, check_truncation, read_call_output, read_id, read_user_audio
from streaming.realtime_response import Response, empty_response
from streaming.resample import float_to_pcm16

Json = dict[str, Any]

MAX_ITEMS = 1_000
_MAX_OPEN_TURNS = 32


def random_id(kind: str) -> str:
    """A fresh identifier such as ``item_6f0c…``."""
    return f"{kind}_{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class OutMessage:
    """One message for the wire. ``reply`` is set on audio: it may be dropped once that reply was interrupted."""

    text: str
    reply: int | None = None


@dataclass(slots=True)
class _UserTurn:
    item_id: str
    samples: int = 0
    committed: bool = False
    pending: list[str] = field(default_factory=list)  # words that came before the item existed
    done: bool = False


class RealtimeProtocol:
    """One session's half of the protocol.

    Args:
        config: the configuration the session starts with.
        expires_at: seconds since the epoch, told to the client.
        new_id: makes an identifier from its kind ("event", "item", …).
    """

    def __init__(self, config: SessionConfig, expires_at: int, new_id: Callable[[str], str] = random_id) -> None:
        self.config = config
        self.session_id = new_id("sess")
        self._conversation_id = new_id("conv")
        self._expires_at = expires_at
        self._new_id = new_id
        self._items = ItemList(MAX_ITEMS)
        self._turns: OrderedDict[int, _UserTurn] = OrderedDict()
        self._response: Response | None = None
        self._last_response: Response | None = None
        self._spoken = False
        self._outgoing: list[OutMessage] = []

    # --- both directions ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Greet the client; call once."""
        self._emit("session.created", session=self._session_json())

    def messages_to_send(self) -> list[OutMessage]:
        """Take the messages that wait for the wire, oldest first."""
        waiting, self._outgoing = self._outgoing, []
        return waiting

    def receive(self, message: str | bytes) -> list[events.Command]:
        """Take one client message; answers and errors are queued, the rest is returned as commands."""
        event_id: str | None = None
        try:
            if isinstance(message, bytes):
                raise RequestError("invalid_message", "binary messages are not part of the protocol; send JSON text")
            parsed = messages.parse_message(message)
            event_id = parsed.event_id
            return self._dispatch(parsed)
        except RequestError as exc:
            self._error("invalid_request_error", exc.code, exc.message, exc.param, exc.event_id or event_id)
            return []

    def send(self, event: events.Event) -> None:
        """Tell the client what happened; the messages are queued."""
        match event:
            case events.UserStarted():
                turn = self._open_turn(event.turn)
                start_ms = samples_to_ms(event.at)
                self._emit("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=turn.item_id)
            case events.UserStopped():
                turn = self._open_turn(event.turn)
                end_ms = samples_to_ms(event.at)
                self._emit("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=turn.item_id)
            case events.AudioCommitted():
                self._commit(event)
            case events.AudioCleared():
                if event.turn is not None:
                    self._turns.pop(event.turn, None)
                self._emit("input_audio_buffer.cleared")
            case events.UserText():
                self._user_text(event.turn, event.text)
            case events.UserTextDone():
                self._user_text_done(event.turn)
            case events.ReplyTakenBack():
                self._forget_reply()
            case events.ReplyHeld() | events.ReplyResumed():
                pass  # the protocol has no word for it: the client just gets nothing for a while
            case events.Refused():
                self._error("invalid_request_error", event.code, event.message, event.param, event.event_id)
            case events.Broken():
                self._error("server_error", event.code, event.message, None, None)
            case _:
                self._send_reply_event(event)

    # --- client messages ----------------------------------------------------------------------------------------------

    def _dispatch(self, message: messages.ClientMessage) -> list[events.Command]:
        match message:
            case messages.SessionUpdate():
                self.config = merge(self.config, message.session, spoken=self._spoken)
                self._emit("session.updated", session=self._session_json())
                return [events.ConfigureSession(self.config)]
            case messages.AudioAppend():
                return [events.AppendAudio(messages.decode_audio(message.audio, "audio"))]
            case messages.AudioCommit():
                return [events.CommitAudio(message.event_id)]
            case messages.AudioClear():
                return [events.ClearAudio()]
            case messages.ResponseCreate():
                return self._response_create(message)
            case messages.ResponseCancel():
                return [self._response_cancel(message)]
            case messages.ItemCreate():
                return self._item_create(message)
            case messages.ItemRetrieve():
                item = self._items.get(message.item_id)
                self._emit("conversation.item.retrieved", item=item.as_json())
            case messages.ItemDelete():
                self._item_delete(message.item_id)
            case messages.ItemTruncate():
                return self._item_truncate(message)
        return []

    def _response_create(self, message: messages.ResponseCreate) -> list[events.Command]:
        options = message.response or messages.ResponseOptions()
        if options.conversation not in (None, "auto"):
            raise RequestError("unsupported_value", "only the default conversation exists", "response.conversation")
        if options.input:
            raise RequestError("unsupported_value", "a response cannot be given its own input", "response.input")
        if options.tool_choice not in (None, "auto", "none"):
            raise RequestError("unsupported_value", "forcing a tool call is not supported", "response.tool_choice")
        modalities = options.output_modalities
        if modalities is not None and len(modalities) != 1:
            raise RequestError(
                "invalid_value", 'output_modalities is ["audio"] or ["text"]', "response.output_modalities"
            )
        limit = self.config.max_output_tokens if options.max_output_tokens is None else options.max_output_tokens
        if isinstance(limit, int) and limit < 1:
            raise RequestError("invalid_value", "max_output_tokens must be at least 1", "response.max_output_tokens")
        text_only = self.config.text_only if modalities is None else modalities == ["text"]
        most = limit if isinstance(limit, int) else None
        if self._response is None and self._items.only_answered:
            start = events.ReplyStarted(0, text_only, options.metadata, most)
            self._emit_all(empty_response(self._new_id("resp"), self._conversation_id, start, self.config))
            return []
        tools = function_names(
            self.config.tools if options.tools is None else options.tools,
            options.tool_choice or self.config.tool_choice,
        )
        return [events.CreateResponse(text_only, most, options.metadata, message.event_id, tools)]

    def _response_cancel(self, message: messages.ResponseCancel) -> events.CancelResponse:
        active = self._response.id if self._response else None
        if message.response_id is not None and message.response_id != active:
            raise RequestError(
                "response_cancel_not_active",
                f"Cancellation failed: response {message.response_id!r} is not active",
                "response_id",
            )
        return events.CancelResponse(message.event_id)

    def _item_create(self, message: messages.ItemCreate) -> list[events.Command]:
        item_id = read_id(message.item) or self._new_id("item")
        if message.item.get("type") == "function_call_output":
            tool = read_call_output(message.item, self._items)
            self._add_user_item(Item(item_id, "user", "function_call_output", tool=tool), message.previous_item_id)
            return []
        pcm = read_user_audio(message.item)
        if message.previous_item_id not in (None, self._items.last_id):
            sentence = "the model hears in order: an item can only be added at the end"
            raise RequestError("unsupported_value", sentence, "previous_item_id")
        self._add_user_item(Item(item_id, "user", "input_audio"))
        return [events.HearItem(pcm)]

    def _item_delete(self, item_id: str) -> None:
        if self._response is not None and self._response.item.id == item_id:
            raise RequestError("item_in_progress", "the item is still being written", "item_id")
        self._items.remove(item_id)
        self._emit("conversation.item.deleted", item_id=item_id)

    def _item_truncate(self, message: messages.ItemTruncate) -> list[events.Command]:
        item = self._items.get(message.item_id)
        if self._response is not None and self._response.item is item:
            raise RequestError("item_in_progress", "the item is still being spoken; cancel the response", "item_id")
        check_truncation(item, message.content_index, message.audio_end_ms)
        heard = ms_to_samples(message.audio_end_ms)
        item.trim(heard)
        self._emit("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=message.audio_end_ms)
        return [events.TruncateReply(heard)] if self._last_response and item is self._last_response.item else []

    # --- what the user does -------------------------------------------------------------------------------------------

    def _open_turn(self, number: int) -> _UserTurn:
        if number not in self._turns:
            self._turns[number] = _UserTurn(self._new_id("item"))
            while len(self._turns) > _MAX_OPEN_TURNS:
                self._turns.popitem(last=False)
        return self._turns[number]

    def _commit(self, event: events.AudioCommitted) -> None:
        turn = self._open_turn(event.turn)
        turn.committed = True
        turn.samples = event.samples
        self._emit("input_audio_buffer.committed", previous_item_id=self._items.last_id, item_id=turn.item_id)
        self._add_user_item(Item(turn.item_id, "user", "input_audio"))
        waiting, turn.pending = turn.pending, []
        for text in waiting:
            self._user_text(event.turn, text)
        if turn.done:
            self._user_text_done(event.turn)

    def _add_user_item(self, item: Item, after: str | None = None) -> None:
        previous = self._items.add(item, after)
        self._emit("conversation.item.added", previous_item_id=previous, item=item.as_json())
        self._emit("conversation.item.done", previous_item_id=previous, item=item.as_json())

    def _user_text(self, number: int, text: str) -> None:
        turn = self._turns.get(number)
        if turn is None or self.config.audio.input.transcription is None:
            return
        if not turn.committed:
            turn.pending.append(text)
            return
        if turn.item_id in self._items:
            item = self._items.get(turn.item_id)
            item.text = ((item.text or "") + text).lstrip()
        self._emit(
            "conversation.item.input_audio_transcription.delta", item_id=turn.item_id, content_index=0, delta=text
        )

    def _user_text_done(self, number: int) -> None:
        turn = self._turns.get(number)
        if turn is None:
            return
        turn.done = True
        if not turn.committed:
            return
        del self._turns[number]
        if self.config.audio.input.transcription is None:
            return
        text = self._items.get(turn.item_id).text if turn.item_id in self._items else None
        self._emit(
            "conversation.item.input_audio_transcription.completed",
            item_id=turn.item_id,
            content_index=0,
            transcript=(text or "").strip(),
            usage={"type": "duration", "seconds": turn.samples / SAMPLE_RATE_HZ},
        )

    # --- what the assistant does --------------------------------------------------------------------------------------

    def _send_reply_event(self, event: events.Event) -> None:
        if isinstance(event, events.ReplyStarted):
            assert self._response is None, "a reply began while another was open"
            kind = "output_text" if event.text_only else "output_audio"
            item = Item(self._new_id("item"), "assistant", kind, status="in_progress")
            previous = self._items.add(item)
            self._response = Response(self._new_id("resp"), self._conversation_id, event, item, previous, self.config)
            self._emit_all(self._response.opening())
            return
        response = self._response
        assert response is not None, "a reply event came outside a reply"
        if isinstance(event, events.ReplyText):
            response.item.add_text(event.text)
            self._emit_all([response.delta(event.text)])
        elif isinstance(event, events.ReplyAudio):
            self._spoken = True
            response.item.samples += event.pcm.size
            delta = base64.b64encode(float_to_pcm16(event.pcm)).decode("ascii")
            self._emit("response.output_audio.delta", reply=response.start.reply, **response.address(), delta=delta)
        elif isinstance(event, events.ReplyDone):
            response.item.status = "completed" if event.status == "completed" else "incomplete"
            self._last_response, self._response = response, None
            self._call_tools(response, event.actions)
            self._emit_all(response.closing(event))

    def _forget_reply(self) -> None:
        if (last := self._last_response) is None or last.item.id not in self._items:
            return
        last.item.take_back()
        self._emit("conversation.item.truncated", item_id=last.item.id, content_index=0, audio_end_ms=0)
        for call, _ in last.calls:
            if call.id in self._items:
                self._item_delete(call.id)

    def _call_tools(self, response: Response, actions: tuple[events.Action, ...]) -> None:
        allowed = response.start.tools
        if allowed is None:
            allowed = function_names(self.config.tools, self.config.tool_choice)
        for action in actions:
            if action.name in allowed:
                arguments = json.dumps(action.arguments)
                tool = {"call_id": self._new_id("call"), "name": action.name, "arguments": arguments}
                item = Item(self._new_id("item"), "assistant", "function_call", tool=tool)
                response.calls.append((item, self._items.add(item)))

    # --- wire ---------------------------------------------------------------------------------------------------------

    def _session_json(self) -> Json:
        return self.config.as_json(self.session_id, self._expires_at)

    def _error(self, kind: str, code: str, message: str, param: str | None, event_id: str | None) -> None:
        self._emit("error", error=messages.error_body(kind, code, message, param, event_id))

    def _emit_all(self, bodies: list[Json]) -> None:
        for body in bodies:
            self._emit(**body)

    def _emit(self, type: str, reply: int | None = None, **fields: Any) -> None:
        body = {"type": type, "event_id": self._new_id("event"), **fields}
        self._outgoing.append(OutMessage(json.dumps(body, separators=(",", ":")), reply))
