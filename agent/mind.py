"""The speaking half of a conversation: takes what was heard to the model, and brings its reply back.

* One coroutine per session owns the session's lane; everything it is told waits in one bounded inbox, in order.
* A reply runs ahead of the listener by a bounded lead. Between its frames the user's audio goes to the codec.
* :meth:`Mind.interrupt` ends a reply at once, from outside and without waiting: the generation rises, the reply is
  closed, and a model step that is still running is thrown away when it returns.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np

from agent.inbox import Finish, Forget, Hear, Item, Respond
from agent.metrics import SessionMetrics
from agent.pacing import Pacer
from agent.reply import Clock, Reply, ReplyConfig
from agent.worker import Lane
from models.runtime import Mode, StepOut
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ

_SETTLE_STEPS = 16  # SPEAK steps after which no more of the user's words come
_SETTLE_WAIT_S = 0.3  # a reply that is asked for by then still completes the transcript


class Mind:
    """Runs one session's model steps.

    Args:
        lane: the way to the model thread.
        config: lead and bounds.
        emit: takes events on the loop, must not block.
        clock: seconds, monotonic.
        metrics: counters to fill.
        on_end_of_turn: told the model's end-of-turn probability and the frame's end after every frame listened to.
        on_reply_ended: told when a reply came to its own end.
    """

    def __init__(
        self,
        lane: Lane,
        config: ReplyConfig,
        emit: Callable[[events.Event], None],
        clock: Clock,
        metrics: SessionMetrics,
        on_end_of_turn: Callable[[float, int], None],
        on_reply_ended: Callable[[], None],
    ) -> None:
        self._lane = lane
        self._config = config
        self._emit = emit
        self._clock = clock
        self._metrics = metrics
        self._on_end_of_turn = on_end_of_turn
        self._on_reply_ended = on_reply_ended
        self._frame_s = lane.frame_size / SAMPLE_RATE_HZ
        self.volume = 1.0  # of replies, as a factor
        self._silence = np.zeros(lane.frame_size, np.float32)
        self._inbox: deque[Item] = deque()  # bounds and policies: see room() and put(); what is no audio is rare
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._busy = False
        self._reply: Reply | None = None
        self._reply_number = 0
        self._interrupted: deque[int] = deque(maxlen=16)  # numbers of replies whose audio may still be under way
        self._unheard: int | None = None  # frames heard of an interrupted reply, until the engine knows
        self._latest: Reply | None = None  # once made, until the user is listened to
        self._kept_frames = 0  # of the latest reply, in the engine's memory; 0 once the user was listened to
        self._open_turn: int | None = None  # its transcript is not complete
        self._settle_at: float | None = None
        self._input_frames = 0  # listened to since the last reply began

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is being done, and no reply is being given."""
        return self._reply is None and not self._inbox and not self._busy

    @property
    def sounding(self) -> bool:
        """Whether a reply is still being heard: the listener is taken to play it without a break."""
        reply = self._reply or self._latest
        return reply is not None and reply.pacer.heard_frames(self._clock()) < reply.pacer.frames

    def is_stale(self, reply: int) -> bool:
        """Whether the reply with this number was interrupted, so that its audio must not leave any more."""
        return reply in self._interrupted

    async def room(self) -> None:
        """Wait until audio may be put.

        Bounds: ``inbox_frames`` items, then the caller waits; while a reply that may not be interrupted holds up what
        the user says, ``held_frames``, then further audio is dropped and counted.
        """
        while len(self._inbox) >= self._config.inbox_frames and not self._held_up():
            self._space.clear()
            await self._space.wait()

    async def caught_up(self) -> None:
        """Wait until the model has heard everything there is - unless a reply holds that up."""
        while (self._inbox or self._busy) and not self._held_up():
            self._space.clear()
            await self._space.wait()

    def put(self, item: Item) -> None:
        """Hand over the next item, in order; for audio, after :meth:`room`."""
        if isinstance(item, Hear) and len(self._inbox) >= self._config.held_frames:
            self._metrics.dropped_frames += 1
            return
        self._inbox.append(item)
        self._wake.set()

    def user_began(self) -> None:
        """The user speaks and may interrupt: a reply that is made but has hardly been heard is taken back."""
        if self._reply is None and self._latest is not None and self._is_premature(self._latest):
            self._interrupted.append(self._latest.number)
            self._take_back()

    def _take_back(self) -> None:
        self._unheard, self._latest = 0, None
        self._metrics.taken_back += 1
        self._emit(events.ReplyTakenBack())
        self._wake.set()

    def _is_premature(self, reply: Reply) -> bool:
        heard_s = reply.pacer.heard_frames(self._clock()) * self._frame_s
        return not reply.options.text_only and heard_s * 1000.0 < self._config.take_back_ms

    def interrupt(self, reason: str) -> None:
        """End the reply now, whatever the model is doing; replies that were asked for but not begun never begin."""
        self._lane.cancel()
        self._wake.set()
        reply = self._reply
        if reply is not None:
            if reply.begun:
                self._unheard = reply.pacer.heard_frames(self._clock())
            self._interrupted.append(reply.number)
            self._metrics.interrupted += 1
            self._close("cancelled", reason)
            if reason != "turn_detected":
                self._latest = None  # it was not the user's next words that ended it
            elif reply.begun and self._is_premature(reply):
                self._take_back()

    def hush(self) -> None:
        """The rest of a reply that is made already will not be played: the engine forgets it."""
        if self._reply is None and self._latest is not None:
            self._unheard, self._latest = self._latest.pacer.heard_frames(self._clock()), None
            self._wake.set()

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            StepError: the engine failed.
        """
        while True:
            self._wake.clear()
            if self._unheard is not None:
                self._kept_frames, self._unheard = self._unheard, None
                await self._lane.truncate_reply(self._kept_frames)
            worked = False
            if self._held_up():
                self._space.set()
            elif self._inbox:
                self._busy = True
                await self._handle(self._inbox.popleft())
                self._busy = False
                self._space.set()
                worked = True
            if self._reply is not None and self._reply.pacer.delay_s(self._clock()) <= 0.0:
                await self._speak(self._reply)
                worked = True
            if not worked:
                await self._wait()

    def _held_up(self) -> bool:
        """Whether the next item has to wait for the reply to end."""
        if self._reply is None or not self._inbox:
            return False
        item = self._inbox[0]
        return isinstance(item, Respond | Finish) or (isinstance(item, Hear) and item.listen)

    async def _wait(self) -> None:
        now = self._clock()
        timeout: float | None = None
        if self._reply is not None:
            timeout = self._reply.pacer.delay_s(now)
        elif self._settle_at is not None:
            timeout = self._settle_at - now
            if timeout <= 0.0:
                self._complete_transcript()
                timeout = None
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass

    # --- listening ----------------------------------------------------------------------------------------------------

    async def _handle(self, item: Item) -> None:
        match item:
            case Hear(listen=False):
                await self._lane.step(item.pcm, Mode.IDLE)
                self._metrics.frames_heard += 1
            case Hear():
                if item.turn != self._open_turn:
                    self._complete_transcript()
                    self._open_turn = item.turn
                self._metrics.frames_heard += 1
                out = await self._listen(item.pcm)
                self._on_end_of_turn(out.end_of_turn, item.end)
            case Respond():
                await self._begin(item)
            case Finish():
                await self._listen_to_silence(item.silent_frames, None)
                self._settle_at = self._clock() + _SETTLE_WAIT_S
            case Forget():
                if item.heard_frames < self._kept_frames:
                    self._kept_frames = item.heard_frames
                    await self._lane.truncate_reply(item.heard_frames)

    async def _listen(self, pcm: np.ndarray) -> StepOut:
        self._kept_frames, self._latest = 0, None
        self._input_frames += 1
        out = await self._lane.step(pcm, Mode.LISTEN)
        if out.user_text and self._open_turn is not None:
            self._emit(events.UserText(self._open_turn, out.user_text))
        return out

    async def _listen_to_silence(self, heard_frames: int, generation: int | None) -> None:
        for _ in range(heard_frames, self._lane.tail_frames):
            if generation is not None and generation != self._lane.generation:
                return
            await self._listen(self._silence)

    def _complete_transcript(self) -> None:
        self._settle_at = None
        if self._open_turn is not None:
            turn, self._open_turn = self._open_turn, None
            self._emit(events.UserTextDone(turn))

    # --- speaking -----------------------------------------------------------------------------------------------------

    async def _begin(self, item: Respond) -> None:
        if item.options.say is not None:
            await self._take_words(item.options.say, item.generation)
        elif item.generation == self._lane.generation and self._settle_at is None:
            await self._listen_to_silence(item.silent_frames, item.generation)
        self._settle_at = None
        if item.generation != self._lane.generation:
            self._settle_at = self._clock() + _SETTLE_WAIT_S  # interrupted before it began
            return
        self._reply_number += 1
        lead_ms = self._config.max_lead_ms
        pacer = Pacer(self._frame_s, None if lead_ms is None else lead_ms / 1000.0)
        number = self._reply_number
        self._reply = Reply(number, item.generation, item.turn, item.options, pacer, self._input_frames)
        self._input_frames = 0
        self._metrics.replies += 1
        self._mark("decision_to_reply_ms")
        asked = item.options
        said = asked.say is not None
        self._emit(
            events.ReplyStarted(number, asked.text_only, asked.metadata, asked.max_output_tokens, asked.tools, said)
        )

    async def _take_words(self, words: str, generation: int) -> None:
        if generation != self._lane.generation:
            return
        self._kept_frames, self._latest = 0, None
        await self._lane.read(words, say=True)
        if generation != self._lane.generation:
            await self._lane.truncate_reply(0)  # interrupted before the first of them

    async def _speak(self, reply: Reply) -> None:
        reply.begun = True
        out = await self._lane.step(None, Mode.SPEAK)
        if reply.generation != self._lane.generation:
            return  # interrupted while the step ran
        reply.steps += 1
        if out.user_text and self._open_turn is not None:
            self._emit(events.UserText(self._open_turn, out.user_text))
        if out.text:
            self._mark("decision_to_text_ms")
            reply.texts += 1
            self._emit(events.ReplyText(out.text))
        if out.pcm is not None:
            self._send_audio(reply, out.pcm)
        if reply.steps == _SETTLE_STEPS:
            self._complete_transcript()
        if out.done:
            self._end(reply, "completed", None)
        elif self._used_up(reply):
            self._end(reply, "incomplete", "max_output_tokens")

    def _used_up(self, reply: Reply) -> bool:
        limit = reply.options.max_output_tokens
        if limit is not None and reply.texts + reply.pacer.frames >= limit:
            return True
        return reply.steps * self._frame_s >= self._config.max_reply_s

    def _send_audio(self, reply: Reply, pcm: np.ndarray) -> None:
        if reply.options.text_only:
            return
        self._mark("decision_to_audio_ms")
        underruns = reply.pacer.underruns
        reply.pacer.sent(self._clock())
        self._metrics.underruns += reply.pacer.underruns - underruns
        self._metrics.frames_spoken += 1
        self._emit(events.ReplyAudio(pcm if self.volume == 1.0 else pcm * np.float32(self.volume)))

    def _end(self, reply: Reply, status: events.ResponseStatus, reason: str | None) -> None:
        if status != "completed":
            self._unheard = reply.pacer.frames
        self._close(status, reason)
        self._on_reply_ended()

    def _close(self, status: events.ResponseStatus, reason: str | None) -> None:
        reply = self._reply
        assert reply is not None, "no reply to close"
        self._reply = None
        self._latest = reply
        self._kept_frames = reply.pacer.frames
        self._space.set()
        if (record := self._metrics.find(reply.turn)) is not None:
            record.status, record.reply_frames = status, reply.pacer.frames
        self._complete_transcript()
        usage = events.Usage(reply.input_frames, reply.pacer.frames, reply.texts)
        self._emit(events.ReplyDone(status, reason, usage))

    def _mark(self, name: str) -> None:
        assert self._reply is not None, "marks belong to a reply"
        record = self._metrics.find(self._reply.turn)
        if record is not None and getattr(record, name) is None:
            setattr(record, name, (self._clock() - record.decided_at) * 1000.0)
