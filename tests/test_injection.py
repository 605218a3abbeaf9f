"""Prosody tokens from outside, through a session with a fake engine, and a real daemon with the shipped models."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from agent.reply import ReplyConfig
from models.runtime import Engine
from tests.fakes import FRAME, FakeClient, FakeEngine, eventually
from tests.live import running_daemon
from tests.test_session import serving

PACED = ReplyConfig(max_lead_ms=80)


def prosody_client() -> FakeClient:
    client = FakeClient()
    client.prosody = "true"
    return client


def inject(client: FakeClient, *tokens: str | int, event_id: str = "e1") -> None:
    client.say("repartee.prosody.inject", tokens=list(tokens), event_id=event_id)


def entered(client: FakeClient) -> list[dict[str, Any]]:
    return [message for message in client.sent if message["type"] == "repartee.prosody.entered"]


def ask(client: FakeClient, **response: Any) -> None:
    client.say("response.create", response=response)


async def test_tokens_enter_the_running_reply() -> None:
    """In order, one a frame, each told with the first sample that may be another, for the reply that took it."""
    engine, client = FakeEngine(reply_frames=40), prosody_client()
    async with serving(engine, client, PACED):
        ask(client)
        await client.wait_for("response.output_audio.delta", 2)
        inject(client, "<pitch_low>", 5_000_001)
        await client.wait_for("repartee.prosody.entered", 2)
        before = [message["type"] for message in client.sent[: client.types().index("repartee.prosody.entered")]]
        client.say("response.cancel")
        done = await client.wait_for("response.done")
    first, second = entered(client)
    assert (first["token"], first["token_id"], first["injected"]) == ("<pitch_low>", 5_000_004, True)
    assert (second["token"], second["token_id"], second["request_event_id"]) == ("<pause_short>", 5_000_001, "e1")
    assert first["sample"] == before.count("response.output_audio.delta") * FRAME
    assert second["sample"] == first["sample"] + FRAME
    assert first["response_id"] == done["response"]["id"]
    assert first["item_id"] == done["response"]["output"][0]["id"]


async def test_the_sample_is_on_the_clients_clock() -> None:
    """A client that hears faster speech counts fewer samples."""
    engine, client = FakeEngine(reply_frames=40), prosody_client()
    async with serving(engine, client, PACED):
        client.say("session.update", session={"type": "realtime", "audio": {"output": {"speed": 1.25}}})
        await client.wait_for("session.updated")
        ask(client)
        await client.wait_for("response.output_audio.delta", 4)
        inject(client, "<emph>")
        sample = (await client.wait_for("repartee.prosody.entered"))["sample"]
        client.say("response.cancel")
    assert sample % (FRAME / 1.25) == 0
    assert sample > 0


async def test_what_cannot_be_injected_is_refused() -> None:
    """Unknown tokens are named; without a reply, or with too many tokens waiting, there is a plain sentence."""
    engine, client = FakeEngine(reply_frames=1_000), prosody_client()
    async with serving(engine, client, PACED):
        inject(client, "<pitch_low>", event_id="early")
        error = (await client.wait_for("error"))["error"]
        assert (error["message"], error["event_id"]) == ("no reply is being spoken", "early")
        ask(client)
        await client.wait_for("response.output_audio.delta")
        unknown: list[list[str | int]] = [["<loud>"], [5_000_007], []]
        for number, tokens in enumerate(unknown, start=2):
            client.say("repartee.prosody.inject", tokens=tokens)
            error = (await client.wait_for("error", number))["error"]
            assert error["param"] == "tokens"
            assert all(str(token) in error["message"] for token in tokens)
        for _ in range(3):
            inject(client, *["<emph>"] * 8)
        error = (await client.wait_for("error", 5))["error"]
        assert "at most 16" in error["message"]
        client.say("response.cancel")
        await client.wait_for("response.done")


async def test_what_a_reply_did_not_take_is_told() -> None:
    """A reply that ends first, or is stopped, says which tokens were lost; none of them enters the next one."""
    engine, client = FakeEngine(reply_frames=40), prosody_client()
    async with serving(engine, client, PACED):
        ask(client)
        await client.wait_for("response.output_audio.delta")
        inject(client, *["<emph>"] * 7, "<pitch_low>")
        client.say("response.cancel")
        error = (await client.wait_for("error"))["error"]
        assert (error["code"], error["event_id"]) == ("prosody_too_late", "e1")
        assert error["message"].endswith("<pitch_low>")
        await client.wait_for("response.done")
        known = len(entered(client))
        ask(client)
        await client.wait_for("response.output_audio.delta", client.types().count("response.output_audio.delta") + 5)
        assert len(entered(client)) == known
        client.say("response.cancel")


async def test_a_client_that_has_not_asked_has_no_such_event() -> None:
    """The event is unknown to it, and it is not told of tokens that enter for other reasons."""
    engine, client = FakeEngine(reply_frames=5), FakeClient()
    async with serving(engine, client):
        inject(client, "<pitch_low>")
        error = (await client.wait_for("error"))["error"]
        assert (error["code"], "prosody=true" in error["message"]) == ("unknown_event", True)
        ask(client, instructions="<pitch_low> Speak calmly.")
        done = await client.wait_for("response.done")
    assert done["response"]["status"] == "completed"
    assert not entered(client)


async def test_instructions_begin_with_tokens() -> None:
    """Leading tags are for this reply alone and come before its first sample; markup for a reader is left alone."""
    engine, client = FakeEngine(reply_frames=6), prosody_client()
    async with serving(engine, client):
        for number, (instructions, tokens) in enumerate(
            [
                (" <pitch_low><pause_short> Answer <emph>now.", ["<pitch_low>", "<pause_short>"]),
                ("Answer <pitch_low>", []),
                ("<role>You are a barista.</role>", []),
                ("", []),
            ],
            start=1,
        ):
            before = len(entered(client))
            ask(client, instructions=instructions)
            await client.wait_for("response.done", number)
            new = entered(client)[before:]
            assert [message["token"] for message in new] == tokens
            assert all(message["sample"] == 0 for message in new)
            client.say("conversation.item.create", item={"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "go on"}]})  # fmt: skip
        ask(client, instructions="<loud> Answer.")
        error = (await client.wait_for("error"))["error"]
    assert (error["code"], error["param"]) == ("unknown_prosody_token", "response.instructions")
    assert "'<loud>'" in error["message"]


async def test_a_policy_adds_tokens() -> None:
    """After two replies in a row that were sorry the next begins low, with a pause."""
    engine, client = FakeEngine(reply_frames=5, words="Sorry, I can only help with coffee."), prosody_client()
    async with serving(engine, client, ReplyConfig(max_lead_ms=None, prosody_policy="patient")):
        for number in (1, 2, 3):
            before = len(entered(client))
            ask(client)
            await client.wait_for("response.done", number)
            tokens = [message["token"] for message in entered(client)[before:]]
            assert tokens == (["<pitch_low>", "<pause_short>"] if number == 3 else [])


# --- the shipped models, over a socket --------------------------------------------------------------------------------


async def _events(connection: ClientConnection, until: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        async for message in connection:
            events.append(json.loads(message))
            if events[-1]["type"] == until:
                return events
    raise AssertionError("closed")


async def _menu(connection: ClientConnection, tokens: list[str]) -> list[dict[str, Any]]:
    """The events of the reply to a typed question, with tokens injected after its first audio."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "what do you have"}]}
    for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
        await connection.send(json.dumps(event))
    events = await _events(connection, "response.output_audio.delta")
    if tokens:
        await connection.send(json.dumps({"type": "repartee.prosody.inject", "event_id": "x", "tokens": tokens}))
    return events + await _events(connection, "response.done")


def _pcm(events: list[dict[str, Any]]) -> np.ndarray:
    audio = [base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta"]
    return np.frombuffer(b"".join(audio), "<i2")


@pytest.mark.shipped
async def test_injection_over_a_real_socket(shipped_models: Path) -> None:
    """Within 250 ms of audio; from its sample on the reply is another, up to it the same to the bit; no tag is read."""
    engine = Engine.load(shipped_models / "codec", shipped_models / "s2s")
    replies = []
    async with running_daemon(engine) as daemon:
        for tokens in ([], ["<pause_long>"]):
            url = f"ws://127.0.0.1:{daemon.port}/v1/realtime?prosody=true"
            async with connect(url, compression=None) as connection:
                replies.append(await _menu(connection, tokens))
    plain, changed = map(_pcm, replies)
    (told,) = [e for e in replies[1] if e["type"] == "repartee.prosody.entered"]
    assert told["token_id"] == 5_000_002
    start = told["sample"]
    received_before = FRAME  # the client asked after the first delta
    assert 0 <= start - received_before <= 0.25 * 24_000 + 0.32 * 24_000  # what the lead had sent meanwhile
    np.testing.assert_array_equal(plain[:start], changed[:start])
    assert not np.array_equal(plain[start : start + 10 * FRAME], changed[start : start + 10 * FRAME])
    for events in replies:
        written = [e.get("transcript", "") + str(e.get("delta", "")) for e in events if "transcript" in e["type"]]
        assert written
        assert not any("<" in text for text in written)


@pytest.mark.shipped
async def test_marks_that_are_said_are_told_and_not_read(shipped_models: Path) -> None:
    """A text with marks: the transcript has none, and the client hears where each one is."""
    engine = Engine.load(shipped_models / "codec", shipped_models / "s2s")
    async with running_daemon(engine) as daemon:
        url = f"ws://127.0.0.1:{daemon.port}/v1/realtime?prosody=true"
        async with connect(url, compression=None) as connection:
            await _events(connection, "session.created")
            await eventually(lambda: bool(daemon.sessions))
            (session,) = daemon.sessions
            await eventually(lambda: session.conversation.state == "idle")
            session.conversation.say("okay a <emph>large latte for $4")
            events = await _events(connection, "response.done")
    (told,) = [e for e in events if e["type"] == "repartee.prosody.entered"]
    assert (told["token"], told["injected"], told["request_event_id"]) == ("<emph>", False, None)
    (transcript,) = [e["transcript"] for e in events if e["type"] == "response.output_audio_transcript.done"]
    assert transcript == "okay a large latte for four dollars"
