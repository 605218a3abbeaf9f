"""Where each value of a YAML file stands, so that an error can name its line."""

from pathlib import Path
from typing import Any

import yaml

Where = tuple[str | int, ...]


class DomainError(ValueError):
    """A domain file is wrong; the message starts with ``file:line``."""


class SourceMap:
    """Where each value of a YAML file stands."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[Where, int] = {(): 1}

    def error(self, where: Where, reason: str) -> DomainError:
        """An error naming the file, the line of the value at ``where`` (or of what holds it), and the reason."""
        at = where
        while at not in self._lines:
            at = at[:-1]
        key = ".".join(str(part) for part in where)
        return DomainError(f"{self._path}:{self._lines[at]}: {key + ': ' if key else ''}{reason}")

    def build(self, loader: yaml.SafeLoader, node: yaml.Node, where: Where = ()) -> Any:
        """The plain value of a YAML node; remembers the line of every part."""
        self._lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = loader.construct_object(key_node)
                self._lines[(*where, str(key))] = key_node.start_mark.line + 1
                if not isinstance(key, str):
                    raise self.error((*where, str(key)), f"the key {key!r} must be a text: put it in quotes")
                if key in result:
                    raise self.error((*where, key), "stands twice")
                result[key] = self.build(loader, value_node, (*where, key))
            return result
        if isinstance(node, yaml.SequenceNode):
            return [self.build(loader, item, (*where, index)) for index, item in enumerate(node.value)]
        return loader.construct_object(node)
