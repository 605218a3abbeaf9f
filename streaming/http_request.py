"""HTTP requests other than GET, for a WebSocket server that reads only GET. Pure: bytes in, bytes out.

The request's line and headers are handed on as those of a GET, so that the server answers it like any other; what the
method was and the body are kept aside.
"""

import re

MAX_HEAD, MAX_BODY = 1 << 15, 1 << 16
_METHOD = re.compile(rb"([A-Z]{3,10}) ")
_DROPPED = (b"content-length", b"transfer-encoding", b"expect")


class RequestReader:
    """Reads the first request of one connection.

    Feed it what arrives until :attr:`done`; what comes after that is none of its business.
    """

    def __init__(self) -> None:
        self.method = "GET"
        self.body: bytes | None = b""
        """None when it is too large, or of a length that was not told."""
        self.done = False
        self._data = bytearray()  # bound: MAX_HEAD + MAX_BODY, then it is given up

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns those for the server, once there are any."""
        self._data += data
        if not b"GET ".startswith(bytes(self._data[:4])):
            return self._read_other()
        if len(self._data) < 4:
            return b""
        return self._finish(bytes(self._data))

    def _read_other(self) -> bytes:
        head, end, rest = bytes(self._data).partition(b"\r\n\r\n")
        method = _METHOD.match(head)
        if (method is None and len(head) > 10) or len(head) > MAX_HEAD:
            return self._finish(bytes(self._data))  # no HTTP, or too much of it: the server says no
        if method is None or not end:
            return b""
        lines = head[method.end() :].split(b"\r\n")
        named = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        length = named.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY or b"transfer-encoding" in named:
            self.body = None
        elif len(rest) < int(length):
            return b""
        else:
            self.body = rest[: int(length)]
        self.method = method[1].decode("ascii")
        kept = [line for line in lines[1:] if line.partition(b":")[0].strip().lower() not in _DROPPED]
        return self._finish(b"GET " + b"\r\n".join([lines[0], *kept]) + b"\r\n\r\n")

    def _finish(self, data: bytes) -> bytes:
        self.done = True
        self._data.clear()
        return data
