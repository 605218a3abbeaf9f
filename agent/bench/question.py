"""A recorded question streamed in real time over a WebSocket, and the parts of the wait for its answer."""

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from agent.bench.figures import CHUNK, loud_span
from agent.errors import InputError
from streaming.frames import SAMPLE_RATE_HZ

ANSWER_WITHIN_S = 70.0  # more than the longest reply
MESSAGE_BYTES = 1 << 24
_SILENCE = np.zeros(CHUNK, np.float32)


@dataclass(slots=True)
class Wait:
    """One question's answer as a client saw it; all in milliseconds."""

    end_to_decision: float | None = None
    decision_to_first_audio: float | None = None
    silence_in_audio: float | None = None
    transcript: str = ""
    audio: list[np.ndarray] = field(default_factory=list)

    @property
    def total(self) -> float | None:
        """From the true end of speech to the first audible sample."""
        parts = (self.end_to_decision, self.decision_to_first_audio, self.silence_in_audio)
        return None if None in parts else sum(part for part in parts if part is not None)


async def ask(port: int, question: np.ndarray) -> Wait:
    """Streams a question in real time and listens to the whole answer.

    Raises:
        InputError: No answer came in time.
    """
    wait = Wait()
    url = f"ws://127.0.0.1:{port}/v1/realtime?model=local"
    async with connect(url, max_size=MESSAGE_BYTES, compression=None) as connection:
        await connection.recv()  # session.created
        began = time.monotonic()
        sending = asyncio.create_task(_stream(connection, question, began), name="microphone")
        try:
            async with asyncio.timeout(len(question) / SAMPLE_RATE_HZ + ANSWER_WITHIN_S):
                await _listen(connection, wait, began, loud_span(question)[1] * 1000 / SAMPLE_RATE_HZ)
        except TimeoutError:
            raise InputError("the daemon did not answer in time") from None
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    if wait.audio:
        wait.silence_in_audio = loud_span(np.concatenate(wait.audio))[0] * 1000 / SAMPLE_RATE_HZ
    return wait


async def _stream(connection: ClientConnection, question: np.ndarray, began: float) -> None:
    """The question, then silence until cancelled: a microphone does not stop."""
    for start in count(0, CHUNK):
        chunk = np.clip(question[start : start + CHUNK], -1.0, 1.0) if start < len(question) else _SILENCE
        await asyncio.sleep(max(0.0, began + (start + CHUNK) / SAMPLE_RATE_HZ - time.monotonic()))
        audio = base64.b64encode((chunk * 32767).astype("<i2").tobytes()).decode()
        await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))


async def _listen(connection: ClientConnection, wait: Wait, began: float, true_end_ms: float) -> None:
    decided_ms = 0.0
    async for message in connection:
        event: dict[str, Any] = json.loads(message)
        match event["type"]:
            case "input_audio_buffer.speech_stopped":
                decided_ms = float(event["audio_end_ms"])
                wait.end_to_decision, wait.decision_to_first_audio = decided_ms - true_end_ms, None
            case "response.created":
                wait.audio.clear()
            case "response.output_audio.delta":
                if wait.decision_to_first_audio is None:
                    wait.decision_to_first_audio = (time.monotonic() - began) * 1000 - decided_ms
                wait.audio.append(np.frombuffer(base64.b64decode(event["delta"]), "<i2").astype(np.float32) / 32768)
            case "response.output_audio_transcript.done":
                wait.transcript = event["transcript"]
            case "response.done" if event["response"]["status"] == "completed":
                return
            case "error":
                raise InputError(f"the daemon says: {event['error']['message']}")
