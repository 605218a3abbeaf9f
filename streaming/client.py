"""A client for the command line: a recording in and the conversation out, or microphone and speaker.

    python -m streaming.client --input question.wav --output heard.wav
    python -m streaming.client --mic --microphone "USB Audio" --url ws://192.168.1.5:8765/v1/realtime

- A recording is sent at the speed of speech, then silence until the answers have been played. The output file holds
  what a listener would have heard of the agent, from the first sample that was sent on.
- When the connection is lost, the client comes back to its session, and the conversation goes on where it was.
- When the server hears the user during a reply, playing stops, and the server is told how much was heard.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.frames import CloseCode

from streaming.audio_io import AudioConfig, event_for_threads, move_audio, open_default
from streaming.errors import AudioUnavailable, ServerUnavailable, StreamingError
from streaming.frames import SAMPLE_RATE_HZ, FloatArray, samples_to_ms
from streaming.hot_plug import open_again
from streaming.playout import Playout, PlayoutConfig
from streaming.resample import float_to_pcm16, pcm16_to_float
from streaming.sound_files import read_audio, write_audio
from streaming.tls import trusting

URL = "ws://127.0.0.1:8765/v1/realtime"
CHUNK = SAMPLE_RATE_HZ // 50  # 20 ms
QUIET_S = 2.5  # after the recording and after the last reply: nothing more will come
COME_BACK_S = 30.0  # the server waits as long, unless it is told otherwise
_RETRY_S = 0.5
_CONNECT_S = 10.0
_AGAIN = (CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER)
_MAX_MESSAGE = 1 << 24
_MAX_LEAD_MS = 60_000  # of a server that does not pace its replies


Dial = Callable[[dict[str, str]], Awaitable[ClientConnection]]
"""Connects, with these parameters in the URL; raises ServerUnavailable."""


class Talk:
    """One conversation: audio up, audio and texts down. It outlives its connection.

    Args:
        socket: the connection.
        tell: takes one line for the user at a time.
        dial: makes another connection.
    """

    def __init__(self, socket: ClientConnection, tell: Callable[[str], None], dial: Dial) -> None:
        self.playout = Playout(PlayoutConfig(max_lead_ms=_MAX_LEAD_MS))
        self.answering = False
        self._socket = socket
        self._tell = tell
        self._dial = dial
        self._session: str | None = None
        self._last_event = ""
        self._generation = 0
        self._response: str | None = None  # that may be played
        self._item: str | None = None  # of it

    @property
    def quiet(self) -> bool:
        """Whether no reply is under way or being played."""
        return not self.answering and self.playout.idle

    async def send(self, pcm: FloatArray) -> None:
        """Send microphone audio, float32 [n], 24 kHz; while there is no connection it is lost."""
        audio = base64.b64encode(float_to_pcm16(pcm)).decode("ascii")
        await self._say({"type": "input_audio_buffer.append", "audio": audio})

    async def listen(self) -> None:
        """Take what the server says until it leaves.

        Raises:
            ServerUnavailable: it left, or the connection was lost and there is no other.
        """
        while True:
            try:
                async for message in self._socket:
                    await self._take(json.loads(message))
            except ConnectionClosed as exc:
                if exc.rcvd is not None and exc.rcvd.code not in _AGAIN:
                    raise ServerUnavailable(f"the server left ({exc})") from exc
                await self._come_back()
            else:
                raise ServerUnavailable("the server ended the conversation")

    async def aclose(self) -> None:
        """Leave."""
        await self._socket.close()

    async def _come_back(self) -> None:
        self._tell("the connection was lost")
        query = {} if self._session is None else {"session_id": self._session, "after": self._last_event}
        clock = asyncio.get_running_loop().time
        until = clock() + COME_BACK_S
        while True:
            try:
                self._socket = await self._dial(query)
                return
            except ServerUnavailable:
                if clock() >= until:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _say(self, body: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionClosed):  # listen() knows, and does what can be done
            await self._socket.send(json.dumps(body))

    async def _greeted(self, session: str, *, resumed: bool) -> None:
        if self._session is not None:
            self._tell("the conversation goes on" if resumed else "the server has forgotten it: a new conversation")
        self._session = session
        if not resumed:
            self.answering = False
            transcription = {"audio": {"input": {"transcription": {"model": "local"}}}}
            await self._say({"type": "session.update", "session": {"type": "realtime", **transcription}})

    async def _take(self, event: dict[str, Any]) -> None:
        self._last_event = event["event_id"]
        match event["type"]:
            case "session.created":
                await self._greeted(event["session"]["id"], resumed="resumed" in event)
            case "input_audio_buffer.speech_started":
                await self.stop_playing()
            case "conversation.item.input_audio_transcription.completed":
                self._tell(f"user: {event['transcript']}")
            case "response.created":
                self._generation += 1
                self._response = event["response"]["id"]
                self.answering = True
            case "response.output_audio.delta" if event["response_id"] == self._response:
                self._item = event["item_id"]
                self.playout.push(pcm16_to_float(base64.b64decode(event["delta"])), self._generation)
            case "response.output_audio_transcript.done":
                self._tell(f"agent: {event['transcript']}")
            case "response.function_call_arguments.done":
                self._tell(f"action: {event['name']} {event['arguments']}")
            case "repartee.reply.held":
                self.playout.hold()
            case "repartee.reply.resumed":
                self.playout.resume()
            case "response.done":
                self.answering = False
                self.playout.end(self._generation)
            case "error":
                self._tell(f"error: {event['error']['message']}")

    async def stop_playing(self) -> None:
        """Play no more of what there is, and tell the server how much was heard."""
        self._response = None
        self.playout.resume()
        if self.playout.idle:
            return
        self._generation += 1
        played = self.playout.cancel(self._generation)
        if self._item is not None:
            heard_ms = samples_to_ms(played)
            await self._say({"type": "conversation.item.truncate", "item_id": self._item, "content_index": 0,
                             "audio_end_ms": heard_ms})  # fmt: skip


async def speak(talk: Talk, pcm: FloatArray) -> FloatArray:
    """Speak a recording in real time and wait for the answers.

    Returns:
        What was played meanwhile, float32 [n], from the first sample that was sent.

    """
    clock = asyncio.get_running_loop().time
    began, quiet_since, heard = clock(), clock(), []
    for start in range(0, sys.maxsize, CHUNK):
        await asyncio.sleep(max(0.0, began + start / SAMPLE_RATE_HZ - clock()))
        chunk = pcm[start : start + CHUNK]
        await talk.send(np.pad(chunk, (0, CHUNK - len(chunk))))
        heard.append(talk.playout.pull(CHUNK))
        if start < len(pcm) or not talk.quiet:
            quiet_since = clock()
        if clock() - quiet_since >= QUIET_S:
            break
    return np.concatenate(heard)


async def converse(talk: Talk, audio: AudioConfig) -> None:
    """Talk through the local devices until cancelled; one that goes away is waited for.

    Without an echo canceller there are headphones: the microphone counts while the agent speaks, or it is silent then.

    Raises:
        AudioUnavailable: there is no usable device to begin with, or the sound system does not answer any more.
    """
    wake, wake_up = event_for_threads()
    with contextlib.ExitStack() as opened:
        devices = opened.enter_context(open_default(audio, wake_up))
        while True:
            print(f"talking through {devices.description}", flush=True)
            listens = devices.listens_while_speaking or not audio.echo_cancellation
            try:
                await move_audio(devices, talk.playout, talk.send, wake, listens)
            except AudioUnavailable as exc:
                print(f"{exc} The conversation waits for it to come back.", flush=True)
                await talk.stop_playing()
            await asyncio.to_thread(opened.close)
            devices = opened.enter_context(await open_again(audio, wake_up))


async def run(args: argparse.Namespace) -> None:
    """Connect and hold the conversation that the flags ask for.

    Raises:
        StreamingError: the server, a file or a device cannot be used.
    """
    pcm = None if args.mic else read_audio(args.input)
    options: dict[str, Any] = {} if args.ca is None else {"ssl": trusting(args.ca)}
    if args.token:
        options["additional_headers"] = {"Authorization": f"Bearer {args.token}"}

    async def dial(query: dict[str, str]) -> ClientConnection:
        base, _, given = args.url.partition("?")
        url = f"{base}?{given or 'holds=true'}" + "".join(f"&{name}={value}" for name, value in query.items())
        try:
            return await connect(url, open_timeout=_CONNECT_S, max_size=_MAX_MESSAGE, **options)
        except (OSError, TimeoutError, ValueError, InvalidHandshake, InvalidURI) as exc:  # ValueError: --ca, no wss://
            raise ServerUnavailable(f"{args.url} cannot be reached ({exc or 'no answer'})") from exc

    talk = Talk(await dial({}), lambda line: print(line, flush=True), dial)
    try:
        async with contextlib.aclosing(talk), asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(talk.listen(), name="listen")
            if pcm is None:
                audio = AudioConfig(
                    microphone=args.microphone, speaker=args.speaker, echo_cancellation=not args.headphones
                )
                await converse(talk, audio)
            else:
                heard = await speak(talk, pcm)
                if args.output is not None:
                    write_audio(args.output, heard)
            listening.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=URL, help=f"of the server (default: {URL})")
    parser.add_argument("--token", default=os.environ.get("REPARTEE_TOKEN"), help="(default: REPARTEE_TOKEN)")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="trust this certificate, such as a self-signed one")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mic", action="store_true", help="talk through the local microphone and speaker")
    source.add_argument("--input", type=Path, metavar="F", help="a recording to speak")
    parser.add_argument("--output", type=Path, metavar="F", help="with --input: what was heard (24 kHz mono WAV)")
    parser.add_argument("--headphones", action="store_true", help="with --mic: there is no echo to take out")
    parser.add_argument("--microphone", metavar="NAME", help="with --mic: part of the device's name")
    parser.add_argument("--speaker", metavar="NAME", help="with --mic: part of the device's name")
    args = parser.parse_args(argv)
    if args.mic and args.output is not None:
        parser.error("--output belongs to --input")
    for name in ("headphones", "microphone", "speaker"):
        if getattr(args, name) and not args.mic:
            parser.error(f"--{name} belongs to --mic")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client; returns the exit code, 2 when something cannot be used."""
    args = parse_args(argv)
    try:
        asyncio.run(run(args))
    except StreamingError as exc:
        print(f"streaming.client: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
