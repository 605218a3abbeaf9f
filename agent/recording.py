"""Sessions on disk, when asked for: ``recording.directory``.

* A session becomes a folder of that directory, TIME_SESSION: ``audio.wav`` (24 kHz; left the user, right the agent as
  it was heard) and ``events.jsonl`` (what happened, at which second of the audio, and what was said).
* A thread of its own writes. Until all is written the folder's name ends in ``.partial``; when something goes wrong,
  such as a full disk, the folder is removed, the log says why, and the conversation goes on.
"""

import asyncio
import dataclasses
import json
import logging
import os
import queue
import re
import shutil
import threading
import time
import wave
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agent.errors import RecordingError
from agent.timeline import Timeline
from streaming import realtime_events as events
from streaming.frames import SAMPLE_RATE_HZ

logger = logging.getLogger(__name__)

_QUEUE_ITEMS = 1_024  # a disk that stands still for some ten seconds
_LOOK_S = 10.0  # audio between two looks at the disk
_LONGEST_S = 11 * 3_600.0  # a WAV file holds 4 GiB
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")

What = events.Event | events.Command


class RecordingConfig(BaseModel):
    """Whether and where sessions are recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path | None = None
    """null: nothing is recorded."""
    min_free_mib: float = Field(500.0, ge=0.0)
    """What has to stay free on that disk; a recording that would go on with less is given up."""


class Recording:
    """Records one session; :meth:`take` is for the event loop and never waits.

    Args:
        config: where; the directory is set.
        session: the session's id.
        clock: seconds, monotonic.
    """

    def __init__(self, config: RecordingConfig, session: str, clock: Callable[[], float] = time.monotonic) -> None:
        assert config.directory is not None, "recording is wanted"
        self._began = datetime.now(UTC)
        self._folder = config.directory / f"{self._began:%Y%m%dT%H%M%SZ}_{session}"
        self._session = session
        self._min_free = config.min_free_mib * 2**20
        self._clock = clock
        self._start = clock()
        self._queue: queue.Queue[tuple[int, What] | None] = queue.Queue(_QUEUE_ITEMS)
        self._overflowed = False
        self._kept = False
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    def take(self, what: What) -> None:
        """Record one event or command."""
        try:
            self._queue.put_nowait((self._now(), what))
        except queue.Full:
            self._overflowed = True  # the recording would have a hole: it is given up

    async def close(self) -> bool:
        """Write the rest; returns whether the recording was kept."""
        await asyncio.to_thread(self._finish)
        return self._kept

    def _now(self) -> int:
        return int((self._clock() - self._start) * SAMPLE_RATE_HZ)

    def _finish(self) -> None:
        self._queue.put(None)
        self._thread.join()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        partial = self._folder.with_name(f"{self._folder.name}.partial")
        done = False
        try:
            partial.mkdir(parents=True, mode=0o700)
            done = self._write(partial)
            os.replace(partial, self._folder)
            self._kept = True
        except (OSError, RecordingError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else str(exc)
            logger.warning("recording given up", extra={"fields": {"session": self._session, "why": why}})
            shutil.rmtree(partial, ignore_errors=True)
        while not done:
            done = self._queue.get() is None

    def _write(self, folder: Path) -> bool:
        """Write until the session ends; returns False when it goes on, but the file may not."""
        with (
            open(folder / "events.jsonl", "w", encoding="utf-8") as lines,
            open(folder / "audio.wav", "wb") as file,
            wave.open(file, "wb") as audio,
        ):
            audio.setparams((2, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            script = _Script(lines, audio)
            script.note("session", {"id": self._session, "began": self._began.isoformat(timespec="milliseconds")})
            looked = -_LOOK_S
            while (item := self._queue.get()) is not None:
                if script.seconds - looked >= _LOOK_S:
                    looked = script.seconds
                    self._look_at_the_disk(folder)
                if self._overflowed:
                    raise RecordingError("the disk is too slow")
                script.take(*item)
                if script.seconds >= _LONGEST_S:
                    return False
            script.finish(self._now())
        return True

    def _look_at_the_disk(self, folder: Path) -> None:
        if shutil.disk_usage(folder).free < self._min_free:
            raise RecordingError(f"less than {self._min_free / 2**20:g} MiB are free")


class _Script:
    """Turns what happens into audio and lines."""

    def __init__(self, lines: TextIO, audio: wave.Wave_write) -> None:
        self._lines = lines
        self._audio = audio
        self._timeline = Timeline()
        self._replying = False

    @property
    def seconds(self) -> float:
        """Of audio written."""
        return self._timeline.position / SAMPLE_RATE_HZ

    def take(self, now: int, what: What) -> None:
        timeline = self._timeline
        match what:
            case events.AppendAudio():
                self._put(timeline.hear(what.pcm, now))
                return
            case events.ReplyAudio():
                self._put(timeline.say(what.pcm, now))
                return
            case events.ReplyStarted():
                self._replying = True
            case events.ReplyDone():
                self._replying = False
                if what.status == "cancelled":
                    timeline.hush(now)
            case events.ReplyTakenBack():
                timeline.hush(now)
            case events.UserStarted() if not self._replying:  # its last second may still be played, and is dropped
                timeline.hush(now)
        self._put(timeline.catch_up(now))
        facts = {field.name: getattr(what, field.name) for field in dataclasses.fields(what) if field.name != "pcm"}
        if "at" in facts:  # on the session's clock, which knows only what the user sent
            facts["at"] = self._second(facts["at"] + timeline.position - timeline.heard)
        self.note(_CAPITAL.sub("_", type(what).__name__).lower(), facts, now)

    def note(self, kind: str, facts: dict[str, Any], now: int = 0) -> None:
        second = self._second(max(now, self._timeline.position))
        self._lines.write(json.dumps({"second": second, "type": kind, **facts}, default=_plain) + "\n")

    def finish(self, now: int) -> None:
        self._put(self._timeline.finish(now))

    def _put(self, blocks: Iterable[np.ndarray]) -> None:
        for block in blocks:
            self._audio.writeframesraw(block.astype("<i2").tobytes())

    def _second(self, samples: int) -> float:
        return round(samples / SAMPLE_RATE_HZ, 3)


def _plain(value: object) -> object:
    """What JSON does not know, as something it does."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, frozenset):
        return sorted(value)
    assert dataclasses.is_dataclass(value) and not isinstance(value, type), f"an event holds {type(value)}"
    return dataclasses.asdict(value)


def check_directory(config: RecordingConfig) -> None:
    """See that recordings can be kept.

    Raises:
        RecordingError: the directory cannot be made or written.
    """
    if config.directory is None:
        return
    try:
        config.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = config.directory / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise RecordingError(f"recordings cannot be kept in {config.directory} ({exc.strerror})") from exc
