"""What is answered over HTTP beside the WebSocket: health, readiness, figures, short-lived secrets. Without I/O."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from websockets.datastructures import Headers

from streaming.admission import Gate, Refusal
from streaming.realtime_config import RequestError, SessionConfig, merge
from streaming.realtime_messages import error_body
from streaming.web_page import web_file

LIVE_PATHS = ("/v1/live/sessions", "/live/sessions")
SOCKET_PATHS = ("/v1/realtime", "/realtime", *LIVE_PATHS)
_SECRET_PATHS = ("/v1/realtime/client_secrets", "/realtime/client_secrets")
_PLACES = (
    "the WebSocket is at /v1/realtime; also served: /, /healthz, /readyz, /metrics, POST /v1/realtime/client_secrets"
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response; ``headers`` beside Content-Type."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """How the server is doing."""

    sessions: int
    capacity: int
    draining: bool


class _ExpiresAfter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(600, ge=10, le=7_200)


class _SecretRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    expires_after: _ExpiresAfter = _ExpiresAfter()
    session: Json = {}


class HttpApi:
    """Answers requests.

    Args:
        gate: who may come in.
        load: the server's present load.
        health: more for the body of /healthz.
        metrics: the content type and the body of /metrics; None where there are none.
    """

    def __init__(
        self,
        gate: Gate,
        load: Callable[[], Load],
        health: Callable[[], Json],
        metrics: Callable[[], tuple[str, bytes]] | None,
    ) -> None:
        self._gate = gate
        self._load = load
        self._health = health
        self._metrics = metrics

    def answer(self, method: str, path: str, headers: Headers, body: bytes | None) -> Answer | Refusal | None:
        """Answer one request.

        Args:
            method: such as "GET".
            path: without query and trailing slash.
            headers: of the request.
            body: None when it was too large, or of unknown length.

        Returns:
            The answer, why there is none, or None when the connection may become a WebSocket.
        """
        if path in _SECRET_PATHS:
            return self._new_secret(headers, body) if method == "POST" else _not_allowed("POST")
        page = web_file(path)
        if page is None and path not in (*SOCKET_PATHS, "/healthz", "/readyz", "/metrics"):
            return _text(HTTPStatus.NOT_FOUND, _PLACES)
        if method not in ("GET", "HEAD"):
            return _not_allowed("GET")
        if page is not None:
            return Answer(HTTPStatus.OK, page.content_type, page.body, page.headers)
        if path in SOCKET_PATHS:
            return self._gate.refuses(headers)
        if path == "/metrics":
            return self._gate.refuses(headers, secrets_too=False) or self._figures()
        return self._readiness() if path == "/readyz" else self._liveness()

    def _liveness(self) -> Answer:
        load = self._load()
        status = "draining" if load.draining else "full" if load.sessions >= load.capacity else "ok"
        body = {"status": status, "sessions": load.sessions, "capacity": load.capacity, **self._health()}
        return _json(HTTPStatus.OK, body)

    def _readiness(self) -> Answer:
        if self._load().draining:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "draining"})
        return _json(HTTPStatus.OK, {"status": "ready"})

    def _figures(self) -> Answer:
        if self._metrics is None:
            return _text(HTTPStatus.NOT_FOUND, _PLACES)
        content_type, body = self._metrics()
        return Answer(HTTPStatus.OK, content_type, body)

    def _new_secret(self, headers: Headers, body: bytes | None) -> Answer | Refusal:
        refusal = self._gate.refuses(headers, secrets_too=False)
        if refusal is not None:
            return refusal
        if body is None:
            return _fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", "the body is too large or chunked")
        try:
            asked = _SecretRequest.model_validate_json(body or b"{}")
            start = SessionConfig(model=str(asked.session.get("model", "local")))
            session = merge(start, asked.session, spoken=False)
        except ValidationError as exc:
            fault = exc.errors()[0]
            param = ".".join(map(str, fault["loc"])) or None
            message = f"{param or 'the body'}: {fault['msg']}"
            return _fault(HTTPStatus.BAD_REQUEST, "invalid_request", message, param)
        except RequestError as exc:
            return _fault(HTTPStatus.BAD_REQUEST, exc.code, exc.message, exc.param)
        made = self._gate.new_secret(asked.expires_after.seconds, asked.session)
        if made is None:
            return _fault(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded", "too many secrets have not expired yet")
        secret, grant = made
        told = {"value": secret, "expires_at": grant.expires_at, "session": session.as_json("", grant.expires_at)}
        return _json(HTTPStatus.OK, told)


def refused(refusal: Refusal) -> Answer:
    """The answer to somebody who may not come in."""
    answer = _fault(refusal.status, refusal.code, refusal.message)
    if refusal.status is HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="repartee"'
    return answer


def _fault(status: HTTPStatus, code: str, message: str, param: str | None = None) -> Answer:
    body = error_body("invalid_request_error", code, message, param)
    del body["event_id"]
    return _json(status, {"error": body})


def _not_allowed(method: str) -> Answer:
    return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", f"use {method}\n".encode(), {"Allow": method})


def _json(status: HTTPStatus, body: Json) -> Answer:
    # what it says is of the moment, or a secret
    return Answer(status, "application/json", f"{json.dumps(body)}\n".encode(), {"Cache-Control": "no-store"})


def _text(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())
