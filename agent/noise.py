"""What a client sends, without the noise around it, when its session asks for that (``noise_reduction``)."""

from dataclasses import replace

from streaming import realtime_events as events
from streaming.echo import NoiseSuppressor


class NoiseReduction:
    """Stands between a session's protocol and its conversation: commands in, commands out, in order."""

    def __init__(self) -> None:
        self._suppressor: NoiseSuppressor | None = None

    def take(self, command: events.Command) -> list[events.Command]:
        """The same with cleaned audio; less than 10 ms of it may wait for the next command.

        Raises:
            AudioUnavailable: noise cannot be reduced here; a session's configuration does not ask for it then.
        """
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
