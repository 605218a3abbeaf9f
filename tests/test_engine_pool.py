import json
from pathlib import Path

import pytest
import soundfile

from agent.config import AgentConfig
from agent.turn import TurnConfig
from models.errors import ModelError
from streaming.vad import VadConfig
from tests.fakes import SAMPLE_RATE, FakeEngine, silence, speech, spoken_turn
from training.answers import Answer
from training.engine_pool import Agent, EnginePool, listen, speak
from training.recordings import Recording, RecordingError, find_recordings

CONFIG = AgentConfig(
    vad=VadConfig(detector="energy", silence_duration_ms=400), turn=TurnConfig(end_of_turn_threshold=2.0)
)


def clips(folder: Path, count: int) -> list[Recording]:
    rows = [{"audio": f"{number}.wav"} for number in range(count)]
    for number, row in enumerate(rows):
        soundfile.write(folder / row["audio"], spoken_turn(0.4 + 0.2 * number), SAMPLE_RATE)
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return find_recordings(folder)


def heard(answers: list[list[Answer]]) -> list[tuple[str, str, float | None]]:
    return [(answer.reply, answer.transcript, answer.decision_ms) for given in answers for answer in given]


def test_split_over_processes_changes_nothing(tmp_path: Path, tiny_models: Path) -> None:
    """Two processes give the same replies on the same sample clock as this one, in order."""
    agent = Agent(tiny_models / "models" / "codec", tiny_models / "models" / "s2s", CONFIG)
    recordings = clips(tmp_path, 2)
    with EnginePool(agent) as here, EnginePool(agent, workers=2) as there:
        assert heard(there.map(speak, recordings)) == heard(here.map(speak, recordings))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_goes_wrong_in_a_job_comes_back(tmp_path: Path, tiny_models: Path, workers: int) -> None:
    """Missing models and unreadable recordings raise what they raise in one process."""
    recordings = clips(tmp_path, 1)
    with (
        EnginePool(Agent(tmp_path, tmp_path, CONFIG), workers) as pool,
        pytest.raises(ModelError, match=r"config\.json"),
    ):
        pool.map(speak, recordings)
    (tmp_path / "0.wav").unlink()
    agent = Agent(tiny_models / "models" / "codec", tiny_models / "models" / "s2s", CONFIG)
    with EnginePool(agent, workers) as pool, pytest.raises(RecordingError, match=r"0\.wav"):
        pool.map(speak, recordings)


def test_turns_without_a_speaker_are_counted_where_they_began(tmp_path: Path) -> None:
    """A bang that the detector takes for speech is a turn with a reply, in its own piece; the session is one."""
    bang = tmp_path / "bang.wav"
    quiet = tmp_path / "quiet.wav"
    soundfile.write(bang, spoken_turn(0.8, after_s=2.0), SAMPLE_RATE)
    soundfile.write(quiet, silence(1.0), SAMPLE_RATE)
    engine = FakeEngine()
    pieces = listen(engine, CONFIG, [quiet, bang, quiet])
    assert [(piece.audio, piece.turns, piece.replies) for piece in pieces] == [
        ("quiet", 0, 0),
        ("bang", 1, 1),
        ("quiet", 0, 0),
    ]
    assert pieces[1].seconds == pytest.approx(3.2)
    assert len(engine.states) == 1


def test_turn_that_is_open_at_the_end_is_answered(tmp_path: Path) -> None:
    """The last piece is followed by silence, so that its turn can end."""
    soundfile.write(tmp_path / "a.wav", speech(1.0), SAMPLE_RATE)
    (piece,) = listen(FakeEngine(reply_frames=4), CONFIG, [tmp_path / "a.wav"])
    assert (piece.turns, piece.replies) == (1, 1)


def test_silence_starts_no_turn() -> None:
    """Ten seconds of hiss are a piece too."""
    (piece,) = listen(FakeEngine(), CONFIG, [None])
    assert (piece.audio, piece.seconds, piece.turns, piece.replies) == ("silence", 10.0, 0, 0)
