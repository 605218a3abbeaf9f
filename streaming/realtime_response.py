"""One response on the wire: its bodies, and the messages that open and close it in the protocol's order."""

from dataclasses import dataclass
from typing import Any

from streaming.realtime_config import SessionConfig
from streaming.realtime_events import ReplyDone, ReplyStarted, Usage
from streaming.realtime_items import Item

Json = dict[str, Any]


@dataclass(slots=True)
class Response:
    """The response that is being given, and the assistant item it fills."""

    id: str
    conversation_id: str
    start: ReplyStarted
    item: Item
    previous_item_id: str | None
    config: SessionConfig

    def address(self) -> Json:
        """The fields that place a content event."""
        return {"response_id": self.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}

    def opening(self) -> list[Json]:
        """The messages before the first delta."""
        return [
            {"type": "response.created", "response": self.as_json("in_progress", None, None)},
            {
                "type": "response.output_item.added",
                "response_id": self.id,
                "output_index": 0,
                "item": self.item.as_json(empty=True),
            },
            {
                "type": "conversation.item.added",
                "previous_item_id": self.previous_item_id,
                "item": self.item.as_json(empty=True),
            },
            {"type": "response.content_part.added", **self.address(), "part": self._part("")},
        ]

    def delta(self, text: str) -> Json:
        """The message that carries newly written words."""
        kind = "response.output_text.delta" if self.start.text_only else "response.output_audio_transcript.delta"
        return {"type": kind, **self.address(), "delta": text}

    def closing(self, done: ReplyDone) -> list[Json]:
        """The messages after the last delta; ``item.status`` must be final."""
        text = (self.item.text or "").strip()
        item = self.item.as_json()
        messages: list[Json] = []
        if self.start.text_only:
            messages.append({"type": "response.output_text.done", **self.address(), "text": text})
        else:
            messages.append({"type": "response.output_audio.done", **self.address()})
            messages.append({"type": "response.output_audio_transcript.done", **self.address(), "transcript": text})
        messages.append({"type": "response.content_part.done", **self.address(), "part": self._part(text)})
        if done.status in ("completed", "incomplete"):
            messages.append({"type": "conversation.item.done", "previous_item_id": self.previous_item_id, "item": item})
        messages.append({"type": "response.output_item.done", "response_id": self.id, "output_index": 0, "item": item})
        details = None if done.status == "completed" else {"type": done.status, "reason": done.reason}
        messages.append({"type": "response.done", "response": self.as_json(done.status, details, done.usage)})
        return messages

    def as_json(self, status: str, details: Json | None, usage: Usage | None) -> Json:
        """The response object; ``usage`` None while it is in progress."""
        limit = self.start.max_output_tokens
        output = self.config.audio.output
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [] if usage is None else [self.item.as_json()],
            "conversation_id": self.conversation_id,
            "output_modalities": ["text"] if self.start.text_only else ["audio"],
            "max_output_tokens": "inf" if limit is None else limit,
            "audio": {"output": {"format": output.format.model_dump(), "voice": output.voice}},
            "usage": None if usage is None else usage_json(usage),
            "metadata": self.start.metadata,
        }

    def _part(self, text: str) -> Json:
        if self.start.text_only:
            return {"type": "text", "text": text}
        return {"type": "audio", "transcript": text}


def usage_json(usage: Usage) -> Json:
    """Token counts with every detail object present, as client libraries read them without looking."""
    output = usage.output_audio + usage.output_text
    cached = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
    return {
        "total_tokens": usage.input_audio + output,
        "input_tokens": usage.input_audio,
        "output_tokens": output,
        "input_token_details": {
            "text_tokens": 0,
            "audio_tokens": usage.input_audio,
            "image_tokens": 0,
            "cached_tokens": 0,
            "cached_tokens_details": cached,
        },
        "output_token_details": {"text_tokens": usage.output_text, "audio_tokens": usage.output_audio},
    }
