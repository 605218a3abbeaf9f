"""The openai-agents SDK's realtime session, unmodified, holds a conversation: prints one line of JSON about it.

Arguments: the WebSocket URL, the audio format (pcm16 or g711_ulaw), then recordings to speak (24 kHz mono WAV for
pcm16, 8 kHz mu-law bytes for g711_ulaw). After them it types "yes". Needs openai-agents.
"""

import asyncio
import json
import sys
import wave
from pathlib import Path

from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner

CHUNK_MS = 20


class Notes:
    """Writes down what the session tells."""

    def __init__(self):
        self.calls, self.errors = [], []
        self.audio_bytes = 0
        self.history = []
        self.replies = 0
        self.replied = asyncio.Condition()

    async def listen(self, session):
        """Take events until cancelled."""
        async for event in session:
            if event.type == "audio":
                self.audio_bytes += len(event.audio.data)
            elif event.type == "error":
                self.errors.append(str(event.error))
            elif event.type == "tool_end":
                self.calls.append([event.tool.name, json.loads(event.arguments)])
            elif event.type == "history_updated":
                self.history = event.history
            elif event.type == "audio_end":
                async with self.replied:
                    self.replies += 1
                    self.replied.notify_all()

    async def wait_for_replies(self, count):
        """Until this many replies have come to their end."""
        async with asyncio.timeout(30), self.replied:
            await self.replied.wait_for(lambda: self.replies >= count)

    def texts(self, role):
        """What this side said, in order."""
        messages = [item for item in self.history if item.type == "message" and item.role == role]
        parts = [part for message in messages for part in message.content]
        return [text for part in parts if (text := getattr(part, "transcript", None) or getattr(part, "text", None))]


def read(path, audio_format):
    """The bytes of a recording, and how many of them a second has."""
    if audio_format == "g711_ulaw":
        return Path(path).read_bytes(), 8_000, b"\xff"
    with wave.open(path, "rb") as wav:
        return wav.readframes(wav.getnframes()), 48_000, b"\0"


async def main(url, audio_format, recordings):
    """Speak, type, and report."""

    @function_tool(strict_mode=False)
    def add_items(items: list[dict]) -> str:
        """Add drinks to the order."""
        return f"{len(items)} added"

    @function_tool(strict_mode=False)
    def place_order(items: list[dict]) -> str:
        """Send the order to the counter."""
        return "placed"

    agent = RealtimeAgent(name="Barista", instructions="You take coffee orders.", tools=[add_items, place_order])
    settings = {"model_name": "local", "input_audio_format": audio_format, "output_audio_format": audio_format}
    runner = RealtimeRunner(agent, config={"model_settings": settings, "tracing_disabled": True})
    notes = Notes()
    async with await runner.run(model_config={"url": url, "api_key": "none"}) as session:
        listening = asyncio.create_task(notes.listen(session))
        for turn, path in enumerate(recordings, start=1):
            data, rate, silence = read(path, audio_format)
            data = silence * (rate // 2) + data
            answered = asyncio.create_task(notes.wait_for_replies(turn))
            size, at = rate * CHUNK_MS // 1000, 0
            while not answered.done():
                await session.send_audio(data[at : at + size].ljust(size, silence))
                at += size
                await asyncio.sleep(CHUNK_MS / 1000)
            await answered
            await asyncio.sleep(3.0)  # it is heard to its end
        await session.send_message("yes")
        await notes.wait_for_replies(len(recordings) + 1)
        await asyncio.sleep(1.0)  # the tool call comes after the audio
        listening.cancel()
    rate = 8_000 if audio_format == "g711_ulaw" else 48_000
    print(json.dumps({"heard": notes.texts("user"), "said": notes.texts("assistant"), "calls": notes.calls,
                      "audio_s": notes.audio_bytes / rate, "errors": notes.errors}))  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
