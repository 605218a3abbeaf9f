"""What deploy/ says agrees with the tree."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import run_agent
from agent.config import load_config


def test_the_image_has_what_is_installed(repo_root: Path) -> None:
    """What the Dockerfile copies exists, is let through by .dockerignore, and holds all packages of the runtime."""
    lines = (repo_root / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    ]
    assert copied
    assert not [name for name in copied if not (repo_root / name).exists()]
    let_through = {line[1:] for line in (repo_root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == let_through
    setuptools = tomllib.loads((repo_root / "pyproject.toml").read_text())["tool"]["setuptools"]
    tops = {package.split(".")[0] for package in setuptools["packages"]}
    assert tops <= {name.split("/")[0] for name in copied}
    assert {f"{module}.py" for module in setuptools["py-modules"]} <= set(copied)


def test_the_image_starts_the_agent(repo_root: Path) -> None:
    """Its command is the installed script with flags that exist, on the port that is looked at for its health."""
    text = (repo_root / "deploy" / "Dockerfile").read_text()
    command = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", text, re.M)[1])  # type: ignore[index]
    scripts = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(command[0]).name in scripts
    args = run_agent.parse_args(command[1:])
    assert (args.no_audio, args.host) == (True, "0.0.0.0")
    assert f"127.0.0.1:{args.port}/healthz" in text
    assert f"EXPOSE {args.port}" in text
    assert re.search(r"^USER (?!root)", text, re.M)


def test_the_service_starts_the_agent(repo_root: Path) -> None:
    """Its command has flags and settings that exist, and it waits for draining to end."""
    text = (repo_root / "deploy" / "repartee.service").read_text()
    command = re.search(r"^ExecStart=(.*)$", text, re.M)[1]  # type: ignore[index]
    python, script, *flags = shlex.split(command.replace("%d", "/run/credentials"))
    assert python.endswith(".venv/bin/python")
    assert (repo_root / Path(script).name).is_file()
    args = run_agent.parse_args(flags)
    config = load_config(None, args.overrides)
    assert config.server.token_file is not None
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)[1]) > config.server.drain_s  # type: ignore[index]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_service_is_one(repo_root: Path, tmp_path: Path) -> None:
    """Systemd finds nothing wrong with it, but for the program that is not there."""
    text = (repo_root / "deploy" / "repartee.service").read_text()
    unit = tmp_path / "repartee.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('env')}", text, flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
