"""What a client sends, without the agent's echo (``?echo_cancellation=true``) and the noise (``noise_reduction``)."""

from dataclasses import replace

from agent.client_echo import ClientEcho
from streaming import realtime_events as events
from streaming.echo import NoiseSuppressor
from streaming.frames import SAMPLE_RATE_HZ

_PART = SAMPLE_RATE_HZ  # that is cleaned at once: nobody else is served meanwhile


def parts(command: events.Command) -> list[events.Command]:
    """The same audio a second at a time; any other command as it is."""
    if not isinstance(command, events.AppendAudio) or len(command.pcm) <= _PART:
        return [command]
    return [replace(command, pcm=command.pcm[at : at + _PART]) for at in range(0, len(command.pcm), _PART)]


class Cleaning:
    """Stands between a session's protocol and its conversation: commands in, commands out, in order.

    Args:
        echo: what takes the echo out; None where nobody asks for that.
    """

    def __init__(self, echo: ClientEcho | None = None) -> None:
        self._echo = echo
        self._suppressor: NoiseSuppressor | None = None

    def told(self, event: events.Event) -> None:
        """Know what the client is told."""
        if self._echo is not None:
            self._echo.told(event)

    def repeat(self, frames: int) -> None:
        """The client is back, and is sent so many frames of a reply again."""
        if self._echo is not None:
            self._echo.repeat(frames)

    def take(self, command: events.Command) -> list[events.Command]:
        """The same with cleaned audio; less than 20 ms of it may wait for the next command.

        Raises:
            AudioUnavailable: noise cannot be reduced here; a session's configuration does not ask for it then.
        """
        if self._echo is not None:
            command = self._echo.take(command)
        if isinstance(command, events.ConfigureSession):
            return [*self._rest(), self._follow(command)]
        if self._suppressor is None:
            return [command]
        if isinstance(command, events.AppendAudio):
            return [replace(command, pcm=self._suppressor.clean(command.pcm))]
        if isinstance(command, events.CommitAudio):
            return [*self._rest(), command]
        return [command]

    def _follow(self, command: events.ConfigureSession) -> events.Command:
        wanted = command.config.audio.input.noise_reduction is not None
        if wanted != (self._suppressor is not None):
            self._suppressor = NoiseSuppressor() if wanted else None
        return command

    def _rest(self) -> list[events.Command]:
        if self._suppressor is None:
            return []
        rest = self._suppressor.flush()
        return [events.AppendAudio(rest)] if len(rest) else []
