"""Devices that come back, with a PortAudio that knows none for a while."""

import asyncio
import time

import pytest

from streaming.device_stream import AudioConfig
from streaming.errors import AudioUnavailable
from streaming.hot_plug import open_again
from tests.test_audio_io import FakeBackend


class ReturningBackend(FakeBackend):
    """Has its device when its list was read anew for the ``returns_at``-th time; reading it takes ``takes_s``."""

    def __init__(self, returns_at: int, takes_s: float = 0.0) -> None:
        super().__init__()
        self.returns_at, self.takes_s, self.reads = returns_at, takes_s, 0
        self.known, self.devices = self.devices, []

    def _terminate(self) -> None:
        self.devices = []

    def _initialize(self) -> None:
        time.sleep(self.takes_s)
        self.reads += 1
        if self.reads >= self.returns_at:
            self.devices = self.known


async def test_a_device_that_comes_back_is_opened() -> None:
    """It is looked for until it is there, and then both directions run."""
    backend = ReturningBackend(3)
    async with asyncio.timeout(10):
        devices = await open_again(AudioConfig(), lambda: None, backend, retry_s=0.01)
    assert backend.reads == 3
    assert backend.mic.started and backend.speaker.started
    devices.close()


async def test_a_sound_system_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it, and what it opens after all is closed again."""
    monkeypatch.setattr("streaming.hot_plug._HANGS_S", 0.05)
    backend = ReturningBackend(1, takes_s=0.3)
    with pytest.raises(AudioUnavailable, match="does not answer any more"):
        await open_again(AudioConfig(), lambda: None, backend, retry_s=0.01)
    async with asyncio.timeout(10):
        while len(backend.streams) < 2 or not backend.speaker.closed:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    assert backend.mic.closed
