"""How soon a prosody token that is put into a running reply changes its audio.

A really started daemon reads a long text typed by the user back in replies; over the WebSocket, at moments spread over
each reply, `repartee.prosody.inject` is sent. Two figures for each token, both to the first sample that the model made
knowing of it: audio, counted from the samples that the client had received when it sent the event (what lay between is
what the token came too late for), and wall time until the message that holds this sample arrived.
"""

import argparse
import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from agent.bench.figures import add_model_arguments, percentiles
from agent.bench.started import start_daemon
from agent.errors import InputError
from streaming.frames import SAMPLE_RATE_HZ

LIMIT_MS = 250.0
QUESTIONS = ("what do you have", "what milk do you have", "what can you do")  # with replies of some seconds
TOKENS = ("<pitch_low>", "<pitch_high>", "<pause_short>", "<emph>")
EVERY_MS = 700  # of received audio there is another token
_WITHIN_S = 60.0


@dataclass(slots=True)
class _Sent:
    """One token on its way; samples of the reply."""

    received: int
    at: float
    sample: int | None = None


@dataclass(slots=True)
class _Heard:
    """One reply as it comes."""

    received: int = 0
    next_at: int = 0
    waiting: dict[str, _Sent] = field(default_factory=dict)
    audio_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    lost: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds its flags."""
    add_model_arguments(parser)
    parser.add_argument("--replies", type=int, default=12, metavar="N", help="replies to put tokens into (default: 12)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures; returns the figures.

    Raises:
        InputError: the daemon did not start, or did not answer.
    """
    return asyncio.run(_measure(args))


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    heard: list[_Heard] = []
    async with start_daemon(args.codec, args.s2s) as daemon:
        url = f"ws://127.0.0.1:{daemon.port}/v1/realtime?prosody=true"
        for number in range(args.replies):
            async with asyncio.timeout(_WITHIN_S), connect(url, compression=None) as connection:
                heard.append(await _reply(connection, QUESTIONS[number % len(QUESTIONS)], number))
    audio = [value for one in heard for value in one.audio_ms]
    return {
        "replies": len(heard),
        "tokens": len(audio),
        "too_late": sum(one.lost for one in heard),
        "audio_ms": percentiles(audio),
        "wall_ms": percentiles([value for one in heard for value in one.wall_ms]),
        "within_limit": round(sum(value <= LIMIT_MS for value in audio) / max(1, len(audio)), 4),
    }


async def _reply(connection: ClientConnection, question: str, number: int) -> _Heard:
    """Ask, and put a token into the reply every now and then."""
    content = [{"type": "input_text", "text": question}]
    item = {"type": "message", "role": "user", "content": content}
    for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
        await connection.send(json.dumps(event))
    heard = _Heard(next_at=(number % 5) * EVERY_MS // 5 * SAMPLE_RATE_HZ // 1000)
    async for message in connection:
        event = json.loads(message)
        match event["type"]:
            case "response.output_audio.delta":
                heard.received += len(base64.b64decode(event["delta"])) // 2
                _arrived(heard)
                if heard.received > heard.next_at:
                    await _inject(connection, heard)
            case "repartee.prosody.entered" if event["injected"]:
                sent = heard.waiting[event["request_event_id"]]
                sent.sample = event["sample"]
                heard.audio_ms.append((sent.sample - sent.received) * 1000 / SAMPLE_RATE_HZ)
            case "error" if event["error"]["code"] in ("prosody_too_late", "prosody_not_injected"):
                heard.lost += 1
            case "error":
                raise InputError(f"the daemon says: {event['error']['message']}")
            case "response.done":
                return heard
    raise InputError("the daemon closed the connection")


async def _inject(connection: ClientConnection, heard: _Heard) -> None:
    name = f"token_{len(heard.waiting)}"
    heard.next_at = heard.received + EVERY_MS * SAMPLE_RATE_HZ // 1000
    heard.waiting[name] = _Sent(heard.received, time.monotonic())
    tokens = [TOKENS[len(heard.waiting) % len(TOKENS)]]
    await connection.send(json.dumps({"type": "repartee.prosody.inject", "event_id": name, "tokens": tokens}))


def _arrived(heard: _Heard) -> None:
    """See which tokens' first samples have come."""
    now = time.monotonic()
    for sent in heard.waiting.values():
        if sent.sample is not None and heard.received > sent.sample:
            heard.wall_ms.append((now - sent.at) * 1000)
            sent.sample = None


def to_lines(report: dict[str, Any]) -> list[str]:
    """The figures as a table."""
    rows = [f"{report['tokens']} prosody tokens into {report['replies']} replies, {report['too_late']} after their end"]
    rows.append(f"{'':34}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}")
    for key, title in (("audio_ms", "audio without the token, ms"), ("wall_ms", "until the audio with it came, ms")):
        figures = [report[key].get(name, float("nan")) for name in ("p50", "p95", "p99", "max")]
        rows.append(f"{title:34}" + "".join(f"{value:9.1f}" for value in figures))
    return [*rows, f"within {LIMIT_MS:.0f} ms of audio: {report['within_limit']:.1%}"]
