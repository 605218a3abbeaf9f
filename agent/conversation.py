"""One conversation, whatever carries it: audio and commands in, events out.

* The listening half is here: every chunk goes through the voice detector at once, and through the framer to the
  model; the turn taker decides. It never waits for the model, except when audio arrives faster than the model can eat
  it - then the sender has to wait.
* The speaking half is :class:`agent.mind.Mind`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from agent import turn_events as turn
from agent.actions import ActingEmitter, Actions
from agent.detection import Detection
from agent.errors import InputError
from agent.inbox import Add, Finish, Forget, Hear, Item, Overhear, Recollect, Respond, Speculate, Withdraw
from agent.memory import Memory
from agent.metrics import SessionMetrics, TurnMetrics
from agent.mind import Mind
from agent.push_to_talk import TOO_MUCH, HeldAudio
from agent.reply import Clock, ReplyConfig
from agent.turn import TurnConfig, TurnTaker
from agent.worker import Lane
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ, Framer, whole_frames
from streaming.realtime_config import Eagerness, SessionConfig
from streaming.vad import SpeechStarted, Vad, VadConfig

ConversationState = Literal["idle", "listening", "thinking", "speaking"]


class Conversation:
    """A user and the agent, talking.

    Args:
        lane: the session's way to the model threads.
        emit: takes events on the loop, must not block.
        vad: detector settings.
        turns: turn-taking settings.
        replies: lead and bounds of replies.
        clock: seconds, monotonic; for pacing and latency only.
        actions: what replies do; None when they only speak.
        listener_stops: whether the listener stops playing when a reply is held (else it plays what it has).
        metrics: counters to fill; None for new ones.
    """

    def __init__(
        self,
        lane: Lane,
        emit: Callable[[events.Event], None],
        vad: VadConfig,
        turns: TurnConfig,
        replies: ReplyConfig,
        clock: Clock = time.monotonic,
        actions: Actions | None = None,
        listener_stops: bool = False,
        metrics: SessionMetrics | None = None,
    ) -> None:
        self.metrics = metrics or SessionMetrics()
        self.muted = False  # what the user says counts as silence
        self.volume = 1.0  # of replies, as a factor
        self._lane, self._listeners, self._clock = lane, [emit], clock
        self._detection, self._vad, self._detect = Detection(vad, turns), Vad(vad), True
        self._framer, self._held = Framer(lane.frame_size), HeldAudio(lane.frame_size)
        self._now = self._turn_began = 0  # samples received: the session's clock
        self._idle_since: int | None = None
        self._taker, self._defaults, self._listener_stops = TurnTaker(turns), events.CreateResponse(), listener_stops
        self._doubted: deque[tuple[np.ndarray, int]] = deque()  # frames; bound: doubt ends, see TurnConfig
        acting = ActingEmitter(actions.replies, self._emit) if actions else None
        speak: Callable[[events.Event], None] = acting or self._emit
        memory = Memory(lane, speak, actions.prompts if actions else None, acting)
        told = (self._model_heard, self._reply_ended, self._overheard)
        self._mind = Mind(lane, replies, speak, clock, self.metrics, *told, memory)
        self.injector = self._mind.injector  # prosody tokens go there

    @property
    def idle(self) -> bool:
        """Whether the agent has nothing to do or say."""
        return self._mind.idle and not self._taker.replying

    @property
    def waiting(self) -> int:
        """Items that wait for the model."""
        return self._mind.waiting

    @property
    def speaking(self) -> bool:
        """Whether a reply is wanted or being given."""
        return self._taker.replying

    @property
    def state(self) -> ConversationState:
        """What is going on now, as the user would say; a reply that is held is still being spoken."""
        if self._taker.listening:
            return "listening"
        if self._mind.sounding:
            return "speaking"
        return "thinking" if self._taker.replying else "idle"

    def watch(self, watcher: Callable[[events.Event], None]) -> None:
        """Let somebody else see every event as well, from now on; it must neither block nor raise."""
        self._listeners.append(watcher)

    def is_stale(self, reply: int) -> bool:
        """Whether the reply with this number was interrupted, so that its audio must not leave any more."""
        return self._mind.is_stale(reply)

    def pause(self) -> None:
        """Nobody is there to hear a reply: it waits, and one that begins does."""
        self._mind.pause()

    def go_on(self, repeated: Sequence[int | None]) -> None:
        """The listener is back, and is sent again what belongs to these replies, an entry for each frame."""
        self._mind.go_on(repeated)

    async def run(self) -> None:
        """Give replies until cancelled.

        Raises:
            StepError: the engine failed.
        """
        await self._mind.run()

    async def do(self, command: events.Command) -> None:
        """Carry out one command; what cannot be done is emitted as :class:`Refused`. Waits when the model is behind."""
        match command:
            case events.AppendAudio():
                await self.hear(command.pcm)
            case events.CommitAudio():
                await self._commit(command)
            case events.ClearAudio():
                self._drop_held()
                self._decide(turn.Clear())
            case events.CreateResponse():
                self._decide(turn.Create(command))
            case events.CancelResponse():
                self._decide(turn.Cancel(command.event_id))
            case events.TruncateReply():
                await self._hand_over(Forget(command.heard_samples))
            case events.HearItem():
                await self._hear_all(whole_frames(command.pcm, self._lane.frame_size), command.turn)
            case events.AddLine():
                await self._hand_over(Add(command.line))
            case events.Recollect():
                await self._hand_over(Recollect(command.lines, command.latest_reply))
            case events.ConfigureSession():
                self._configure(command.config)
            case events.InjectProsody():
                self.injector.obey(command)

    async def _hand_over(self, item: Item) -> None:
        await self._mind.room()
        if not self._mind.put(item):
            self._emit(events.Refused("too_many_items", "too much waits for the reply to end; this is not remembered"))

    async def hear(self, pcm: np.ndarray) -> None:
        """Take microphone audio, float32 [n], 24 kHz mono, in chunks of any size; waits when the model is behind."""
        taken = 0
        pcm = np.zeros_like(pcm) if self.muted else pcm
        while taken < len(pcm):  # in pieces that end with a frame, so that the chunks' sizes change nothing
            piece = pcm[taken : taken + self._lane.frame_size - self._framer.pending_samples]
            taken += len(piece)
            if self._taker.listening:
                await self._mind.caught_up()  # what the model thinks of the last frame comes before the next sample
            self._now += len(piece)
            if self._detect:
                self._detect_turns(piece)
            for frame in self._framer.push(piece):
                await self._take_frame(frame.pcm)

    # --- from outside -------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Say a text, word for word.

        Raises:
            InputError: it cannot be read, or somebody is speaking; the message says which.
        """
        self._lane.check_text(text)
        if self.state != "idle":
            raise InputError(f"the {'user is' if self._taker.listening else 'agent is already'} speaking")
        self._decide(turn.Create(replace(self._defaults, say=text)))

    def interrupt(self) -> bool:
        """Stop the reply that is wanted or being given; returns whether there was one."""
        if not self._taker.replying:
            return False
        self._decide(turn.Cancel())
        return True

    def hush(self) -> None:
        """The rest of a reply that is made, and only being played, will not be played."""
        self._mind.hush()

    def set_eagerness(self, eagerness: Eagerness) -> None:
        """How soon a turn ends where the client has not chosen; "auto" and "medium": as the daemon is set."""
        self._detection.be_eager(eagerness)
        self._detect_as_asked()

    # --- listening ----------------------------------------------------------------------------------------------------

    def _detect_turns(self, pcm: np.ndarray) -> None:
        for event in self._vad.push(pcm):
            if isinstance(event, SpeechStarted) and self._mind.just_begun:
                self._decide(turn.WentOn(event))
            else:
                self._decide(event)
        if self._taker.listening or self._taker.doubting:
            self._decide(turn.Quiet(self._vad.quiet_samples if self._taker.listening else self._vad.silence_samples))
        elif (since := self._idle_since) is not None and self._detection.timed_out(self._now - since):
            self._idle_since = None
            self._decide(turn.TimedOut(since))

    async def _take_frame(self, pcm: np.ndarray) -> None:
        if self._detect:
            self._doubted.append((pcm, self._now))
            if self._taker.doubting:
                await self._mind.room()
                self._mind.put(Overhear(pcm))
            while self._doubted and not self._taker.doubting:
                await self._mind.room()  # the turn may end while we wait, so the frame is labelled after
                frame, end = self._doubted.popleft()
                self._mind.put(Hear(frame, end, self._taker.turn, self._taker.listening))
        elif not self._held.put(pcm):
            self._drop_held()
            self._emit(events.Refused("input_audio_buffer_full", TOO_MUCH))

    def _drop_held(self) -> None:
        self._held.clear()
        if not self._detect:
            self._framer.reset(self._now)

    async def _commit(self, command: events.CommitAudio) -> None:
        buffered = self._held.samples + self._framer.pending_samples
        open_turn = self._taker.listening
        actions = self._taker.on(turn.Commit(buffered, command.event_id), self._now)
        if isinstance(actions[0], turn.CommitTurn):
            self._record_turn(self._taker.turn, "client", 0.0)
            if not open_turn:
                self._turn_began = self._now - buffered
        self._act(actions[:1])
        if isinstance(actions[0], turn.CommitTurn) and not self._detect:
            rest = self._framer.flush()
            await self._hear_all([*self._held.take(), *([] if rest is None else [rest.pcm])], self._taker.turn)
        self._act(actions[1:])

    async def _hear_all(self, frames: Iterable[np.ndarray], number: int) -> None:
        for frame in frames:
            await self._mind.room()
            self._mind.put(Hear(frame, self._now, number, listen=True))

    def _configure(self, config: SessionConfig) -> None:
        out = config.audio.output
        self._defaults = events.CreateResponse(config.text_only, config.max_tokens, format=out.format, speed=out.speed)
        self._detection.ask(config.audio.input.turn_detection)
        self._detect_as_asked()

    def _detect_as_asked(self) -> None:
        rules = self._detection.rules
        if rules.detect != self._detect:
            self._detect = rules.detect
            self._held.clear()
            self._framer.reset(self._now)
        if rules.detect:
            self._vad.configure(self._detection.vad)
            self._taker.configure(self._detection.turns)
        self._decide(turn.SetRules(rules))

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _emit(self, event: events.Event) -> None:
        if isinstance(event, events.ReplyAudio) and self.volume != 1.0:
            event = events.ReplyAudio(event.pcm * np.float32(self.volume))
        for listener in self._listeners:
            listener(event)

    def _decide(self, event: turn.Event) -> None:
        self._act(self._taker.on(event, self._now))

    def _model_heard(self, probability: float, end: int) -> None:
        self._decide(turn.EndOfTurn(probability, end))

    def _overheard(self, text: str, final: bool) -> None:
        self._decide(turn.Overheard(self._detection.asks_for_turn(text), final))

    def _reply_ended(self) -> None:
        self._idle_since = self._now + round(self._mind.unheard_s * SAMPLE_RATE_HZ)
        self._decide(turn.ReplyEnded())

    def _act(self, actions: list[turn.Action]) -> None:
        for action in actions:
            match action:
                case turn.StartTurn():
                    self._turn_began, self._idle_since = action.at, None
                    self._emit(events.UserStarted(action.turn, action.at))
                    if self._taker.interruptible:
                        self._mind.user_began()
                case turn.StopTurn():
                    waited_ms = (self._now - action.speech_end) * 1000.0 / SAMPLE_RATE_HZ
                    self._record_turn(action.turn, action.by, waited_ms)
                    self._emit(events.UserStopped(action.turn, action.at))
                case turn.TimeOut():
                    self._turn_began = action.since
                    self._emit(events.UserTimedOut(action.turn, action.since, self._now))
                    self._emit(events.UserTextDone(action.turn))
                case turn.CommitTurn():
                    self._emit(events.AudioCommitted(action.turn, max(0, self._now - self._turn_began)))
                case turn.DropTurn():
                    self._emit(events.AudioCleared(action.turn))
                case turn.StopReply():
                    self._mind.interrupt(action.reason)
                case turn.HoldReply():
                    self._mind.hold(listener_stops=self._listener_stops)
                    self._emit(events.ReplyHeld())
                case turn.ConcludeDoubt():
                    self._mind.put(Overhear(np.zeros(self._lane.frame_size, np.float32), last=True))
                case turn.ResumeReply():
                    self._mind.resume()
                    self._emit(events.ReplyResumed())
                case turn.RestartDetector():
                    self._vad.reset(self._now)
                case turn.Reject():
                    self._emit(events.Refused(action.code, action.message, event_id=action.event_id))
                case turn.Speculate():
                    silence = self._silent_frames(action.speech_end)
                    self._mind.put(Speculate(action.turn, silence, self._defaults))
                case turn.Withdraw():
                    self._mind.put(Withdraw())
                case turn.Settle():
                    self._mind.put(Finish(action.turn, self._silent_frames(action.speech_end)))
                case turn.Reply():
                    self._ask_for_reply(action)

    def _ask_for_reply(self, action: turn.Reply) -> None:
        options = action.options or self._defaults
        number = action.turn if options.say is None else 0  # words that were given answer no turn
        self._mind.put(Respond(number, self._lane.generation, self._silent_frames(action.speech_end), options))

    def _silent_frames(self, speech_end: int | None) -> int:
        """Whole frames of silence that the model has been given since the end of speech."""
        given = self._framer.position - self._framer.pending_samples
        return 0 if speech_end is None else max(0, given - speech_end) // self._lane.frame_size

    def _record_turn(self, number: int, by: turn.EndedBy, waited_ms: float) -> None:
        self.metrics.turn_ended(TurnMetrics(number, by, waited_ms, self._clock()))
