"""What listens to the sound over a reply that is held."""

from typing import Any

import numpy as np

from agent.worker import Lane


class Ear:
    """A copy of the session, interrupted in its reply, that hears what the session itself does not.

    Args:
        lane: the session's way to the model thread.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._copy: Any = None
        self._text = ""

    def forget(self) -> None:
        """Begin anew with the next sound."""
        self._copy, self._text = None, ""

    async def hear(self, pcm: np.ndarray, heard_frames: int, *, last: bool) -> str:
        """Listen to one frame of the sound.

        Args:
            pcm: float32 [frame_size].
            heard_frames: frames of the reply that were heard before the sound.
            last: there is silence after it.

        Returns:
            All words in the sound so far.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        if self._copy is None:
            self._copy = await self._lane.fork(heard_frames)
        silence = np.zeros(self._lane.frame_size, np.float32)
        for frame in (pcm, *[silence] * (self._lane.tail_frames if last else 0)):
            self._text += (await self._lane.step_copy(frame, self._copy)).user_text
        return self._text
