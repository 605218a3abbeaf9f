"""Who may come in: tokens, short-lived secrets, the web pages that may connect. Pure: headers in, verdicts out.

* On the loopback no token is needed; a daemon that others can reach has one, and every client must bring it.
* A program brings it as ``Authorization: Bearer``; a browser, which cannot, as the WebSocket subprotocol
  ``openai-insecure-api-key.TOKEN``. Better for a browser is a secret (``ek_…``) that a server of yours asks for.
* A page may connect from the daemon's own address and from the origins that are listed. Where there is no token, its
  own address must be this machine's: else any page in the world could have a name that leads here (DNS rebinding).
"""

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from websockets.datastructures import Headers

MIN_TOKEN = 16
SECRET_PREFIX = "ek_"
MAX_SECRETS = 1_024
_KEY_PROTOCOL = "openai-insecure-api-key."
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody may not come in; ``reason`` is for the figures."""

    status: HTTPStatus
    reason: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a secret is good for: ``session`` is applied to each session opened with it."""

    expires_at: int  # seconds since the epoch, as the client is told
    session: dict[str, Any]
    until: float  # on the gate's timer


class Gate:
    """Checks requests before they become connections.

    Args:
        token: what clients must bring; None lets everybody in.
        origins: web pages that may connect beside the daemon's own, such as ``https://shop.example``; "*" for all.
        clock: seconds since the epoch, to tell clients when a secret expires.
        timer: seconds, monotonic, by which it does: wall clocks jump.
    """

    def __init__(
        self,
        token: str | None,
        origins: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = None if token is None else _digest(token)
        self._origins = {_origin(origin) for origin in origins}
        self._clock, self._timer = clock, timer
        self._grants: dict[bytes, Grant] = {}  # digest of the secret -> what it allows; bound: MAX_SECRETS

    def refuses(self, headers: Headers, *, secrets_too: bool = True) -> Refusal | None:
        """Why this request may not go on, None when it may.

        Args:
            headers: of the request.
            secrets_too: whether a short-lived secret is enough.
        """
        origin = headers.get_all("Origin")
        if origin and not self._may_connect(origin[0], headers.get_all("Host")):
            message = f"pages of {origin[0][:100]} may not connect; list the origin in server.origins"
            return Refusal(HTTPStatus.FORBIDDEN, "origin", "origin_not_allowed", message)
        if self._token is None:
            return None
        credential = credential_of(headers)
        if credential is None:
            message = "a token is needed: send it as 'Authorization: Bearer TOKEN'"
            return Refusal(HTTPStatus.UNAUTHORIZED, "token", "missing_api_key", message)
        if hmac.compare_digest(_digest(credential), self._token) or (secrets_too and self.grant(headers) is not None):
            return None
        return Refusal(HTTPStatus.UNAUTHORIZED, "token", "invalid_api_key", "the token is wrong, or it has expired")

    def grant(self, headers: Headers) -> Grant | None:
        """What the secret in these headers is good for; None without one, and when it has expired."""
        credential = credential_of(headers)
        self._forget_expired()
        return None if credential is None else self._grants.get(_digest(credential))

    def new_secret(self, seconds: int, session: dict[str, Any]) -> tuple[str, Grant] | None:
        """Make a secret that lets its bearer open sessions for ``seconds``; None while there are too many."""
        self._forget_expired()
        if len(self._grants) >= MAX_SECRETS:
            return None
        secret = SECRET_PREFIX + secrets.token_urlsafe(24)
        grant = Grant(int(self._clock()) + seconds, session, self._timer() + seconds)
        self._grants[_digest(secret)] = grant
        return secret, grant

    def _forget_expired(self) -> None:
        now = self._timer()
        for digest in [digest for digest, grant in self._grants.items() if grant.until <= now]:
            del self._grants[digest]

    def _may_connect(self, origin: str, hosts: Sequence[str]) -> bool:
        page = _origin(origin)
        if "*" in self._origins or page in self._origins:
            return True
        scheme, _, address = page.partition("://")
        if scheme not in _PORTS or len(hosts) != 1:
            return False
        if page != _origin(f"{scheme}://{hosts[0]}"):
            return False
        try:
            return self._token is not None or is_loopback(urlsplit(f"//{address}").hostname or "")
        except ValueError:  # no address at all
            return False


def credential_of(headers: Headers) -> str | None:
    """The token or secret that a request brings, None when it brings none."""
    for value in headers.get_all("Authorization"):
        scheme, _, credential = value.strip().partition(" ")
        if scheme.lower() == "bearer" and credential.strip():
            return credential.strip()
    offered = [name.strip() for value in headers.get_all("Sec-WebSocket-Protocol") for name in value.split(",")]
    keys = [name.removeprefix(_KEY_PROTOCOL) for name in offered if name.startswith(_KEY_PROTOCOL)]
    return keys[0] if keys else None


def is_loopback(host: str) -> bool:
    """Whether this name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def weak_token(token: str) -> str | None:
    """What is wrong with a token, None when it is good; the sentence does not repeat it."""
    if len(token) < MIN_TOKEN:
        return f"the token must have at least {MIN_TOKEN} characters"
    if not all(char.isascii() and (char.isalnum() or char in "-._~") for char in token):
        return "the token may hold letters, digits and -._~ only: it has to fit into a WebSocket header"
    return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _origin(text: str) -> str:
    """An origin in its one form: lower case, without the scheme's own port."""
    scheme, sign, address = text.strip().rstrip("/").lower().partition("://")
    return f"{scheme}{sign}{address.removesuffix(f':{_PORTS.get(scheme)}')}"
