"""Recordings spoken to a running daemon in real time, through the official OpenAI SDK.

The clock starts with the first chunk; a sample counts as spoken when its chunk is sent, so the latencies hold
everything a client sees: chunking, the socket, the daemon.
"""

import asyncio
import base64
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.answers import Answer
from training.recordings import SAMPLE_RATE_HZ, Recording, end_of_speech

CHUNK = SAMPLE_RATE_HZ // 50  # 20 ms
LEAD_S = 0.3
ANSWER_WITHIN_S = 6.0
BETWEEN_TURNS_S = 0.4


class ClientError(RuntimeError):
    """The daemon cannot be reached, left, or refused the session."""


class WireSession:
    """One SDK connection that speaks a recording and keeps the microphone running between its turns."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sent = 0  # samples
        self._began = 0.0
        self._answer = Answer()
        self._stops: list[float] = []  # end-of-turn decisions, ms on the sample clock
        self._first_audio: float | None = None
        self._transcripts: dict[str, str] = {}
        self._text = ""
        self._audio: list[np.ndarray] = []
        self._done = asyncio.Event()

    async def run(self, recording: Recording) -> list[Answer]:
        """Speaks every turn.

        Raises:
            ClientError: The daemon left or reported an error.
        """
        await self._connection.session.update(
            session={"type": "realtime", "audio": {"input": {"transcription": {"model": "local"}}}}
        )
        listening = asyncio.create_task(self._listen(), name="listen")
        try:
            self._began = self._time()
            await self._send(np.zeros(round(LEAD_S * SAMPLE_RATE_HZ), np.float32), listening)
            return [await self._turn(utterance.load(), listening) for utterance in recording.turns]
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClientError):
                await listening

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    async def _turn(self, pcm: np.ndarray, listening: asyncio.Task[None]) -> Answer:
        true_end_ms = (self._sent + end_of_speech(pcm)) * 1000 / SAMPLE_RATE_HZ
        self._answer, self._stops, self._first_audio = Answer(), [], None
        self._transcripts = {}
        self._done.clear()
        await self._send(pcm, listening)
        silence = np.zeros(CHUNK, np.float32)
        deadline = self._time() + ANSWER_WITHIN_S
        while not self._done.is_set() and self._time() < deadline:
            await self._send(silence, listening)
            if self._first_audio is not None:
                deadline = self._time() + ANSWER_WITHIN_S
        answer = self._answer
        if self._stops:
            decided_ms = self._stops[-1]
            answer.decision_ms = decided_ms - true_end_ms
            if self._first_audio is not None:
                # from when the deciding sample was spoken, not from when the news of it arrived
                answer.first_audio_ms = (self._first_audio - self._began) * 1000 - decided_ms
        answer.cut_in = any(decided_ms < true_end_ms for decided_ms in self._stops)
        await self._send(np.zeros(len(answer.pcm) + round(BETWEEN_TURNS_S * SAMPLE_RATE_HZ), np.float32), listening)
        answer.transcript = " ".join(" ".join(self._transcripts.values()).split())
        return answer

    async def _send(self, pcm: np.ndarray, listening: asyncio.Task[None]) -> None:
        """Streams audio at the speed of time."""
        for start in range(0, len(pcm), CHUNK):
            chunk = np.clip(pcm[start : start + CHUNK], -1.0, 1.0)
            self._sent += len(chunk)
            await asyncio.sleep(max(0.0, self._began + self._sent / SAMPLE_RATE_HZ - self._time()))
            if listening.done():
                listening.result()
                raise ClientError("the daemon closed the connection")
            data = base64.b64encode((chunk * 32767).astype("<i2").tobytes()).decode()
            await self._connection.input_audio_buffer.append(audio=data)

    async def _listen(self) -> None:
        async for event in self._connection:
            self._take(event)

    def _take(self, event: Any) -> None:
        match event.type:
            case "input_audio_buffer.speech_stopped":
                self._stops.append(float(event.audio_end_ms))
                self._first_audio = None
            case "input_audio_buffer.speech_started":
                self._done.clear()  # whatever was answered, the user has not finished
            case "conversation.item.input_audio_transcription.completed":
                self._transcripts[event.item_id] = event.transcript
            case "response.created":
                self._text, self._audio = "", []
                self._done.clear()
            case "response.output_audio_transcript.delta":
                self._text += event.delta
            case "response.output_audio.delta":
                self._first_audio = self._first_audio or self._time()
                self._audio.append(np.frombuffer(base64.b64decode(event.delta), "<i2").astype(np.float32) / 32768)
            case "response.done":
                self._close(event.response.status)
            case "error":
                raise ClientError(f"the daemon says: {event.error.message}")

    def _close(self, status: str) -> None:
        if status == "cancelled":
            self._answer.interrupted += 1
            return
        self._answer.reply = self._text
        self._answer.pcm = np.concatenate([np.zeros(0, np.float32), *self._audio])
        self._done.set()


async def answer_over_wire(
    url: str, recordings: Sequence[Recording], parallel: int, progress: Callable[[], object]
) -> list[list[Answer]]:
    """Speaks recordings to the daemon at `url` (`http://HOST:PORT/v1`), at most `parallel` at once.

    Raises:
        ClientError: The daemon cannot be reached, or a session failed.
        RecordingError: A recording cannot be read.
    """
    import openai
    import websockets.exceptions

    places = asyncio.Semaphore(parallel)

    async def one(recording: Recording) -> list[Answer]:
        async with places:
            client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
            try:
                async with client.realtime.connect(model="local") as connection:
                    answers = await WireSession(connection).run(recording)
            except (OSError, websockets.exceptions.WebSocketException, openai.OpenAIError) as exc:
                raise ClientError(f"{url}: {exc}") from exc
            progress()
            return answers

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(recording), name=recording.name) for recording in recordings]
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    return [task.result() for task in running]
