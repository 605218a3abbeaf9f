"""Errors of the streaming package.

StreamingError
├── AudioUnavailable    no PortAudio library, no device, or the device is busy
├── SoundFileError      a sound file cannot be read or written
├── TlsError            a certificate or its key cannot be used or made
├── ServerUnavailable   a client cannot reach its server, or lost it
└── MqttUnavailable     MQTT is asked for but cannot be set up
"""

from __future__ import annotations


class StreamingError(Exception):
    """Root of everything this package raises on purpose."""


class SoundFileError(StreamingError):
    """A sound file cannot be used; ``str(error)`` is one plain sentence that names it."""


class TlsError(StreamingError):
    """A certificate or its key cannot be used or made; ``str(error)`` is one plain sentence that names it."""


class ServerUnavailable(StreamingError):
    """The server is not there, or left; ``str(error)`` is one plain sentence."""


class AudioUnavailable(StreamingError):
    """The microphone or the speaker cannot be used; ``str(error)`` is one plain sentence for the user."""


class MqttUnavailable(StreamingError):
    """MQTT is asked for but cannot be set up; ``str(error)`` is one plain sentence that names what is missing."""
