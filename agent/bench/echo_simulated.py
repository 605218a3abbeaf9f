"""The loop of speaker, room and microphone on the sample clock: faster than real time, the same every time.

The devices are simulated at PortAudio's border: its callbacks run as often as the two clocks say. Everything behind
them is the daemon's own.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar

import numpy as np

from agent.actions import actions_of
from agent.bench.echo_room import BLOCK, Room, User
from agent.bench.echo_verdict import Events, Verdict, judge
from agent.config import AgentConfig
from agent.conversation import Conversation
from agent.errors import StepError
from agent.local import Speaker, local_replies
from agent.rehearsal import RehearsalWorker
from streaming import realtime_events as events
from streaming.audio_io import AudioIO
from streaming.frames import SAMPLE_RATE_HZ, FloatArray

P = ParamSpec("P")
R = TypeVar("R")


class InlineWorker(RehearsalWorker):
    """Runs the model where it is called: nothing goes on meanwhile, so a thread would only cost time."""

    async def call(self, kind: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one engine call.

        Raises:
            StepError: the call failed; the cause is chained.
        """
        self.waiting += 1
        await asyncio.sleep(0)
        try:
            return function(*args, **kwargs)
        except Exception as exc:  # whatever went wrong there ends the conversation, as it does on the model thread
            raise StepError(f"the model failed: {exc}") from exc
        finally:
            self.waiting -= 1


class SimulatedDevices:
    """As much of the sounddevice module as is used: one microphone and one speaker at 24 kHz."""

    class PortAudioError(Exception):
        """Never raised."""

    default = SimpleNamespace(device=(0, 0))

    def query_devices(self, device: object = None, kind: str | None = None) -> dict[str, Any]:
        """The one device."""
        return {"name": "simulated", "max_input_channels": 1, "max_output_channels": 1, "default_samplerate": 24_000.0}

    def check_input_settings(self, **settings: object) -> None:
        """Anything goes."""

    check_output_settings = check_input_settings

    def InputStream(self, callback: Callable[..., None], **settings: object) -> Any:
        """The microphone."""
        self.microphone = callback
        return SimpleNamespace(start=lambda: None, close=lambda: None, latency=0.01)

    def OutputStream(self, callback: Callable[..., None], **settings: object) -> Any:
        """The speaker."""
        self.speaker = callback
        return SimpleNamespace(start=lambda: None, close=lambda: None, latency=0.01)


@dataclass
class Loop:
    """One conversation in the loop.

    Attributes:
        played, heard, cleaned: what left the speaker, what the microphone heard, and what the agent was given, in
            blocks of 10 ms on the microphone's clock.
    """

    config: AgentConfig
    room: Room
    user: User
    drift_ppm: float = 0.0
    jump_ms: float = 0.0  # by which the delay grows half way
    played: list[FloatArray] = field(default_factory=list)
    heard: list[FloatArray] = field(default_factory=list)
    cleaned: list[FloatArray] = field(default_factory=list)

    async def run(self, worker: RehearsalWorker, seconds: float) -> Verdict:
        """Let them talk for so long.

        Raises:
            AudioUnavailable: echoes cannot be cancelled here.
            StepError: the engine failed.
        """
        self._now, self._noted = 0, Events()
        devices = SimulatedDevices()
        config = self.config
        audio, speaker = AudioIO(config.audio, devices, lambda: None), Speaker()
        self._conversation = Conversation(
            await worker.open(), speaker.take, config.vad, config.turn, local_replies(config.reply),
            clock=lambda: self._now / SAMPLE_RATE_HZ, actions=actions_of(worker.engine), listener_stops=True,
        )  # fmt: skip
        self._conversation.watch(self._note)
        thinking = asyncio.create_task(self._conversation.run(), name="think")
        blocks, due = round(seconds * 100), 0.0
        played, ducked = np.zeros(BLOCK, np.float32), False
        try:
            for block in range(blocks):
                if block == blocks // 2:
                    self.room.delay_ms += self.jump_ms
                due += 1.0 + self.drift_ppm * 1e-6
                while due >= 1.0:
                    due -= 1.0
                    out = np.zeros((BLOCK, 1), np.float32)
                    devices.speaker(out, BLOCK, None, None)
                    played = out[:, 0].copy()
                    self.room.play(played)
                self.played.append(played)
                heard = np.clip(self.room.hear() + self.user.say(played), -1.0, 1.0).astype(np.float32)
                self.heard.append(heard)
                devices.microphone(heard[:, None], BLOCK, None, None)
                self._now += BLOCK
                while (chunk := audio.read()) is not None:
                    self.cleaned.append(chunk.pcm)
                    await self._conversation.hear(chunk.pcm)
                await worker.settle()
                audio.feed(speaker.playout)
                was, ducked = ducked, audio.echo is not None and audio.echo.spoken_over
                if ducked and not was:
                    self._noted.ducks.append(self._now)
                if thinking.done():
                    thinking.result()
        finally:
            thinking.cancel()
            await asyncio.gather(thinking, return_exceptions=True)
        taken_out_db = audio.echo.taken_out_db if audio.echo is not None else 0.0
        return judge(self.user.said, self._noted, np.concatenate(self.played), taken_out_db)

    def _note(self, event: events.Event) -> None:
        note(self._noted, event, self._now)


def note(noted: Events, event: events.Event, now: int) -> None:
    """Write down what matters of an event, at sample ``now``."""
    match event:
        case events.UserStarted():
            noted.turns.append(now)
        case events.ReplyHeld():
            noted.holds.append(now)
        case events.ReplyStarted():
            noted.replies += 1
        case events.ReplyDone(status="cancelled"):
            noted.interruptions.append(now)
