"""Opening the sound devices again after one of them was lost.

PortAudio reads the list of devices once, so it is started anew for each attempt. It can wait for ever for a sound
server that has died, so it does that in a thread that nobody waits for.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from streaming.audio_io import AudioIO, open_default
from streaming.device_stream import AudioConfig, load_backend
from streaming.errors import AudioUnavailable

RETRY_S = 1.0
_HANGS_S = 20.0  # a sound server that starts up takes some of it


async def open_again(
    config: AudioConfig, wake: Callable[[], None], backend: Any = None, retry_s: float = RETRY_S
) -> AudioIO:
    """Wait until the devices of ``config`` can be opened, and start them.

    Args:
        config: settings.
        wake: as for `open_default`.
        backend: used instead of the sounddevice module.
        retry_s: seconds between attempts.

    Raises:
        AudioUnavailable: the sound system does not answer any more.
    """
    backend = backend or load_backend()
    while True:
        await asyncio.sleep(retry_s)
        with contextlib.suppress(_NotYet):
            return await _attempt(config, wake, backend)


class _NotYet(Exception):
    """No such device, for now."""


async def _attempt(config: AudioConfig, wake: Callable[[], None], backend: Any) -> AudioIO:
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[AudioIO] = loop.create_future()

    def tell(devices: AudioIO | None, fault: Exception | None) -> None:
        if opened.done():  # nobody waits any more
            if devices is not None:
                devices.close()
        elif devices is not None:
            opened.set_result(devices)
        elif fault is not None:
            opened.set_exception(fault)

    def work() -> None:
        devices, fault = None, None
        try:
            _rescan(backend)
            devices = open_default(config, wake, backend)
        except AudioUnavailable as exc:
            fault = _NotYet(str(exc))
        except backend.PortAudioError as exc:
            fault = _NotYet(str(exc))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, devices, fault)

    threading.Thread(target=work, name="open audio", daemon=True).start()
    try:
        async with asyncio.timeout(_HANGS_S):
            return await opened
    except TimeoutError:
        raise AudioUnavailable("The sound system does not answer any more.") from None


def _rescan(backend: Any) -> None:
    backend._terminate()
    backend._initialize()
