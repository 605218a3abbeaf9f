"""The loop of speaker, room and microphone through a real sound server, in real time.

A PulseAudio of its own: the agent plays into the null sink ``spk``, whose monitor goes through the simulated room into
a pipe, which is the agent's microphone. The agent opens both through PortAudio, as it would a sound card. What the
sound server's buffers add, on both ways, is in every time that is reported.

The microphone is a pipe and no second null sink, since what plays into a sink runs dry when the sound server stumbles,
and is late by so much ever after: an echo that no room has.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agent.actions import actions_of
from agent.bench.echo_carrier import Carrier
from agent.bench.echo_room import Room, User
from agent.bench.echo_simulated import note
from agent.bench.echo_verdict import Events, Verdict, judge
from agent.config import AgentConfig
from agent.conversation import Conversation
from agent.errors import InputError
from agent.local import talk
from agent.worker import Worker
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ

_STARTS_WITHIN_S = 15.0
_TOOLS = ("pulseaudio", "pactl", "parec")


@contextlib.contextmanager
def sound_server() -> Iterator[Path]:
    """A private PulseAudio, which this process and its children use as long as this lasts; the pipe of its microphone.

    Raises:
        InputError: it is not installed, or does not start.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise InputError(
            f"--live needs {', '.join(missing)} (apt install pulseaudio pulseaudio-utils libasound2-plugins)"
        )
    before = {name: os.environ.get(name) for name in ("XDG_RUNTIME_DIR", "PULSE_SERVER", "PULSE_SINK", "PULSE_SOURCE")}
    with tempfile.TemporaryDirectory() as directory:
        os.environ.update(XDG_RUNTIME_DIR=directory, PULSE_SINK="spk", PULSE_SOURCE="mic")
        os.environ.pop("PULSE_SERVER", None)
        microphone = Path(directory) / "microphone"
        server = subprocess.Popen(_server_command(microphone), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for_server(server)
            yield microphone
        finally:
            server.kill()
            server.wait()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _server_command(microphone: Path) -> list[str]:
    modules = (
        "module-native-protocol-unix",
        f"module-null-sink sink_name=spk rate={SAMPLE_RATE_HZ}",
        f"module-pipe-source source_name=mic file={microphone} format=s16le rate={SAMPLE_RATE_HZ} channels=1",
    )
    loads = [f"--load={module}" for module in modules]
    return ["pulseaudio", "--daemonize=no", "--exit-idle-time=-1", "-n", *loads]


def _wait_for_server(server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _STARTS_WITHIN_S
    while subprocess.run(["pactl", "info"], capture_output=True, check=False).returncode:
        if server.poll() is not None or time.monotonic() > until:
            raise InputError("pulseaudio does not start (as root it needs XDG_RUNTIME_DIR to be root's)")
        time.sleep(0.1)
    for what in ("set-default-sink spk", "set-default-source mic"):
        subprocess.run(["pactl", *what.split()], check=False)


class _Watcher:
    """Notes what the agent decides, and when, as a telegraph would tell it."""

    def __init__(self, carrier: Carrier) -> None:
        self.noted = Events()
        self._carrier = carrier

    @contextlib.contextmanager
    def joined(self, name: str, conversation: Conversation, hush: object = None) -> Iterator[None]:
        """Watch the agent's conversation."""
        conversation.watch(self._note)
        yield

    def _note(self, event: events.Event) -> None:
        note(self.noted, event, self._carrier.now)


async def converse(
    worker: Worker, config: AgentConfig, room: Room, user: User, microphone: Path, seconds: float
) -> tuple[Verdict, float]:
    """Let agent and user talk for so long in :func:`sound_server`, which gave ``microphone``.

    Returns:
        What happened, and the longest that the room had to wait for a block of the speaker, in milliseconds.

    Raises:
        AudioUnavailable: the agent cannot open the sound server's devices.
        StepError: the engine failed.
        InputError: the sound server carries nothing.
    """
    carrier = Carrier(room, user, microphone)
    watcher = _Watcher(carrier)
    with carrier.running():
        talking = asyncio.create_task(
            talk(
                worker, config.audio, config.vad, config.turn, config.reply, config.local,
                actions_of(worker.engine), telegraph=watcher,
            ),
            name="talk",
        )  # fmt: skip
        try:
            await asyncio.wait([talking], timeout=seconds)
            if talking.done():
                talking.result()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
    return judge(carrier.said, watcher.noted, carrier.played, None), carrier.late_ms
