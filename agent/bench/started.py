"""A daemon in a process of its own, as somebody would start it."""

import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from agent.bench.figures import ROOT
from agent.errors import InputError

START_WITHIN_S = 60.0


@dataclass(slots=True)
class RunningDaemon:
    """A daemon in a process of its own."""

    process: asyncio.subprocess.Process
    port: int
    ready_s: float = 0.0
    """From its start to a healthy answer."""

    @property
    def url(self) -> str:
        """Of the WebSocket."""
        return f"ws://127.0.0.1:{self.port}/v1/realtime?model=local"

    async def health(self) -> dict[str, Any]:
        """What /healthz says.

        Raises:
            InputError: It does not answer.
        """
        body: dict[str, Any] = json.loads(await self._get("/healthz"))
        return body

    async def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The samples of /metrics by name and labels.

        Raises:
            InputError: It does not answer.
        """
        text = (await self._get("/metrics")).decode()
        families = text_string_to_metric_families(text)
        return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}

    async def _get(self, path: str) -> bytes:
        def get() -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5.0) as response:
                return bytes(response.read())

        try:
            return await asyncio.to_thread(get)
        except OSError as exc:
            raise InputError(f"the daemon does not answer {path}: {exc}") from exc

    def resident_mb(self) -> float:
        """Resident memory now, in megabytes (10^6 bytes); 0 where the system does not tell."""
        return resident_mb(self.process.pid)


def resident_mb(pid: int) -> float:
    """`VmRSS` of a process in megabytes (10^6 bytes); 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return round(int(found[0]) * 1024 / 1e6, 1) if found else 0.0


@contextlib.asynccontextmanager
async def start_daemon(codec: Path, s2s: Path, *settings: str) -> AsyncIterator[RunningDaemon]:
    """Starts the daemon on a free port and waits until it is healthy.

    Args:
        codec: Directory of the codec's artefacts.
        s2s: Directory of the speech model's artefacts.
        settings: Such as ``server.max_sessions=4``.

    Raises:
        InputError: It ended, or was not healthy in time; the message carries what it said last.
    """
    flags = ["--no-audio", "--port", "0", "--codec", str(codec), "--s2s", str(s2s), *settings]
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "run_agent.py"), *flags, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    try:
        port = await _find_port(process)
        daemon = RunningDaemon(process, port)
        await daemon.health()
        daemon.ready_s = round(time.monotonic() - began, 2)
        drain = asyncio.create_task(_drain(process), name="drain")
        yield daemon
        drain.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _find_port(process: asyncio.subprocess.Process) -> int:
    """The port from the daemon's own "ready on ws://HOST:PORT/..." line."""
    assert process.stderr is not None, "asked for a pipe"
    last = ""
    try:
        async with asyncio.timeout(START_WITHIN_S):
            while line := (await process.stderr.readline()).decode(errors="replace"):
                last = line.strip() or last
                if "ready on ws://" in line:
                    return int(line.split("ready on ws://")[1].split("/")[0].rsplit(":", 1)[1])
    except TimeoutError:
        raise InputError(f"the daemon was not ready after {START_WITHIN_S:.0f} s: {last}") from None
    raise InputError(f"the daemon ended before it was ready: {last}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None, "asked for a pipe"
    while await process.stderr.readline():
        pass
