"""A daemon in a process of its own, as somebody would start it."""

import asyncio
import contextlib
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from agent.bench.figures import ROOT
from agent.errors import InputError

START_WITHIN_S = 60.0


@dataclass(slots=True)
class RunningDaemon:
    """A daemon in a process of its own."""

    process: asyncio.subprocess.Process
    port: int
    ready_s: float

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
async def start_daemon(codec: Path, s2s: Path) -> AsyncIterator[RunningDaemon]:
    """Starts the daemon on a free port and waits until it is healthy.

    Raises:
        InputError: It ended, or was not healthy in time; the message carries what it said last.
    """
    flags = ["--no-audio", "--port", "0", "--codec", str(codec), "--s2s", str(s2s)]
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "run_agent.py"), *flags, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    try:
        port = await _find_port(process)
        if not await asyncio.to_thread(_healthy, port):
            raise InputError("the daemon says it is ready, but /healthz does not")
        ready_s = time.monotonic() - began
        drain = asyncio.create_task(_drain(process), name="drain")
        yield RunningDaemon(process, port, round(ready_s, 2))
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


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
