"""One response on the wire: its bodies, and the messages that open and close it in the protocol's order."""

from dataclasses import dataclass, field
from typing import Any

from streaming.realtime_audio import AudioEncoder
from streaming.realtime_config import SessionConfig
from streaming.realtime_events import ProsodyEntered, ReplyDone, ReplyStarted, Usage
from streaming.realtime_items import Item

Json = dict[str, Any]


@dataclass(slots=True)
class Response:
    """The response that is being given, the assistant item it fills, and the tool calls that follow it.

    ``conversation_id`` None: it is apart from the conversation, and so are its items.
    """

    id: str
    conversation_id: str | None
    start: ReplyStarted
    item: Item
    previous_item_id: str | None
    config: SessionConfig
    calls: list[tuple[Item, str | None]] = field(default_factory=list)  # with the id of the item before
    encoder: AudioEncoder = field(init=False)

    def __post_init__(self) -> None:
        self.encoder = AudioEncoder(*self.start.options.format.coding, self.start.options.speed)

    def address(self) -> Json:
        """The fields that place a content event."""
        return {"response_id": self.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}

    def entered(self, event: ProsodyEntered) -> Json:
        """What is told of a prosody token; ``sample`` is on the client's side of ``speed``, at 24 kHz."""
        return {
            "response_id": self.id,
            "item_id": self.item.id,
            "token": event.token,
            "token_id": event.token_id,
            "sample": round(event.sample / self.start.options.speed),
            "injected": event.injected,
            "request_event_id": event.event_id,
        }

    def opening(self) -> list[Json]:
        """The messages before the first delta."""
        item = self.item.as_json(empty=True)
        return [
            {"type": "response.created", "response": self.as_json("in_progress", None, None)},
            {"type": "response.output_item.added", "response_id": self.id, "output_index": 0, "item": item},
            *self._in_conversation("added", item, self.previous_item_id),
            {"type": "response.content_part.added", **self.address(), "part": self._part("")},
        ]

    def delta(self, text: str) -> Json:
        """The message that carries newly written words."""
        kind = (
            "response.output_text.delta" if self.start.options.text_only else "response.output_audio_transcript.delta"
        )
        return {"type": kind, **self.address(), "delta": text}

    def closing(self, done: ReplyDone) -> list[Json]:
        """The messages after the last delta; ``item.status`` must be final."""
        text = (self.item.text or "").strip()
        item = self.item.as_json()
        messages: list[Json] = []
        if self.start.options.text_only:
            messages.append({"type": "response.output_text.done", **self.address(), "text": text})
        else:
            messages.append({"type": "response.output_audio.done", **self.address()})
            messages.append({"type": "response.output_audio_transcript.done", **self.address(), "transcript": text})
        messages.append({"type": "response.content_part.done", **self.address(), "part": self._part(text)})
        if done.status in ("completed", "incomplete"):
            messages += self._in_conversation("done", item, self.previous_item_id)
        messages.append({"type": "response.output_item.done", "response_id": self.id, "output_index": 0, "item": item})
        for index, (call, previous) in enumerate(self.calls, start=1):
            messages += self._call_messages(index, call, previous)
        details = None if done.status == "completed" else {"type": done.status, "reason": done.reason}
        messages.append({"type": "response.done", "response": self.as_json(done.status, details, done.usage)})
        return messages

    def as_json(self, status: str, details: Json | None, usage: Usage | None) -> Json:
        """The response object; ``usage`` None while it is in progress."""
        output = [] if usage is None else [item.as_json() for item in (self.item, *(call for call, _ in self.calls))]
        fields = {"status": status, "status_details": details, "output": output}
        return _response_json(self.id, self.conversation_id, self.start, self.config, usage) | fields

    def _call_messages(self, index: int, call: Item, previous_item_id: str | None) -> list[Json]:
        """The messages of one tool call, from its beginning to its end."""
        assert call.tool is not None, "a tool call"
        item, begun = call.as_json(), call.as_json(empty=True) | {"status": "in_progress"}
        place = {"response_id": self.id, "output_index": index}
        detail = place | {"item_id": call.id, "call_id": call.tool["call_id"]}
        arguments = call.tool["arguments"]
        done = detail | {"name": call.tool["name"], "arguments": arguments}
        return [
            {"type": "response.output_item.added", **place, "item": begun},
            *self._in_conversation("added", begun, previous_item_id),
            {"type": "response.function_call_arguments.delta", **detail, "delta": arguments},
            {"type": "response.function_call_arguments.done", **done},
            *self._in_conversation("done", item, previous_item_id),
            {"type": "response.output_item.done", **place, "item": item},
        ]

    def _in_conversation(self, what: str, item: Json, previous_item_id: str | None) -> list[Json]:
        if self.conversation_id is None:
            return []
        return [{"type": f"conversation.item.{what}", "previous_item_id": previous_item_id, "item": item}]

    def _part(self, text: str) -> Json:
        if self.start.options.text_only:
            return {"type": "text", "text": text}
        return {"type": "audio", "transcript": text}


def empty_response(id: str, conversation_id: str, start: ReplyStarted, config: SessionConfig) -> list[Json]:
    """The messages of a response that says and does nothing."""
    fields: Json = {"status_details": None, "output": []}
    begun = _response_json(id, conversation_id, start, config, None) | fields | {"status": "in_progress"}
    done = _response_json(id, conversation_id, start, config, Usage()) | fields | {"status": "completed"}
    return [{"type": "response.created", "response": begun}, {"type": "response.done", "response": done}]


def _response_json(
    id: str, conversation_id: str | None, start: ReplyStarted, config: SessionConfig, usage: Usage | None
) -> Json:
    """What every response object has."""
    output = {"format": start.options.format.model_dump(), "voice": config.audio.output.voice}
    return {
        "id": id,
        "object": "realtime.response",
        "conversation_id": conversation_id,
        "output_modalities": ["text"] if start.options.text_only else ["audio"],
        "max_output_tokens": "inf" if start.options.max_output_tokens is None else start.options.max_output_tokens,
        "audio": {"output": output},
        "usage": None if usage is None else usage_json(usage),
        "metadata": start.options.metadata,
    }


def usage_json(usage: Usage) -> Json:
    """Token counts with every detail object present, as client libraries read them without looking."""
    output = usage.output_audio + usage.output_text
    cached = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
    return {
        "total_tokens": usage.input_audio + usage.input_text + output,
        "input_tokens": usage.input_audio + usage.input_text,
        "output_tokens": output,
        "input_token_details": {
            "text_tokens": usage.input_text,
            "audio_tokens": usage.input_audio,
            "image_tokens": 0,
            "cached_tokens": 0,
            "cached_tokens_details": cached,
        },
        "output_token_details": {"text_tokens": usage.output_text, "audio_tokens": usage.output_audio},
    }
