"""Other people's clients, unmodified, hold a conversation with the shipped models.

Each runs in an interpreter of its own, which an environment variable names, because their dependencies do not go
together: REPARTEE_PIPECAT_PYTHON (pipecat-ai[openai]), REPARTEE_LIVEKIT_PYTHON (livekit-agents and
livekit-plugins-openai) and REPARTEE_AGENTS_PYTHON (openai-agents[realtime]). Without it the test is skipped.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.actions import load_actions
from models.runtime import Engine
from streaming import g711
from streaming.resample import resample
from streaming.sound_files import read_audio, write_audio
from tests.live import running_daemon
from training.tts import synthesise

pytestmark = pytest.mark.shipped

SCRIPTS = Path(__file__).parent / "clients"
TURNS = ("can i have a large latte with soy milk please", "that is all thank you")
ORDERED = {"size": "large", "coffeeDrink": "latte", "milkAmount": "soy milk"}
ANSWERS = (("large latte", "soy milk"), ("So that is a large latte", "soy milk"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The user's turns, spoken by a voice that no model was trained on."""
    paths = [tmp_path_factory.mktemp("spoken") / f"{turn}.wav" for turn in range(len(TURNS))]
    for path, text in zip(paths, TURNS, strict=True):
        write_audio(path, synthesise(text, "flite:slt").pcm)
    return paths


@pytest.fixture(scope="module")
def engine(shipped_models: Path) -> Engine:
    """The shipped models."""
    return Engine.load(shipped_models / "codec", shipped_models / "s2s")


@pytest.fixture
async def port(engine: Engine, shipped_models: Path) -> AsyncIterator[int]:
    """Of a daemon with the shipped models."""
    async with running_daemon(engine, actions=load_actions(shipped_models / "s2s")) as daemon:
        assert daemon.port is not None
        yield daemon.port


async def talk(variable: str, script: str, *arguments: str | Path) -> dict[str, Any]:
    """Run a client to its end and return what it reports."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no interpreter")
    process = await asyncio.create_subprocess_exec(
        python,
        SCRIPTS / script,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    try:
        async with asyncio.timeout(120):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()[-4_000:]
    return dict(json.loads(out.decode().splitlines()[-1]))


def check(told: dict[str, Any], said: list[str], calls: list[str]) -> None:
    """The user was understood and answered, aloud, and the order arrived, without a single error."""
    assert told["errors"] == []
    for heard, words in zip(told["heard"], TURNS, strict=False):
        assert heard == words
    assert len(told["heard"]) >= len(TURNS)
    for answer, parts in zip(said, ANSWERS, strict=True):
        assert all(part in answer for part in parts), answer
    assert [name for name, _ in told["calls"]] == calls
    for _, arguments in told["calls"]:
        assert arguments["items"] == [ORDERED]
    assert told["audio_s"] > 5.0


async def test_pipecat(port: int, recordings: list[Path]) -> None:
    """OpenAIRealtimeLLMService in a pipeline: it asks for a greeting, speaks twice, and its function is called."""
    url = f"ws://127.0.0.1:{port}/v1/realtime"
    told = await talk("REPARTEE_PIPECAT_PYTHON", "pipecat_client.py", url, *recordings)
    greeting, *said = told["said"]
    assert greeting == "Hello! What would you like?"
    check(told, said, ["add_items"])


async def test_livekit(port: int, recordings: list[Path]) -> None:
    """RealtimeModel in an AgentSession: it speaks twice, connects anew, and the order is still known."""
    told = await talk("REPARTEE_LIVEKIT_PYTHON", "livekit_client.py", f"http://127.0.0.1:{port}/v1", *recordings)
    greeting, *said, placed = told["said"]
    assert greeting == "Hello! What would you like?"
    assert "coming right up" in placed
    check(told, said, ["add_items", "place_order"])


@pytest.mark.parametrize("audio_format", ["pcm16", "g711_ulaw"])
async def test_openai_agents(port: int, recordings: list[Path], tmp_path: Path, audio_format: str) -> None:
    """RealtimeRunner's session speaks twice and types once, at 24 kHz and as a telephone; both tools are called."""
    spoken = recordings
    if audio_format == "g711_ulaw":
        spoken = [tmp_path / f"{path.stem}.ulaw" for path in recordings]
        for path, source in zip(spoken, recordings, strict=True):
            path.write_bytes(g711.encode(resample(read_audio(source), 24_000, g711.RATE_HZ), "mu"))
    url = f"ws://127.0.0.1:{port}/v1/realtime?model=local"
    told = await talk("REPARTEE_AGENTS_PYTHON", "agents_client.py", url, audio_format, *spoken)
    *said, placed = told["said"]
    assert "coming right up" in placed
    check(told, said, ["add_items", "place_order"])
