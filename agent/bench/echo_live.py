"""The loop of speaker, room and microphone through a real sound server, in real time.

A PulseAudio of its own with two null sinks: the agent plays into ``spk``, whose monitor goes through the simulated room
into ``micsrc``, whose monitor is the agent's microphone. The agent opens both through PortAudio, as it would a sound
card. What the sound server's buffers add, on both ways, is in every time that is reported.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np

from agent.actions import actions_of
from agent.bench.echo_room import BLOCK, Room, User
from agent.bench.echo_simulated import note
from agent.bench.echo_verdict import Events, Verdict, judge
from agent.config import AgentConfig
from agent.conversation import Conversation
from agent.errors import InputError
from agent.local import talk
from agent.worker import Worker
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ, FloatArray
from streaming.resample import float_to_pcm16, pcm16_to_float

_FORMAT = ("--raw", "--format=s16le", f"--rate={SAMPLE_RATE_HZ}", "--channels=1", "--latency-msec=10")
_STARTS_WITHIN_S = 15.0
_TOOLS = ("pulseaudio", "pactl", "pacat", "parec")


@contextlib.contextmanager
def sound_server() -> Iterator[None]:
    """A private PulseAudio, which this process and its children use as long as this lasts.

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
        server = subprocess.Popen(_server_command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for_server(server)
            yield
        finally:
            server.kill()
            server.wait()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _server_command() -> list[str]:
    modules = (
        "module-native-protocol-unix",
        f"module-null-sink sink_name=spk rate={SAMPLE_RATE_HZ}",
        f"module-null-sink sink_name=micsrc rate={SAMPLE_RATE_HZ}",
        "module-virtual-source source_name=mic master=micsrc.monitor",
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


class LiveLoop:
    """Room and user between the speaker's monitor and the microphone, in a thread of their own.

    Attributes:
        played: what left the speaker, in blocks of 10 ms, as it was read from the monitor.
    """

    def __init__(self, room: Room, user: User) -> None:
        self.played: list[FloatArray] = []
        self.noted = Events()
        self._room, self._user = room, user
        self._ending = threading.Event()

    @property
    def now(self) -> int:
        """Samples that went through the loop."""
        return len(self.played) * BLOCK

    @contextlib.contextmanager
    def joined(self, name: str, conversation: Conversation, hush: object = None) -> Iterator[None]:
        """Watch the agent's conversation; as a telegraph does."""
        conversation.watch(self._note)
        yield

    def _note(self, event: events.Event) -> None:
        note(self.noted, event, self.now)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Carry sound from the speaker to the microphone as long as this lasts."""
        listen = subprocess.Popen(["parec", *_FORMAT, "--device=spk.monitor"], stdout=subprocess.PIPE, bufsize=0)
        speak = subprocess.Popen(["pacat", *_FORMAT, "--device=micsrc"], stdin=subprocess.PIPE, bufsize=0)
        carrying = threading.Thread(target=self._carry, args=(listen, speak), name="room", daemon=True)
        carrying.start()
        try:
            yield
        finally:
            self._ending.set()
            for process in (listen, speak):
                process.send_signal(signal.SIGTERM)
                process.wait()
            carrying.join()

    def _carry(self, listen: "subprocess.Popen[bytes]", speak: "subprocess.Popen[bytes]") -> None:
        assert listen.stdout is not None and speak.stdin is not None, "asked for pipes"
        waiting = b""
        while not self._ending.is_set():
            got = listen.stdout.read(2 * BLOCK - len(waiting))
            if not got:
                return
            waiting += got
            if len(waiting) < 2 * BLOCK:
                continue
            played, waiting = pcm16_to_float(waiting), b""
            self._room.play(played)
            heard = np.clip(self._room.hear() + self._user.say(played), -1.0, 1.0).astype(np.float32)
            self.played.append(played)
            try:
                speak.stdin.write(float_to_pcm16(heard))
            except BrokenPipeError:
                return


async def converse(worker: Worker, config: AgentConfig, room: Room, user: User, seconds: float) -> Verdict:
    """Let agent and user talk for so long in :func:`sound_server`.

    Raises:
        AudioUnavailable: the agent cannot open the sound server's devices.
        StepError: the engine failed.
        InputError: the sound server carries nothing.
    """
    loop = LiveLoop(room, user)
    with loop.running():
        talking = asyncio.create_task(
            talk(
                worker, config.audio, config.vad, config.turn, config.reply, config.local,
                actions_of(worker.engine), telegraph=loop,
            ),
            name="talk",
        )  # fmt: skip
        try:
            await asyncio.wait([talking], timeout=seconds)
            if talking.done():
                talking.result()
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
    if not loop.played:
        raise InputError("the sound server carried no sound")
    return judge(user.said, loop.noted, np.concatenate(loop.played), None)
