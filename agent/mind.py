"""The speaking half of a conversation: takes what was heard to the model, and brings its reply back.

* One coroutine per session owns the session's lane; everything it is told waits in one bounded inbox, in order.
* A reply runs ahead of the listener by a bounded lead. Between its frames the user's audio goes to the codec.
* While the user may have finished, the answer is begun on a copy, and held back: see :mod:`agent.speculation`.
* :meth:`Mind.interrupt` ends a reply at once, from outside and without waiting: the generation rises, the reply is
  closed, and a model step that is still running is thrown away when it returns.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from agent import inbox
from agent.ear import Ear
from agent.injection import Injector
from agent.memory import Memory
from agent.metrics import SessionMetrics
from agent.pacing import Pacer
from agent.reply import Clock, Reply, ReplyConfig
from agent.speculation import Speculation
from agent.worker import Lane
from models.runtime import Mode, StepOut
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ

_SETTLE_STEPS = 16  # SPEAK steps after which no more of the user's words come
_SETTLE_WAIT_S = 0.3  # a reply that is asked for by then still completes the transcript


class Mind:
    """Runs one session's model steps.

    Args:
        lane: the way to the model threads.
        config: lead and bounds.
        emit: takes events on the loop, must not block.
        clock: seconds, monotonic.
        metrics: counters to fill.
        on_end_of_turn: told the model's end-of-turn probability and the frame's end after every frame listened to.
        on_reply_ended: told when a reply came to its own end.
        on_overheard: told all words so far of the sound over a held reply, and whether there are no more.
        memory: what the model remembers, through the same lane.
    """

    def __init__(
        self,
        lane: Lane,
        config: ReplyConfig,
        emit: Callable[[events.Event], None],
        clock: Clock,
        metrics: SessionMetrics,
        on_end_of_turn: Callable[[float, int], None], on_reply_ended: Callable[[], None],
        on_overheard: Callable[[str, bool], None], memory: Memory,
    ) -> None:  # fmt: skip
        self._lane = lane
        self._config, self._metrics = config, metrics
        self._emit, self._clock = emit, clock
        self._on_end_of_turn, self._on_reply_ended, self._on_overheard = on_end_of_turn, on_reply_ended, on_overheard
        self._frame_s = lane.frame_size / SAMPLE_RATE_HZ
        self._memory = memory
        self._wake = asyncio.Event()
        self._inbox = inbox.Inbox(config.inbox_frames, config.held_frames, self._has_to_wait, self._wake.set)
        self.room, self.caught_up = self._inbox.room, self._inbox.caught_up
        self._reply: Reply | None = None
        self._reply_number = 0
        self._interrupted: deque[int] = deque(maxlen=16)  # numbers of replies whose audio may still be under way
        self._ear, self.injector = Ear(lane), Injector(lane, emit, config.prosody_policy)
        self._speculation: Speculation | None = None
        self._paused_at: float | None = None
        self._settle_at: float | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is being done, and no reply is being given."""
        return self._reply is None and self._inbox.empty

    @property
    def sounding(self) -> bool:
        """Whether a reply is being heard, or is held after its beginning."""
        return self.unheard_s > 0.0 or (self._reply is not None and self._reply.pacer.frames > 0)

    def is_stale(self, reply: int) -> bool:
        """Whether the reply with this number was interrupted, so that its audio must not leave any more."""
        return reply in self._interrupted

    @property
    def waiting(self) -> int:
        """Items in the inbox."""
        return len(self._inbox)

    @property
    def unheard_s(self) -> float:
        """Seconds of the latest reply that the listener still has to play."""
        return 0.0 if (reply := self._reply or self._memory.latest) is None else reply.pacer.unheard_s(self._clock())

    def put(self, item: inbox.Item) -> bool:
        """Hand over the next item, in order, after ``room()``; False when it had to be dropped."""
        taken = self._inbox.put(item)
        self._metrics.dropped_frames += isinstance(item, inbox.Hear) and not taken
        return taken

    def user_began(self) -> None:
        """The user speaks and may interrupt: a reply that is made but has hardly been heard is taken back."""
        latest = self._memory.latest
        if self._reply is None and latest is not None and self._is_premature(latest):
            self._interrupted.append(latest.number)
            self._take_back()

    def _take_back(self) -> None:
        self._memory.take_back()
        self._metrics.taken_back += 1
        self._emit(events.ReplyTakenBack())
        self._wake.set()

    def _is_premature(self, reply: Reply) -> bool:
        heard_s = reply.heard_frames(self._clock()) * self._frame_s
        return not reply.options.text_only and heard_s * 1000.0 < self._config.take_back_ms

    @property
    def just_begun(self) -> bool:
        """Whether the reply, or the latest one, has hardly been heard, so that the user may be going on."""
        reply = self._reply or self._memory.latest
        return reply is None or self._is_premature(reply)

    def hold(self, *, listener_stops: bool) -> None:
        """Wait with the reply; ``listener_stops`` playing meanwhile, or plays what it has."""
        self._ear.forget()
        if self._reply is not None:
            self._reply.hold(self._clock(), listener_stops=listener_stops)
            self._metrics.held += 1

    def resume(self) -> None:
        """Go on with the reply."""
        if self._reply is not None:
            self._reply.resume(self._clock())
            self._wake.set()

    def pause(self) -> None:
        """Say nothing: nobody is there to hear it."""
        self._paused_at = self._clock()
        if self._reply is not None:
            self._reply.paused_at = self._paused_at

    def go_on(self, repeated: Sequence[int | None]) -> None:
        """The listener is back, and is sent again what belongs to these replies, an entry for each frame."""
        self._paused_at, now = None, self._clock()
        if self._reply is not None:
            self._reply.unpause(now)
        if (latest := self._reply or self._memory.latest) is not None:
            latest.pacer.repeated(now, repeated.count(latest.number))
        self._wake.set()

    def interrupt(self, reason: str) -> None:
        """End the reply now, whatever the model is doing; replies that were asked for but not begun never begin."""
        self._lane.cancel()
        self._wake.set()
        memory = self._memory
        if (reply := self._reply) is not None:
            memory.cut_short(reply, reply.heard_frames(self._clock()))
            self._interrupted.append(reply.number)
            self._metrics.interrupted += 1
            self._close("cancelled", reason)
            if reason != "turn_detected":
                memory.latest = None  # it was not the user's next words that ended it
            elif not reply.options.apart and reply.begun and self._is_premature(reply):
                self._take_back()

    def hush(self) -> None:
        """The rest of a reply that is made already will not be played."""
        if self._reply is None and (latest := self._memory.latest) is not None:
            self._memory.cut_short(latest, latest.heard_frames(self._clock()))
            self._wake.set()

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            StepError: the engine failed.
        """
        while True:
            self._wake.clear()
            await self._memory.settle()
            if self._memory.open_turn is None and self._reply is None:
                await self._memory.remember()
            worked = False
            if (item := self._inbox.take()) is not None:
                await self._handle(item)
                worked = True
            self._inbox.done()
            if self._speculation is not None and self._speculation.may_go_on:
                await self._speculation.work()
                worked = True
            if self._reply is not None and self._reply.delay_s(self._clock()) == 0.0:
                await self._speak(self._reply)
                worked = True
            if not worked:
                await self._wait()

    def _has_to_wait(self, item: inbox.Item) -> bool:
        if self._reply is None or isinstance(item, inbox.Forget | inbox.Overhear):
            return False
        return not isinstance(item, inbox.Hear) or item.listen

    async def _wait(self) -> None:
        now = self._clock()
        timeout: float | None = None
        if self._reply is not None:
            timeout = self._reply.delay_s(now)
        elif self._settle_at is not None:
            timeout = self._settle_at - now
            if timeout <= 0.0:
                self._complete_transcript()
                timeout = None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout)

    # --- listening ----------------------------------------------------------------------------------------------------

    async def _handle(self, item: inbox.Item) -> None:
        if self._speculation is not None and not inbox.leaves_open(item, self._speculation.turn):
            self._speculation = None
        match item:
            case inbox.Hear(listen=False):
                await self._lane.step(item.pcm, Mode.IDLE)
                self._metrics.frames_heard += 1
            case inbox.Hear():
                self._metrics.frames_heard += 1
                if item.turn != self._memory.open_turn:
                    self._settle_at = None
                out = await self._memory.hear(item.pcm, item.turn)
                if self._speculation is not None:
                    self._speculation.understood(out.user_text)
                self._on_end_of_turn(out.end_of_turn, item.end)
            case inbox.Overhear():
                await self._overhear(item)
            case inbox.Respond():
                await self._begin(item)
            case inbox.Speculate() if self._memory.may_be_answered(item.turn) and not self.injector.leads:
                self._speculation = Speculation(self._lane, item, self._memory.openings)
                self._metrics.speculated += 1
            case inbox.Finish():
                await self._memory.hear_out(item.silent_frames)
                self._settle_at = self._clock() + _SETTLE_WAIT_S
            case inbox.Forget():
                await self._memory.forget_unheard(item.heard_samples)
            case inbox.Add():
                await self._memory.hear_out()
                self._complete_transcript()
                await self._memory.remember()
                await self._memory.take_in(item.line)
            case inbox.Recollect():
                await self._memory.change(item)

    async def _overhear(self, item: inbox.Overhear) -> None:
        if (reply := self._reply) is None or reply.held_at is None:
            return  # it is known by now
        words = await self._ear.hear(item.pcm, reply.heard_frames(self._clock()), last=item.last)
        if reply.held_at is not None and reply is self._reply:
            self._on_overheard(words, item.last)

    def _complete_transcript(self) -> None:
        self._settle_at = None
        self._memory.complete_transcript()

    # --- speaking -----------------------------------------------------------------------------------------------------

    async def _begin(self, item: inbox.Respond) -> None:
        made = await self._begun_early(item)
        if made is None:
            await self._memory.hear_out(item.silent_frames, item.generation)
        self._settle_at = None
        if made is None and item.generation == self._lane.generation:
            await self._memory.prepare(item.options, first=self._reply_number == 0)
            if item.generation != self._lane.generation:
                await self._memory.abandon(item.options)
        if item.generation != self._lane.generation:
            self._settle_at = self._clock() + _SETTLE_WAIT_S  # interrupted before it began
            return
        self._reply_number += 1
        pacer = Pacer(self._frame_s / item.options.speed, self._config.max_lead_s)
        used = self._memory.take_usage()
        self._reply = reply = Reply(self._reply_number, item.generation, item.turn, item.options, pacer, used)
        reply.begun, reply.made, reply.paused_at = made is not None, made or deque(), self._paused_at
        self._metrics.replies += 1
        self._metrics.mark(item.turn, "reply", self._clock())
        self.injector.begin(reply)
        self._emit(events.ReplyStarted(self._reply_number, item.options))

    async def _begun_early(self, item: inbox.Respond) -> deque[StepOut] | None:
        """The first steps of this reply, when it was begun on a copy, which is the session then; else None."""
        speculation, self._speculation = self._speculation, None
        if speculation is None or not speculation.answers(item):
            return None
        await speculation.hear_out()
        if item.generation != self._lane.generation:
            return None  # interrupted meanwhile: the session is as if nothing had been begun
        self._memory.answered_early(*speculation.take())
        self._metrics.speculations_used += 1
        return speculation.made

    async def _speak(self, reply: Reply) -> None:
        reply.begun = True
        out = reply.made.popleft() if reply.made else await self.injector.step()
        if reply.generation != self._lane.generation:
            return  # interrupted while the step ran
        reply.steps += 1
        if out.user_text and self._memory.open_turn is not None:
            self._emit(events.UserText(self._memory.open_turn, out.user_text))
        if out.text:
            self._metrics.mark(reply.turn, "text", self._clock())
            reply.texts += 1
            self._emit(events.ReplyText(out.text))
        if out.pcm is not None and not reply.options.text_only:
            self._send_audio(reply, out.pcm)
        self.injector.spoken(out)
        if reply.steps == _SETTLE_STEPS:
            self._complete_transcript()
        if out.done:
            self._end(reply, "completed", None)
        elif reply.used_up(self._frame_s, self._config.max_reply_s):
            self._end(reply, "incomplete", "max_output_tokens")

    def _send_audio(self, reply: Reply, pcm: np.ndarray) -> None:
        pcm = reply.audible(pcm)
        self._metrics.mark(reply.turn, "audio", self._clock())
        self._metrics.underruns += not reply.pacer.sent(self._clock(), len(pcm) / SAMPLE_RATE_HZ / reply.options.speed)
        self._metrics.frames_spoken += 1
        self._emit(events.ReplyAudio(pcm))

    def _end(self, reply: Reply, status: events.ResponseStatus, reason: str | None) -> None:
        if status != "completed":
            self._memory.cut_short(reply, reply.pacer.frames)
        self._close(status, reason)
        self._on_reply_ended()

    def _close(self, status: events.ResponseStatus, reason: str | None) -> None:
        reply, self._reply = self._reply, None
        assert reply is not None, "no reply to close"
        self._memory.close(reply)
        self.injector.end(status)
        self._inbox.done()
        self._metrics.reply_ended(reply.turn, status, reply.pacer.frames)
        self._complete_transcript()
        usage = replace(reply.used, output_audio=reply.pacer.frames, output_text=reply.texts)
        self._emit(events.ReplyDone(status, reason, usage))
