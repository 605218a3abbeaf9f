"""One conversation, whatever carries it: audio and commands in, events out.

* The listening half is here: every chunk goes through the voice detector at once, and through the framer to the
  model; the turn taker decides. It never waits for the model, except when audio arrives faster than the model can eat
  it - then the sender has to wait.
* The speaking half is :class:`agent.mind.Mind`.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from agent import turn
from agent.actions import ActingEmitter, Actions
from agent.errors import InputError
from agent.inbox import Finish, Forget, Hear, Respond
from agent.metrics import SessionMetrics, TurnMetrics
from agent.mind import Mind
from agent.reply import Clock, ReplyConfig
from agent.turn import Rules, TurnConfig, TurnTaker
from agent.worker import Lane
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ, Framer
from streaming.realtime_config import Eagerness, SemanticVad, ServerVad, SessionConfig, TurnDetection
from streaming.vad import Vad, VadConfig

ConversationState = Literal["idle", "listening", "thinking", "speaking"]

MAX_HELD_S = 60.0  # push to talk: audio that may wait for its commit


class Conversation:
    """A user and the agent, talking.

    Args:
        lane: the session's way to the model thread.
        emit: takes events on the loop, must not block.
        vad: detector settings.
        turns: turn-taking settings.
        replies: lead and bounds of replies.
        clock: seconds, monotonic; for pacing and latency only.
        actions: what replies do; None when they only speak.
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
    ) -> None:
        self.metrics = SessionMetrics()
        self.muted = False  # what the user says counts as silence
        self._lane = lane
        self._listeners = [emit]
        self._clock = clock
        self._asked: TurnDetection | None = SemanticVad()  # by the client
        self._daemon_settings = (vad, turns)
        self._vad_config = vad
        self._vad = Vad(vad)
        self._detect = True
        self._framer = Framer(lane.frame_size)
        self._now = 0  # samples received: the session's clock
        self._turns = turns
        self._taker = TurnTaker(turns)
        self._turn_began = 0
        self._defaults = events.CreateResponse()
        self._max_held = int(MAX_HELD_S * SAMPLE_RATE_HZ) // lane.frame_size
        self._held: deque[np.ndarray] = deque()  # push to talk; bound: _max_held frames, then cleared and refused
        speak = self._emit if actions is None else ActingEmitter(actions.replies, self._emit)
        self._mind = Mind(lane, replies, speak, clock, self.metrics, self._model_heard, self._reply_ended)

    @property
    def idle(self) -> bool:
        """Whether the agent has nothing to do or say."""
        return self._mind.idle and not self._taker.replying

    @property
    def speaking(self) -> bool:
        """Whether a reply is wanted or being given."""
        return self._taker.replying

    @property
    def state(self) -> ConversationState:
        """What is going on now, as the user would say."""
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
                self._mind.put(Forget(-(-command.heard_samples // self._lane.frame_size)))
            case events.HearItem():
                await self._hear_item(command.pcm)
            case events.ConfigureSession():
                self._configure(command.config)

    async def hear(self, pcm: np.ndarray) -> None:
        """Take microphone audio, float32 [n], 24 kHz mono, in chunks of any size; waits when the model is behind."""
        taken = 0
        if self.muted:
            pcm = np.zeros_like(pcm)
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
        self._lane.check(text)
        if self._taker.listening:
            raise InputError("the user is speaking")
        if self._taker.replying or self._mind.sounding:
            raise InputError("the agent is already speaking")
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

    def set_volume(self, volume: float) -> None:
        """Make replies louder or softer by this factor, from the next frame on."""
        self._mind.volume = volume

    def set_eagerness(self, eagerness: Eagerness) -> None:
        """How soon a turn ends where the client has not chosen; "auto" and "medium": as the daemon is set."""
        self._vad_config, self._turns = detection_settings(*self._daemon_settings, SemanticVad(eagerness=eagerness))
        self._detect_as(self._asked)

    # --- listening ----------------------------------------------------------------------------------------------------

    def _detect_turns(self, pcm: np.ndarray) -> None:
        for event in self._vad.push(pcm):
            self._decide(event)
        if self._taker.listening:
            self._decide(turn.Quiet(self._vad.silence_samples))

    async def _take_frame(self, pcm: np.ndarray) -> None:
        if self._detect:
            end = self._now
            await self._mind.room()  # the turn may end while we wait, so the frame is labelled after
            self._mind.put(Hear(pcm, end, self._taker.turn, self._taker.listening))
        elif len(self._held) < self._max_held:
            self._held.append(pcm)
        else:
            self._drop_held()
            message = f"more than {MAX_HELD_S:.0f} s of audio without a commit; the audio buffer was cleared"
            self._emit(events.Refused("input_audio_buffer_full", message))

    def _drop_held(self) -> None:
        self._held.clear()
        if not self._detect:
            self._framer.reset(self._now)

    async def _commit(self, command: events.CommitAudio) -> None:
        buffered = len(self._held) * self._lane.frame_size + self._framer.pending_samples
        open_turn = self._taker.listening
        actions = self._taker.on(turn.Commit(buffered, command.event_id), self._now)
        if isinstance(actions[0], turn.CommitTurn):
            self._record_turn(self._taker.turn, "client", 0.0)
            if not open_turn:
                self._turn_began = self._now - buffered
        self._act(actions[:1])
        if isinstance(actions[0], turn.CommitTurn) and not self._detect:
            await self._hear_held()
        self._act(actions[1:])

    async def _hear_held(self) -> None:
        if (rest := self._framer.flush()) is not None:
            self._held.append(rest.pcm)
        while self._held:
            await self._mind.room()
            self._mind.put(Hear(self._held.popleft(), self._now, self._taker.turn, listen=True))

    async def _hear_item(self, pcm: np.ndarray) -> None:
        framer = Framer(self._lane.frame_size)
        frames = framer.push(pcm)
        if (rest := framer.flush()) is not None:
            frames.append(rest)
        for frame in frames:
            await self._mind.room()
            self._mind.put(Hear(frame.pcm, self._now, 0, listen=True))

    def _configure(self, config: SessionConfig) -> None:
        self._defaults = events.CreateResponse(config.text_only, config.max_tokens)
        self._asked = config.audio.input.turn_detection
        self._detect_as(self._asked)

    def _detect_as(self, detection: TurnDetection | None) -> None:
        if (detection is not None) != self._detect:
            self._detect = detection is not None
            self._held.clear()
            self._framer.reset(self._now)
        if detection is None:
            self._decide(turn.SetRules(Rules(detect=False)))
            return
        detector, turns = detection_settings(self._vad_config, self._turns, detection)
        self._vad.configure(detector)
        self._taker.configure(turns)
        self._decide(turn.SetRules(Rules(True, detection.create_response, detection.interrupt_response)))

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _emit(self, event: events.Event) -> None:
        for listener in self._listeners:
            listener(event)

    def _decide(self, event: turn.Event) -> None:
        self._act(self._taker.on(event, self._now))

    def _model_heard(self, probability: float, end: int) -> None:
        self._decide(turn.EndOfTurn(probability, end))

    def _reply_ended(self) -> None:
        self._decide(turn.ReplyEnded())

    def _act(self, actions: list[turn.Action]) -> None:
        for action in actions:
            match action:
                case turn.StartTurn():
                    self._turn_began = action.at
                    self._emit(events.UserStarted(action.turn, action.at))
                    if self._taker.interruptible:
                        self._mind.user_began()
                case turn.StopTurn():
                    waited_ms = (self._now - action.speech_end) * 1000.0 / SAMPLE_RATE_HZ
                    self._record_turn(action.turn, action.by, waited_ms)
                    self._emit(events.UserStopped(action.turn, action.at))
                case turn.CommitTurn():
                    self._emit(events.AudioCommitted(action.turn, max(0, self._now - self._turn_began)))
                case turn.DropTurn():
                    self._emit(events.AudioCleared(action.turn))
                case turn.StopReply():
                    self._mind.interrupt(action.reason)
                case turn.RestartDetector():
                    self._vad.reset(self._now)
                case turn.Reject():
                    self._emit(events.Refused(action.code, action.message, event_id=action.event_id))
                case turn.Settle():
                    self._mind.put(Finish(action.turn, self._silent_frames(action.speech_end)))
                case turn.Reply():
                    self._ask_for_reply(action)

    def _ask_for_reply(self, action: turn.Reply) -> None:
        silent_frames = self._silent_frames(action.speech_end)
        options = action.options or self._defaults
        number = action.turn if options.say is None else 0  # words that were given answer no turn
        self._mind.put(Respond(number, self._lane.generation, silent_frames, options))

    def _silent_frames(self, speech_end: int | None) -> int:
        """Whole frames of silence that the model has been given since the end of speech."""
        given = self._framer.position - self._framer.pending_samples
        return 0 if speech_end is None else max(0, given - speech_end) // self._lane.frame_size

    def _record_turn(self, number: int, by: turn.EndedBy, waited_ms: float) -> None:
        self.metrics.turns.append(TurnMetrics(number, by, waited_ms, self._clock()))


def detection_settings(vad: VadConfig, turns: TurnConfig, asked: TurnDetection) -> tuple[VadConfig, TurnConfig]:
    """The daemon's settings as a client wants them: the detector alone, or the model with some eagerness."""
    if isinstance(asked, ServerVad):
        settings = asked.model_dump(include={"threshold", "prefix_padding_ms", "silence_duration_ms"})
        return vad.model_copy(update=settings), turns.model_copy(update={"end_of_turn_threshold": turn.MODEL_OFF})
    if asked.eagerness not in turn.EAGERNESS:
        return vad, turns
    threshold, silence_ms, any_silence_ms = turn.EAGERNESS[asked.eagerness]
    settings = {"end_of_turn_threshold": threshold, "end_of_turn_silence_ms": silence_ms}
    return vad.model_copy(update={"silence_duration_ms": any_silence_ms}), turns.model_copy(update=settings)
