import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes import free_port
from training.together import begin

PARENT = """
import signal
from argparse import Namespace
from pathlib import Path
from tests.test_together import stay
from training.together import start
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job
start(stay, Namespace(workers=2, threads=1, port={port}, seed=0, folder=Path({folder!r})))
"""


def stay(rank: int, args: argparse.Namespace) -> None:
    """A worker that has nothing to do."""
    begin(rank, args)
    (args.folder / str(os.getpid())).touch()
    time.sleep(120)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what tells a worker is Linux's")
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """However it ends: else they hold its port and go on writing checkpoints."""
    code = PARENT.format(port=free_port(), folder=str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 90
    while len(found := list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline and parent.poll() is None:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    workers = [int(path.name) for path in found]
    assert len(workers) == 2
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, workers))
