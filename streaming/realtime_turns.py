"""The user's spoken turns on the wire: when they began and ended, their items, and their transcripts."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ, samples_to_ms
from streaming.realtime_items import Item, ItemList

_MAX_OPEN_TURNS = 32
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Emit(Protocol):
    """Puts a message on the wire."""

    def __call__(self, type: str, /, **fields: object) -> None:
        """The message's type and its other fields."""


@dataclass(slots=True)
class _UserTurn:
    item_id: str
    samples: int = 0
    committed: bool = False
    pending: list[str] = field(default_factory=list)  # words that came before the item existed
    done: bool = False


class UserTurns:
    """Turns that are not complete yet. Bound: ``_MAX_OPEN_TURNS``; policy: the oldest leave.

    Args:
        items: the conversation's.
        new_id: makes an identifier from its kind.
        emit: puts a message on the wire.
        add: adds an item at the end of the conversation and tells the client.
    """

    def __init__(self, items: ItemList, new_id: Callable[[str], str], emit: Emit, add: Callable[[Item], None]) -> None:
        self.transcribe = False
        """Whether the client wants to know what the user said."""
        self._items = items
        self._new_id = new_id
        self._emit = emit
        self._add = add
        self._turns: OrderedDict[int, _UserTurn] = OrderedDict()
        self._latest_item = 0

    def __len__(self) -> int:
        return len(self._turns)

    def send(self, event: events.TurnEvent) -> None:
        """Tell the client what happened in a turn."""
        match event:
            case events.UserStarted():
                item_id = self._open(event.turn).item_id
                self._emit("input_audio_buffer.speech_started", audio_start_ms=samples_to_ms(event.at), item_id=item_id)
            case events.UserStopped():
                item_id = self._open(event.turn).item_id
                self._emit("input_audio_buffer.speech_stopped", audio_end_ms=samples_to_ms(event.at), item_id=item_id)
            case events.UserTimedOut():
                item_id = self._open(event.turn).item_id
                start_ms, end_ms = samples_to_ms(event.start), samples_to_ms(event.end)
                self._emit(
                    "input_audio_buffer.timeout_triggered",
                    audio_start_ms=start_ms,
                    audio_end_ms=end_ms,
                    item_id=item_id,
                )
            case events.AudioCommitted():
                self._commit(event)
            case events.AudioCleared():
                if event.turn is not None:
                    self._turns.pop(event.turn, None)
                self._emit("input_audio_buffer.cleared")
            case events.UserText():
                self._text(event.turn, event.text)
            case events.UserTextDone():
                self._text_done(event.turn)

    def item_added(self, item: Item, samples: int) -> int:
        """An item with audio was added by the client; returns the number of the turn that it is (below 0)."""
        self._latest_item -= 1
        self._turns[self._latest_item] = _UserTurn(item.id, samples, committed=True)
        return self._latest_item

    def _open(self, number: int) -> _UserTurn:
        if number not in self._turns:
            self._turns[number] = _UserTurn(self._new_id("item"))
            while len(self._turns) > _MAX_OPEN_TURNS:
                self._turns.popitem(last=False)
        return self._turns[number]

    def _commit(self, event: events.AudioCommitted) -> None:
        turn = self._open(event.turn)
        turn.committed = True
        turn.samples = event.samples
        self._emit("input_audio_buffer.committed", previous_item_id=self._items.last_id, item_id=turn.item_id)
        self._add(Item(turn.item_id, "user", "input_audio"))
        waiting, turn.pending = turn.pending, []
        for text in waiting:
            self._text(event.turn, text)
        if turn.done:
            self._text_done(event.turn)

    def _text(self, number: int, text: str) -> None:
        turn = self._turns.get(number)
        if turn is None:
            return
        if not turn.committed:
            turn.pending.append(text)
            return
        if turn.item_id in self._items:
            item = self._items.get(turn.item_id)
            item.text = ((item.text or "") + text).lstrip()
            item.shown = self.transcribe
        if self.transcribe:
            self._emit(f"{_TRANSCRIPTION}.delta", item_id=turn.item_id, content_index=0, delta=text)

    def _text_done(self, number: int) -> None:
        turn = self._turns.get(number)
        if turn is None:
            return
        turn.done = True
        if not turn.committed:
            return
        del self._turns[number]
        if not self.transcribe:
            return
        text = self._items.get(turn.item_id).text if turn.item_id in self._items else None
        self._emit(
            f"{_TRANSCRIPTION}.completed",
            item_id=turn.item_id,
            content_index=0,
            transcript=(text or "").strip(),
            usage={"type": "duration", "seconds": turn.samples / SAMPLE_RATE_HZ},
        )
