"""Who may come in: tokens, short-lived secrets, origins."""

from http import HTTPStatus

import pytest
from websockets.datastructures import Headers

from streaming.admission import MAX_SECRETS, Gate, credential_of, is_loopback, weak_token
from tests.fakes import FakeClock

TOKEN = "correct-horse-battery-staple"


def bearer(credential: str) -> Headers:
    return Headers({"Host": "127.0.0.1:8765", "Authorization": f"Bearer {credential}"})


def page(origin: str, host: str = "127.0.0.1:8765") -> Headers:
    return Headers({"Host": host, "Origin": origin})


def test_without_a_token_programs_come_in() -> None:
    """On the loopback nothing is asked for, and a key that is brought all the same does no harm."""
    assert Gate(None).refuses(Headers({"Host": "127.0.0.1:8765"})) is None
    assert Gate(None).refuses(bearer("whatever")) is None


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (Headers(), "missing_api_key"),
        (Headers({"Authorization": f"Basic {TOKEN}"}), "missing_api_key"),
        (Headers({"Authorization": "Bearer "}), "missing_api_key"),
        (bearer(TOKEN[:-1]), "invalid_api_key"),
        (bearer(TOKEN + "x"), "invalid_api_key"),
        (bearer("ek_made_up"), "invalid_api_key"),
        (Headers({"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.no"}), "invalid_api_key"),
        (bearer("\udcff"), "invalid_api_key"),
    ],
)
def test_a_wrong_token_is_refused(headers: Headers, code: str) -> None:
    """Without the token it is 401, and the answer does not repeat what was brought."""
    refusal = Gate(TOKEN).refuses(headers)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (HTTPStatus.UNAUTHORIZED, code)
    assert TOKEN not in refusal.message


@pytest.mark.parametrize(
    "headers",
    [
        bearer(TOKEN),
        Headers({"authorization": f"bearer   {TOKEN}"}),
        Headers({"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{TOKEN}"}),
    ],
)
def test_the_token_opens(headers: Headers) -> None:
    """As a header, or as a browser's subprotocol."""
    assert Gate(TOKEN).refuses(headers) is None


def test_a_secret_opens_until_it_expires() -> None:
    """It carries the session it was made with; it makes no further secrets and reads no figures."""
    clock = FakeClock()
    gate = Gate(TOKEN, clock=clock, timer=clock)
    made = gate.new_secret(60, {"instructions": "x"})
    assert made is not None
    secret, grant = made
    assert secret.startswith("ek_")
    assert grant.expires_at == 160
    assert gate.refuses(bearer(secret)) is None
    assert gate.refuses(bearer(secret), secrets_too=False) is not None
    found = gate.grant(bearer(secret))
    assert found is not None
    assert found.session == {"instructions": "x"}
    clock.now += 60
    refusal = gate.refuses(bearer(secret))
    assert refusal is not None
    assert "expired" in refusal.message


def test_a_secret_does_not_follow_the_wall_clock() -> None:
    """Set forward an hour, or back, the machine's clock neither ends a secret early nor keeps it."""
    wall, timer = FakeClock(), FakeClock()
    gate = Gate(TOKEN, clock=wall, timer=timer)
    made = gate.new_secret(60, {})
    assert made is not None
    wall.now += 3_600.0
    timer.now += 59.0
    assert gate.refuses(bearer(made[0])) is None
    wall.now -= 7_200.0
    timer.now += 1.0
    assert gate.refuses(bearer(made[0])) is not None


def test_secrets_are_bounded() -> None:
    """There are only so many at a time; expired ones make room."""
    clock = FakeClock()
    gate = Gate(TOKEN, clock=clock, timer=clock)
    made = [gate.new_secret(60, {}) for _ in range(MAX_SECRETS + 1)]
    assert made[-1] is None
    assert len({one[0] for one in made if one is not None}) == MAX_SECRETS
    clock.now += 61
    assert gate.new_secret(60, {}) is not None


@pytest.mark.parametrize(
    ("headers", "token", "welcome"),
    [
        (page("http://127.0.0.1:8765"), None, True),
        (page("http://localhost:8765", "localhost:8765"), None, True),
        (page("http://[::1]:8765", "[::1]:8765"), None, True),
        (page("http://localhost:9999", "localhost:8765"), None, False),
        (page("http://127.0.0.1:8765", "localhost:8765"), None, False),
        (page("http://evil.example"), None, False),
        (page("http://evil.example:8765", "evil.example:8765"), None, False),  # a name that leads to 127.0.0.1
        (page("https://agent.example", "agent.example"), TOKEN, True),
        (page("https://agent.example:443", "agent.example"), TOKEN, True),
        (page("null"), None, False),
        (page("http://[::1", "[::1"), None, False),
        (page("file://"), None, False),
        (page("https://Shop.example/"), None, True),
        (page("http://shop.example"), None, False),
        (page("https://shop.example.evil.example"), None, False),
    ],
)
def test_origins(headers: Headers, token: str | None, welcome: bool) -> None:
    """The daemon's own pages and those listed may connect; no name of somebody else's becomes its own."""
    headers["Authorization"] = f"Bearer {TOKEN}"
    refusal = Gate(token, ["https://shop.example"]).refuses(headers)
    assert (refusal is None) is welcome
    if refusal is not None:
        assert (refusal.status, refusal.code) == (HTTPStatus.FORBIDDEN, "origin_not_allowed")


def test_every_origin_may_be_listed() -> None:
    """A star lets all pages connect, with the token."""
    assert Gate(None, ["*"]).refuses(page("http://anywhere.example")) is None
    assert Gate(TOKEN, ["*"]).refuses(page("http://anywhere.example")) is not None


def test_a_page_needs_the_token_too() -> None:
    """The right origin alone is not enough."""
    assert Gate(TOKEN).refuses(page("https://agent.example", "agent.example")) is not None


def test_two_hosts_are_nobodys_own() -> None:
    """A request with two Host headers has no address of its own."""
    headers = page("http://127.0.0.1:8765")
    headers["Host"] = "evil.example"
    assert Gate(None).refuses(headers) is not None


def test_credentials() -> None:
    """The header comes before the subprotocol; without either there is none."""
    assert credential_of(Headers()) is None
    both = bearer("a")
    both["Sec-WebSocket-Protocol"] = "openai-insecure-api-key.b"
    assert credential_of(both) == "a"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.5", False),
        ("localhost.evil.example", False),
    ],
)
def test_loopback(host: str, local: bool) -> None:
    """Only addresses that nobody else can reach count as this machine."""
    assert is_loopback(host) is local


@pytest.mark.parametrize("token", ["", "short", "with a space in it, though long", "ümlaut-and-much-longer", "a,b" * 9])
def test_weak_tokens(token: str) -> None:
    """What can be guessed, or does not fit a header, is no token; the sentence does not repeat it."""
    fault = weak_token(token)
    assert fault is not None
    assert not token or token not in fault
    assert weak_token(TOKEN) is None
