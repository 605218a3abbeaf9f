"""The Realtime protocol without I/O: golden message order, the session object, and every error."""

import base64
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from streaming import realtime_events as events
from streaming.realtime import MAX_ITEMS, RealtimeProtocol
from streaming.realtime_config import SessionConfig
from tests.fakes import FRAME, tone

MS = 24
Json = dict[str, Any]


def ascii_only(text: str) -> None:
    """What this model can take."""
    if not text.isascii():
        raise ValueError("printable ASCII only")


def protocol(**update: Any) -> RealtimeProtocol:
    """A greeted protocol with countable ids, optionally with an updated session."""
    counts: Counter[str] = Counter()

    def new_id(kind: str) -> str:
        counts[kind] += 1
        return f"{kind}_{counts[kind]}"

    made = RealtimeProtocol(SessionConfig(), 1_790_000_000, new_id, ascii_only)
    made.open()
    if update:
        made.receive(json.dumps({"type": "session.update", "session": {"type": "realtime", **update}}))
    drain(made)
    return made


def drain(made: RealtimeProtocol) -> list[Json]:
    return [json.loads(message.text) for message in made.messages_to_send()]


def say(made: RealtimeProtocol, **body: Any) -> tuple[list[events.Command], list[Json]]:
    """Send one client message; return commands and answers."""
    commands = made.receive(json.dumps(body))
    return commands, drain(made)


def error_of(made: RealtimeProtocol, message: str | bytes) -> Json:
    """The error a client message causes, and nothing else."""
    assert made.receive(message) == []
    (answer,) = drain(made)
    assert answer["type"] == "error"
    assert answer["event_id"].startswith("event_")
    assert set(answer["error"]) == {"type", "code", "message", "param", "event_id"}
    assert answer["error"]["message"]
    return dict(answer["error"])


def b64(pcm: np.ndarray) -> str:
    return base64.b64encode((pcm * 32767).astype("<i2").tobytes()).decode()


def play_turn(made: RealtimeProtocol) -> None:
    made.send(events.UserStarted(1, 700 * MS))
    made.send(events.UserStopped(1, 2_000 * MS))
    made.send(events.AudioCommitted(1, 1_300 * MS))


def play_reply(made: RealtimeProtocol, frames: int = 2) -> None:
    made.send(events.ReplyStarted(1))
    made.send(events.ReplyText("Sure,"))
    for _ in range(frames):
        made.send(events.ReplyAudio(tone(FRAME)))
    made.send(events.ReplyText(" a latte."))


TRANSCRIBED = {"audio": {"input": {"transcription": {"model": "x"}}}}
OPENING = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]


# --- golden sequences -------------------------------------------------------------------------------------------------


def test_greeting_carries_the_whole_session() -> None:
    """session.created comes first and holds every field clients read."""
    made = RealtimeProtocol(SessionConfig(model="m"), 1_790_000_000)
    made.open()
    (message,) = drain(made)
    session = message["session"]
    assert message["type"] == "session.created"
    assert session["id"].startswith("sess_")
    assert {k: v for k, v in session.items() if k != "id"} == {
        "object": "realtime.session",
        "expires_at": 1_790_000_000,
        "type": "realtime",
        "model": "m",
        "output_modalities": ["audio"],
        "instructions": "",
        "max_output_tokens": "inf",
        "tools": [],
        "tool_choice": "auto",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "include": None,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": {
                    "type": "semantic_vad",
                    "eagerness": "auto",
                    "create_response": True,
                    "interrupt_response": True,
                },
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "agent", "speed": 1.0},
        },
    }


def test_one_spoken_turn() -> None:
    """The messages of a turn and its answer, in the order clients depend on."""
    made = protocol()
    play_turn(made)
    play_reply(made)
    made.send(events.ReplyDone("completed", None, events.Usage(10, 2, 2)))
    sent = drain(made)
    assert [message["type"] for message in sent] == [
        *TURN,
        *OPENING,
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert len({message["event_id"] for message in sent}) == len(sent)
    by_type = {message["type"]: message for message in sent}
    user_item = {
        "id": "item_1",
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    assert sent[0]["audio_start_ms"] == 700
    assert sent[1]["audio_end_ms"] == 2_000
    assert sent[2] | {"event_id": ""} == {
        "type": "input_audio_buffer.committed",
        "event_id": "",
        "previous_item_id": None,
        "item_id": "item_1",
    }
    assert sent[3]["item"] == sent[4]["item"] == user_item
    assert by_type["response.created"]["response"]["status"] == "in_progress"
    assert by_type["response.created"]["response"]["output"] == []
    assert sent[6]["item"] == sent[7]["item"]
    assert sent[6]["item"]["content"] == []
    assert sent[6]["item"]["status"] == "in_progress"
    assert sent[7]["previous_item_id"] == "item_1"
    assert by_type["response.content_part.added"]["part"] == {"type": "audio", "transcript": ""}
    assert len(base64.b64decode(by_type["response.output_audio.delta"]["delta"])) == 2 * FRAME
    assert by_type["response.content_part.done"]["part"] == {"type": "audio", "transcript": "Sure, a latte."}
    final = by_type["response.done"]["response"]
    assert final["status"] == "completed"
    assert final["status_details"] is None
    assert final["output"][0]["content"] == [{"type": "output_audio", "transcript": "Sure, a latte."}]
    assert final["usage"] == {
        "total_tokens": 14,
        "input_tokens": 10,
        "output_tokens": 4,
        "input_token_details": {
            "text_tokens": 0,
            "audio_tokens": 10,
            "image_tokens": 0,
            "cached_tokens": 0,
            "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": 2, "audio_tokens": 2},
    }
    for message in sent[9:15]:
        assert (message["response_id"], message["item_id"]) == ("resp_1", "item_2")
        assert (message["output_index"], message["content_index"]) == (0, 0)


def test_an_interruption() -> None:
    """The user is announced first, then the reply closes as incomplete and cancelled, with usage."""
    made = protocol()
    play_turn(made)
    play_reply(made)
    drain(made)
    made.send(events.UserStarted(2, 3_000 * MS))
    made.send(events.ReplyDone("cancelled", "turn_detected", events.Usage(10, 2, 2)))
    sent = drain(made)
    assert [message["type"] for message in sent] == [
        "input_audio_buffer.speech_started",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert sent[4]["item"]["status"] == "incomplete"
    response = sent[5]["response"]
    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert response["usage"]["total_tokens"] == 14


def test_a_written_response() -> None:
    """With text output the content part and the deltas are text."""
    made = protocol()
    made.send(events.ReplyStarted(1, events.CreateResponse(text_only=True)))
    made.send(events.ReplyText("Sure."))
    made.send(events.ReplyDone("completed"))
    sent = drain(made)
    assert [message["type"] for message in sent] == [
        *OPENING,
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert sent[3]["part"] == {"type": "text", "text": ""}
    assert sent[5]["text"] == "Sure."
    assert sent[-1]["response"]["output"][0]["content"] == [{"type": "output_text", "text": "Sure."}]


def test_metadata_and_limit_are_echoed() -> None:
    """response.create's metadata comes back, so that clients can match their request."""
    made = protocol()
    made.send(events.ReplyStarted(1, events.CreateResponse(metadata={"client_event_id": "7"}, max_output_tokens=50)))
    response = drain(made)[0]["response"]
    assert response["metadata"] == {"client_event_id": "7"}
    assert response["max_output_tokens"] == 50


def test_audio_is_marked_with_its_reply() -> None:
    """Only audio deltas carry the reply's number: they alone may be dropped at the last hop."""
    made = protocol()
    made.send(events.ReplyStarted(7))
    made.send(events.ReplyText("a"))
    made.send(events.ReplyAudio(tone(FRAME)))
    assert [message.reply for message in made.messages_to_send()] == [None] * 5 + [7]


# --- transcription ----------------------------------------------------------------------------------------------------


def test_transcript_only_when_asked_for() -> None:
    """Without audio.input.transcription the user's words stay inside."""
    made = protocol()
    play_turn(made)
    drain(made)
    made.send(events.UserText(1, "a latte"))
    made.send(events.UserTextDone(1))
    assert drain(made) == []


def test_transcript_of_a_turn() -> None:
    """Words that came before the item wait for it; the rest follow; the whole comes at the end."""
    made = protocol(**TRANSCRIBED)
    made.send(events.UserStarted(1, 700 * MS))
    made.send(events.UserText(1, " a"))
    assert [message["type"] for message in drain(made)] == ["input_audio_buffer.speech_started"]
    made.send(events.UserStopped(1, 2_000 * MS))
    made.send(events.AudioCommitted(1, 1_300 * MS))
    made.send(events.UserText(1, " latte"))
    made.send(events.UserTextDone(1))
    sent = drain(made)[4:]
    kind = "conversation.item.input_audio_transcription"
    assert [message["type"] for message in sent] == [f"{kind}.delta", f"{kind}.delta", f"{kind}.completed"]
    assert sent[2]["transcript"] == "a latte"
    assert sent[2]["item_id"] == "item_1"
    assert sent[2]["usage"] == {"type": "duration", "seconds": 1.3}
    (retrieved,) = say(made, type="conversation.item.retrieve", item_id="item_1")[1]
    assert retrieved["item"]["content"][0]["transcript"] == "a latte"


# --- session.update ---------------------------------------------------------------------------------------------------


def test_update_is_a_deep_merge() -> None:
    """Only fields that are present change, at any depth."""
    made = protocol(instructions="be brief", **TRANSCRIBED)
    say(made, type="session.update", session={"audio": {"input": {"turn_detection": {"threshold": 0.6}}}})
    commands, (answer,) = say(
        made,
        type="session.update",
        session={"type": "realtime", "audio": {"input": {"turn_detection": {"silence_duration_ms": 300}}}},
    )
    assert answer["type"] == "session.updated"
    audio = answer["session"]["audio"]["input"]
    assert audio["turn_detection"]["silence_duration_ms"] == 300
    assert audio["turn_detection"]["threshold"] == 0.6
    assert audio["transcription"]["model"] == "x"
    assert answer["session"]["instructions"] == "be brief"
    assert isinstance(commands[0], events.ConfigureSession)
    assert commands[0].config == made.config


@pytest.mark.parametrize(
    ("update", "field", "value"),
    [
        ({"instructions": ""}, "instructions", ""),
        ({"tools": []}, "tools", []),
        ({"output_modalities": ["text"]}, "output_modalities", ["text"]),
        ({"max_output_tokens": 100}, "max_output_tokens", 100),
        ({"id": "sess_other", "object": "realtime.session"}, "id", "sess_1"),
    ],
)
def test_fields_that_can_be_set(update: Json, field: str, value: Any) -> None:
    """Cleared and changed fields come back as they now are."""
    made = protocol(instructions="x", tools=[{"type": "function", "name": "f"}])
    (answer,) = say(made, type="session.update", session=update)[1]
    assert answer["session"][field] == value


def test_turn_detection_can_be_switched_off_and_on() -> None:
    """Null is push to talk; an object afterwards starts from the defaults."""
    made = protocol(audio={"input": {"turn_detection": None}})
    assert made.config.audio.input.turn_detection is None
    say(made, type="session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
    assert made.config.audio.input.turn_detection is not None


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ([{"eagerness": "low"}], {"type": "semantic_vad", "eagerness": "low"}),
        ([{"create_response": False}], {"type": "semantic_vad", "create_response": False}),
        ([{"silence_duration_ms": 300}], {"type": "server_vad", "silence_duration_ms": 300, "threshold": 0.5}),
        (
            [{"type": "server_vad", "threshold": 0.7}, {"prefix_padding_ms": 0}],
            {"threshold": 0.7, "prefix_padding_ms": 0},
        ),
        ([{"type": "server_vad"}, {"type": "semantic_vad"}], {"type": "semantic_vad", "eagerness": "auto"}),
        ([None, {"eagerness": "high", "type": "semantic_vad"}], {"type": "semantic_vad", "eagerness": "high"}),
        ([None, {}], {"type": "server_vad", "silence_duration_ms": 500}),
    ],
)
def test_kinds_of_turn_detection(updates: list[Json], expected: Json) -> None:
    """Fields of one kind never meet those of the other; without a type the fields tell the kind."""
    made = protocol()
    for update in updates:
        (answer,) = say(made, type="session.update", session={"audio": {"input": {"turn_detection": update}}})[1]
        assert answer["type"] == "session.updated", answer
    detection = answer["session"]["audio"]["input"]["turn_detection"]
    assert detection | expected == detection


def test_formats_replace_each_other() -> None:
    """G.711 has no rate of its own, and PCM has its one again."""
    made = protocol()
    for asked in ({"type": "audio/pcmu"}, {"type": "audio/pcm"}):
        audio = {"input": {"format": asked}, "output": {"format": asked}}
        (answer,) = say(made, type="session.update", session={"audio": audio})[1]
        assert answer["type"] == "session.updated", answer
        told = answer["session"]["audio"]
        rate = {} if asked["type"] == "audio/pcmu" else {"rate": 24000}
        assert told["input"]["format"] == told["output"]["format"] == asked | rate


def test_noise_reduction_is_told_as_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind asked for, without a strength; null where it cannot be done, and when it is taken back."""
    made = protocol()
    for asked, told in (
        ({"type": "far_field", "strength": 0.5}, {"type": "far_field", "strength": None}),
        (None, None),
    ):
        (answer,) = say(made, type="session.update", session={"audio": {"input": {"noise_reduction": asked}}})[1]
        assert answer["session"]["audio"]["input"]["noise_reduction"] == told
    monkeypatch.setattr("streaming.realtime_config.available", lambda: False)
    audio = {"input": {"noise_reduction": {"type": "near_field"}}}
    (answer,) = say(made, type="session.update", session={"audio": audio})[1]
    assert answer["session"]["audio"]["input"]["noise_reduction"] is None


def test_an_item_finds_its_place() -> None:
    """At the start, behind another, or at the end; each is told the one before it."""
    made = protocol()
    previous = {}
    for item_id, after in (("a", None), ("b", "root"), ("c", "b"), ("d", None)):
        item = {"id": item_id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": item_id}]}
        fields = {} if after is None else {"previous_item_id": after}
        _, (added, done) = say(made, type="conversation.item.create", item=item, **fields)
        assert added["item"] == done["item"] == item | {"object": "realtime.item", "status": "completed"}
        previous[item_id] = added["previous_item_id"]
    assert previous == {"a": None, "b": None, "c": "b", "d": "a"}
    (change,), _ = say(made, type="conversation.item.delete", item_id="c")
    assert isinstance(change, events.Recollect)
    assert [line.text for line in change.lines()] == ["b", "a", "d"]


def test_calls_that_were_made_elsewhere() -> None:
    """A history may hold tool calls and their outputs; they say nothing, and nothing is to be remembered of them."""
    made = protocol()
    call = {"type": "function_call", "call_id": "c1", "name": "brew", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "done"}
    for item in (call, output):
        commands, (added, _) = say(made, type="conversation.item.create", item=item)
        assert commands == []
        assert item.items() <= added["item"].items()


def test_audio_is_added_at_the_end_only() -> None:
    """It is heard when it comes."""
    made = protocol()
    finished_reply(made)
    content = [{"type": "input_audio", "audio": b64(tone(480))}]
    item = {"type": "message", "role": "user", "content": content}
    body = {"type": "conversation.item.create", "previous_item_id": "root", "item": item}
    assert error_of(made, json.dumps(body))["code"] == "unsupported_value"


@pytest.mark.parametrize(
    ("update", "code", "param"),
    [
        ({"type": "transcription"}, "unsupported_value", "session.type"),
        ({"model": "other"}, "immutable_field", "session.model"),
        ({"nonsense": 1}, "unknown_parameter", "session.nonsense"),
        ({"audio": {"input": {"nonsense": 1}}}, "unknown_parameter", "session.audio.input.nonsense"),
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, "unsupported_value", "session.audio.input.format"),
        ({"audio": {"output": {"format": {"rate": 16000}}}}, "unsupported_value", "session.audio.output.format"),
        (
            {"audio": {"input": {"turn_detection": {"type": "psychic_vad"}}}},
            "invalid_value",
            "session.audio.input.turn_detection",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "very"}}}},
            "invalid_value",
            "session.audio.input.turn_detection.eagerness",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "threshold": 0.5}}}},
            "unknown_parameter",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"audio": {"input": {"turn_detection": {"threshold": 3}}}},
            "invalid_value",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"audio": {"input": {"turn_detection": {"idle_timeout_ms": 500}}}},
            "invalid_value",
            "session.audio.input.turn_detection.idle_timeout_ms",
        ),
        (
            {"audio": {"input": {"noise_reduction": {"type": "magic"}}}},
            "invalid_value",
            "session.audio.input.noise_reduction.type",
        ),
        ({"audio": {"output": {"speed": 1.6}}}, "invalid_value", "session.audio.output.speed"),
        ({"audio": "loud"}, "invalid_value", "session.audio"),
        ({"output_modalities": ["audio", "text"]}, "invalid_value", "session.output_modalities"),
        ({"tool_choice": "required"}, "unsupported_value", "session.tool_choice"),
        ({"max_output_tokens": 0}, "invalid_value", "session.max_output_tokens"),
        ({"max_output_tokens": "lots"}, "invalid_value", "session.max_output_tokens"),
        ({"prompt": {"id": "p"}}, "unsupported_value", "session.prompt"),
    ],
)
def test_updates_that_are_refused(update: Json, code: str, param: str) -> None:
    """A refused update names its field and changes nothing."""
    made = protocol()
    before = made.config
    error = error_of(made, json.dumps({"type": "session.update", "event_id": "mine", "session": update}))
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "mine")
    assert error["type"] == "invalid_request_error"
    assert made.config == before


def test_the_voice_is_fixed_once_it_was_heard() -> None:
    """The voice may be chosen before the first audio, not after it."""
    made = protocol(audio={"output": {"voice": "marin"}})
    play_reply(made)
    made.send(events.ReplyDone("completed"))
    drain(made)
    update = {"audio": {"output": {"voice": "cedar"}}}
    assert error_of(made, json.dumps({"type": "session.update", "session": update}))["code"] == "cannot_update_voice"


# --- messages that cannot be read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("[]", "invalid_type"),
        ("17", "invalid_type"),
        ("{}", "missing_required_parameter"),
        ('{"type": 3}', "missing_required_parameter"),
        ('{"type": "response.fly"}', "unknown_event"),
        ('{"type": "output_audio_buffer.clear"}', "unsupported_event"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": 5}', "invalid_type"),
        ('{"type": "input_audio_buffer.append", "audio": "no base64!"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.commit", "event_id": 5}', "invalid_type"),
        ('{"type": "session.update"}', "missing_required_parameter"),
        ('{"type": "session.update", "session": "s"}', "invalid_type"),
        ('{"type": "response.create", "response": {"output_modalities": ["smell"]}}', "invalid_type"),
        ('{"type": "response.create", "response": {"output_modalities": ["audio", "text"]}}', "invalid_value"),
        ('{"type": "response.create", "response": {"conversation": "other"}}', "invalid_type"),
        ('{"type": "response.create", "response": {"input": [{"type": "message"}]}}', "unsupported_value"),
        ('{"type": "response.create", "response": {"tool_choice": "required"}}', "unsupported_value"),
        ('{"type": "response.create", "response": {"max_output_tokens": -1}}', "invalid_value"),
        ('{"type": "response.cancel", "response_id": "resp_9"}', "response_cancel_not_active"),
        ('{"type": "conversation.item.retrieve", "item_id": "none"}', "item_retrieve_invalid_item_id"),
        ('{"type": "conversation.item.delete", "item_id": "none"}', "item_delete_invalid_item_id"),
        (
            '{"type": "conversation.item.truncate", "item_id": "none", "content_index": 0, "audio_end_ms": 0}',
            "item_truncate_invalid_item_id",
        ),
        ('{"type": "conversation.item.truncate", "item_id": "x", "content_index": 0}', "missing_required_parameter"),
        ('{"type": "session.update", "session": {"tools": [{"a": NaN}]}}', "invalid_json"),
        ('{"type": "session.update", "session": {"tools": [{"a": 1e999}]}}', "invalid_json"),
        ('{"type": "session.update", "session": {"tools": [' + "[" * 300 + "]" * 300 + "]}}", "invalid_json"),
        ('{"type": "session.update", "session": {"tools": ["' + "a" * 300_000 + '"]}}', "message_too_large"),
        (b"\x00\x01", "invalid_message"),
    ],
)
def test_bad_messages(message: str | bytes, code: str) -> None:
    """Each gets one error, and the next good message works."""
    made = protocol()
    assert error_of(made, message)["code"] == code
    (command,), answers = say(made, type="input_audio_buffer.append", audio=b64(tone(100)))
    assert isinstance(command, events.AppendAudio)
    assert answers == []


def test_appended_audio_is_decoded() -> None:
    """Sixteen-bit samples arrive as floats."""
    (command,), _ = say(protocol(), type="input_audio_buffer.append", audio=b64(np.array([0.5, -0.5], np.float32)))
    assert isinstance(command, events.AppendAudio)
    np.testing.assert_allclose(command.pcm, [0.5, -0.5], atol=1e-3)


def test_commands_carry_the_clients_event_id() -> None:
    """An error that is found later can still name the message that caused it."""
    made = protocol()
    (commit,), _ = say(made, type="input_audio_buffer.commit", event_id="c1")
    assert commit == events.CommitAudio("c1")
    made.send(events.Refused("input_audio_buffer_commit_empty", "empty", event_id="c1"))
    (answer,) = drain(made)
    assert answer["error"]["event_id"] == "c1"


def test_response_create_takes_over_the_sessions_settings() -> None:
    """What the request does not say comes from the session."""
    made = protocol(output_modalities=["text"], max_output_tokens=40)
    (command,), _ = say(made, type="response.create")
    assert command == events.CreateResponse(text_only=True, max_output_tokens=40, tools=frozenset())
    (command,), _ = say(made, type="response.create", response={"output_modalities": ["audio"], "metadata": {"a": "b"}})
    assert command == events.CreateResponse(False, 40, {"a": "b"}, tools=frozenset())


# --- items ------------------------------------------------------------------------------------------------------------


def finished_reply(made: RealtimeProtocol) -> str:
    """Play one reply of two frames (160 ms) and return its item's id."""
    play_reply(made)
    made.send(events.ReplyDone("completed"))
    done = drain(made)[-1]
    return str(done["response"]["output"][0]["id"])


def test_a_spoken_item_can_be_added() -> None:
    """An item with audio keeps the client's id and reaches the model."""
    made = protocol()
    item = {
        "id": "mine",
        "type": "message",
        "role": "user",
        "content": [{"type": "input_audio", "audio": b64(tone(480))}],
    }
    (command,), answers = say(made, type="conversation.item.create", item=item)
    assert isinstance(command, events.HearItem)
    assert command.pcm.size == 480
    assert [(a["type"], a["item"]["id"]) for a in answers] == [
        ("conversation.item.added", "mine"),
        ("conversation.item.done", "mine"),
    ]
    error = error_of(made, json.dumps({"type": "conversation.item.create", "item": item}))
    assert error["code"] == "item_create_duplicate_item_id"


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"type": "function_call_output", "call_id": "c", "output": "x"}, "item_not_found"),
        ({"type": "function_call_output", "output": "x"}, "invalid_value"),
        ({"type": "function_call_output", "call_id": "c", "output": {"x": 1}}, "invalid_value"),
        ({"type": "function_call_output", "call_id": "c", "output": "x" * 40_000}, "invalid_value"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "invalid_value"),
        ({"type": "mcp_call"}, "unsupported_item"),
        ({"type": "message", "role": "tool", "content": []}, "invalid_value"),
        ({"type": "message", "role": "user", "content": [{"type": "output_text", "text": "x"}]}, "unsupported_content"),
        ({"type": "message", "role": "user", "content": [{"type": "input_image"}]}, "unsupported_content"),
        ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": 5}]}, "invalid_value"),
        ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "né"}]}, "unsupported_content"),
        ({"type": "message", "role": "user", "content": "hi"}, "invalid_value"),
        ({"type": "message", "role": "user", "content": [{}] * 17}, "invalid_value"),
        ({"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": ""}]}, "invalid_audio"),
        ({"type": "message", "role": "user", "content": [{"type": "input_audio"}]}, "invalid_type"),
        (
            {"id": "x" * 300, "type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "AAA="}]},
            "invalid_value",
        ),
    ],
)
def test_items_that_cannot_be_added(item: Json, code: str) -> None:
    """What the model cannot take is refused, by name."""
    assert error_of(protocol(), json.dumps({"type": "conversation.item.create", "item": item}))["code"] == code


# --- tool calls -------------------------------------------------------------------------------------------------------


TOOLS = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("brew", "serve")]
BREW = events.Action("brew", {"cups": 2})
CALL = [
    "response.output_item.added",
    "conversation.item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "conversation.item.done",
    "response.output_item.done",
]


def acting_reply(made: RealtimeProtocol, *actions: events.Action, tools: frozenset[str] | None = None) -> list[Json]:
    """Play a reply that does something; its messages from the closing of the spoken item on."""
    made.send(events.ReplyStarted(1, events.CreateResponse(tools=tools)))
    made.send(events.ReplyText("Sure."))
    made.send(events.ReplyAudio(tone(FRAME)))
    drain(made)
    made.send(events.ReplyDone("completed", actions=actions))
    return drain(made)


def calls_of(sent: list[Json]) -> list[str]:
    """Names of the calls in the finished response."""
    return [item["name"] for item in sent[-1]["response"]["output"] if item["type"] == "function_call"]


def test_what_a_reply_did_leaves_as_calls() -> None:
    """Each call is an item of its own behind the spoken one, complete before response.done, which lists it."""
    made = protocol(tools=TOOLS)
    sent = acting_reply(made, BREW, events.Action("serve", {}))
    kinds = [message["type"] for message in sent]
    assert kinds[-15:] == ["conversation.item.done", "response.output_item.done", *CALL, *CALL, "response.done"]
    spoken, first, second = sent[-1]["response"]["output"]
    assert (spoken["type"], spoken["role"]) == ("message", "assistant")
    assert first == {
        "id": first["id"],
        "object": "realtime.item",
        "type": "function_call",
        "status": "completed",
        "call_id": first["call_id"],
        "name": "brew",
        "arguments": '{"cups": 2}',
    }
    assert len({first["id"], first["call_id"], second["id"], second["call_id"], spoken["id"]}) == 5
    added, listed, delta, done, item_done, output_done = sent[-13:-7]
    assert added["item"] == listed["item"] == first | {"status": "in_progress", "arguments": ""}
    assert (added["output_index"], sent[-2]["output_index"]) == (1, 2)
    assert listed["previous_item_id"] == item_done["previous_item_id"] == spoken["id"]
    for message in (delta, done):
        assert (message["item_id"], message["call_id"], message["output_index"]) == (first["id"], first["call_id"], 1)
    assert (delta["delta"], done["arguments"], done["name"]) == ('{"cups": 2}', '{"cups": 2}', "brew")
    assert item_done["item"] == output_done["item"] == first
    assert say(made, type="conversation.item.retrieve", item_id=first["id"])[1][0]["item"] == first


@pytest.mark.parametrize(
    ("update", "called"),
    [
        ({"tools": TOOLS}, ["brew"]),
        ({"tools": []}, []),
        ({"tools": TOOLS[1:]}, []),
        ({"tools": [{"type": "function", "name": "other"}, {"type": "mcp"}]}, []),
        ({"tools": TOOLS, "tool_choice": "none"}, []),
    ],
)
def test_only_the_sessions_tools_are_called(update: Json, called: list[str]) -> None:
    """A client that has other tools, or wants none called, gets no calls."""
    assert calls_of(acting_reply(protocol(**update), BREW)) == called


@pytest.mark.parametrize(
    ("options", "called"),
    [({}, ["brew"]), ({"tool_choice": "none"}, []), ({"tools": []}, []), ({"tools": TOOLS[:1]}, ["brew"])],
)
def test_a_response_can_have_its_own_tools(options: Json, called: list[str]) -> None:
    """What response.create says about tools counts for that response."""
    made = protocol(tools=TOOLS)
    (command,), _ = say(made, type="response.create", response=options)
    assert isinstance(command, events.CreateResponse)
    assert calls_of(acting_reply(made, BREW, tools=command.tools)) == called


def test_an_output_is_kept_and_not_answered() -> None:
    """A tool's output joins the conversation; asked to respond to it, the agent says nothing again."""
    made = protocol(tools=TOOLS)
    call = acting_reply(made, BREW)[-1]["response"]["output"][1]
    body = {"id": "out", "type": "function_call_output", "call_id": call["call_id"], "output": "{}"}
    commands, sent = say(made, type="conversation.item.create", item=body)
    assert commands == []
    assert [message["type"] for message in sent] == ["conversation.item.added", "conversation.item.done"]
    assert sent[0]["previous_item_id"] == call["id"]
    assert sent[0]["item"] == body | {"object": "realtime.item", "status": "completed"}
    for _ in range(2):
        commands, sent = say(made, type="response.create", response={"metadata": {"k": "v"}})
        assert commands == []
        assert [message["type"] for message in sent] == ["response.created", "response.done"]
        assert sent[0]["response"]["id"] == sent[1]["response"]["id"]
        final = sent[1]["response"]
        assert (final["status"], final["output"], final["metadata"]) == ("completed", [], {"k": "v"})
        assert final["usage"]["total_tokens"] == 0
    play_turn(made)
    (command,), _ = say(made, type="response.create")
    assert isinstance(command, events.CreateResponse)


def test_an_output_does_not_hide_what_the_user_said() -> None:
    """When the user has spoken since the call, the response that is asked for answers the user."""
    made = protocol(tools=TOOLS)
    call = acting_reply(made, BREW)[-1]["response"]["output"][1]
    play_turn(made)
    drain(made)
    body = {"type": "function_call_output", "call_id": call["call_id"], "output": "{}"}
    say(made, type="conversation.item.create", item=body, previous_item_id=call["id"])
    (command,), _ = say(made, type="response.create")
    assert isinstance(command, events.CreateResponse)


def test_a_response_under_way_refuses_another() -> None:
    """An output that comes while the agent speaks again is no reason to close that response."""
    made = protocol(tools=TOOLS)
    call = acting_reply(made, BREW)[-1]["response"]["output"][1]
    made.send(events.ReplyStarted(2))
    body = {"type": "function_call_output", "call_id": call["call_id"], "output": "{}"}
    say(made, type="conversation.item.create", item=body)
    (command,), sent = say(made, type="response.create")
    assert isinstance(command, events.CreateResponse)  # the turn taker refuses it
    assert sent == []


def test_a_call_cannot_be_truncated() -> None:
    """Only what is spoken can be cut."""
    made = protocol(tools=TOOLS)
    call = acting_reply(made, BREW)[-1]["response"]["output"][1]
    body = {"type": "conversation.item.truncate", "item_id": call["id"], "content_index": 0, "audio_end_ms": 0}
    assert error_of(made, json.dumps(body))["code"] == "invalid_value"


# --- more items -------------------------------------------------------------------------------------------------------


def test_delete_and_retrieve() -> None:
    """A deleted item is gone."""
    made = protocol()
    item_id = finished_reply(made)
    (retrieved,) = say(made, type="conversation.item.retrieve", item_id=item_id)[1]
    assert retrieved["item"]["content"][0]["transcript"] == "Sure, a latte."
    (deleted,) = say(made, type="conversation.item.delete", item_id=item_id)[1]
    assert (deleted["type"], deleted["item_id"]) == ("conversation.item.deleted", item_id)
    assert error_of(made, f'{{"type": "conversation.item.retrieve", "item_id": "{item_id}"}}')["code"] == (
        "item_retrieve_invalid_item_id"
    )


def test_truncate_trims_the_transcript() -> None:
    """What was not heard leaves the transcript, and the engine is told."""
    made = protocol()
    item_id = finished_reply(made)
    commands, (answer,) = say(
        made, type="conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=100
    )
    assert commands == [events.TruncateReply(2_400)]
    assert answer["type"] == "conversation.item.truncated"
    assert answer["audio_end_ms"] == 100
    (retrieved,) = say(made, type="conversation.item.retrieve", item_id=item_id)[1]
    assert retrieved["item"]["content"][0]["transcript"] == "Sure,"


def test_truncating_a_reply_that_something_was_said_after() -> None:
    """Only the newest can be forgotten at once: the past is given to the model anew, and not if it is the same."""
    made = protocol()
    item_id = finished_reply(made)
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and a mocha"}]}
    say(made, type="conversation.item.create", item=item)
    body = {"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0}
    (command,), _ = say(made, **body, audio_end_ms=100)
    assert isinstance(command, events.Recollect)
    assert [line.text for line in command.lines() if isinstance(line, events.Line)] == ["Sure,", "and a mocha"]
    assert say(made, **body, audio_end_ms=100)[0] == []


def test_a_reply_that_is_taken_back() -> None:
    """Its words are gone and its calls deleted; a client may still truncate it, and what is deleted already stays."""
    made = protocol(tools=TOOLS)
    spoken, call = acting_reply(made, BREW)[-1]["response"]["output"]
    made.send(events.ReplyTakenBack())
    assert [(body["type"], body["item_id"]) for body in drain(made)] == [
        ("conversation.item.truncated", spoken["id"]),
        ("conversation.item.deleted", call["id"]),
    ]
    (retrieved,) = say(made, type="conversation.item.retrieve", item_id=spoken["id"])[1]
    assert retrieved["item"]["content"][0]["transcript"] == ""
    body = {"type": "conversation.item.truncate", "item_id": spoken["id"], "content_index": 0, "audio_end_ms": 40}
    assert [answer["type"] for answer in say(made, **body)[1]] == ["conversation.item.truncated"]
    say(made, type="conversation.item.delete", item_id=spoken["id"])
    made.send(events.ReplyTakenBack())
    assert drain(made) == []


@pytest.mark.parametrize(
    ("index", "end_ms", "code"),
    [
        (0, 161, "audio_end_ms_too_large"),
        (0, 10**400, "audio_end_ms_too_large"),
        (1, 100, "invalid_value"),
        (0, -1, "invalid_type"),
    ],
)
def test_truncations_that_are_refused(index: int, end_ms: int, code: str) -> None:
    """Nothing longer than what was said, and only the one part there is."""
    made = protocol()
    item_id = finished_reply(made)
    message = {
        "type": "conversation.item.truncate",
        "item_id": item_id,
        "content_index": index,
        "audio_end_ms": end_ms,
    }
    assert error_of(made, json.dumps(message))["code"] == code


def test_an_item_being_spoken_is_left_alone() -> None:
    """The running reply can be cancelled, not deleted or truncated."""
    made = protocol()
    play_reply(made)
    drain(made)
    assert error_of(made, '{"type": "conversation.item.delete", "item_id": "item_1"}')["code"] == "item_in_progress"
    message = {"type": "conversation.item.truncate", "item_id": "item_1", "content_index": 0, "audio_end_ms": 10}
    assert error_of(made, json.dumps(message))["code"] == "item_in_progress"


def test_a_users_item_cannot_be_truncated() -> None:
    """Only the assistant's speech can have been cut short."""
    made = protocol()
    play_turn(made)
    drain(made)
    message = {"type": "conversation.item.truncate", "item_id": "item_1", "content_index": 0, "audio_end_ms": 10}
    assert error_of(made, json.dumps(message))["code"] == "invalid_value"


def test_the_conversation_is_bounded() -> None:
    """After many turns the oldest items are gone and memory stays flat."""
    made = protocol()
    for turn in range(1, MAX_ITEMS + 3):
        made.send(events.AudioCommitted(turn, 0))
        made.send(events.UserTextDone(turn))
    drain(made)
    assert error_of(made, '{"type": "conversation.item.retrieve", "item_id": "item_1"}')["code"] == (
        "item_retrieve_invalid_item_id"
    )
    assert len(made._items) == MAX_ITEMS
    assert len(made._turns) == 0


def test_clearing_forgets_the_turn() -> None:
    """After a clear the words of the dropped turn go nowhere."""
    made = protocol(**TRANSCRIBED)
    made.send(events.UserStarted(1, 0))
    made.send(events.AudioCleared(1))
    made.send(events.UserText(1, "hello"))
    made.send(events.UserTextDone(1))
    assert [message["type"] for message in drain(made)] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.cleared",
    ]
    assert len(made._turns) == 0


def test_a_server_fault_says_so() -> None:
    """Faults of the server are server_error, faults of the client invalid_request_error."""
    made = protocol()
    made.send(events.Broken("internal_error", "the model failed"))
    (answer,) = drain(made)
    assert answer["error"]["type"] == "server_error"
