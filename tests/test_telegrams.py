"""Commands that arrive over MQTT."""

import json

import pytest

from agent.errors import CommandError
from agent.telegrams import Interrupt, Mute, Say, SetOptions, Shutdown, id_of, parse_command


def parse(name: str, body: object) -> object:
    return parse_command(name, json.dumps(body).encode(), retained=False)


def test_commands_are_read() -> None:
    """Each command with its fields, and with its defaults."""
    assert parse("say", {"text": "hello", "to": "local", "id": "1"}) == Say(id="1", text="hello", to="local")
    assert parse("say", {"text": "hello"}) == Say(text="hello", to="all")
    assert parse("interrupt", {}) == Interrupt(to="all")
    assert parse("mute", {"on": False}) == Mute(on=False)
    assert parse("set", {"volume": 1}) == SetOptions(volume=1.0)
    assert parse("shutdown", {"id": "x"}) == Shutdown(id="x")


@pytest.mark.parametrize("payload", [b"", b"  \n"])
def test_nothing_is_an_empty_object(payload: bytes) -> None:
    """A command without fields needs no payload."""
    assert parse_command("mute", payload, retained=False) == Mute(on=True)


@pytest.mark.parametrize(
    ("name", "payload", "code", "param", "says"),
    [
        ("sing", b"{}", "unknown_command", None, "known: say, interrupt, prosody, mute, set, shutdown"),
        ("say", b"hello", "invalid_json", None, "not valid JSON"),
        ("say", b"\xff\xfe", "invalid_json", None, "not valid JSON"),
        ("say", b"[" * 15_000, "invalid_json", None, "not valid JSON"),
        ("say", b'["hello"]', "invalid_type", None, "must be a JSON object, not list"),
        ("say", b" " * 20_000, "payload_too_large", None, "20000 bytes; at most 16384"),
        ("say", b"{}", "missing_field", "text", "say.text: Field required"),
        ("say", b"", "missing_field", "text", "say.text"),
        ("say", b'{"text": 5}', "invalid_value", "text", "should be a valid string"),
        ("say", b'{"text": ""}', "invalid_value", "text", "at least 1 character"),
        ("say", b'{"text": "%s"}' % (b"a" * 301), "invalid_value", "text", "at most 300 characters"),
        ("say", b'{"text": "a", "loud": true}', "unknown_field", "loud", "known: id, text, to"),
        ("interrupt", b'{"to": null}', "invalid_value", "to", "interrupt.to"),
        ("mute", b'{"on": "yes"}', "invalid_value", "on", "should be a valid boolean"),
        ("mute", b'{"id": 7}', "invalid_value", "id", "mute.id"),
        ("set", b"{}", "invalid_value", None, "at least one of eagerness, volume"),
        ("set", b'{"volume": 1.5}', "invalid_value", "volume", "less than or equal to 1"),
        ("set", b'{"volume": NaN}', "invalid_value", "volume", "finite"),
        ("set", b'{"volume": 1e999}', "invalid_value", "volume", "finite"),
        ("set", b'{"eagerness": "very"}', "invalid_value", "eagerness", "'low', 'medium', 'high' or 'auto'"),
    ],
)
def test_a_wrong_command_is_named(name: str, payload: bytes, code: str, param: str | None, says: str) -> None:
    """What is wrong, and where."""
    with pytest.raises(CommandError) as caught:
        parse_command(name, payload, retained=False)
    assert caught.value.code == code
    assert caught.value.param == param
    assert says in str(caught.value)


def test_retained_commands_are_refused() -> None:
    """The broker would send them again at every reconnect."""
    with pytest.raises(CommandError, match="again and again") as caught:
        parse_command("interrupt", b"{}", retained=True)
    assert caught.value.code == "retained_command"


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"id": "7", "nonsense": 1}', "7"),
        (b'{"id": 7}', None),
        (b'{"id": "%s"}' % (b"a" * 65), None),
        (b"{", None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_the_id_of_any_payload(payload: bytes, expected: str | None) -> None:
    """Also a wrong command's reply repeats its id, if it has one."""
    assert id_of(payload) == expected
