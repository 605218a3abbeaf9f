"""Whether the agent hears itself: minutes of conversation in a loop of speaker, room and microphone.

A recorded user says an order, listens to the reply, says the next and speaks over its reply, and so on. What the
speaker plays comes back through a measured room, late, with noise, mixed with the user.

    python -m agent.bench echo --speech ORDERS --rooms ROOMS --minutes 10               one room, on the sample clock
    python -m agent.bench echo --speech ORDERS --rooms ROOMS --room rir2 rir4 --delay_ms 30 150 --user_db -6 0 6
    python -m agent.bench echo --speech ORDERS --rooms ROOMS --minutes 10 --live        a real sound server, real time

- On the sample clock every combination of the settings is a conversation of its own, and the same each time.
- A turn, a hold or an interruption is the agent's own doing when the user was silent for a second before it.
- Caught: a turn of the user began while, or at most a second after, something was said over a reply. From its onset to
  the last sound of the speaker; live, with what the sound server's buffers add.
- ``--room none`` is a user with headphones: no echo, all else the same.
- AECMOS (0 to 5, echo and other degradation, far end alone) is there where the package speechmos is.
"""

import argparse
import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from agent.bench import echo_live
from agent.bench.echo_room import Room, User, read_response, read_speech
from agent.bench.echo_simulated import InlineWorker, Loop
from agent.bench.figures import add_model_arguments, percentiles
from agent.config import AgentConfig, load_config
from agent.errors import InputError
from agent.worker import Worker
from models.runtime import Engine
from streaming.frames import SAMPLE_RATE_HZ, FloatArray
from streaming.resample import resample

SETTINGS = ("room", "delay_ms", "user_db", "drift_ppm", "jump_ms")
HEADPHONES = "none"
_MOS_RATE_HZ = 16_000
_MOS_S = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this measurement."""
    add_model_arguments(parser)
    parser.add_argument("--speech", type=Path, metavar="DIR", required=True, help="recordings, with manifest.jsonl")
    parser.add_argument("--rooms", type=Path, metavar="DIR", required=True, help="room responses, NAME.wav")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="of each conversation (default: 10)")
    parser.add_argument("--room", nargs="+", default=["rir4"], metavar="NAME", help="(default: rir4; none: headphones)")
    parser.add_argument("--delay_ms", nargs="+", type=float, default=[60.0], metavar="MS", help="of the devices")
    parser.add_argument("--user_db", nargs="+", type=float, default=[3.0], metavar="DB", help="user over echo")
    parser.add_argument("--drift_ppm", nargs="+", type=float, default=[0.0], metavar="PPM", help="of the clocks")
    parser.add_argument("--jump_ms", nargs="+", type=float, default=[0.0], metavar="MS", help="of the delay, half way")
    parser.add_argument("--seed", type=int, default=0, help="of what is said and when")
    parser.add_argument("--live", action="store_true", help="through a real sound server, in real time")
    parser.add_argument(
        "set", nargs="*", metavar="KEY=VALUE", help="settings of the agent: audio.noise_suppression=true"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures.

    Raises:
        InputError: the recordings cannot be used, or there is no sound server.
        ConfigError: a setting is wrong.
        ModelError: the models cannot be loaded.
        StreamingError: a file cannot be read, or no echo can be cancelled.
    """
    config = load_config(None, args.set)
    speech = read_speech(args.speech)
    combinations = list(itertools.product(*(getattr(args, name) for name in SETTINGS)))
    if args.live and len(combinations) > 1:
        raise InputError("--live takes one value of each setting")
    if args.live and (args.drift_ppm[0] or args.jump_ms[0]):
        raise InputError("--live has the sound server's clocks: neither --drift_ppm nor --jump_ms")
    conversations = asyncio.run(_converse(args, config, speech, combinations))
    return {"live": args.live, "settings": args.set, "conversations": conversations, "all": total(conversations)}


async def _converse(
    args: argparse.Namespace, config: AgentConfig, speech: list[FloatArray], combinations: list[tuple[Any, ...]]
) -> list[dict[str, Any]]:
    engine = Engine.load(args.codec, args.s2s)
    done = []
    for setting in combinations:
        room_name, delay_ms, user_db, drift_ppm, jump_ms = setting
        none = room_name == HEADPHONES
        response = np.zeros(1, np.float32) if none else read_response(args.rooms / f"{room_name}.wav")
        room = Room(response, delay_ms, drift_ppm, args.seed)
        user = User(speech, user_db, args.seed)
        told = dict(zip(SETTINGS, setting, strict=True))
        if args.live:
            with echo_live.sound_server() as microphone:
                async with Worker(engine) as worker:
                    verdict, late_ms = await echo_live.converse(
                        worker, config, room, user, microphone, args.minutes * 60
                    )
            done.append({**told, **verdict.to_json(), "waits_ms": verdict.waits, "room_late_ms": round(late_ms)})
        else:
            loop = Loop(config, room, user, drift_ppm, jump_ms)
            async with InlineWorker(engine) as rehearsal:
                verdict = await loop.run(rehearsal, args.minutes * 60)
            done.append({**told, **verdict.to_json(), "waits_ms": verdict.waits, **aecmos(loop)})
    return done


def total(conversations: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all conversations together."""
    own = ("self_interruptions", "self_triggered_turns", "self_holds", "self_ducks")
    names = ("minutes", "asked", "replies", *own, "spoken_over", "caught")
    sums = {name: round(sum(one[name] for one in conversations), 2) for name in names}
    waits = [wait for one in conversations for wait in one["waits_ms"]]
    share = round(sums["caught"] / sums["spoken_over"], 3) if sums["spoken_over"] else None
    return {**sums, "caught_share": share, "onset_to_silence_ms": percentiles(waits)}


def aecmos(loop: Loop) -> dict[str, float]:
    """Microsoft's AECMOS of what the agent was given, over stretches in which nobody but it spoke (arXiv 2110.03010).

    Returns:
        Means of ``aecmos_echo`` and ``aecmos_other``; empty without the package or without such a stretch.
    """
    with contextlib.suppress(ImportError):
        from speechmos import aecmos as judge

        parts = [np.concatenate(blocks) for blocks in (loop.played, loop.heard, loop.cleaned)]
        ends = [0, *(one.end for one in loop.user.said)]
        begins = [*(one.begin for one in loop.user.said), len(parts[0])]
        alone = [np.arange(end, begin) for end, begin in zip(ends, begins, strict=True) if begin > end]
        kept = np.concatenate(alone)
        kept = kept[kept < min(map(len, parts))]
        far, mic, clean = (np.clip(resample(part[kept], SAMPLE_RATE_HZ, _MOS_RATE_HZ), -1, 1) for part in parts)
        length = _MOS_S * _MOS_RATE_HZ
        scores = [
            judge.run(
                {"lpb": far[i : i + length], "mic": mic[i : i + length], "enh": clean[i : i + length]},
                _MOS_RATE_HZ,
                "st",
            )
            for i in range(0, len(far) - length + 1, length)
        ]
        if scores:
            return {
                "aecmos_echo": round(float(np.mean([score["echo_mos"] for score in scores])), 2),
                "aecmos_other": round(float(np.mean([score["deg_mos"] for score in scores])), 2),
            }
    return {}


def to_lines(report: dict[str, Any]) -> list[str]:
    """The report as a table: one line a conversation, and one for all."""
    head = (
        f"{'room':26s}{'delay':>6s}{'user':>6s}{'drift':>6s}{'jump':>6s}{'min':>6s}{'replies':>8s}{'self: stop':>11s}"
        f"{'turn':>5s}{'hold':>5s}{'duck':>5s}{'caught':>9s}{'silent p50':>11s}{'p95':>6s}{'ERLE':>6s}{'AECMOS':>7s}"
    )
    rows = [_row(one) for one in report["conversations"]]
    return [head, *rows, _row({"room": "all", **report["all"]})] if len(rows) > 1 else [head, *rows]


def _row(one: dict[str, Any]) -> str:
    waits = one["onset_to_silence_ms"]
    taken_out, mos = one.get("echo_taken_out_db"), one.get("aecmos_echo")
    settings = "".join(f"{one[name]:6.0f}" if name in one else " " * 6 for name in SETTINGS[1:])
    caught = f"{one['caught']:.0f}/{one['spoken_over']:.0f}"
    return (
        f"{one['room']:26s}{settings}{one['minutes']:6.1f}{one['replies']:8.0f}{one['self_interruptions']:11.0f}"
        f"{one['self_triggered_turns']:5.0f}{one['self_holds']:5.0f}{one['self_ducks']:5.0f}{caught:>9s}"
        f"{waits.get('p50', 0.0):11.0f}{waits.get('p95', 0.0):6.0f}" + _cell(taken_out) + _cell(mos, 7)
    )


def _cell(value: float | None, width: int = 6) -> str:
    return f"{'-':>{width}s}" if value is None else f"{value:{width}.1f}"
