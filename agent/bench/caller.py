"""A recorded user who calls a running daemon and is heard in real time, over a plain WebSocket or the openai SDK.

The clock is the microphone's: it starts with the first chunk and never stops, and a sample counts as spoken when its
chunk is sent. So the times hold everything that a client sees: chunking, the socket, the daemon.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from agent.bench.figures import CHUNK, loud_span, percentiles
from agent.errors import InputError
from streaming.frames import SAMPLE_RATE_HZ

LEAD_S = 0.3  # of silence before the first turn
ANSWER_WITHIN_S = 6.0  # after the end of what is said, and between the parts of the answer
MESSAGE_BYTES = 1 << 24


@dataclass(slots=True)
class Heard:
    """One turn and its answer as the caller saw them; milliseconds on the microphone's clock.

    Attributes:
        true_end: End of the last 20 ms of the recording within 30 dB of its loudest.
        stops: Where in the audio the agent decided that the user had finished.
        first_audio: When the reply's audio began to come in; None while there is none.
        audio: Of the last reply that was not interrupted, float32.
        reply: Its text.
        transcripts: What the agent says it heard, by item.
        interrupted: Replies that were broken off.
        gaps: Times a player would have run dry: the next audio came after all before it had been played.
    """

    true_end: float
    stops: list[float] = field(default_factory=list)
    first_audio: float | None = None
    audio: list[np.ndarray] = field(default_factory=list)
    reply: str = ""
    transcripts: dict[str, str] = field(default_factory=dict)
    interrupted: int = 0
    gaps: int = 0

    @property
    def pcm(self) -> np.ndarray:
        """The reply, float32 [N]."""
        return np.concatenate([np.zeros(0, np.float32), *self.audio])

    @property
    def transcript(self) -> str:
        """What the agent says it heard, over the whole turn."""
        return " ".join(" ".join(self.transcripts.values()).split())

    @property
    def cut_in(self) -> bool:
        """Whether the agent thought that the user had finished before the true end."""
        return any(stop < self.true_end for stop in self.stops)

    @property
    def end_to_decision(self) -> float | None:
        """From the true end of speech to the last decision that the user has finished."""
        return self.stops[-1] - self.true_end if self.stops else None

    @property
    def decision_to_first_audio(self) -> float | None:
        """From when the deciding sample was spoken, not from when the news of it arrived."""
        return self.first_audio - self.stops[-1] if self.stops and self.first_audio is not None else None

    @property
    def silence_in_audio(self) -> float | None:
        """Silence at the beginning of the reply."""
        return loud_span(self.pcm)[0] * 1000 / SAMPLE_RATE_HZ if self.audio else None

    @property
    def total(self) -> float | None:
        """From the true end of speech to the first audible sample."""
        parts = (self.end_to_decision, self.decision_to_first_audio, self.silence_in_audio)
        return None if None in parts else sum(part for part in parts if part is not None)


class Line(Protocol):
    """A connection that carries messages of the Realtime protocol."""

    async def send(self, audio: str) -> None:
        """Sends base64 PCM16 of the microphone."""

    async def configure(self, session: dict[str, Any]) -> None:
        """Sends a session.update."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """What the daemon sends, until it closes."""


class Caller:
    """One session of a user; hears while it speaks. Use as ``async with``.

    Args:
        line: The connection.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._sent = 0  # samples
        self._began = 0.0
        self._heard = Heard(0.0)
        self._text = ""
        self._audio: list[np.ndarray] = []
        self._heard_at = 0.0  # when the answer last made progress
        self._played_at: float | None = None  # when everything that came will have been played
        self._done = asyncio.Event()
        self._listening: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        transcribed = {"type": "realtime", "audio": {"input": {"transcription": {"model": "local"}}}}
        await self._line.configure(transcribed)
        self._listening = asyncio.create_task(self._listen(), name="listen")
        self._began = _time()
        await self.wait(LEAD_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    @property
    def seconds(self) -> float:
        """Since the microphone began."""
        return self._sent / SAMPLE_RATE_HZ

    async def say(self, pcm: np.ndarray) -> Heard:
        """Speaks one turn and listens until the whole answer has arrived, or none can be expected any more.

        Args:
            pcm: float32 [N] at 24 kHz.

        Raises:
            InputError: The daemon left or reported an error.
        """
        _, end = await asyncio.to_thread(loud_span, pcm)
        heard = self._heard = Heard((self._sent + end) * 1000 / SAMPLE_RATE_HZ)
        self._done.clear()
        self._played_at = None
        for chunk in encode(pcm):
            await self._send(chunk)
        self._heard_at = _time()
        while not self._done.is_set() and _time() < self._heard_at + ANSWER_WITHIN_S:
            await self._send(_SILENCE)
        return heard

    async def wait(self, seconds: float) -> None:
        """Says nothing for so long.

        Raises:
            InputError: The daemon left or reported an error.
        """
        for _ in range(round(seconds * SAMPLE_RATE_HZ / CHUNK)):
            await self._send(_SILENCE)

    async def hear_out(self) -> None:
        """Says nothing until what came of the answer has been played."""
        await self.wait(0.0 if self._played_at is None else max(0.0, self._played_at - _time()))

    async def _send(self, chunk: str) -> None:
        self._sent += CHUNK
        await asyncio.sleep(max(0.0, self._began + self._sent / SAMPLE_RATE_HZ - _time()))
        if self._listening.done():
            self._listening.result()
            raise InputError("the daemon closed the connection")
        await self._line.send(chunk)

    async def _listen(self) -> None:
        async for event in self._line.events():
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        heard = self._heard
        match event["type"]:
            case "input_audio_buffer.speech_stopped":
                heard.stops.append(float(event["audio_end_ms"]))
                heard.first_audio = None
            case "input_audio_buffer.speech_started":
                self._done.clear()  # whatever was answered, the user has not finished
            case "conversation.item.input_audio_transcription.completed":
                heard.transcripts[event["item_id"]] = event["transcript"]
            case "response.created":
                self._text, self._audio, self._played_at = "", [], None
                self._done.clear()
            case "response.output_audio_transcript.delta":
                self._text += event["delta"]
            case "response.output_audio.delta":
                self._take_audio(base64.b64decode(event["delta"]))
            case "response.done":
                self._close(event["response"]["status"])
            case "error":
                raise InputError(f"the daemon says: {event['error']['message']}")

    def _take_audio(self, pcm16: bytes) -> None:
        now = self._heard_at = _time()
        if self._heard.first_audio is None:
            self._heard.first_audio = (now - self._began) * 1000
        if self._played_at is not None and now > self._played_at:
            self._heard.gaps += 1
        self._played_at = max(now, self._played_at or now) + len(pcm16) / 2 / SAMPLE_RATE_HZ
        self._audio.append(np.frombuffer(pcm16, "<i2").astype(np.float32) / 32768)

    def _close(self, status: str) -> None:
        if status == "cancelled":
            self._heard.interrupted += 1
            return
        self._heard.reply, self._heard.audio = self._text, self._audio
        self._done.set()


def encode(pcm: np.ndarray) -> list[str]:
    """Audio as the client's microphone sends it: base64 PCM16, 20 ms each, the last one filled up with silence."""
    padded = np.zeros(-(-len(pcm) // CHUNK) * CHUNK, np.float32)
    padded[: len(pcm)] = np.clip(pcm, -1.0, 1.0)
    return [base64.b64encode(chunk.tobytes()).decode() for chunk in (padded * 32767).astype("<i2").reshape(-1, CHUNK)]


_SILENCE = encode(np.zeros(CHUNK, np.float32))[0]


class _SocketLine:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def send(self, audio: str) -> None:
        await self._connection.send(f'{{"type": "input_audio_buffer.append", "audio": "{audio}"}}')

    async def configure(self, session: dict[str, Any]) -> None:
        await self._connection.send(json.dumps({"type": "session.update", "session": session}))

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        async for message in self._connection:
            yield json.loads(message)


class _SdkLine:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def send(self, audio: str) -> None:
        await self._connection.input_audio_buffer.append(audio=audio)

    async def configure(self, session: dict[str, Any]) -> None:
        await self._connection.session.update(session=session)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        async for event in self._connection:
            yield event.to_dict()


@contextlib.asynccontextmanager
async def call(url: str) -> AsyncIterator[Caller]:
    """A caller over a WebSocket of its own.

    Args:
        url: Such as ``ws://127.0.0.1:8765/v1/realtime``.

    Raises:
        InputError: The daemon cannot be reached, let nobody in, or broke off.
    """
    try:
        async with (
            connect(url, max_size=MESSAGE_BYTES, compression=None) as connection,
            Caller(_SocketLine(connection)) as caller,
        ):
            yield caller
    except (OSError, WebSocketException) as exc:
        raise InputError(f"{url}: {str(exc) or type(exc).__name__}") from exc


@contextlib.asynccontextmanager
async def call_with_sdk(url: str) -> AsyncIterator[Caller]:
    """A caller through the official SDK (package ``openai[realtime]``).

    Args:
        url: Such as ``http://127.0.0.1:8765/v1``.

    Raises:
        InputError: The SDK is missing, or as :func:`call`.
    """
    try:
        import openai
    except ImportError as exc:
        raise InputError("the official SDK is missing: pip install 'openai[realtime]'") from exc
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    try:
        async with client.realtime.connect(model="local") as connection, Caller(_SdkLine(connection)) as caller:
            yield caller
    except (OSError, WebSocketException, openai.OpenAIError) as exc:
        raise InputError(f"{url}: {str(exc) or type(exc).__name__}") from exc


async def converse(caller: Caller, turns: Sequence[np.ndarray], pause_s: float) -> list[Heard]:
    """Says one turn after the other, each ``pause_s`` after the answer to the one before was heard.

    Raises:
        InputError: The daemon left or reported an error.
    """
    heard = []
    for pcm in turns:
        heard.append(await caller.say(pcm))
        await caller.hear_out()
        await caller.wait(pause_s)
    return heard


def waits(turns: Sequence[Heard]) -> dict[str, dict[str, float]]:
    """Percentiles of the parts of the wait for an answer, and of all of it; milliseconds."""
    parts = {
        "end_of_speech_to_decision": [turn.end_to_decision for turn in turns],
        "decision_to_first_audio": [turn.decision_to_first_audio for turn in turns],
        "silence_before_the_voice": [turn.silence_in_audio for turn in turns],
        "end_of_speech_to_audible": [turn.total for turn in turns],
    }
    return {name: percentiles([value for value in values if value is not None]) for name, values in parts.items()}


def _time() -> float:
    return asyncio.get_running_loop().time()
