"""LiveKit's RealtimeModel in an AgentSession, unmodified, holds a conversation: prints one line of JSON about it.

Arguments: the HTTP base URL, then recordings to speak (24 kHz mono WAV). After them it lets the connection end, as it
does from time to time, and types "yes". Needs livekit-agents and livekit-plugins-openai; no room, no LiveKit server.
"""

import asyncio
import json
import sys
import time
import wave

from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice import io
from livekit.plugins.openai.realtime import RealtimeModel

RATE, CHUNK_MS = 24_000, 20
SESSION_S = 25.0  # longer than the recordings and their answers take
SAMPLES = RATE * CHUNK_MS // 1000


class Microphone(io.AudioInput):
    """Frames in real time: what is to be said, else silence."""

    def __init__(self):
        super().__init__(label="microphone")
        self.waiting = b""
        self._next = time.monotonic()

    async def __anext__(self):
        self._next = max(self._next + CHUNK_MS / 1000, time.monotonic() - 1)
        await asyncio.sleep(max(0.0, self._next - time.monotonic()))
        chunk, self.waiting = self.waiting[: SAMPLES * 2], self.waiting[SAMPLES * 2 :]
        return rtc.AudioFrame(chunk.ljust(SAMPLES * 2, b"\0"), RATE, 1, SAMPLES)


class Speaker(io.AudioOutput):
    """Plays into nothing, in real time."""

    def __init__(self):
        super().__init__(label="speaker", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.played_s = 0.0
        self._segment_s = 0.0
        self._ends_at = 0.0
        self._playing = None

    async def capture_frame(self, frame):
        await super().capture_frame(frame)
        if not self._segment_s:
            self._ends_at = time.monotonic()
            self.on_playback_started(created_at=time.time())
        self._segment_s += frame.duration
        self._ends_at += frame.duration

    def flush(self):
        super().flush()
        if self._segment_s:
            self._playing = asyncio.create_task(self._finish(self._segment_s, self._ends_at))
            self._segment_s = 0.0

    def clear_buffer(self):
        if self._playing and not self._playing.done():
            self._playing.cancel()
            self.on_playback_finished(playback_position=0.0, interrupted=True)

    async def _finish(self, seconds, ends_at):
        await asyncio.sleep(max(0.0, ends_at - time.monotonic()))
        self.played_s += seconds
        self.on_playback_finished(playback_position=seconds, interrupted=False)


async def until(condition):
    """Wait until it holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def main(base_url, recordings):
    """Greet, speak, and report."""
    calls, errors = [], []

    @function_tool
    async def add_items(items: list[dict]) -> str:
        """Add drinks to the order."""
        calls.append(["add_items", {"items": items}])
        return "added"

    @function_tool
    async def place_order(items: list[dict]) -> str:
        """Send the order to the counter."""
        calls.append(["place_order", {"items": items}])
        return "placed"

    model = RealtimeModel(base_url=base_url, api_key="none", model="local", max_session_duration=SESSION_S)
    session = AgentSession(llm=model)
    session.on("error", lambda event: errors.append(str(event.error)))
    microphone, speaker = Microphone(), Speaker()
    session.input.audio, session.output.audio = microphone, speaker
    began = time.monotonic()
    await session.start(Agent(instructions="You take coffee orders.", tools=[add_items, place_order]))

    def texts(role):
        items = [item for item in session.history.items if item.type == "message" and item.role == role]
        return [item.text_content.strip() for item in items if item.text_content]

    await session.generate_reply(instructions="Greet the customer.")
    for turn, path in enumerate(recordings, start=2):
        with wave.open(path, "rb") as wav:
            microphone.waiting = bytes(RATE) + wav.readframes(wav.getnframes())
        await until(lambda turn=turn: len(texts("assistant")) >= turn)
        await asyncio.sleep(1.0)
    await asyncio.sleep(max(0.0, began + SESSION_S + 2.0 - time.monotonic()))  # it has connected anew
    await session.generate_reply(user_input="yes")
    await until(lambda: any(name == "place_order" for name, _ in calls))
    await session.aclose()
    print(json.dumps({"heard": texts("user"), "said": texts("assistant"), "calls": calls,
                      "audio_s": speaker.played_s, "errors": errors}))  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
