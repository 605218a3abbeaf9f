"""Start the voice agent: `python run_agent.py --help`."""

import argparse
import asyncio
import functools
import gc
import itertools
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.config import AgentConfig

STARTED_AT = time.monotonic()
HERE = Path(__file__).resolve().parent
DEFAULT_CONFIG = HERE / "configs" / "agent.yaml"
TEXT_OUTPUT = Path("output") / "response.wav"
BAD_INPUT = 2
UNHEALTHY = 1


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with code 2 on a wrong one."""
    parser = argparse.ArgumentParser(
        prog="run_agent.py",
        description="A real-time voice agent: talk to it through the microphone, or point any OpenAI Realtime client "
        "at ws://HOST:PORT/v1/realtime.",
    )
    parser.add_argument("--codec", type=Path, metavar="PATH", help="codec artefacts (default: the shipped ones)")
    parser.add_argument("--s2s", type=Path, metavar="PATH", help="speech model artefacts (default: the shipped ones)")
    parser.add_argument("--lora", type=Path, metavar="DIR", help="a voice of training.train_lora for the speech model")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: configs/agent.yaml)")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for any free one (default: 8765)")
    parser.add_argument("--token", help="what clients must bring; better in the environment, as REPARTEE_TOKEN")
    parser.add_argument("--tls", choices=["self-signed"], help="serve wss:// with a certificate of the daemon's own")
    parser.add_argument("--no-audio", action="store_true", help="do not use the microphone and the speaker")
    parser.add_argument("--input", type=Path, metavar="F", help="answer this recording and exit; needs --output")
    parser.add_argument("--say", metavar="TEXT", help="say this text and exit; needs --output")
    parser.add_argument("-i", "--question", metavar="TEXT", help="answer this question from talking points and exit")
    parser.add_argument(
        "-p", "--points", nargs="+", default=[], metavar="TEXT", help="talking points; they may hold prosody tokens"
    )
    parser.add_argument("--interactive", action="store_true", help="answer questions from standard input, one a line")
    parser.add_argument("--writer", metavar="MODEL", help="who words the answers: a model's directory, or URL[#model]")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="F",
        help="where the answer goes, a WAV file (of -i: output/response.wav)",
    )
    parser.add_argument("--doctor", action="store_true", help="say whether the agent can run here, and exit")
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="of the log (default: text)")
    parser.add_argument("--log-transcripts", action="store_true", help="log what is said, too")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="single settings, such as vad.silence_duration_ms=400"
    )
    args = parser.parse_intermixed_args(argv)
    if fault := _wrong_together(args):
        parser.error(fault)
    return args


def _wrong_together(args: argparse.Namespace) -> str | None:
    """What is wrong with flags that are right each by itself."""
    text_in = args.question is not None or args.interactive
    if (args.input is not None) + (args.say is not None) + text_in > 1:
        return "--input, --say and -i or --interactive exclude each other"
    if (args.points or args.writer) and not text_in:
        return "-p and --writer belong to -i or --interactive"
    wanted = args.input is not None or args.say is not None
    if wanted and args.output is None:
        return "--input and --say need --output"
    if args.output is not None and not (wanted or text_in):
        return "--output belongs to --input, --say, -i or --interactive"
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the agent; returns the exit code, 2 for bad input, 1 when ``--doctor`` finds that it cannot run."""
    args = parse_args(argv)
    from agent.logs import set_up

    set_up(args.log_format)
    if args.log_transcripts:
        logging.getLogger("agent.transcripts").setLevel(logging.DEBUG)
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # a port scan is no news; sessions log for themselves
    # imported here so that --help and wrong flags answer at once
    from agent.errors import AgentError
    from models.errors import ModelError
    from streaming.errors import StreamingError

    try:
        if args.doctor:
            return _examine(args)
        if args.input is not None:
            return _answer_file(args)
        if args.say is not None:
            return _say(args)
        if args.question is not None or args.interactive:
            return _text_in(args)
        return _serve(args)
    except (AgentError, ModelError, StreamingError) as exc:
        print(f"run_agent.py: {exc}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return 130


def _serve(args: argparse.Namespace) -> int:
    from agent.actions import load_actions
    from agent.daemon import Daemon
    from agent.worker import warm_up
    from models.runtime import Engine

    config = _config(args)
    token = _token(args, config)
    codec, s2s = _artefacts(args)
    engine, actions = Engine.load(codec, s2s), load_actions(s2s)
    warm_up(engine)
    daemon = Daemon(engine, config, audio=not args.no_audio, started_at=STARTED_AT, actions=actions, token=token)
    gc.collect()
    gc.freeze()  # what is loaded stays: collections while people talk need not look at it
    asyncio.run(daemon.run(signals=True))
    return 0


def _examine(args: argparse.Namespace) -> int:
    from agent.doctor import examine, healthy, to_lines

    codec, s2s = _artefacts(args)
    findings = []
    for finding in examine(codec, s2s, lambda: _config(args), lambda config: _token(args, config), not args.no_audio):
        findings.append(finding)
        print(*to_lines([finding]), sep="\n", flush=True)
    return 0 if healthy(findings) else UNHEALTHY


def _config(args: argparse.Namespace) -> "AgentConfig":
    from agent.config import load_config

    return load_config(_config_path(args), [*args.overrides, *_server_settings(args)])


def _token(args: argparse.Namespace, config: "AgentConfig") -> str | None:
    from agent.config import load_token

    return load_token(args.token, os.environ, config.server.token_file)


def _server_settings(args: argparse.Namespace) -> list[str]:
    """Flags of the server as settings."""
    from streaming.tls import self_signed, state_folder

    wanted = {"host": args.host, "port": args.port}
    if args.tls is not None:
        cert, key = self_signed(state_folder())
        wanted |= {"tls_cert": str(cert), "tls_key": str(key)}
    return [f"server.{name}={json.dumps(value)}" for name, value in wanted.items() if value is not None]


def _answer_file(args: argparse.Namespace) -> int:
    from agent.actions import load_actions
    from agent.config import load_config
    from agent.local import answer
    from agent.transcripts import action_line
    from agent.worker import Worker
    from models.runtime import Engine
    from streaming.sound_files import read_audio, write_audio

    config = load_config(_config_path(args), args.overrides)
    question = read_audio(args.input)
    codec, s2s = _artefacts(args)
    engine, actions = Engine.load(codec, s2s), load_actions(s2s)

    async def run() -> int:
        async with Worker(engine) as worker:
            result = await answer(worker, question, config.vad, config.turn, config.reply, actions)
        write_audio(args.output, result.pcm)
        print(f"user: {result.user_text}")
        print(f"agent: {result.reply_text}")
        for action in result.actions:
            print(f"action: {action_line(action)}")
        return 0

    return asyncio.run(run())


def _say(args: argparse.Namespace) -> int:
    from agent.local import say
    from models.runtime import Engine
    from streaming.sound_files import write_audio

    write_audio(args.output, say(Engine.load(*_artefacts(args)), args.say))
    return 0


def _text_in(args: argparse.Namespace) -> int:
    from agent.local_text import answer_all, typed_questions
    from agent.text_in import TextIn
    from agent.writer import open_writer
    from models.runtime import Engine

    def tell(text: str) -> None:
        print(text, end="", flush=True)

    writer = None if args.writer is None else open_writer(args.writer)
    engine = Engine.load(*_artefacts(args))
    given = [] if args.question is None else [(args.question, args.points)]
    typed = typed_questions(sys.stdin, args.points, tell) if args.interactive else ()
    complain = functools.partial(print, file=sys.stderr) if args.interactive else None
    answer_all(TextIn(engine, writer, tell), itertools.chain(given, typed), args.output or TEXT_OUTPUT, tell, complain)
    return 0


def _config_path(args: argparse.Namespace) -> Path | None:
    if args.config is not None:
        return Path(args.config)
    return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None


def _artefacts(args: argparse.Namespace) -> tuple[Path, Path]:
    from models.artefacts import SHIPPED

    codec, s2s = args.codec or SHIPPED / "codec", args.s2s or SHIPPED / "s2s"
    if args.lora is None:
        return codec, s2s
    from models.runtime_lora import with_adapter

    return with_adapter(codec, s2s, args.lora)


if __name__ == "__main__":
    sys.exit(main())
