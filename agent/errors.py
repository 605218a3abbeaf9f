"""Errors of the agent package.

AgentError
├── ConfigError      a configuration file or an override is wrong; the message names file and key
├── InputError       what was given on the command line cannot be used
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
    """What was given on the command line cannot be used."""


class ServeError(AgentError):
    """The server cannot start."""


class RecordingError(AgentError):
    """Sessions cannot be recorded."""


class StepError(AgentError):
    """The engine failed in one session."""


class SlowReader(AgentError):
    """The other side does not read what it is sent."""
