"""Errors of the agent package.

AgentError
├── ConfigError      a configuration file or an override is wrong; the message names file and key
├── InputError       what was given cannot be used: a text, a file
├── CommandError     a command that came from outside is wrong; it changes nothing
├── ServeError       the server cannot start (port in use, bad host)
├── RecordingError   sessions cannot be recorded
├── StepError        the engine failed in one session; the session ends, the others go on
└── SlowReader       the other side does not read what it is sent; the session ends
"""


class AgentError(Exception):
    """Root of everything this package raises on purpose; ``str(error)`` is one plain sentence."""


class ConfigError(AgentError):
    """A configuration file or an override is wrong."""


class InputError(AgentError):
    """What was given cannot be used: a text, a file."""


class CommandError(AgentError):
    """A command that came from outside is wrong; it changes nothing.

    Args:
        code: the kind of fault, for programs.
        message: one plain sentence.
        param: the field that is at fault, None when it is the whole command.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class ServeError(AgentError):
    """The server cannot start."""


class RecordingError(AgentError):
    """Sessions cannot be recorded."""


class StepError(AgentError):
    """The engine failed in one session."""


class SlowReader(AgentError):
    """The other side does not read what it is sent."""
