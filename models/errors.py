"""Errors of the models package.

ModelError
├── ArtefactError     a checkpoint, config or ONNX file is missing, damaged or of another version
└── ProsodyTagError   a text holds a prosody tag that does not exist
"""


class ModelError(Exception):
    """Any error raised by the models package on bad input."""


class ArtefactError(ModelError):
    """A model file cannot be used; the message names the file and the reason."""


class ProsodyTagError(ModelError, ValueError):
    """A text holds an unknown prosody tag; the message names it and the known ones."""
