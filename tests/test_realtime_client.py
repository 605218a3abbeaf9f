import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.errors import InputError
from tests.fakes import SAMPLE_RATE, FakeEngine, silence, speech
from tests.live import running_daemon
from training.realtime_client import answer_over_wire
from training.recordings import Recording, find_recordings

SETTINGS = ["vad.detector=energy", "vad.silence_duration_ms=300", "turn.end_of_turn_threshold=2"]


@contextlib.asynccontextmanager
async def daemon_url(engine: FakeEngine) -> AsyncIterator[str]:
    async with running_daemon(engine, *SETTINGS) as daemon:
        yield f"http://127.0.0.1:{daemon.port}/v1"


def clips(folder: Path, *audio: np.ndarray) -> list[Recording]:
    for number, pcm in enumerate(audio):
        soundfile.write(folder / f"{number}.wav", pcm, SAMPLE_RATE)
    rows = [{"audio": f"{number}.wav"} for number in range(len(audio))]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return find_recordings(folder)


async def test_clips_are_spoken_in_real_time_side_by_side(tmp_path: Path) -> None:
    """Two clients at once: replies, transcripts, audio and times come back in the order of the recordings."""
    whole = np.concatenate([silence(0.4), speech(0.6)])
    broken = np.concatenate([silence(0.2), speech(0.4), silence(0.6), speech(0.4)])
    recordings = clips(tmp_path, whole, broken)
    done: list[int] = []
    engine = FakeEngine(reply_frames=5)
    async with daemon_url(engine) as url:
        (first,), (second,) = await answer_over_wire(url, recordings, 2, lambda: done.append(1))
    assert (len(done), len(engine.states)) == (2, 2)
    assert first.reply == second.reply == "sure one latte coming"
    assert first.transcript.startswith("w1")
    assert len(first.pcm) == 5 * 1920
    assert (first.cut_in, second.cut_in) == (False, True)
    assert first.decision_ms == pytest.approx(300, abs=61)
    assert first.first_audio_ms is not None
    assert 0 < first.first_audio_ms < 2000


async def test_unreachable_daemon_is_one_error(tmp_path: Path) -> None:
    """No daemon, no traceback of groups: the address is named."""
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/v1"):
        await answer_over_wire("http://127.0.0.1:9/v1", clips(tmp_path, speech(0.1)), 1, lambda: None)


async def test_failing_engine_ends_the_run(tmp_path: Path) -> None:
    """A daemon that breaks off is an error, not an empty answer."""
    async with daemon_url(FakeEngine(fail_at=3)) as url:
        with pytest.raises(InputError):
            await answer_over_wire(url, clips(tmp_path, np.concatenate([silence(0.4), speech(0.6)])), 1, lambda: None)
