"""The items of one realtime conversation, newest last, bounded.

* Only what the protocol needs to answer for is kept: texts and durations, never audio.
* An assistant item remembers how much audio had been sent when each piece of its text was written, so that a
  truncation can trim the transcript to what was heard.
* A tool call and the client's answer to it are items as well.
* What users and agent said, as text, is the past that a model can be given: :meth:`ItemList.lines`.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from streaming.frames import samples_to_ms
from streaming.realtime_config import RequestError
from streaming.realtime_events import Line

Json = dict[str, Any]

MAX_LINES = 24


@dataclass(slots=True)
class Item:
    """One message of the conversation, or a tool call or its output, which hold ``tool`` instead of content."""

    id: str
    role: Literal["user", "assistant", "system"]
    content_type: str  # "input_audio" | "output_audio" | "output_text"; "function_call" | "function_call_output"
    status: str = "completed"
    tool: Json | None = None  # call_id, and name and arguments (text of JSON) or output
    parts: list[Json] | None = None  # content that came as text
    text: str | None = None
    shown: bool = False  # whether the client wants to know what the user said
    samples: int = 0  # audio sent (assistant), 24 kHz
    pieces: list[tuple[int, str]] = field(default_factory=list)  # (samples sent before it, text)
    number: int = 0  # how many items were added before it
    given: bool = False  # its words were put into the agent's mouth: they are not what it remembers

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

    @property
    def line(self) -> Line | None:
        """What it says, None for what says nothing."""
        if self.tool is not None or self.role == "system" or not (self.text or "").strip():
            return None
        return Line(self.role, (self.text or "").strip())

    def as_json(self, *, empty: bool = False) -> Json:
        """The item as it travels; ``empty`` leaves the content out (an item that has just begun)."""
        if self.tool is not None:
            tool = self.tool | {"arguments": ""} if empty else self.tool
            return {"id": self.id, "object": "realtime.item", "type": self.content_type, "status": self.status, **tool}
        key = "text" if self.content_type == "output_text" else "transcript"
        text = (self.text if self.shown else None) if self.role == "user" else (self.text or "").strip()
        content = [] if empty else self.parts if self.parts is not None else [{"type": self.content_type, key: text}]
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
        raise RequestError("invalid_value", "only spoken items of the assistant can be truncated", "item_id")
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
        self.added = 0
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
            if item.tool is None and item.role != "system":
                return answered and item.role == "assistant"
            answered = answered or item.content_type == "function_call_output"
        return answered

    def has_call(self, call_id: str) -> bool:
        """Whether a tool call with this id is among the items."""
        calls = (item.tool for item in self._items.values() if item.content_type == "function_call")
        return any(tool is not None and tool["call_id"] == call_id for tool in calls)

    def lines(self, added: int) -> tuple[Line, ...]:
        """What was said last, oldest first; at most ``MAX_LINES``. Of what was typed, the first ``added`` items."""
        items = (item for item in reversed(self._items.values()) if item.number < added or item.parts is None)
        said = (item.line for item in items if item.status != "in_progress" and not item.given)
        return tuple(islice((line for line in said if line is not None), MAX_LINES))[::-1]

    def is_last_line(self, item: Item) -> bool:
        """Whether nothing is said after this item."""
        for later in reversed(self._items.values()):
            if later is item:
                return True
            if later.line is not None or later.content_type == "input_audio":
                return False
        raise KeyError(item.id)

    def get(self, item_id: str, param: str = "item_id", code: str = "item_not_found") -> Item:
        """The item with this id.

        Raises:
            RequestError: there is none.
        """
        try:
            return self._items[item_id]
        except KeyError:
            raise RequestError(code, f"there is no item {item_id[:256]!r}", param) from None

    def add(self, item: Item, previous_item_id: str | None = None) -> str | None:
        """Insert an item; ``previous_item_id`` None means at the end, "root" at the start.

        Returns:
            The id of the item before it, None for the first.

        Raises:
            RequestError: the id is taken, or the item to follow does not exist.
        """
        if item.id in self._items:
            sentence = f"there is an item {item.id!r} already"
            raise RequestError("item_create_duplicate_item_id", sentence, "item.id")
        ids = list(self._items)
        if previous_item_id is None:
            position = len(ids)
        elif previous_item_id == "root":
            position = 0
        else:
            self.get(previous_item_id, "previous_item_id")
            position = ids.index(previous_item_id) + 1
        self._items[item.id] = item
        item.number = self.added
        self.added += 1
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
        item = self.get(item_id, code="item_delete_invalid_item_id")
        del self._items[item_id]
        return item
