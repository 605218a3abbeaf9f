import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile

from agent.config import AgentConfig
from agent.turn import TurnConfig
from agent.worker import StepEngine
from tests.fakes import SAMPLE_RATE, FakeEngine, spoken_turn
from training.answers import to_json, write_report
from training.domain import load_domain
from training.engine_pool import Unprompted
from training.recordings import RecordingError
from training.scoring import Rate
from training.suite import Row, Suite, per_window, run_all, to_table

LATTE = "Okay, a large latte. Anything else?"


class HerePool:
    """An engine pool whose engine always orders a latte."""

    def map(
        self, function: Callable[[StepEngine, AgentConfig, Any], Any], jobs: Sequence[Any], title: str = ""
    ) -> list[Any]:
        config = AgentConfig(turn=TurnConfig(end_of_turn_threshold=2.0))
        return [function(FakeEngine(words=LATTE, reply_frames=4), config, job) for job in jobs]


@pytest.fixture
def suite(repo_root: Path) -> Suite:
    domain = load_domain(repo_root / "configs" / "domains" / "coffee.yaml")
    return Suite(HerePool(), AgentConfig(), domain, limit=1)  # type: ignore[arg-type]


def data_root(root: Path, repo_root: Path) -> Path:
    """The standard folders with two clips each: a spoken question, or noise."""
    question, rate = soundfile.read(repo_root / "tests" / "data" / "question.wav", dtype="float32")
    labels: dict[str, dict[str, Any]] = {
        "orders_dev": {"intent": "orderDrink", "slots": {"coffeeDrink": "latte", "size": "large"}},
        "digits": {"text": "seven"},
        "kathleen": {"text": "The river is deep.", "speaker": "k"},
        "ljspeech": {"text": "The river is deep.", "speaker": "l"},
        "noise": {"kind": "rain"},
    }
    for name, label in labels.items():
        (root / name).mkdir()
        rows = [{"audio": f"{i}.wav", **label} for i in range(2)]
        (root / name / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for row in rows:
            if name == "noise":
                soundfile.write(root / name / row["audio"], 0.01 * spoken_turn(), SAMPLE_RATE)
            else:
                soundfile.write(root / name / row["audio"], question, rate)
    return root


def test_whole_suite_fills_one_table(tmp_path: Path, repo_root: Path, suite: Suite) -> None:
    """Every set has its rows; an agent that always orders a latte understands the order and declines nothing."""
    root = data_root(tmp_path, repo_root)
    rows = [row for more in run_all(suite, root, None, 0, minutes=0.05) for row in more]
    figures = {row.what: row.figure.value for row in rows}
    assert figures["orders, clean: understood by reply"] == 1.0
    assert figures["orders, clean: understood by transcript"] == 0.0
    assert figures["orders, 6 dB: understood by reply"] == 1.0
    assert figures["digits: understood by reply"] == 0.0
    assert (figures["outside, kathleen: declined"], figures["outside, ljspeech: no order made"]) == (0.0, 0.0)
    assert figures["silence: turns"] == 0.0
    assert any(what.startswith("turns end by silero 500 ms") for what in figures)
    assert len(to_table(rows)) == len(rows) + 1
    suite.plot(tmp_path / "plots")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"understood.png", "endpoints.png"}
    write_report(tmp_path / "suite.json", suite.details)
    assert json.loads((tmp_path / "suite.json").read_text())["outside, kathleen"]["left_out"] == 0


def test_missing_folders_are_named_before_anything_runs(tmp_path: Path, suite: Suite) -> None:
    """An hour's run does not end at a missing folder."""
    (tmp_path / "orders_dev").mkdir()
    with pytest.raises(RecordingError, match="digits, kathleen, ljspeech, noise is not there"):
        next(run_all(suite, tmp_path, None, 0, 1.0))


def test_false_turns_are_per_ten_minutes() -> None:
    """Three turns in five minutes are six in ten, whatever the pieces' lengths."""
    pieces = [Unprompted("a", 60.0, 3, 0), Unprompted("b", 240.0, 0, 0)]
    figure = per_window([piece.turns for piece in pieces], pieces)
    assert figure.value == pytest.approx(6.0)
    assert figure.count == 2
    assert figure.high > 6.0


def test_table_shows_figure_unit_and_interval() -> None:
    """Shares have three places, times none, other rates one."""
    rows = [Row("a", Rate(0.5, 0.25, 0.75, 8)), Row("b", Rate(420.4, 400.0, 500.0, 8), "ms")]
    head, share, delay = to_table([*rows])
    assert head.split()[:3] == ["what", "n", "figure"]
    assert share.split() == ["a", "8", "0.500", "0.250", "-", "0.750"]
    assert delay.split() == ["b", "8", "420", "ms", "400", "-", "500"]
    assert to_json({"row": rows[0].figure})["row"]["count"] == 8
