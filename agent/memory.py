"""What the model remembers: everything that is heard, read and recalled goes to it here, in order."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from agent.inbox import Prompts, Recollect
from agent.reply import Reply
from agent.worker import Lane
from models.runtime import Mode, StepOut
from streaming import realtime_events as events
from streaming.frames import whole_frames

MOST_HEARD = 2_000  # characters that wait for an answer: later ones count


class OrderBook(Protocol):
    """What was agreed so far, kept beside the model."""

    def note(self) -> str | None:
        """What there is to remember after the latest reply; None: only the model can know."""

    def openings(self, heard: str) -> Mapping[str, str | None]:
        """How the reply to what was heard has to go on, by the words it may begin with; None: it may not."""

    def take_back(self) -> None:
        """The latest reply is forgotten."""


class Memory:
    """The past of one session's model.

    Args:
        lane: the way to the model threads.
        emit: takes events on the loop, must not block.
        prompts: what to say when there is nothing to answer; None: what the model makes of that.
        order: knows what was agreed so far; None: what the model makes of it.
    """

    def __init__(
        self,
        lane: Lane,
        emit: Callable[[events.Event], None],
        prompts: Prompts | None = None,
        order: OrderBook | None = None,
    ) -> None:
        self.latest: Reply | None = None  # when it is made, and nothing was taken in since
        self.kept_frames = 0  # of it
        self._skipped = 0  # samples of its first frame that were not sent
        self.unheard: int | None = None  # frames heard of an interrupted reply, until the engine knows
        self.unanswered = False  # the user has said something since
        self.recollect: Recollect | None = None  # the past has changed
        self.open_turn: int | None = None  # its transcript is not complete
        self._lane = lane
        self._emit = emit
        self._prompts = prompts
        self._silence = np.zeros(lane.frame_size, np.float32)
        self._tail_due = False  # what was listened to may have ended in mid-word
        self._used = events.Usage()
        self._order, self._note_due = order, False
        self._heard = ""  # words since the latest answer

    def take_usage(self) -> events.Usage:
        """What was taken in since the last time."""
        used, self._used = self._used, events.Usage()
        return used

    # --- taking in ----------------------------------------------------------------------------------------------------

    async def hear(self, pcm: np.ndarray, turn: int) -> StepOut:
        """Listen to one frame of the user's turn, float32 [frame_size]."""
        if turn != self.open_turn:
            await self._decide()
            self.complete_transcript()
            self.open_turn = turn
        self._hear("")
        self._tail_due = True
        return await self._listen(pcm)

    async def hear_out(self, silent_frames: int = 0, generation: int | None = None) -> None:
        """Listen to the silence after what was heard, of which ``silent_frames`` have been heard already."""
        for _ in range(silent_frames, self._lane.tail_frames if self._tail_due else 0):
            if generation is not None and generation != self._lane.generation:
                return
            await self._listen(self._silence)
        await self._decide()
        self._tail_due = False

    async def take_in(self, said: events.Line | np.ndarray, *, aside: bool = False) -> None:
        """Hear a recording, read what the user typed, or remember what the agent said; what is too long is left out.

        What is taken in ``aside`` agrees nothing.
        """
        self.latest, self.kept_frames = None, 0
        if isinstance(said, np.ndarray):
            self._hear("")
            for frame in whole_frames(said, self._lane.frame_size):
                await self._listen(frame)
            self._tail_due = True
            await self.hear_out()
        elif not self._lane.can_take(said.text):
            return
        elif said.role == "user":
            read = await self._lane.read(said.text)
            self._used = replace(self._used, input_text=self._used.input_text + read)
            self._hear(f" {said.text}")
        else:
            await self._lane.recall(said.text)
            while not (await self._lane.step(None, Mode.SPEAK)).done:
                pass
            self.unanswered = False
            if not aside:
                self._emit(events.Recalled(said.text))
                self._note_due = True
                await self.settle()

    def complete_transcript(self) -> None:
        """No more of the open turn's words come."""
        if self.open_turn is not None:
            turn, self.open_turn = self.open_turn, None
            self._emit(events.UserTextDone(turn))

    def _hear(self, words: str) -> None:
        self._heard = f"{self._heard if self.unanswered else ''}{words}"[-MOST_HEARD:]
        self.unanswered = True

    async def _listen(self, pcm: np.ndarray) -> StepOut:
        self.latest, self.kept_frames = None, 0
        self._used = replace(self._used, input_audio=self._used.input_audio + 1)
        out = await self._lane.step(pcm, Mode.LISTEN)
        self._understand(out.user_text)
        return out

    async def _decide(self) -> None:
        if self._tail_due:
            self._understand(await self._lane.decide())

    def _understand(self, words: str) -> None:
        self._heard += words
        if words and self.open_turn is not None:
            self._emit(events.UserText(self.open_turn, words))

    # --- forgetting ---------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Forget and note what has to be; between a reply and what is heard next, or in a reply's pauses."""
        if self.unheard is not None:
            self.kept_frames, self.unheard = self.unheard, None
            await self._lane.truncate_reply(self.kept_frames)
        if self._note_due and self._order is not None and (note := self._order.note()) is not None:
            await self._lane.note(note)
        self._note_due = False

    def take_back(self) -> None:
        """The latest reply came too early: it is as if there had been none."""
        self.unheard, self.latest, self.unanswered = 0, None, True

    async def forget_unheard(self, heard_samples: int) -> None:
        """Only so much of what was sent of the latest reply was heard; a begun frame counts as heard."""
        heard_frames = -(-(heard_samples + self._skipped) // self._lane.frame_size) if heard_samples else 0
        if heard_frames < self.kept_frames:
            self.kept_frames = heard_frames
            await self._lane.truncate_reply(heard_frames)

    async def change(self, item: Recollect) -> None:
        """The past is another: at once, if only the latest reply has gone, else as soon as nobody is speaking."""
        if item.latest_reply and self.kept_frames and self.recollect is None:
            given = self.latest is not None and self.latest.options.say is not None
            await self.forget_unheard(0)
            self.unanswered = self.unanswered or not given
            if self._order is not None and not given:
                self._order.take_back()
        else:
            self.recollect = item

    async def remember(self) -> None:
        """Take in the past anew, if it has changed; only while nobody is speaking."""
        if self.recollect is None:
            return
        lines, self.recollect = self.recollect.lines(), None
        used, self.unanswered = self._used, False
        await self._lane.forget()
        self._emit(events.Recalled(None))
        for line in lines:
            await self.take_in(line)
        self._used = used

    def may_be_answered(self, turn: int) -> bool:
        """Whether an answer to this turn may be begun before it is over."""
        return turn == self.open_turn and self.recollect is None

    def openings(self, more: str = "") -> Mapping[str, str | None]:
        """How the next reply has to go on, if the user has said ``more`` as well, by the words it may begin with."""
        return self._order.openings(self._heard + more) if self._order is not None else {}

    def answered_early(self, words: str, silent_frames: int) -> None:
        """The answer was begun on a copy, which is the session now, and had heard this as well."""
        self._tail_due = self.unanswered = False
        self._understand(words)
        self._used = replace(self._used, input_audio=self._used.input_audio + silent_frames)

    # --- a reply ------------------------------------------------------------------------------------------------------

    async def prepare(self, options: events.CreateResponse, *, first: bool) -> None:
        """Know what the next reply has to answer, or to say; ``first``: there was none before it."""
        if not self.unanswered:
            self._heard = ""
        if options.say is not None:
            self.latest, self.kept_frames = None, 0
            await self._lane.read(options.say, say=True)
            return  # it answers nothing
        unanswered, heard = self.unanswered, self._heard
        if options.context is not None:
            await self._lane.step_aside()
            self.unanswered = False
            for said in options.context:
                await self.take_in(said, aside=True)
        if not self.unanswered and self._prompts is not None:
            await self._lane.recall(self._prompts.first if first else self._prompts.later)
        elif self._order is not None:
            await self._lane.expect({} if options.context is not None else self.openings())
        self.unanswered, self._heard = unanswered and options.apart, heard

    async def abandon(self, options: events.CreateResponse) -> None:
        """The reply that was prepared will not be given."""
        if options.say is not None:
            await self._lane.truncate_reply(0)  # nor will the next one be of its words
            return
        self.unanswered = True
        if options.context is not None:
            self._lane.step_back()

    def cut_short(self, reply: Reply, heard_frames: int) -> None:
        """A reply was stopped, or the rest of its sound; what is written counts as heard, unless it was given."""
        given, self.latest = reply.options.say is not None, None
        if given or (reply.begun and not reply.options.text_only):
            self.unheard = heard_frames
        if not (given or reply.options.apart) and (not reply.begun or self.unheard == 0):
            self.unanswered = True  # nothing of the answer was heard

    def close(self, reply: Reply) -> None:
        """A reply has ended: it is remembered, unless it was apart from the conversation."""
        if not reply.options.apart:
            self.latest, self.kept_frames, self._skipped = reply, reply.pacer.frames, reply.skipped
            self._note_due = True
            return
        self.latest, self.kept_frames = None, 0
        self.unheard = 0 if reply.begun and reply.options.context is None else None
        if reply.options.context is not None:
            self._lane.step_back()
