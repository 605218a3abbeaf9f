"""Whether the agent can run here, said in advance."""

import re
import socket
import tomllib
from pathlib import Path

import numpy as np
import pytest

import run_agent
from agent.capacity import StepTimes
from agent.config import load_config
from agent.doctor import PACKAGES, Finding, audio_devices, memory, packages, port, reach, speed, to_lines
from models.runtime import Mode
from streaming.tls import self_signed
from tests.test_audio_io import FakeBackend

TOKEN = "correct-horse-battery-staple"


def times(idle: float, listen: float, speak: float, longest: float) -> StepTimes:
    """A hundred steps of each kind, in milliseconds; two that listen are the longest."""
    listened = [listen] * 98 + [longest] * 2
    each = {Mode.IDLE: [idle] * 100, Mode.LISTEN: listened, Mode.SPEAK: [speak] * 100}
    return StepTimes({mode: tuple(ms / 1000 for ms in taken) for mode, taken in each.items()})


def test_the_whole_of_it(shipped_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On this machine, which runs the tests, every question is answered, and nothing fails but perhaps the speed."""
    code = run_agent.main(["--doctor", "--no-audio", "--port", "0"])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    failed = {line[6:19].strip() for line in lines if line.startswith("FAIL")}
    assert failed <= {"speed"}
    assert code == len(failed)
    assert [line[6:19].strip() for line in lines] == [
        "Python",
        "packages",
        "memory",
        "models",
        "speed",
        "settings",
        "reach",
        "recordings",
        "port",
        "audio devices",
    ]


def test_what_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No models and a bad setting: both are told in one go, with what to do, and the exit code is 1."""
    arguments = ["--doctor", "--no-audio", "--codec", str(tmp_path), "server.max_sessions=0"]
    assert run_agent.main(arguments) == 1
    out = capsys.readouterr().out
    assert re.search(rf"FAIL  models +{tmp_path}.*not found.*\n +-> restore models/pretrained", out)
    assert re.search(r"FAIL  settings .*server\.max_sessions", out)


def test_the_packages_are_those_of_the_project(repo_root: Path) -> None:
    """A dependency that is added is looked for."""
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    assert {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]} == set(PACKAGES)  # type: ignore[index]


def test_a_missing_package() -> None:
    """It is named, and so is one that is there and does not import."""
    finding = packages({"numpy": "numpy", "no-such-thing": None, "pydantic": "pydantic.no_such_module"})
    assert finding.status == "FAIL"
    assert "no-such-thing is missing" in finding.found
    assert "pydantic does not import" in finding.found
    assert "pip install" in finding.advice


@pytest.mark.parametrize(
    ("idle", "speak", "p99", "status", "says"),
    [
        (0.9, 2.0, 20.0, "OK", "4 can talk at once"),
        (0.9, 2.0, 60.0, "WARN", "3 can talk at once"),
        (20.0, 30.0, 39.0, "OK", "1 can talk at once"),
        (30.0, 40.0, 39.0, "FAIL", "0 can talk at once"),
    ],
)
def test_speed(idle: float, speak: float, p99: float, status: str, says: str) -> None:
    """One who is spoken to needs two steps a frame; a machine that cannot keep up with one fails."""
    finding = speed(times(idle, 5.0, speak, p99), 0.08, 1)
    assert (finding.status, says in finding.found) == (status, True)


@pytest.mark.parametrize(("kb", "status"), [(8_000_000, "OK"), (400_000, "WARN"), (100_000, "FAIL")])
def test_memory(kb: int, status: str, tmp_path: Path) -> None:
    """What is available decides; where the system does not tell, it is a warning."""
    meminfo = tmp_path / "meminfo"
    assert memory(meminfo).status == "WARN"
    meminfo.write_text(f"MemTotal: 9000000 kB\nMemAvailable: {kb} kB\n")
    assert memory(meminfo).status == status


def test_the_port() -> None:
    """A port that is taken is named; one that is free, and a host that is none, too."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert port("127.0.0.1", number).status == "FAIL"
        assert str(number) in port("127.0.0.1", number).found
    assert port("127.0.0.1", number).status == "OK"
    assert port("127.0.0.1", 0).found == "any"
    assert port("203.0.113.1", number).status == "FAIL"


def test_reach(tmp_path: Path) -> None:
    """Wide open fails, in the clear warns; a certificate that is none fails."""
    cert, key = self_signed(tmp_path)
    tls = [f"server.tls_cert={cert}", f"server.tls_key={key}"]
    wide = load_config(None, ["server.host=0.0.0.0"])
    assert reach(load_config(None), None).status == "OK"
    assert reach(wide, None).status == "FAIL"
    assert reach(wide, TOKEN).status == "WARN"
    assert reach(load_config(None, ["server.host=0.0.0.0", *tls]), TOKEN).status == "OK"
    assert reach(load_config(None, [tls[0], f"server.tls_key={cert}"]), None).status == "FAIL"
    assert TOKEN not in reach(wide, TOKEN).found


def test_audio_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that open are named with their rates, and all there are, also when a name fits none."""
    backend = FakeBackend(rates=(48_000,))
    monkeypatch.setattr("streaming.audio_io.load_backend", lambda: backend)
    finding = audio_devices(load_config(None))
    assert finding.status == "WARN"
    found, _, listed = finding.found.partition(". ")
    assert found == "Fake at 48000 Hz, Fake at 48000 Hz, echo cancelled; the microphone's level is -120 dB"
    assert listed.startswith("There are: 0: Fake, 1 in, 1 out, 48000 Hz")
    assert "muted" in finding.advice
    finding = audio_devices(load_config(None, ["audio.microphone=USB"]))
    assert finding.status == "WARN"
    assert "No microphone called 'USB'" in finding.found
    assert "0: Fake, 1 in, 1 out, 48000 Hz" in finding.found


def test_the_microphones_level_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the doctor listens, the loudest moment counts: half of full scale is -6 dB."""
    backend = FakeBackend()
    monkeypatch.setattr("streaming.audio_io.load_backend", lambda: backend)
    heard = iter([0.001, 0.5, 0.001])

    def sleep(seconds: float) -> None:
        if (level := next(heard, None)) is not None:
            backend.mic.run(np.tile(np.array([level, -level], np.float32), 120)[:, None])

    monkeypatch.setattr("streaming.audio_io.time.sleep", sleep)
    finding = audio_devices(load_config(None, ["audio.echo_cancellation=false"]))
    assert finding.status == "OK"
    assert "the microphone's level is -6 dB." in finding.found


def test_the_table() -> None:
    """One line a finding, and one more where something is to be done."""
    assert to_lines([Finding("OK", "port", "free"), Finding("FAIL", "memory", "1 MB", "buy some")]) == [
        "OK    port           free",
        "FAIL  memory         1 MB",
        "                     -> buy some",
    ]
