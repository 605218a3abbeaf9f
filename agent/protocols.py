"""Which protocol a client speaks, and what its session begins with."""

from typing import Any

from agent.actions import Actions
from agent.worker import Worker
from models.runtime_text import read_tokens
from streaming.connection import Client
from streaming.live import LiveProtocol
from streaming.realtime import RealtimeProtocol
from streaming.realtime_config import SessionConfig, merge


def protocol_for(
    client: Client, worker: Worker, actions: Actions | None, expires_at: int, *, holds: bool
) -> RealtimeProtocol | LiveProtocol:
    """The protocol of a client that has connected.

    Args:
        client: the connection.
        worker: knows which texts the model can take.
        actions: what replies do; None when they only speak.
        expires_at: seconds since the epoch.
        holds: whether the client stops playing while a reply is held.
    """
    if client.live:
        return LiveProtocol(expires_at, check_text=worker.check_text)
    config = initial_config(client.query("model"), actions.tools if actions else [], client.preset)
    prosody = client.query("prosody") == "true"
    return RealtimeProtocol(
        config, expires_at, check_text=worker.check_text, holds=holds, prosody=prosody, read_tokens=read_tokens
    )


def initial_config(
    model: str | None, tools: list[dict[str, Any]], preset: dict[str, Any] | None = None
) -> SessionConfig:
    """The configuration a session starts with: the domain's tools, what the client's secret was made with, defaults."""
    config = SessionConfig(model=model or "local", tools=tools)
    return merge(config, {**preset, "model": config.model}, spoken=False) if preset else config
