"""An answer that is begun before it is known that the user has finished."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agent.inbox import Respond, Speculate
from agent.worker import Lane
from models.runtime import Mode, StepOut

HELD_FRAMES = 2
MAX_STEPS = 12  # of a model whose text leads its audio by very much


class Speculation:
    """The first steps of an answer, made on a copy of the session: the session does not know of them.

    * The copy hears silence in place of what the user says next. It is good as long as the session itself understands
      nothing else in what really comes, be it a frame earlier or later.
    * At most ``HELD_FRAMES`` of audio are made, and no step while somebody else waits for the model.

    Args:
        lane: the session's way to the model thread.
        item: what may have to be answered.
        openings: how the answer has to go on, given more words than the session has understood.
    """

    def __init__(self, lane: Lane, item: Speculate, openings: Callable[[str], Mapping[str, str | None]]) -> None:
        self._lane = lane
        self._item, self._openings = item, openings
        self._copy: Any = None
        self._silence = np.zeros(lane.frame_size, np.float32)
        self._silences = max(0, lane.tail_frames - item.silent_frames)  # to be heard before the answer
        self._expected: list[str] = []  # words in each of them
        self._decided = ""  # words after them, of which the copy was not sure
        self._understood: list[str] = []  # by the session itself, meanwhile
        self._prepared = False  # what was heard is decided
        self._frames = 0
        self._done = False
        self.made: deque[StepOut] = deque()
        """Steps of the answer."""

    @property
    def turn(self) -> int:
        """The turn that may be over."""
        return self._item.turn

    @property
    def _words(self) -> str:
        """What only the copy has heard."""
        return self._all_words[len("".join(self._understood)) :]

    @property
    def _all_words(self) -> str:
        return "".join(self._expected) + self._decided

    @property
    def may_go_on(self) -> bool:
        """Whether there is more to be made, and nobody else waits for the model."""
        enough = self._done or self._frames >= HELD_FRAMES or len(self.made) >= MAX_STEPS
        return not enough and self._lane.nobody_waits

    def understood(self, words: str) -> None:
        """The session has listened to one more frame."""
        self._understood.append(words)

    def answers(self, item: Respond) -> bool:
        """Whether this is the answer that is wanted now."""
        if self._copy is None or (item.turn, item.options) != (self._item.turn, self._item.options):
            return False
        return self._all_words.startswith("".join(self._understood))

    async def work(self) -> None:
        """One more step.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        if self._copy is None:
            self._copy = await self._lane.copy()
        elif self._silences:
            self._silences -= 1
            out = await self._lane.step_copy(self._silence, self._copy)
            self._expected.append(out.user_text)
        else:
            await self._prepare()
            out = await self._lane.step_copy(None, self._copy, Mode.SPEAK)
            self.made.append(out)
            self._frames += out.pcm is not None
            self._done = out.done

    async def _prepare(self) -> None:
        if not self._prepared:
            self._prepared = True
            self._decided = await self._lane.decide(self._copy)
            await self._lane.expect(self._openings(self._words), self._copy)

    async def hear_out(self) -> None:
        """Let the copy hear the rest of the silence, and know what it answers.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        while self._silences:
            await self.work()
        await self._prepare()

    def take(self) -> tuple[str, int]:
        """Make the copy the session; returns the words, and the frames of silence, that only the copy has heard."""
        self._lane.become(self._copy)
        return self._words, max(0, len(self._expected) - len(self._understood))
