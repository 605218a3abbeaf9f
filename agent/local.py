"""Talking without a socket: through microphone and speaker, or from one text or sound file into another."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from agent.actions import Actions
from agent.conversation import Conversation
from agent.errors import InputError
from agent.metrics import SessionMetrics
from agent.reply import ReplyConfig
from agent.telegraph import LOCAL
from agent.transcripts import Transcripts
from agent.turn import TurnConfig
from agent.worker import Worker
from models.errors import ModelError
from models.runtime import Engine, Mode
from streaming import realtime_events as events
from streaming.audio_io import AudioConfig, AudioIO, event_for_threads, move_audio, open_default
from streaming.errors import AudioUnavailable
from streaming.hot_plug import open_again
from streaming.playout import Playout, PlayoutConfig
from streaming.vad import SpeechStarted, Vad, VadConfig

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_MISSING_S = 5.0  # between looks for devices that were never there
_LEAD_MS, _PLAYOUT_MS = 1_000, 60_000  # a reply is made a lead ahead, and what is ducked waits on top of that


class LocalConfig(BaseModel):
    """How the microphone behaves while the agent speaks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen_while_speaking: bool | None = None
    """Whether the user can interrupt. None: if the echo is cancelled; true without that only with headphones: the agent
    would hear itself."""


class Watcher(Protocol):
    """Who is told of the conversation: the telegraph, for one."""

    def joined(
        self, name: str, conversation: Conversation, hush: Callable[[], None] | None = None
    ) -> AbstractContextManager[None]:
        """Watch it as long as this lasts; ``hush`` stops the sound of what was said already."""


# --- microphone and speaker -------------------------------------------------------------------------------------------


async def talk(
    worker: Worker,
    audio: AudioConfig,
    vad: VadConfig,
    turns: TurnConfig,
    replies: ReplyConfig,
    local: LocalConfig,
    actions: Actions | None = None,
    metrics: SessionMetrics | None = None,
    telegraph: Watcher | None = None,
    leaving: asyncio.Event | None = None,
) -> None:
    """Talk through the local devices until cancelled, and count it in ``metrics``.

    A device that goes away takes the reply with it, not the conversation: that goes on when the device is back. With
    ``leaving``, devices that are missing at first are waited for as well, and once it is set, the conversation ends
    with the reply that is being given.

    Raises:
        AudioUnavailable: there is no usable device to begin with.
        ExceptionGroup: of an `AudioUnavailable`, the sound system does not answer any more; or of a `StepError`, the
            engine failed.
    """
    wake, wake_up = event_for_threads()
    with contextlib.ExitStack() as opened:
        if (found := await _open(audio, wake_up, leaving)) is None:
            return
        devices = opened.enter_context(found)
        speaker = Speaker()
        conversation = Conversation(
            await worker.open(), speaker.take, vad, turns, local_replies(replies),
            actions=actions, listener_stops=True, metrics=metrics,
        )  # fmt: skip

        async def carry_on(devices: AudioIO) -> None:
            while True:
                await _carry(devices, speaker, conversation, wake, local)
                conversation.pause()
                await asyncio.to_thread(opened.close)
                devices = opened.enter_context(await open_again(audio, wake_up))
                conversation.go_on(())

        joined = telegraph.joined(LOCAL, conversation, speaker.hush) if telegraph else contextlib.nullcontext()
        async with asyncio.TaskGroup() as tasks:
            both = [tasks.create_task(conversation.run(), name="think")]
            with joined:
                both.append(tasks.create_task(carry_on(devices), name="carry"))
                await _said(leaving, conversation, speaker)
                for task in both:
                    task.cancel()


async def _said(leaving: asyncio.Event | None, conversation: Conversation, speaker: "Speaker") -> None:
    """Wait until ``leaving`` is set and nothing is being said any more; for ever without it."""
    await (leaving or asyncio.Event()).wait()
    while not speaker.away and (conversation.state != "idle" or not speaker.playout.idle):  # noqa: ASYNC110 - they tell nobody
        await asyncio.sleep(_LOOK_S)


async def _open(audio: AudioConfig, wake_up: Callable[[], None], leaving: asyncio.Event | None) -> AudioIO | None:
    """The devices, waited for until ``leaving`` is set; None: it was."""
    try:
        return open_default(audio, wake_up)
    except AudioUnavailable as exc:
        if leaving is None:
            raise
        logger.warning("no local audio yet: %s Clients can connect meanwhile.", exc)
    opening = asyncio.ensure_future(open_again(audio, wake_up, retry_s=_MISSING_S))
    left = asyncio.ensure_future(leaving.wait())
    try:
        await asyncio.wait((opening, left), return_when=asyncio.FIRST_COMPLETED)
        return opening.result() if opening.done() else None
    finally:
        opening.cancel()
        left.cancel()


async def _carry(
    devices: AudioIO, speaker: "Speaker", conversation: Conversation, wake: asyncio.Event, local: LocalConfig
) -> None:
    """Carry audio between the devices and the conversation until one of them is lost."""
    logger.info("talking through %s", devices.description)
    speaker.away = False
    listening = local.listen_while_speaking
    if listening is None:
        listening = devices.listens_while_speaking
    try:
        await move_audio(devices, speaker.playout, conversation.hear, wake, listening)
    except AudioUnavailable as exc:
        logger.warning("%s The conversation waits for it to come back.", exc)
    finally:
        faults = devices.counters | {"dropped_frames": speaker.dropped_frames}
        logger.info("local audio: %s", ", ".join(f"{name} {count}" for name, count in faults.items()))
    speaker.hush()
    speaker.away = True
    if not conversation.interrupt():
        conversation.hush()


def local_replies(replies: ReplyConfig) -> ReplyConfig:
    """The same, with a lead that the local playout has room for."""
    return replies.model_copy(update={"max_lead_ms": min(replies.max_lead_ms or _LEAD_MS, _LEAD_MS)})


class Speaker:
    """Turns conversation events into playout."""

    def __init__(self) -> None:
        self.playout = Playout(PlayoutConfig(max_lead_ms=_PLAYOUT_MS))
        self.dropped_frames = 0
        self.away = False  # there is no device to hear it from
        self._transcripts = Transcripts()
        self._generation = 0

    def hush(self) -> None:
        """Play no more of what there is."""
        self._generation += 1
        self.playout.cancel(self._generation)

    def take(self, event: events.Event) -> None:
        """Do what an event of the conversation means for the speaker."""
        self._transcripts.take(event)
        match event:
            case events.UserStarted():  # also when the reply is complete and its last second still plays
                self.hush()
            case events.ReplyHeld():
                self.playout.hold()
            case events.ReplyResumed():
                self.playout.resume()
            case events.ReplyStarted():
                self._generation += 1
            case events.ReplyAudio():
                self.dropped_frames += not self.playout.push(event.pcm, self._generation)
            case events.ReplyDone():
                if event.status == "completed":
                    self.playout.end(self._generation)
                else:
                    self.hush()


# --- one text, one file -----------------------------------------------------------------------------------------------


def say(engine: Engine, text: str, tell: Callable[[str], None] | None = None) -> np.ndarray:
    """A text in the agent's voice, float32 [n] at 24 kHz; ``tell`` is told the words as they are said.

    Raises:
        InputError: the text cannot be spoken; the message says why.
    """
    state = engine.new_state()
    try:
        engine.read(text, state, say=True)
    except (ValueError, ModelError) as exc:
        raise InputError(str(exc)) from exc
    frames: list[np.ndarray] = []
    while True:
        out = engine.step(None, state, Mode.SPEAK)
        frames += [] if out.pcm is None else [out.pcm]
        if out.text and tell is not None:
            tell(out.text)
        if out.done:
            return np.concatenate(frames)


@dataclass(slots=True)
class Answer:
    """What came back for one file. ``pcm`` is float32 [n], 24 kHz mono."""

    pcm: np.ndarray
    user_text: str
    reply_text: str
    actions: tuple[events.Action, ...] = ()


@dataclass(slots=True)
class _Recorder:
    user: str = ""
    reply: str = ""
    audio: list[np.ndarray] = field(default_factory=list)
    actions: tuple[events.Action, ...] = ()
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: events.Event) -> None:
        match event:
            case events.UserText():
                self.user += event.text
            case events.ReplyText():
                self.reply += event.text
            case events.ReplyAudio():
                self.audio.append(event.pcm)
            case events.ReplyDone():
                self.actions = event.actions
                self.done.set()


async def answer(
    worker: Worker,
    pcm: np.ndarray,
    vad: VadConfig,
    turns: TurnConfig,
    replies: ReplyConfig,
    actions: Actions | None = None,
) -> Answer:
    """Answer one recording, faster than real time: from the first to the last speech in it, it is one turn.

    Args:
        worker: the model threads.
        pcm: float32 [n], 24 kHz mono.
        vad: detector settings.
        turns: turn-taking settings.
        replies: bounds of replies; the lead is not limited.
        actions: what replies do; None when they only speak.

    Raises:
        StepError: the engine failed.
    """
    recorder = _Recorder()
    unpaced = replies.model_copy(update={"max_lead_ms": None})
    conversation = Conversation(await worker.open(), recorder.take, vad, turns, unpaced, actions=actions)
    try:
        async with asyncio.TaskGroup() as tasks:
            thinking = tasks.create_task(conversation.run(), name="think")
            await conversation.do(events.HearItem(spoken_part(pcm, vad)))
            await conversation.do(events.CreateResponse())
            await recorder.done.wait()
            thinking.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    audio = np.concatenate(recorder.audio) if recorder.audio else np.zeros(0, np.float32)
    return Answer(audio, recorder.user.strip(), recorder.reply.strip(), recorder.actions)


def spoken_part(pcm: np.ndarray, config: VadConfig) -> np.ndarray:
    """The part of a recording that holds speech, padding included; all of it when no speech is found."""
    vad = Vad(config)
    found = vad.push(pcm)
    starts = [event.audio_start for event in found if isinstance(event, SpeechStarted)]
    if not starts:
        return pcm
    ends = [event.speech_end for event in found if not isinstance(event, SpeechStarted)]
    end = len(pcm) if vad.speaking else ends[-1]
    return pcm[starts[0] : max(end, starts[0] + 1)]
