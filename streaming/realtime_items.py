"""The items of one realtime conversation, newest last, bounded.

* Only what the protocol needs to answer for is kept: texts and durations, never audio.
* An assistant item remembers how much audio had been sent when each piece of its text was written, so that a
  truncation can trim the transcript to what was heard.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from streaming.realtime_config import RequestError

Json = dict[str, Any]


@dataclass(slots=True)
class Item:
    """One message of the conversation."""

    id: str
    role: str  # "user" | "assistant"
    content_type: str  # "input_audio" | "output_audio" | "output_text"
    status: str = "completed"
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

    def as_json(self, *, empty: bool = False) -> Json:
        """The item as it travels; ``empty`` leaves the content out (an item that has just begun)."""
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
