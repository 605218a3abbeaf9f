"""Pipecat's OpenAIRealtimeLLMService, unmodified, holds a conversation: prints one line of JSON about it.

Arguments: the WebSocket URL, then recordings to speak (24 kHz mono WAV). Needs pipecat-ai.
"""

import asyncio
import json
import sys
import wave

from loguru import logger
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    FunctionCallResultFrame,
    InputAudioRawFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.observers.base_observer import BaseObserver
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.services.openai.realtime.events import (
    AudioConfiguration,
    AudioInput,
    InputAudioTranscription,
    SessionProperties,
)
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

RATE, CHUNK_MS = 24_000, 20


class Notes(BaseObserver):
    """Writes down what passes through the pipeline, each frame once."""

    def __init__(self):
        super().__init__()
        self.heard, self.said, self.calls, self.errors = [], [""], [], []
        self.audio_s = 0.0
        self.replied = asyncio.Condition()
        self._seen = set()

    async def on_push_frame(self, data):
        frame = data.frame
        if frame.id in self._seen:
            return
        self._seen.add(frame.id)
        if isinstance(frame, TranscriptionFrame):
            self.heard.append(frame.text)
        elif isinstance(frame, TTSTextFrame):
            self.said[-1] += frame.text
        elif isinstance(frame, TTSAudioRawFrame):
            self.audio_s += len(frame.audio) / 2 / frame.sample_rate
        elif isinstance(frame, FunctionCallResultFrame):
            if frame.tool_call_id not in self._seen:  # it travels both ways
                self.calls.append([frame.function_name, dict(frame.arguments)])
            self._seen.add(frame.tool_call_id)
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        elif isinstance(frame, LLMFullResponseEndFrame) and self.said[-1]:
            self.said[-1] = self.said[-1].strip()
            async with self.replied:
                self.said.append("")
                self.replied.notify_all()

    async def wait_for_replies(self, count):
        """Until this many replies have come to their end."""
        async with asyncio.timeout(30), self.replied:
            await self.replied.wait_for(lambda: len(self.said) > count)


async def speak(worker, recordings, notes):
    """The greeting, then each recording in real time, and silence until its answer has come."""
    await worker.queue_frame(LLMRunFrame())
    await notes.wait_for_replies(1)
    for turn, path in enumerate(recordings, start=2):
        with wave.open(path, "rb") as wav:
            pcm = bytes(RATE) + wav.readframes(wav.getnframes())
        answered = asyncio.create_task(notes.wait_for_replies(turn))
        size, at = RATE * 2 * CHUNK_MS // 1000, 0
        while not answered.done():
            chunk = pcm[at : at + size].ljust(size, b"\0")
            at += size
            await worker.queue_frame(InputAudioRawFrame(audio=chunk, sample_rate=RATE, num_channels=1))
            await asyncio.sleep(CHUNK_MS / 1000)
        await answered
        await asyncio.sleep(3.0)  # it is heard to its end
    await worker.queue_frame(EndFrame())


async def main(url, recordings):
    """Run the pipeline and report."""
    tools = ToolsSchema(
        standard_tools=[
            FunctionSchema("add_items", "Add drinks to the order.", {"items": {"type": "array"}}, ["items"]),
            FunctionSchema("place_order", "Send the order.", {"items": {"type": "array"}}, ["items"]),
        ]
    )
    transcription = InputAudioTranscription(model="local")
    properties = SessionProperties(audio=AudioConfiguration(input=AudioInput(transcription=transcription)))
    settings = OpenAIRealtimeLLMService.Settings(
        model="local", system_instruction="You take coffee orders.", session_properties=properties
    )
    llm = OpenAIRealtimeLLMService(api_key="none", base_url=url, settings=settings)

    async def take(params):
        await params.result_callback({"ok": True})

    for name in ("add_items", "place_order"):
        llm.register_function(name, take)
    pair = LLMContextAggregatorPair(LLMContext(tools=tools))
    notes = Notes()
    worker = PipelineWorker(
        Pipeline([pair.user(), llm, pair.assistant()]),
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        observers=[notes],
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    speaking = asyncio.create_task(speak(worker, recordings, notes))
    await runner.run()
    await speaking
    said = [text for text in notes.said if text]
    print(json.dumps({"heard": notes.heard, "said": said, "calls": notes.calls, "audio_s": notes.audio_s,
                      "errors": notes.errors}))  # fmt: skip


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
