"""The prosody tokens that are put into a reply from outside, while it is spoken, and what becomes of them."""

from collections import deque
from collections.abc import Callable, Sequence

from agent.errors import InputError
from agent.prosody_policy import POLICIES, PolicyName
from agent.reply import Reply
from agent.worker import Lane
from models.errors import ProsodyTagError
from models.prosody import PROSODY_IDS
from models.runtime import Mode, StepOut
from models.runtime_text import read_tokens
from streaming import realtime_events as events

MAX_WAITING = 16  # tokens, each of which takes a frame


class Injector:
    """Takes prosody tokens from outside to the reply that is spoken.

    Args:
        lane: the session's way to the model thread.
        emit: takes events on the loop, must not block.
        policy: adds tokens of its own; None: nobody does.
    """

    def __init__(self, lane: Lane, emit: Callable[[events.Event], None], policy: PolicyName | None = None) -> None:
        self.standing: tuple[str, ...] = ()
        """Tokens that every reply begins with."""
        self._lane = lane
        self._emit = emit
        self._policy = None if policy is None else POLICIES[policy]()
        self._reply: Reply | None = None
        self._text = ""  # of the reply
        self._new: list[str] = []  # of those that wait, what the engine does not know of
        self._waiting: deque[tuple[str, events.InjectProsody | None]] = deque()  # bound: MAX_WAITING; and who asked

    @property
    def leads(self) -> bool:
        """Whether the next reply begins with tokens."""
        return bool(self.standing or (self._policy is not None and self._policy.begin()))

    def inject(self, tokens: Sequence[str | int], asked: events.InjectProsody | None = None) -> None:
        """Put tokens into the reply that is spoken, in order; each is told of when it enters.

        Args:
            tokens: names or external ids.
            asked: the client's command; it hears when the reply ends before a token entered.

        Raises:
            InputError: a token is unknown, no reply is being spoken, or too many tokens wait; the message says which.
        """
        try:
            named = read_tokens(tokens)
        except ProsodyTagError as exc:
            raise InputError(str(exc)) from exc
        if self._reply is None or self._reply.options.text_only:
            raise InputError("no reply is being spoken")
        if len(self._waiting) + len(named) > MAX_WAITING:
            raise InputError(f"too many prosody tokens wait for the reply: at most {MAX_WAITING} may")
        self._put(named, asked)

    def obey(self, asked: events.InjectProsody) -> None:
        """Carry out a client's command; what cannot be done is emitted as :class:`Refused`."""
        try:
            self.inject(asked.tokens, asked)
        except InputError as exc:
            self._emit(events.Refused("prosody_not_injected", str(exc), "tokens", asked.event_id))

    def begin(self, reply: Reply) -> None:
        """A reply begins, with the tokens that are due."""
        self._reply, self._text = reply, ""
        added = () if self._policy is None else self._policy.begin()
        if not reply.options.text_only:
            self._put((*self.standing, *reply.options.prosody, *added), None)

    async def step(self) -> StepOut:
        """One step of the reply, with what is to enter it.

        Raises:
            StepError: the engine failed; the session cannot go on.
        """
        if self._new:
            tokens, self._new = self._new, []
            await self._lane.inject(tokens)
        return await self._lane.step(None, Mode.SPEAK)

    def spoken(self, out: StepOut) -> None:
        """A step was spoken, and its audio sent."""
        assert self._reply is not None, "a step of a reply"
        self._text += out.text
        for mark in out.marks:
            asked = self._waiting.popleft()[1] if mark.injected else None
            event_id = None if asked is None else asked.event_id
            sample = max(mark.frame * self._lane.frame_size - self._reply.skipped, 0)
            self._emit(events.ProsodyEntered(mark.token, PROSODY_IDS[mark.token], sample, mark.injected, event_id))

    def end(self, status: events.ResponseStatus) -> None:
        """The reply has ended; what it did not take is lost."""
        lost: dict[str | None, list[str]] = {}
        for token, asked in self._waiting:
            if asked is not None:
                lost.setdefault(asked.event_id, []).append(token)
        for event_id, tokens in lost.items():
            sentence = f"the reply ended before it took {' '.join(tokens)}"
            self._emit(events.Refused("prosody_too_late", sentence, "tokens", event_id))
        self._reply, self._new = None, []
        self._waiting.clear()
        if self._policy is not None and status == "completed":
            self._policy.replied(self._text.strip())

    def _put(self, tokens: Sequence[str], asked: events.InjectProsody | None) -> None:
        self._waiting.extend((token, asked) for token in tokens)
        self._new.extend(tokens)
