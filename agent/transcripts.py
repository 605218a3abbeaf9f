"""What was said, in the log: only when asked for, by letting this module's logger log at DEBUG."""

import json
import logging

from streaming import realtime_events as events

logger = logging.getLogger(__name__)


class Transcripts:
    """Collects one conversation's words and logs each turn, each reply and each action as a line.

    Args:
        session: whose they are; None for the local microphone.
    """

    def __init__(self, session: str | None = None) -> None:
        self._extra = {"fields": {} if session is None else {"session": session}}
        self._user, self._reply = "", ""

    def take(self, event: events.Event) -> None:
        """Take the conversation's next event."""
        if not logger.isEnabledFor(logging.DEBUG):
            return
        match event:
            case events.UserText():
                self._user += event.text
            case events.UserTextDone():
                self._log("user", self._user.strip())
                self._user = ""
            case events.ReplyStarted():
                self._reply = ""
            case events.ReplyText():
                self._reply += event.text
            case events.ReplyDone():
                self._log("agent", self._reply.strip())
                for action in event.actions:
                    self._log("action", action_line(action))

    def _log(self, who: str, text: str) -> None:
        logger.debug("%s: %s", who, text, extra=self._extra)


def action_line(action: events.Action) -> str:
    """An action for people: its name and its arguments as JSON, in one line."""
    return f"{action.name} {json.dumps(action.arguments)}"
