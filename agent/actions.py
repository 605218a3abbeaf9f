"""What the agent does beside speaking: its replies become actions, for whoever carries the conversation.

- The domain that a model was trained for lies beside it as ``domain.yaml``; without one the agent only speaks.
- An action is taken when its reply is complete. A reply that was interrupted, or cut off by a limit, does nothing, even
  when all of its words had been written: the user has not heard them. But what it had understood is known, and is done
  with the next complete reply. What is done is done: the action of a reply that is truncated after its end is not taken
  back. Only what is known of the order is, when the reply came too early.
- What is known of the order follows the model's memory: a reply that is recalled counts again, and does nothing.
- Words that were put into the agent's mouth are announced, not meant: they do nothing.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.domain.dialogue import OrderState
from agent.domain.domain_file import DOMAIN_FILE, DomainSpec, read_domain_file
from agent.domain.source_map import DomainError
from agent.domain.tools import function_tools
from agent.domain.tracker import ReplyReader, Tracker
from agent.errors import ConfigError
from agent.inbox import Prompts
from agent.worker import StepEngine
from models.prosody import strip_marks
from streaming import realtime_events as events


@dataclass(frozen=True, slots=True)
class Actions:
    """What the agent of one domain can do; shared by all conversations.

    Attributes:
        replies: knows which reply does what.
        tools: the actions as function tools.
        prompts: what the agent says when there is nothing to answer.
    """

    replies: ReplyReader
    tools: list[dict[str, Any]]
    prompts: Prompts | None = None


def load_actions(s2s: Path) -> Actions | None:
    """The actions of the domain that an exported S2S model was trained for, None when no domain file lies beside it.

    Raises:
        ConfigError: the domain file is wrong; the message names file and line.
    """
    path = s2s / DOMAIN_FILE
    if not path.exists():
        return None
    try:
        spec, macros = read_domain_file(path)
    except DomainError as exc:
        raise ConfigError(str(exc)) from exc
    return Actions(ReplyReader(spec, macros), function_tools(spec), _prompts(spec))


def actions_of(engine: StepEngine) -> Actions | None:
    """The actions of a loaded model's domain; as :func:`load_actions`, once for all conversations with it."""
    return _loaded_actions(engine.directory) if engine.directory else None


_loaded_actions = functools.lru_cache(maxsize=1)(load_actions)


def _prompts(spec: DomainSpec) -> Prompts | None:
    return Prompts(*(strip_marks(spec.replies[name]) for name in spec.prompts)) if spec.prompts else None


class ActingEmitter:
    """Passes a conversation's events on; adds to a complete reply what it did.

    Args:
        replies: the domain's.
        emit: takes the events.
    """

    def __init__(self, replies: ReplyReader, emit: Callable[[events.Event], None]) -> None:
        self._tracker = Tracker(replies)
        self._emit = emit
        self._text = ""
        self._apart = self._said = False
        self._owed: tuple[events.Action, ...] = ()  # what interrupted replies had understood
        self._before: tuple[OrderState, tuple[events.Action, ...]] = OrderState(), ()  # the latest reply

    def note(self) -> str | None:
        """What the model has to remember of the order after a reply; None: only the model can know."""
        return self._tracker.note

    def openings(self, heard: str) -> dict[str, str | None]:
        """How the reply to what was heard has to go on, by the words it may begin with."""
        return self._tracker.openings(heard)

    def take_back(self) -> None:
        """The latest reply is forgotten, and what is known from it."""
        self._tracker.state, self._owed = self._before

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        match event:
            case events.ReplyStarted():
                self._text, self._apart = "", event.options.apart
                self._said = event.options.say is not None
            case events.ReplyText():
                self._text += event.text
            case events.ReplyDone():
                event = replace(event, actions=self._done(event.status == "completed"))
            case events.Recalled(reply=None):
                self._before = OrderState(), ()
                self.take_back()
            case events.Recalled(reply=str(reply)):
                self._before = self._tracker.state, self._owed
                self._tracker.take(reply)
            case events.ReplyTakenBack():
                self.take_back()
        self._emit(event)

    def _done(self, complete: bool) -> tuple[events.Action, ...]:
        """What the reply that has ended did."""
        self._before = self._tracker.state, self._owed
        if self._said:
            return ()
        actions = tuple(events.Action(**action) for action in self._tracker.take(self._text, complete))
        if self._apart:
            self.take_back()
            return actions if complete else ()
        actions = (*self._owed, *actions)
        self._owed = () if complete else actions
        return actions if complete else ()
