"""Turn taking: whose turn is it? Pure: events and the sample clock in, actions out.

* The user's turn begins when the voice detector says so. It ends when the detector has heard enough silence, or
  earlier, when the model says that the user has finished and some silence has been heard, or when the client says so.
* Sound over a reply may be a cough or a "mhm": the reply is held at once, but interrupted only when the model hears
  words in the sound, or the sound lasts.
* A turn that does not end by itself, in the noise of a crowd say, is ended after a while.
* With detection off (push to talk) only the client ends turns and asks for replies.
* A reply that the client asks for while the user speaks is given when the user has finished.
* ``now`` is the session's sample clock; nothing here knows wall time, asyncio or audio.
"""

import enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.turn_events import (
    Action,
    Cancel,
    Clear,
    Commit,
    CommitTurn,
    ConcludeDoubt,
    Create,
    DropTurn,
    EndedBy,
    EndOfTurn,
    Event,
    HoldReply,
    Overheard,
    Quiet,
    Reject,
    Reply,
    ReplyEnded,
    RestartDetector,
    ResumeReply,
    Rules,
    SetRules,
    Settle,
    Speculate,
    StartTurn,
    StopReply,
    StopTurn,
    TimedOut,
    TimeOut,
    WentOn,
    Withdraw,
)
from streaming.frames import ms_to_samples
from streaming.realtime_events import CreateResponse
from streaming.vad import SpeechStarted, SpeechStopped

MIN_COMMIT_MS = 100

MODEL_OFF = 2.0  # an end-of-turn threshold that no probability reaches
NO_OPINION = -1.0  # a probability that reaches no threshold
_LOW = {"end_of_turn_threshold": 0.9, "end_of_turn_silence_ms": 540, "sure_silence_ms": 460}
_HIGH = {"end_of_turn_threshold": 0.4, "end_of_turn_silence_ms": 220, "sure_silence_ms": 140}
EAGERNESS = {"low": (_LOW, 3_000), "high": (_HIGH, 800)}
"""Of ``semantic_vad``, where not the daemon's: fields of :class:`TurnConfig`; milliseconds of silence in any case."""


class TurnConfig(BaseModel):
    """When a turn ends before the detector's full silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    end_of_turn_threshold: float = Field(0.5, ge=0.0)
    """Probability from the model above which the user has finished; above 1 turns this off."""
    end_of_turn_silence_ms: int = Field(280, ge=0, le=5_000)
    """Silence that must have been heard as well, at that probability."""
    sure_silence_ms: int = Field(240, ge=0, le=5_000)
    """The same when the model is certain; in proportion between the two."""
    speculate_threshold: float = Field(0.15, ge=0.0)
    """Probability above which the answer is begun and held back until the turn has ended; above 1 turns this off."""
    speculate_silence_ms: int = Field(80, ge=0, le=5_000)
    """Silence that must have been heard as well."""
    interrupt_after_ms: int = Field(1_500, ge=0, le=10_000)
    """Speech over a reply, after its detection, that interrupts it even if no word is understood; 0: any speech does.
    The reply is held meanwhile."""
    max_turn_ms: int = Field(60_000, ge=1_000, le=600_000)
    """After which a turn that was detected ends, whatever is heard."""
    resume_after_ms: int = Field(240, ge=0, le=5_000)
    """Silence after which a sound over a reply has ended; without words in it the reply goes on."""
    interrupting_words: tuple[str, ...] = ("no", "stop", "wait", "cancel", "sorry", "actually")
    """Words that ask for the turn alone. Any other one may be a "mhm" or a cough that the model took for a word: it
    takes two."""
    empty_words: tuple[str, ...] = ("a", "an", "the", "uh", "um", "er")
    """Words that do not count among the two: what a "mm hmm" is most often taken for."""


class _Phase(enum.Enum):
    WAITING = enum.auto()
    DOUBTING = enum.auto()  # sound over a reply that may be nothing
    LISTENING = enum.auto()


class TurnTaker:
    """Decides when the user's turns begin and end and when the agent speaks."""

    def __init__(self, config: TurnConfig, rules: Rules | None = None) -> None:
        self.configure(config)
        self._rules = rules or Rules()
        self._phase = _Phase.WAITING
        self._turn = self._began = 0
        self._replies = 0  # wanted and not ended
        self._end_chance = NO_OPINION  # of the model, about audio after the last speech
        self._speculated = False  # in this pause
        self._quiet = 0
        self._doubted: SpeechStarted | None = None
        self._concluding = False  # what it was is being found out
        self._asked: CreateResponse | None = None  # while the user speaks

    def configure(self, config: TurnConfig) -> None:
        """Decide by these settings from now on."""
        self._threshold = config.end_of_turn_threshold
        self._silence = ms_to_samples(config.end_of_turn_silence_ms)
        self._sure_silence = min(ms_to_samples(config.sure_silence_ms), self._silence)
        self._speculate_threshold = config.speculate_threshold
        self._speculate_silence = max(1, ms_to_samples(config.speculate_silence_ms))
        self._interrupt_after = ms_to_samples(config.interrupt_after_ms)
        self._longest_turn = ms_to_samples(config.max_turn_ms)
        self._resume_after = max(1, ms_to_samples(config.resume_after_ms))

    @property
    def listening(self) -> bool:
        """Whether the user's turn is open."""
        return self._phase is _Phase.LISTENING

    @property
    def doubting(self) -> bool:
        """Whether there is sound of which it is not known yet whether it begins a turn."""
        return self._phase is _Phase.DOUBTING

    @property
    def replying(self) -> bool:
        """Whether a reply is wanted or being given."""
        return self._replies > 0

    @property
    def interruptible(self) -> bool:
        """Whether a turn of the user stops the agent."""
        return self._rules.interrupt_response

    @property
    def turn(self) -> int:
        """Number of the user's latest turn, 0 before the first."""
        return self._turn

    def on(self, event: Event, now: int) -> list[Action]:
        """Take one event at sample ``now`` and return what is to be done, in order."""
        match event:
            case SpeechStarted():
                return self._speech_started(event)
            case WentOn():
                return self._start_turn(event.speech) if self._phase is _Phase.WAITING and self._rules.detect else []
            case SpeechStopped():
                if self.doubting:
                    return self._resume()
                return self._end(event.at, event.speech_end, "silence") if self.listening else []
            case Overheard():
                return self._overheard(event)
            case Quiet() if self.doubting:
                return self._weigh(event.samples, now)
            case Quiet():
                return self._stay_quiet(event.samples, now)
            case EndOfTurn():
                self._end_chance = event.probability if event.at > now - self._quiet else NO_OPINION
                return self._end_early(now) or self._speculate(now)
            case Commit():
                return self._commit(event, now)
            case Clear():
                return self._clear()
            case Create():
                return self._create(event.options)
            case Cancel():
                return self._cancel(event)
            case ReplyEnded():
                self._replies = max(0, self._replies - 1)
                return [*self._resume(), *self._end_doubt()] if self.doubting and not self.replying else []
            case TimedOut():
                return self._time_out(event)
            case SetRules():
                return self._set_rules(event.rules)

    def _speech_started(self, event: SpeechStarted) -> list[Action]:
        if self._phase is not _Phase.WAITING or not self._rules.detect:
            return []
        if self._interrupt_after and self.replying and self._rules.interrupt_response:
            self._phase, self._doubted, self._concluding = _Phase.DOUBTING, event, False
            return [HoldReply()]
        return self._start_turn(event)

    def _weigh(self, quiet: int, now: int) -> list[Action]:
        assert self._doubted is not None, "doubt has a beginning"
        if quiet >= self._resume_after and not self._concluding:
            self._concluding = True
            return [ConcludeDoubt()]
        lasts = now - quiet - self._doubted.at >= self._interrupt_after
        return self._end_doubt() if lasts and not quiet else []

    def _overheard(self, event: Overheard) -> list[Action]:
        if not self.doubting:
            return []
        if event.words:
            return self._end_doubt()
        return [*self._resume(), RestartDetector()] if event.final else []

    def _resume(self) -> list[Action]:
        self._phase = _Phase.WAITING
        return [ResumeReply()]

    def _end_doubt(self) -> list[Action]:
        """The sound begins a turn."""
        assert self._doubted is not None, "doubt has a beginning"
        return self._start_turn(self._doubted)

    def _start_turn(self, event: SpeechStarted) -> list[Action]:
        self._open_turn(event.at)
        actions: list[Action] = [StartTurn(self._turn, event.audio_start)]
        if self.replying and self._rules.interrupt_response:
            actions.append(self._stop_reply("turn_detected"))
        return actions

    def _open_turn(self, at: int) -> None:
        self._phase = _Phase.LISTENING
        self._turn, self._began = self._turn + 1, at
        self._end_chance, self._speculated, self._quiet = NO_OPINION, False, 0

    def _stay_quiet(self, quiet: int, now: int) -> list[Action]:
        self._quiet = quiet
        if self.listening and now - self._began >= self._longest_turn:
            return self._end(now, now - quiet, "limit")  # the detector goes on: the next turn begins after a silence
        if quiet:
            return self._end_early(now) or self._speculate(now)
        went_on, self._speculated = self._speculated, False
        self._end_chance = NO_OPINION
        return [Withdraw()] if went_on else []

    def _speculate(self, now: int) -> list[Action]:
        wanted = self._rules.create_response and not self._replies and self._asked is None
        maybe = self._end_chance >= self._speculate_threshold
        if not (self.listening and maybe and wanted) or self._speculated:
            return []
        if self._quiet < self._speculate_silence:
            return []
        self._speculated = True
        return [Speculate(self._turn, now - self._quiet)]

    def _needed_silence(self) -> float:
        """Samples of silence with which a turn ends by what the model thinks of it."""
        sure = min((self._end_chance - self._threshold) / max(1.0 - self._threshold, 1e-6), 1.0)
        return max(1.0, self._silence + sure * (self._sure_silence - self._silence))

    def _end_early(self, now: int) -> list[Action]:
        finished = self._end_chance >= self._threshold and self._quiet >= self._needed_silence()
        if not (self.listening and finished):
            return []
        return [*self._end(now, now - self._quiet, "model"), RestartDetector()]

    def _end(self, at: int, speech_end: int, by: EndedBy) -> list[Action]:
        self._phase = _Phase.WAITING
        actions: list[Action] = [StopTurn(self._turn, at, speech_end, by), CommitTurn(self._turn)]
        if self._asked is not None:
            return [*actions, self._give_asked(speech_end)]
        if self._rules.create_response and self._replies < 2:  # one speaking, one waiting
            self._replies += 1
            return [*actions, Reply(self._turn, speech_end)]
        return [*actions, Settle(self._turn, speech_end)]

    def _give_asked(self, speech_end: int | None) -> Reply:
        options, self._asked = self._asked, None
        self._replies += 1
        return Reply(self._turn, speech_end, options)

    def _time_out(self, event: TimedOut) -> list[Action]:
        if self._phase is not _Phase.WAITING or self.replying or not self._rules.detect:
            return []
        self._turn += 1
        self._replies += 1
        return [TimeOut(self._turn, event.since), CommitTurn(self._turn), Reply(self._turn, None)]

    def _commit(self, event: Commit, now: int) -> list[Action]:
        if self._rules.detect:
            if not self.listening:
                message = "there is no speech in the audio buffer to commit"
                return [Reject("input_audio_buffer_commit_empty", message, event.event_id)]
            self._phase = _Phase.WAITING
            speech_end = now - self._quiet
            then = Settle(self._turn, speech_end) if self._asked is None else self._give_asked(speech_end)
            return [CommitTurn(self._turn), then, RestartDetector()]
        if event.buffered < ms_to_samples(MIN_COMMIT_MS):
            message = f"the audio buffer holds less than {MIN_COMMIT_MS} ms of audio"
            return [Reject("input_audio_buffer_commit_empty", message, event.event_id)]
        self._turn += 1
        return [CommitTurn(self._turn), Settle(self._turn, None)]

    def _clear(self) -> list[Action]:
        if self.doubting:
            return [*self._resume(), DropTurn(None), RestartDetector()]
        if not self.listening:
            return [DropTurn(None)]
        self._phase = _Phase.WAITING
        asked = [] if self._asked is None else [self._give_asked(None)]
        return [DropTurn(self._turn), RestartDetector(), *asked]

    def _create(self, options: CreateResponse) -> list[Action]:
        if self.replying or self._asked is not None:
            message = "the conversation already has an active response"
            return [Reject("conversation_already_has_active_response", message, options.event_id)]
        if self.listening and options.apart:
            message = "the user is speaking; commit the audio buffer first"
            return [Reject("input_audio_buffer_not_committed", message, options.event_id)]
        if self.listening:
            self._asked = options
            return []
        self._replies += 1
        return [Reply(self._turn, None, options)]

    def _cancel(self, event: Cancel) -> list[Action]:
        self._asked = None
        if not self.replying:
            message = "Cancellation failed: no active response found"
            return [Reject("response_cancel_not_active", message, event.event_id)]
        stopped = self._stop_reply("client_cancelled")
        return [stopped, *self._end_doubt()] if self.doubting else [stopped]

    def _stop_reply(self, reason: Literal["turn_detected", "client_cancelled"]) -> StopReply:
        self._replies = 0
        return StopReply(reason)

    def _set_rules(self, rules: Rules) -> list[Action]:
        detected_before, self._rules = self._rules.detect, rules
        if detected_before == rules.detect:
            return [*self._resume(), *self._end_doubt()] if self.doubting and not rules.interrupt_response else []
        if self.listening or self.doubting:
            return self._clear()
        return [RestartDetector()]
