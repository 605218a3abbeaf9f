"""Carries sound from a sound server's speaker through a room, and to its microphone, in a process of its own.

A room goes on when the agent is busy or stumbles; in the agent's process it would stop with it.
"""

import contextlib
import math
import multiprocessing
import select
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from agent.bench.echo_room import BLOCK, Room, User, Utterance
from agent.errors import InputError
from streaming.frames import SAMPLE_RATE_HZ, FloatArray
from streaming.resample import float_to_pcm16, pcm16_to_float

_FORMAT = ("--raw", "--format=s16le", f"--rate={SAMPLE_RATE_HZ}", "--channels=1", "--latency-msec=10")
_BEGINS_WITHIN_S = _ENDS_WITHIN_S = 10.0
_LOOK_UP_S = 0.5


class Carrier:
    """Room and user between the monitor of ``spk`` and the pipe that is the microphone.

    Attributes:
        played: what left the speaker, float32 [n], once it has ended.
        said: what the user said, once it has ended.
        late_ms: the longest that a block of 10 ms was waited for: much more than that, and the sound server stumbled.
    """

    def __init__(self, room: Room, user: User, microphone: Path) -> None:
        self.played: FloatArray = np.zeros(0, np.float32)
        self.said: list[Utterance] = []
        self.late_ms = 0.0
        self._room, self._user, self._microphone = room, user, microphone
        self._context = multiprocessing.get_context("spawn")
        self._now: Any = self._context.Value("q", 0, lock=False)
        self._ending = self._context.Event()

    @property
    def now(self) -> int:
        """Samples that went through the room."""
        return int(self._now.value)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Carry sound as long as this lasts; it begins when the microphone hears something.

        Raises:
            InputError: the sound server carries nothing.
        """
        results, send = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_carry,
            args=(self._room, self._user, self._microphone, self._now, self._ending, send),
            name="room",
            daemon=True,
        )
        process.start()
        send.close()
        try:
            self._wait_for_sound()
            yield
        finally:
            self._ending.set()
            with contextlib.suppress(EOFError):
                if results.poll(_ENDS_WITHIN_S):
                    played, self.said, self.late_ms = results.recv()
                    self.played = pcm16_to_float(played)
            process.join(_ENDS_WITHIN_S)
            process.kill()

    def _wait_for_sound(self) -> None:
        until = time.monotonic() + _BEGINS_WITHIN_S
        while not self.now:
            if time.monotonic() > until:
                raise InputError("the sound server carries no sound")
            time.sleep(0.05)


def _carry(room: Room, user: User, microphone: Path, now: Any, ending: Any, results: Connection) -> None:
    listen = subprocess.Popen(["parec", *_FORMAT, "--device=spk.monitor"], stdout=subprocess.PIPE, bufsize=0)
    assert listen.stdout is not None, "asked for a pipe"
    carried, waiting, last, late_s = bytearray(), b"", math.inf, 0.0
    try:
        speak = open(microphone, "wb", buffering=0)  # noqa: SIM115 - it lasts as long as this process
        while not ending.is_set():
            if not select.select([listen.stdout], [], [], _LOOK_UP_S)[0]:
                continue
            if not (got := listen.stdout.read(2 * BLOCK - len(waiting))):
                break
            waiting += got
            if len(waiting) < 2 * BLOCK:
                continue
            arrived = time.monotonic()
            late_s, last = max(late_s, arrived - last), arrived
            played = pcm16_to_float(waiting)
            carried += waiting
            waiting = b""
            room.play(played)
            heard = np.clip(room.hear() + user.say(played), -1.0, 1.0).astype(np.float32)
            now.value += BLOCK
            speak.write(float_to_pcm16(heard))
    except (BrokenPipeError, KeyboardInterrupt):
        pass  # the sound server or the user has ended it
    finally:
        listen.terminate()
        listen.wait()
        results.send((bytes(carried), user.said, 1000.0 * late_s))
