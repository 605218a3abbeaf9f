"""What conversation.item.create and response.create ask for, read and checked.

* Messages of user and assistant must be texts that the model can take, or one part of audio of the user. What it
  cannot follow (texts of the system, instructions) is kept like other settings of that kind.
* Tool calls of an earlier conversation and their outputs may be brought along.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from streaming.frames import SAMPLE_RATE_HZ, FloatArray
from streaming.realtime_audio import AudioDecoder, G711Format, PcmFormat
from streaming.realtime_config import RequestError, SessionConfig, function_names
from streaming.realtime_events import CreateResponse, Line
from streaming.realtime_items import Item, ItemList
from streaming.realtime_messages import ResponseOptions, decode_base64

Json = dict[str, Any]
CheckText = Callable[[str], object]  # raises ValueError for what the model cannot take
ReadTokens = Callable[[Sequence[str]], tuple[str, ...]]  # raises ValueError for an unknown prosody token

MAX_ITEM_S = 60
MAX_ID = 256
MAX_TEXT = 32_768
MAX_PARTS = 16
MAX_TOKENS = 8
_TAG = re.compile(r"<[^<>\s/]+>")
_TEXT_KEYS = {
    "user": {"input_text": "text"},
    "system": {"input_text": "text"},
    "assistant": {"output_text": "text", "text": "text", "output_audio": "transcript"},
}


class RequestReader:
    """Reads requests of one session.

    Args:
        items: the conversation's.
        new_id: makes an identifier from its kind.
        check_text: raises ValueError, one plain sentence, for a text that the model cannot take.
        read_tokens: names of prosody tokens; raises ValueError, one plain sentence, for others.
    """

    def __init__(
        self, items: ItemList, new_id: Callable[[str], str], check_text: CheckText, read_tokens: ReadTokens = tuple
    ) -> None:
        self._read_tokens = read_tokens
        self._items = items
        self._new_id = new_id
        self._check_text = check_text

    def item(self, body: Json, format: PcmFormat | G711Format, at: str = "item") -> tuple[Item, FloatArray | None]:
        """An item that a client makes, and what is to be heard in it: float32 [n], 24 kHz mono.

        Args:
            body: the decoded JSON object.
            format: of its audio.
            at: where it stands in the message, for errors.

        Raises:
            RequestError: it is no item that can be added.
        """
        item_id = body.get("id")
        if item_id is not None and not (isinstance(item_id, str) and 0 < len(item_id) <= MAX_ID):
            raise RequestError("invalid_value", f"{at}.id must be a text of 1 to {MAX_ID} characters", f"{at}.id")
        item_id = item_id or self._new_id("item")
        match body.get("type"):
            case "message":
                return self._message(item_id, body, format, at)
            case "function_call" | "function_call_output" as kind:
                return Item(item_id, "user", kind, tool=self._tool(kind, body, at)), None
        sentence = "only messages, function_call and function_call_output can be added to the conversation"
        raise RequestError("unsupported_item", sentence, f"{at}.type")

    def response(self, options: ResponseOptions, config: SessionConfig, event_id: str | None) -> CreateResponse:
        """What a response.create asks for, completed by the session's settings.

        Raises:
            RequestError: the response cannot be given as it is wanted.
        """
        if options.tool_choice not in (None, "auto", "none"):
            raise RequestError("unsupported_value", "forcing a tool call is not supported", "response.tool_choice")
        modalities = options.output_modalities
        if modalities is not None and len(modalities) != 1:
            sentence = 'output_modalities is ["audio"] or ["text"]'
            raise RequestError("invalid_value", sentence, "response.output_modalities")
        limit = config.max_output_tokens if options.max_output_tokens is None else options.max_output_tokens
        if isinstance(limit, int) and limit < 1:
            raise RequestError("invalid_value", "max_output_tokens must be at least 1", "response.max_output_tokens")
        apart = options.conversation == "none"
        if options.input is not None and not apart:
            sentence = 'a response with its own input cannot join the conversation: set conversation to "none"'
            raise RequestError("unsupported_value", sentence, "response.input")
        tools = config.tools if options.tools is None else options.tools
        return CreateResponse(
            text_only=config.text_only if modalities is None else modalities == ["text"],
            max_output_tokens=limit if isinstance(limit, int) else None,
            metadata=options.metadata,
            event_id=event_id,
            tools=function_names(tools, options.tool_choice or config.tool_choice),
            format=options.format or config.audio.output.format,
            speed=config.audio.output.speed,
            apart=apart,
            context=None if options.input is None else self._context(options.input, config.audio.input.format),
            prosody=self._prosody(options.instructions or ""),
        )

    def _prosody(self, instructions: str) -> tuple[str, ...]:
        """The tags that instructions begin with; a tag that is closed later on is markup for a reader."""
        tags: list[str] = []
        rest = instructions.lstrip()
        while (tag := _TAG.match(rest)) is not None and f"</{tag[0][1:]}" not in rest:
            tags.append(tag[0])
            rest = rest[tag.end() :].lstrip()
        if len(tags) > MAX_TOKENS:
            sentence = f"a response begins with at most {MAX_TOKENS} prosody tokens"
            raise RequestError("invalid_value", sentence, "response.instructions")
        try:
            return self._read_tokens(tags)
        except ValueError as exc:
            raise RequestError("unknown_prosody_token", str(exc), "response.instructions") from exc

    def _message(
        self, item_id: str, body: Json, format: PcmFormat | G711Format, at: str
    ) -> tuple[Item, FloatArray | None]:
        role, content = body.get("role"), body.get("content")
        if role not in ("user", "assistant", "system"):
            raise RequestError("invalid_value", f"{at}.role must be user, assistant or system", f"{at}.role")
        if not isinstance(content, list) or len(content) > MAX_PARTS:
            sentence = f"{at}.content must be a list of up to {MAX_PARTS} parts"
            raise RequestError("invalid_value", sentence, f"{at}.content")
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        if role == "user" and kinds == ["input_audio"]:
            return Item(item_id, role, "input_audio"), _read_audio(content[0], format, f"{at}.content.0.audio")
        parts = [_read_text(part, role, f"{at}.content.{index}") for index, part in enumerate(content)]
        text = "\n".join(text for _, text in parts)
        if role != "system":
            try:
                self._check_text(text)
            except ValueError as exc:
                raise RequestError("unsupported_content", str(exc), f"{at}.content") from exc
        kind: Literal["output_text", "input_text"] = "output_text" if role == "assistant" else "input_text"
        return Item(item_id, role, kind, parts=[part for part, _ in parts], text=text), None

    def _tool(self, kind: str, body: Json, at: str) -> Json:
        keys = ("call_id", "output") if kind == "function_call_output" else ("call_id", "name", "arguments")
        for key in keys:
            value = body.get(key)
            if not isinstance(value, str) or len(value) > MAX_TEXT:
                sentence = f"{at}.{key} must be a text of up to {MAX_TEXT} characters"
                raise RequestError("invalid_value", sentence, f"{at}.{key}")
        if kind == "function_call_output" and not self._items.has_call(body["call_id"]):
            sentence = f"there is no tool call {body['call_id'][:MAX_ID]!r}"
            raise RequestError("item_not_found", sentence, f"{at}.call_id")
        return {key: body[key] for key in keys}

    def _context(self, bodies: list[Json], format: PcmFormat | G711Format) -> tuple[Line | np.ndarray, ...]:
        """What a response of its own answers: lines and audio, oldest first."""
        if len(bodies) > MAX_PARTS:
            raise RequestError("invalid_value", f"response.input holds at most {MAX_PARTS} items", "response.input")
        context: list[Line | np.ndarray] = []
        for index, body in enumerate(bodies):
            at = f"response.input.{index}"
            if body.get("type") == "item_reference":
                item, pcm = self._items.get(str(body.get("id")), f"{at}.id"), None
            else:
                item, pcm = self.item(body, format, at)
            if pcm is not None:
                context.append(pcm)
            elif item.line is not None:
                context.append(item.line)
        return tuple(context)


def _read_text(part: object, role: str, at: str) -> tuple[Json, str]:
    """A part of a message as it is kept, and its text."""
    keys = _TEXT_KEYS[role]
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in keys:
        known = " or ".join(keys) + (", or one input_audio alone" if role == "user" else "")
        raise RequestError("unsupported_content", f"{at}: a part of the {role} is {known}", f"{at}.type")
    text = part.get(keys[kind])
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        sentence = f"{at}.{keys[kind]} must be a text of up to {MAX_TEXT} characters"
        raise RequestError("invalid_value", sentence, f"{at}.{keys[kind]}")
    return {"type": kind, keys[kind]: text}, text


def _read_audio(part: Json, format: PcmFormat | G711Format, at: str) -> FloatArray:
    """All of a part's audio, float32 [n], 24 kHz mono."""
    decoder = AudioDecoder(*format.coding)
    data = decode_base64(part.get("audio"), at)
    try:
        pcm = np.concatenate([decoder.push(data), decoder.flush()])
    except ValueError as exc:
        raise RequestError("invalid_audio", f"{at}: {exc}", at) from exc
    if not 0 < pcm.size <= MAX_ITEM_S * SAMPLE_RATE_HZ:
        raise RequestError("invalid_audio", f"the item must hold audio of up to {MAX_ITEM_S} s", at)
    return pcm
