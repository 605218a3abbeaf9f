"""The items of one realtime conversation, newest last, bounded.

* Only what the protocol needs to answer for is kept: texts and durations, never audio.
* An assistant item remembers how much audio had been sent when each piece of its text was written, so that a
  truncation can trim the transcript to what was heard.
* A tool call and the client's answer to it are items as well.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streaming.frames import SAMPLE_RATE_HZ, samples_to_ms
from streaming.realtime_config import RequestError
from streaming.realtime_messages import decode_audio

Json = dict[str, Any]

MAX_ITEM_S = 60
MAX_ID = 256
MAX_OUTPUT = 32_768


@dataclass(slots=True)
class Item:
    """One message of the conversation, or a tool call or its output, which hold ``tool`` instead of content."""

    id: str
    role: str  # "user" | "assistant"
    content_type: str  # "input_audio" | "output_audio" | "output_text"; "function_call" | "function_call_output"
    status: str = "completed"
    tool: Json | None = None  # call_id, and name and arguments (text of JSON) or output
    text: str | None = None
    samples: int = 0  # audio sent (assistant), 24 kHz
    pieces: list[tuple[int, str]] = field(default_factory=list)  # (samples sent before it, text)

    def add_text(self, text: str) -> None:
        """Append newly written words."""
        self.text = (self.text or "") + text
        self.pieces.append((self.samples, text))

    def trim(self, samples: int) -> None:
        """Forget what was not heard after ``samples`` of audio."""
        self.samples = samples
        self.pieces = [piece for piece in self.pieces if piece[0] < samples]
        self.text = "".join(text for _, text in self.pieces)

    def take_back(self) -> None:
        """Forget all that was said; what was sent stays known, so that a client may still truncate it."""
        self.pieces, self.text = [], ""

    def as_json(self, *, empty: bool = False) -> Json:
        """The item as it travels; ``empty`` leaves the content out (an item that has just begun)."""
        if self.tool is not None:
            tool = self.tool | {"arguments": ""} if empty else self.tool
            return {"id": self.id, "object": "realtime.item", "type": self.content_type, "status": self.status, **tool}
        key = "text" if self.content_type == "output_text" else "transcript"
        text = self.text if self.role == "user" else (self.text or "").strip()
        content = [] if empty else [{"type": self.content_type, key: text}]
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": content,
        }


def check_truncation(item: Item, content_index: int, audio_end_ms: int) -> None:
    """See whether a client's truncation fits the item.

    Raises:
        RequestError: it does not.
    """
    if item.content_type != "output_audio":
        raise RequestError("invalid_item", "only spoken items of the assistant can be truncated", "item_id")
    if content_index != 0:
        raise RequestError("invalid_value", "the item has one content part, index 0", "content_index")
    if audio_end_ms > samples_to_ms(item.samples):  # as it came: it may be too large for a float
        raise RequestError(
            "audio_end_ms_too_large",
            f"audio content of {samples_to_ms(item.samples)} ms is shorter than {audio_end_ms} ms",
            "audio_end_ms",
        )


class ItemList:
    """Items in order. Bound: ``limit`` items; policy: the oldest leave; counter: ``dropped``."""

    def __init__(self, limit: int) -> None:
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._limit = limit
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    @property
    def last_id(self) -> str | None:
        """Id of the newest item, None when there is none."""
        return next(reversed(self._items), None)

    @property
    def only_answered(self) -> bool:
        """Whether the client has answered a tool call, and nobody has said anything since the reply that made it."""
        answered = False
        for item in reversed(self._items.values()):
            if item.tool is None:
                return answered and item.role == "assistant"
            answered = answered or item.content_type == "function_call_output"
        return answered

    def has_call(self, call_id: str) -> bool:
        """Whether a tool call with this id is among the items."""
        calls = (item.tool for item in self._items.values() if item.content_type == "function_call")
        return any(tool is not None and tool["call_id"] == call_id for tool in calls)

    def get(self, item_id: str, param: str = "item_id") -> Item:
        """The item with this id.

        Raises:
            RequestError: there is none.
        """
        try:
            return self._items[item_id]
        except KeyError:
            raise RequestError("item_not_found", f"there is no item {item_id!r}", param) from None

    def add(self, item: Item, previous_item_id: str | None = None) -> str | None:
        """Insert an item; ``previous_item_id`` None means at the end, "root" at the start.

        Returns:
            The id of the item before it, None for the first.

        Raises:
            RequestError: the id is taken, or the item to follow does not exist.
        """
        if item.id in self._items:
            raise RequestError("item_exists", f"there is an item {item.id!r} already", "item.id")
        ids = list(self._items)
        if previous_item_id is None:
            position = len(ids)
        elif previous_item_id == "root":
            position = 0
        else:
            self.get(previous_item_id, "previous_item_id")
            position = ids.index(previous_item_id) + 1
        self._items[item.id] = item
        for later in ids[position:]:
            self._items.move_to_end(later)
        while len(self._items) > self._limit:
            self._items.popitem(last=False)
            self.dropped += 1
        return ids[position - 1] if position else None

    def remove(self, item_id: str) -> Item:
        """Take an item out.

        Raises:
            RequestError: there is no such item.
        """
        item = self.get(item_id)
        del self._items[item_id]
        return item


# --- items a client makes ---------------------------------------------------------------------------------------------


def read_id(body: Json) -> str | None:
    """The id the client chose for an item, None when it chose none.

    Raises:
        RequestError: it is no text, or empty or too long.
    """
    item_id = body.get("id")
    if item_id is None or (isinstance(item_id, str) and 0 < len(item_id) <= MAX_ID):
        return item_id
    raise RequestError("invalid_value", f"item.id must be a text of 1 to {MAX_ID} characters", "item.id")


def read_user_audio(body: Json) -> np.ndarray:
    """What a user says in an item, float32 [n], 24 kHz mono.

    Raises:
        RequestError: the item is no user message with one part of audio of up to ``MAX_ITEM_S``.
    """
    if body.get("type") != "message" or body.get("role") != "user":
        sentence = "only user messages with audio and function_call_output can be added to the conversation"
        raise RequestError("unsupported_item", sentence, "item.type")
    content = body.get("content")
    part = content[0] if isinstance(content, list) and len(content) == 1 else None
    if not isinstance(part, dict) or part.get("type") != "input_audio":
        sentence = "the model hears audio only: send one input_audio part"
        raise RequestError("unsupported_content", sentence, "item.content")
    pcm = decode_audio(part.get("audio"), "item.content.0.audio")
    if not 0 < pcm.size <= MAX_ITEM_S * SAMPLE_RATE_HZ:
        sentence = f"the item must hold audio of up to {MAX_ITEM_S} s"
        raise RequestError("invalid_audio", sentence, "item.content.0.audio")
    return pcm


def read_call_output(body: Json, items: ItemList) -> Json:
    """The ``tool`` part of a function_call_output.

    Raises:
        RequestError: the output is no text or too long, or there is no such call.
    """
    call_id, output = body.get("call_id"), body.get("output")
    if not isinstance(output, str) or len(output) > MAX_OUTPUT:
        sentence = f"item.output must be a text of up to {MAX_OUTPUT} characters"
        raise RequestError("invalid_value", sentence, "item.output")
    if not isinstance(call_id, str) or not items.has_call(call_id):
        raise RequestError("item_not_found", f"there is no tool call {str(call_id)[:MAX_ID]!r}", "item.call_id")
    return {"call_id": call_id, "output": output}
