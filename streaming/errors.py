"""Errors of the streaming package.

StreamingError
└── AudioUnavailable    no PortAudio library, no device, or the device is busy
"""

from __future__ import annotations


class StreamingError(Exception):
    """Root of everything this package raises on purpose."""


class AudioUnavailable(StreamingError):
    """The microphone or the speaker cannot be used; ``str(error)`` is one plain sentence for the user."""
