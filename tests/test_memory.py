"""What the model is told of the conversation's items, with a fake engine behind a session."""

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.actions import ActingEmitter, load_actions
from agent.inbox import Prompts, Recollect
from agent.memory import Memory
from agent.pacing import Pacer
from agent.reply import Reply, ReplyConfig
from agent.worker import Worker
from models.runtime import Mode
from streaming import g711
from streaming import realtime_events as events
from streaming.resample import float_to_pcm16, resample
from tests.fakes import FRAME, FakeClient, FakeClock, FakeEngine, FakeState, eventually, silence, speech, spoken_turn
from tests.test_session import serving, state_of, update

Json = dict[str, Any]
REPLY = "sure one latte coming"


def line(client: FakeClient, role: str, text: str, **fields: Any) -> None:
    """Add a message of text."""
    kind = "output_text" if role == "assistant" else "input_text"
    item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **fields.pop("item", {})}
    client.say("conversation.item.create", item=item, **fields)


async def answered(client: FakeClient, count: int = 1, **response: Any) -> Json:
    """Ask for a response and wait for its end."""
    client.say("response.create", response=response)
    return dict((await client.wait_for("response.done", count))["response"])


def past(engine: FakeEngine) -> FakeState:
    """The latest state: that of the session, after its past was given to it anew."""
    return engine.states[-1]


async def test_a_typed_turn_is_read_and_answered() -> None:
    """Parts of text are one turn; nothing is listened to; the text counts as input."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        content = [{"type": "input_text", "text": text} for text in ("a large latte", "please")]
        client.say("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        response = await answered(client)
    assert state_of(engine).read == ["a large latte\nplease"]
    assert state_of(engine).heard == []
    added = await client.wait_for("conversation.item.added")
    assert added["item"]["content"] == content
    usage = response["usage"]
    assert (usage["input_tokens"], usage["input_token_details"]["text_tokens"]) == (4, 4)
    assert usage["total_tokens"] == 4 + usage["output_tokens"]


async def test_what_a_system_says_is_kept_and_not_read() -> None:
    """The model follows no instructions; a text it cannot read is an error that names it."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        line(client, "system", "You are a pirate. Ahoi né")
        await client.wait_for("conversation.item.done")
        line(client, "user", "né")
        error = await client.wait_for("error")
    assert (error["error"]["code"], error["error"]["param"]) == ("unsupported_content", "item.content")
    assert state_of(engine).read == []


async def test_a_history_is_recalled() -> None:
    """What the agent said elsewhere is said again in silence, and the conversation goes on from there."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        line(client, "user", "hello")
        line(client, "assistant", "hi there")
        line(client, "user", "a latte")
        response = await answered(client)
    assert state_of(engine).read == ["hello", "a latte"]
    assert state_of(engine).said == ["hi there", REPLY]
    assert client.types().count("response.created") == 1
    assert response["output"][0]["content"][0]["transcript"] == REPLY


async def test_a_line_before_others_changes_the_past() -> None:
    """Inserted at the start, it is told first to a model that begins afresh."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        line(client, "user", "a latte")
        await answered(client)
        line(client, "assistant", "welcome", previous_item_id="root")
        line(client, "user", "thanks")
        await answered(client, 2)
    assert len(engine.states) == 2
    assert past(engine).read == ["a latte", "thanks"]
    assert past(engine).said == ["welcome", REPLY, REPLY]


async def test_a_deleted_line_is_forgotten() -> None:
    """With the agent's reply deleted, the model knows the rest only; a deleted tool call changes nothing."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        line(client, "user", "a latte", item={"id": "first"})
        await answered(client)
        call = {"id": "call", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        client.say("conversation.item.create", item=call)
        client.say("conversation.item.delete", item_id="call")
        await client.wait_for("conversation.item.deleted")
        assert len(engine.states) == 1
        client.say("conversation.item.delete", item_id="first")
        line(client, "user", "a mocha")
        await answered(client, 2)
    assert past(engine).read == ["a mocha"]
    assert past(engine).said == [REPLY, REPLY]


async def test_an_announcement_is_not_recalled() -> None:
    """Words that were given are no reply of the agent's: they are not among what it is told anew."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client) as session:
        line(client, "user", "a latte", item={"id": "first"})
        await answered(client)
        await eventually(lambda: session.conversation.state == "idle")
        session.conversation.say("we close soon")
        assert (await client.wait_for("response.done", 2))["response"]["status"] == "completed"
        client.say("conversation.item.delete", item_id="first")
        line(client, "user", "a mocha")
        await answered(client, 3)
    assert engine.states[0].said == [REPLY, "we close soon"]
    assert past(engine).said == [REPLY, REPLY]


async def test_an_announcement_answers_nothing() -> None:
    """Said, broken off in writing or dropped before its first word: what was to be answered before still is."""
    engine = FakeEngine(reply_frames=2)
    options = events.CreateResponse(text_only=True, say="we close soon")
    async with Worker(engine) as worker:
        memory = Memory(await worker.open(), lambda event: None, Prompts("Welcome!", "And now?"))
        for unanswered in (False, True):
            memory.unanswered = unanswered
            await memory.prepare(options, first=False)
            assert state_of(engine).script == ["we", "close", "soon"]
            await memory.abandon(options)
            assert state_of(engine).script is None
            await memory.prepare(options, first=False)
            memory.cut_short(Reply(1, 0, 0, options, Pacer(0.08, None), events.Usage(), begun=True), 0)
            await memory.settle()
            assert state_of(engine).script is None
            assert memory.unanswered is unanswered


async def test_the_latest_reply_is_forgotten_at_once() -> None:
    """The engine takes it back like one that was not heard, and the question stands again."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        line(client, "user", "a latte")
        response = await answered(client)
        client.say("conversation.item.delete", item_id=response["output"][0]["id"])
        again = await answered(client, 2)
    assert len(engine.states) == 1
    assert state_of(engine).truncations == [0]
    assert again["output"][0]["content"][0]["transcript"] == REPLY


async def test_a_spoken_turn_is_remembered_by_its_words() -> None:
    """A past that is given anew has spoken turns as text, whether or not the client wanted to see it."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client, ReplyConfig(max_lead_ms=None, take_back_ms=0)):
        client.speak(spoken_turn())
        done = await client.wait_for("response.done")
        line(client, "assistant", "welcome", previous_item_id="root")
        line(client, "user", "thanks")
        await answered(client, 2)
        retrieved = next(body["item"] for body in client.sent if body["type"] == "conversation.item.added")
    assert retrieved["content"] == [{"type": "input_audio", "transcript": None}]
    assert done["response"]["status"] == "completed"
    spoken, typed = past(engine).read
    assert spoken.startswith("w1 ")
    assert spoken.endswith(" late")
    assert typed == "thanks"


async def test_the_past_is_not_changed_while_the_user_speaks() -> None:
    """What is heard of an open turn would be lost: the past waits until it was answered."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client, ReplyConfig(max_lead_ms=None, take_back_ms=0)):
        line(client, "user", "hello", item={"id": "first"})
        await answered(client)
        client.speak(np.concatenate([silence(0.4), speech(0.8)]))
        await client.wait_for("input_audio_buffer.speech_started")
        client.say("conversation.item.delete", item_id="first")
        client.speak(silence(0.8))
        await client.wait_for("response.done", 2)
        line(client, "user", "more")
        await answered(client, 3)
    spoken, typed = past(engine).read
    assert (spoken[:2], typed) == ("w1", "more")
    assert len(engine.states[0].heard) > 0.8 * 24_000 / FRAME
    assert len(engine.states) == 2
    assert past(engine).said == [REPLY, REPLY, REPLY]


# --- responses apart --------------------------------------------------------------------------------------------------


async def test_a_response_apart_leaves_no_trace() -> None:
    """It answers the conversation, has no conversation and no items in it, and the engine forgets it."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        line(client, "user", "a latte")
        response = await answered(client, conversation="none", metadata={"topic": "x"})
        assert response["conversation_id"] is None
        assert response["metadata"] == {"topic": "x"}
        assert response["output"][0]["content"][0]["transcript"] == REPLY
        client.say("conversation.item.retrieve", item_id=response["output"][0]["id"])
        assert (await client.wait_for("error"))["error"]["code"] == "item_retrieve_invalid_item_id"
        again = await answered(client, 2)
    assert client.types().count("conversation.item.added") == 2
    assert state_of(engine).truncations == [0]
    assert again["conversation_id"] is not None


async def test_a_response_apart_can_have_its_own_input() -> None:
    """Lines, references and audio go to a model that knows nothing else; the conversation's own goes on after it."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        line(client, "user", "a latte", item={"id": "first"})
        await answered(client)
        audio = base64.b64encode(float_to_pcm16(speech(0.2))).decode()
        context = [
            {"type": "item_reference", "id": "first"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hm"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": audio}]},
        ]
        response = await answered(client, 2, conversation="none", input=context)
        line(client, "user", "thanks")
        await answered(client, 3)
    home, aside = engine.states
    assert response["status"] == "completed"
    assert (aside.read, aside.said) == (["a latte"], ["hm", REPLY])
    assert len(aside.heard) == 3 + engine.tail_frames
    assert (home.read, home.said, home.heard) == (["a latte", "thanks"], [REPLY, REPLY], [])


async def test_an_interrupted_response_apart() -> None:
    """The user's words are heard by the conversation's own model."""
    engine, client, clock = FakeEngine(reply_frames=200), FakeClient(), FakeClock()
    async with serving(engine, client, ReplyConfig(max_lead_ms=800), clock=clock):
        client.say("response.create", response={"conversation": "none", "input": []})
        await client.wait_for("response.output_audio.delta", 5)
        client.speak(speech(0.6))
        done = await client.wait_for("response.done")
        engine.reply_frames = 2
        client.speak(silence(0.8))
        second = await client.wait_for("response.done", 2)
    home, aside = engine.states
    assert done["response"]["status_details"]["reason"] == "turn_detected"
    assert (aside.heard, home.said) == ([], [REPLY])
    assert second["response"]["conversation_id"] is not None
    assert "conversation.item.truncated" not in client.types()


@pytest.mark.parametrize(
    ("response", "code", "param"),
    [
        ({"input": []}, "unsupported_value", "response.input"),
        ({"conversation": "none", "input": [{"type": "item_reference", "id": "x"}]}, "item_not_found", None),
        ({"conversation": "none", "input": [{"type": "message", "role": "user"}]}, "invalid_value", None),
        ({"conversation": "none", "input": [{}] * 17}, "invalid_value", "response.input"),
        ({"metadata": {"k": "v" * 513}}, "invalid_type", "response.metadata"),
        ({"audio": {"output": {"format": {"type": "audio/opus"}}}}, "invalid_type", None),
    ],
)
async def test_responses_that_are_refused(response: Json, code: str, param: str | None) -> None:
    """The error names what and where."""
    client = FakeClient()
    async with serving(FakeEngine(), client):
        client.say("response.create", response=response, event_id="mine")
        error = (await client.wait_for("error"))["error"]
    assert (error["code"], error["event_id"]) == (code, "mine")
    assert param is None or error["param"] == param


# --- nothing to answer ------------------------------------------------------------------------------------------------


async def test_the_agent_opens_and_prompts() -> None:
    """Asked to speak when nobody has said anything, it says what it says then, first and later."""
    seen: list[events.Event] = []
    engine = FakeEngine(reply_frames=2)
    async with Worker(engine) as worker:
        memory = Memory(await worker.open(), seen.append, Prompts("Welcome!", "And now?"))
        options = events.CreateResponse()
        await memory.prepare(options, first=True)
        assert state_of(engine).script == ["Welcome!"]
        await memory.take_in(events.Line("user", "hello"))
        state_of(engine).script = None
        await memory.prepare(options, first=False)
        assert state_of(engine).script is None
        await memory.prepare(options, first=False)
    assert state_of(engine).script == ["And", "now?"]


async def test_a_line_that_is_too_long_is_left_out() -> None:
    """A past that holds one is remembered without it, rather than not at all."""
    seen: list[events.Event] = []
    engine = FakeEngine(reply_frames=2)
    async with Worker(engine) as worker:
        memory = Memory(await worker.open(), seen.append, None)
        await memory.take_in(events.Line("user", "né"))
        await memory.take_in(events.Line("assistant", "hi"))
    assert (state_of(engine).read, state_of(engine).said) == ([], ["hi"])
    assert seen == [events.Recalled("hi")]


async def test_a_reply_is_noted_as_it_was_understood() -> None:
    """Once, before anything else is heard; recalled replies, too. Unknown ones are noted by the model itself."""

    class Book:
        """An order that changes with every note."""

        def __init__(self) -> None:
            self._notes = iter(["latte", None, "latte, mocha"])

        def note(self) -> str | None:
            return next(self._notes)

        def openings(self, heard: str) -> dict[str, str]:
            return {"You said": heard}

        def take_back(self) -> None:
            taken_back.append(True)

    engine, taken_back = FakeEngine(reply_frames=2), list[bool]()
    async with Worker(engine) as worker:
        memory = Memory(await worker.open(), lambda _: None, None, Book())
        state = state_of(engine)
        reply = Reply(1, 0, 1, events.CreateResponse(), Pacer(0.08, 0.3), events.Usage())
        for expected in (["latte"], ["latte"]):
            memory.close(reply)
            await memory.settle()
            await memory.settle()
            assert state.notes == expected
        await memory.take_in(events.Line("assistant", "two drinks"))
        assert state.notes == ["latte", "latte, mocha"]
        memory.close(replace(reply, options=events.CreateResponse(apart=True)))
        await memory.settle()
        assert state.notes == ["latte", "latte, mocha"]
        for words, said in (("a mocha", " a mocha"), ("and milk", " and milk")):
            await memory.take_in(events.Line("user", words))
            await memory.prepare(events.CreateResponse(), first=False)
            assert state.openings == {"You said": said}
        memory.take_back()  # the answer came too early
        await memory.take_in(events.Line("user", "please"))
        context = (events.Line("user", "who are you"), events.Line("assistant", "a mocha"), events.Line("user", "oh"))
        aside = events.CreateResponse(context=context, apart=True)
        await memory.prepare(aside, first=False)
        await memory.abandon(aside)
        assert state.openings == {"You said": " and milk"}
        await memory.prepare(events.CreateResponse(), first=False)
        assert state.openings == {"You said": " and milk please"}
        await memory.prepare(events.CreateResponse(), first=False)  # nothing was said since
        memory.take_back()
        await memory.take_in(events.Line("user", "yes"))
        await memory.prepare(events.CreateResponse(), first=False)
        assert state.openings == {"You said": " yes"}
        reply.pacer.sent(0.0, 0.08)
        memory.close(reply)
        await memory.change(Recollect(tuple, latest_reply=True))
    assert taken_back == [True]
    assert [one.notes for one in engine.states] == [["latte", "latte, mocha"], []]


async def test_words_that_were_not_sure_are_known_before_the_answer() -> None:
    """They belong to the turn that was heard, and what has to be said follows from them, too."""

    class Book:
        """What it was told of."""

        def note(self) -> None:
            return None

        def openings(self, heard: str) -> dict[str, str]:
            return {"You said": heard}

        def take_back(self) -> None: ...

    engine, told = FakeEngine(), list[events.Event]()
    async with Worker(engine) as worker:
        memory = Memory(await worker.open(), told.append, None, Book())
        state = state_of(engine)
        await memory.hear(speech(0.08), 7)
        state.unsure = " please"
        await memory.hear_out(engine.tail_frames)
        await memory.hear_out()
        await memory.prepare(events.CreateResponse(), first=False)
        assert told == [events.UserText(7, " w1"), events.UserText(7, " please")]
        assert state.openings == {"You said": " w1 please"}
        state.unsure = " thanks"
        await memory.hear(speech(0.08), 7)
        await memory.hear(speech(0.08), 8)
    assert told[2:] == [events.UserText(7, " thanks"), events.UserTextDone(7)]


def test_the_order_follows_the_memory(shipped_models: Any) -> None:
    """Recalled replies count, without doing anything again; what is forgotten is not ordered; apart is apart."""
    actions = load_actions(shipped_models / "s2s")
    assert actions is not None
    seen: list[events.Event] = []
    emit = ActingEmitter(actions.replies, seen.append)

    def said(text: str, **options: Any) -> list[str]:
        emit(events.ReplyStarted(1, events.CreateResponse(**options)))
        emit(events.ReplyText(text))
        emit(events.ReplyDone("completed"))
        done = seen[-1]
        assert isinstance(done, events.ReplyDone)
        return [json.dumps(action.arguments) for action in done.actions]

    emit(events.Recalled("Okay, a large latte. Anything else?"))
    said("Okay, a small mocha. Anything else?", apart=True)
    (placed,) = said("Great, your order is coming right up.")
    assert json.loads(placed) == {"items": [{"size": "large", "coffeeDrink": "latte"}]}
    emit(events.Recalled(None))
    assert said("Great, your order is coming right up.") == []


async def test_silence_is_answered_after_the_idle_timeout() -> None:
    """Five seconds after the reply was played the agent speaks again, though nobody has; silence goes to no model."""
    engine, client, clock = FakeEngine(reply_frames=10), FakeClient(), FakeClock()
    async with serving(engine, client, clock=clock):
        update(client, turn_detection={"type": "server_vad", "idle_timeout_ms": 5000}, transcription={"model": "x"})
        client.speak(spoken_turn())
        done = await client.wait_for("response.done")
        heard = len(state_of(engine).heard)
        client.speak(silence(5.0))  # the reply of 0.8 s still plays
        client.say("conversation.item.retrieve", item_id="none")
        await client.wait_for("error")
        assert "input_audio_buffer.timeout_triggered" not in client.types()
        client.speak(silence(0.9))
        again = await client.wait_for("response.done", 2)
    told = await client.wait_for("input_audio_buffer.timeout_triggered")
    committed = await client.wait_for("input_audio_buffer.committed", 2)
    assert 5_000 <= told["audio_end_ms"] - told["audio_start_ms"] < 5_100
    assert committed["item_id"] == told["item_id"]
    assert committed["previous_item_id"] == done["response"]["output"][0]["id"]
    assert again["response"]["status"] == "completed"
    assert len(state_of(engine).heard) == heard
    assert Mode.LISTEN in state_of(engine).modes
    assert client.types().count("conversation.item.input_audio_transcription.completed") == 2


# --- audio ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 0.8), (0.5, 1.6)])
async def test_a_telephone_call(speed: float, seconds: float) -> None:
    """Mu-law in, A-law out, at the speed that is wanted; truncation is in the listener's time."""
    engine, client = FakeEngine(reply_frames=10), FakeClient()
    async with serving(engine, client):
        audio = {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None},
                 "output": {"format": {"type": "audio/pcma"}, "speed": speed}}  # fmt: skip
        client.say("session.update", session={"type": "realtime", "audio": audio})
        spoken = g711.encode(resample(speech(0.1), 24_000, 8_000), "mu")  # just enough to be committed
        client.say("input_audio_buffer.append", audio=base64.b64encode(spoken).decode())
        client.say("input_audio_buffer.commit")
        response = await answered(client)
        item_id = response["output"][0]["id"]
        deltas = [body["delta"] for body in client.sent if body["type"] == "response.output_audio.delta"]
        data = b"".join(base64.b64decode(delta) for delta in deltas)
        client.say("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=400)
        await client.wait_for("conversation.item.truncated")
        line(client, "user", "hello")
        await answered(client, 2)
    assert "error" not in client.types()
    assert response["audio"]["output"]["format"] == {"type": "audio/pcma"}
    assert len(data) == 8_000 * seconds
    assert 0.15 < np.std(g711.decode(data, "a")) < 0.25
    assert state_of(engine).truncations == [round(400 * speed * 24 / FRAME + 0.499)]
