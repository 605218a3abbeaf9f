"""Requests other than GET, handed on as GET."""

import pytest

from streaming.http_request import MAX_BODY, MAX_HEAD, RequestReader

GET = b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Type: a/b\r\n\r\nhello"


@pytest.mark.parametrize(
    ("request_bytes", "method", "body"),
    [
        (GET, "GET", b""),
        (POST, "POST", b"hello"),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\n\r\n", "POST", b""),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS", b""),
        (POST.replace(b": 5", b": 70000"), "POST", None),
        (POST.replace(b": 5", b": many"), "POST", None),
        (POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "POST", None),
    ],
)
def test_requests(request_bytes: bytes, method: str, body: bytes | None) -> None:
    """The method and the body are kept; a GET goes through as it is."""
    reader = RequestReader()
    passed = reader.feed(request_bytes)
    assert reader.done
    assert (reader.method, reader.body) == (method, body)
    if method == "GET":
        assert passed == request_bytes
    else:
        line, *headers = passed.split(b"\r\n")
        assert line == b"GET " + request_bytes.split(b"\r\n")[0].split(b" ", 1)[1]
        assert headers[0] == b"Host: x"
        assert passed.endswith(b"\r\n\r\n")
        assert b"length" not in passed.lower()
        assert b"encoding" not in passed.lower()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("request_bytes", [GET, POST])
def test_any_cutting_gives_the_same(request_bytes: bytes, size: int) -> None:
    """However the bytes arrive, what comes out is what comes out of one piece."""
    whole, cut = RequestReader(), RequestReader()
    expected = whole.feed(request_bytes)
    passed, at = b"", 0
    while not cut.done:
        passed += cut.feed(request_bytes[at : at + size])
        at += size
    assert passed + request_bytes[at:] * (cut.method == "GET") == expected
    assert (cut.method, cut.body) == (whole.method, whole.body)


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello there, stranger\r\n\r\n", b"X" * (MAX_HEAD + 1)]
)
def test_what_is_no_http_goes_on(noise: bytes) -> None:
    """Anything else is for the server to refuse; nothing is hoarded."""
    reader = RequestReader()
    assert reader.feed(noise) == noise
    assert reader.done


def test_an_endless_head_is_given_up() -> None:
    """A request whose headers never end is passed on when it gets too long."""
    reader = RequestReader()
    fed = 0
    reader.feed(b"POST / HTTP/1.1\r\n")
    while not reader.done:
        reader.feed(b"X-Header: y\r\n" * 100)
        fed += 1_300
    assert fed <= MAX_HEAD + MAX_BODY
    assert reader.method == "GET"
