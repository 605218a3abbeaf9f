"""Fakes shared by tests: an engine with a scripted reply, a client, sound devices, and synthetic audio."""

import asyncio
import base64
import copy
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.runtime import Mode, StepOut
from models.runtime_talker import Mark
from streaming.audio_io import DeviceLost
from streaming.playout import Playout
from streaming.resample import float_to_pcm16
from streaming.ring import Chunk

SAMPLE_RATE = 24_000
FRAME = 1_920
BLOCK = 240  # 10 ms


@dataclass
class FakeState:
    """What one session did to the engine, in order."""

    modes: list[Mode] = field(default_factory=list)
    heard: list[np.ndarray] = field(default_factory=list)
    truncations: list[int] = field(default_factory=list)
    forks: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    openings: dict[str, str | None] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # replies, those it was told of included
    script: list[str] | None = None
    reply_step: int = 0
    listened: int = 0
    broken: bool = False
    ear: bool = False
    unsure: str = ""  # words that are told when it is decided what was heard
    injected: list[str] = field(default_factory=list)  # prosody tokens that the reply has still to take


class FakeEngine:
    """An engine whose reply is a sine wave and whose words come one a step.

    Args:
        reply_frames: audio frames in a reply.
        words: text of the reply.
        lead_steps: first SPEAK steps that bring text but no audio.
        step_s: seconds each step takes.
        end_of_turn: probability reported while listening.
        fail_at: number of the step of a session that raises.
        understands_sounds: whether there are words in what is said over a reply.
    """

    directory: Path | None = None
    sample_rate = SAMPLE_RATE
    frame_size = FRAME
    tail_frames = 3

    def __init__(
        self,
        reply_frames: int = 10,
        words: str = "sure one latte coming",
        lead_steps: int = 4,
        step_s: float = 0.0,
        end_of_turn: float = 0.0,
        fail_at: int | None = None,
        understands_sounds: bool = True,
        silent_samples: int = 0,  # that every reply begins with
    ) -> None:
        self.silent_samples = silent_samples
        self.in_hurry: Callable[[], bool] = lambda: False
        self.reply_frames = reply_frames
        self.words = words.split()
        self.lead_steps = lead_steps
        self.step_s = step_s
        self.end_of_turn = end_of_turn
        self.fail_at = fail_at
        self.understands_sounds = understands_sounds
        self.states: list[FakeState] = []
        self.threads: set[int] = set()

    def new_state(self) -> FakeState:
        self.states.append(FakeState())
        return self.states[-1]

    def step(self, pcm: np.ndarray | None, state: object, mode: Mode) -> StepOut:
        assert isinstance(state, FakeState)
        self.threads.add(threading.get_ident())
        if self.step_s:
            time.sleep(self.step_s)
        state.modes.append(mode)
        if state.broken or (self.fail_at is not None and len(state.modes) >= self.fail_at):
            raise RuntimeError("the fake engine was told to fail")
        if mode is Mode.SPEAK:
            assert pcm is None
            return self._speak(state)
        if pcm is None or pcm.shape != (FRAME,) or pcm.dtype != np.float32:
            raise ValueError("expected float32 [1920]")
        if mode is Mode.LISTEN:
            state.reply_step, state.script, state.injected = 0, None, []
            state.heard.append(pcm)
            state.listened += 1
            word = self.understands_sounds if state.ear else state.listened % 5 == 1
            text = f" w{state.listened}" if word else ""
            return StepOut(None, "", text, self.end_of_turn, False)
        return StepOut(None, "", "", 0.0, False)

    def decide(self, state: object) -> str:
        assert isinstance(state, FakeState)
        unsure, state.unsure = state.unsure, ""
        return unsure

    def truncate_reply(self, state: object, heard_frames: int) -> None:
        assert isinstance(state, FakeState)
        state.truncations.append(heard_frames)
        state.reply_step, state.script, state.injected = 0, None, []

    def note(self, text: str, state: object) -> None:
        assert isinstance(state, FakeState)
        state.notes.append(text)

    def expect(self, openings: Mapping[str, str | None], state: object) -> None:
        assert isinstance(state, FakeState)
        state.openings = dict(openings)

    def fork(self, state: object, heard_frames: int) -> FakeState:
        assert isinstance(state, FakeState)
        state.forks.append(heard_frames)
        return FakeState(ear=True)

    def copy(self, state: object) -> FakeState:
        assert isinstance(state, FakeState)
        return copy.deepcopy(state)

    def pieces(self, text: str) -> list[int]:
        if not text.isascii() or not text.split():
            raise ValueError(f"nothing in {text!r} can be read")
        return [0] * len(text.split())

    def read(self, text: str, state: object, say: bool) -> int:
        assert isinstance(state, FakeState)
        self.threads.add(threading.get_ident())
        state.read.append(text)
        state.script, state.reply_step = text.split() if say else None, 0
        return len(self.pieces(text))

    def recall(self, text: str, state: object) -> None:
        assert isinstance(state, FakeState)
        state.script, state.reply_step = text.split(), 0

    def inject(self, tokens: Sequence[str], state: object) -> None:
        assert isinstance(state, FakeState)
        state.injected += tokens

    def aside(self, state: object) -> FakeState:
        return self.new_state()

    def _speak(self, state: FakeState) -> StepOut:
        step = state.reply_step
        state.reply_step += 1
        words = self.words if state.script is None else state.script
        if step == 0:
            state.said.append(" ".join(words))
        text = ""
        if step < len(words):
            text = ("" if step == 0 else " ") + words[step]
        frame = step - self.lead_steps
        pcm = tone(FRAME, 220.0, frame * FRAME) if frame >= 0 else None
        if pcm is not None and frame == 0:
            pcm[: self.silent_samples] = 0.0
        done = frame == self.reply_frames - 1
        if done:
            state.reply_step, state.script = 0, None
        taken = state.injected[:1] if not done else []
        del state.injected[: len(taken)]
        marks = tuple(Mark(token, max(frame + 1, 0), True) for token in taken)
        return StepOut(pcm, text, " late" if step == 0 else "", 0.0, done, marks)


def tone(samples: int, hz: float = 220.0, start: int = 0, level: float = 0.3) -> np.ndarray:
    """A sine wave, float32 [samples]."""
    return (level * np.sin(2 * np.pi * hz * (np.arange(samples) + start) / SAMPLE_RATE)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    """Zeros, float32 [n]."""
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def speech(seconds: float, level: float = 0.3) -> np.ndarray:
    """Loud noise that the energy detector takes for speech, float32 [n]."""
    rng = np.random.default_rng(7)
    return (level * rng.uniform(-1.0, 1.0, int(seconds * SAMPLE_RATE))).astype(np.float32)


def spoken_turn(seconds: float = 0.8, after_s: float = 0.8) -> np.ndarray:
    """A little silence, speech, and the silence that ends the turn, float32 [n]."""
    return np.concatenate([silence(0.4), speech(seconds), silence(after_s)])


class FakeClock:
    """Seconds that move only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeClient:
    """A WebSocket client without a socket: what it says is queued, what it is sent is kept.

    Args:
        model: the ``model`` of the URL.
        reads: false for a client that never takes a message.
        live: whether it speaks the Live protocol.
        holds: whether it wants to know when a reply is held.
    """

    def __init__(self, model: str | None = None, reads: bool = True, live: bool = False, holds: bool = False) -> None:
        self.address, self.ip = "test:1", "test"
        self.credential: bytes | None = None
        self.lost = False  # how it ended
        self.alive = True  # answers pings
        self.preset: dict[str, Any] = {}
        self.live = live
        self.sent: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.after: str | None = None  # of the URL
        self.prosody: str | None = None  # of the URL
        self.echo_cancellation: str | None = None  # of the URL
        self._model = model
        self._holds = holds
        self._reads = reads
        self._messages: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self._arrived = asyncio.Condition()
        self._gone = asyncio.Event()

    def query(self, name: str) -> str | None:
        asked = {
            "model": self._model,
            "holds": "true" if self._holds else None,
            "after": self.after,
            "prosody": self.prosody,
            "echo_cancellation": self.echo_cancellation,
        }
        return asked.get(name)

    async def receive(self) -> str | bytes | None:
        return await self._messages.get()

    async def wait_closed(self) -> None:
        await self._gone.wait()

    async def send(self, text: str) -> None:
        if not self._reads:
            await asyncio.sleep(0)
            raise TimeoutError
        async with self._arrived:
            self.sent.append(json.loads(text))
            self._arrived.notify_all()

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    async def answers(self, within_s: float) -> bool:
        return self.alive

    def abort(self) -> None:
        self.drop()

    # the test's side

    def say(self, type: str, **fields: Any) -> None:
        """Send a message of this type."""
        self._messages.put_nowait(json.dumps({"type": type, **fields}))

    def say_raw(self, message: str | bytes) -> None:
        """Send anything."""
        self._messages.put_nowait(message)

    def speak(self, pcm: np.ndarray) -> None:
        """Append audio, float32 [n]."""
        self.say("input_audio_buffer.append", audio=base64.b64encode(float_to_pcm16(pcm)).decode())

    def leave(self) -> None:
        """Close the connection."""
        self._messages.put_nowait(None)

    def drop(self) -> None:
        """Lose the connection: what was said still arrives."""
        self.lost = True
        self._messages.put_nowait(None)
        self._gone.set()

    def vanish(self) -> None:
        """Close the connection, with messages still to be received."""
        self._gone.set()

    async def wait_for(self, type: str, count: int = 1) -> dict[str, Any]:
        """The count-th message of this type, as soon as it was sent."""
        async with asyncio.timeout(10.0), self._arrived:
            await self._arrived.wait_for(lambda: self.types().count(type) >= count)
        return [message for message in self.sent if message["type"] == type][count - 1]

    def types(self) -> list[str]:
        """Types of everything that was sent, in order."""
        return [message["type"] for message in self.sent]


class FakeDevices:
    """A microphone that records what the test says and a speaker that plays at once."""

    description = "nothing at all"
    unplayed_samples = 0
    listens_while_speaking = False

    def __init__(self) -> None:
        self.played: list[np.ndarray] = []
        self.lost: DeviceLost | None = None
        self.wake: Callable[[], None] = lambda: None
        self.counters = {"mic_xruns": 3}
        self._recorded: list[np.ndarray] = []
        self._position = 0

    def record(self, pcm: np.ndarray) -> None:
        self._recorded += [pcm[begin : begin + BLOCK] for begin in range(0, len(pcm), BLOCK)]
        self.wake()

    def read(self) -> Chunk | None:
        if not self._recorded:
            return None
        pcm = self._recorded.pop(0)
        self._position += len(pcm)
        return Chunk(pcm, self._position - len(pcm))

    def feed(self, playout: Playout) -> None:
        if playout.buffered_samples:
            self.played.append(playout.pull(playout.buffered_samples))

    def poll(self, now_s: float) -> list[DeviceLost]:
        lost, self.lost = self.lost, None
        return [lost] if lost else []

    def __enter__(self) -> "FakeDevices":
        return self

    def __exit__(self, *exc: object) -> None:
        return None


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


async def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait, in steps of a millisecond, until the condition holds; TimeoutError when it never does."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
