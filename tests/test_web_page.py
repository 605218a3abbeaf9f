"""The web client: its files as answers, and itself in a browser that talks to a real daemon."""

import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from playwright.async_api import Page, TimeoutError, async_playwright

from agent.actions import load_actions
from models.prosody import PROSODY_TOKENS
from models.runtime import Engine
from streaming import web_page
from streaming.connection import Client
from streaming.sound_files import read_audio
from streaming.web_page import web_file
from streaming.websocket import RealtimeServer, ServerConfig
from tests.fakes import FakeEngine, eventually, silence
from tests.live import running_daemon

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
FAKE_SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=500", "turn.end_of_turn_threshold=2")
UNREACHABLE = re.compile("WebSocket connection to|ERR_CONNECTION_REFUSED")  # what a browser says of a server that left
SPOKEN = Path(__file__).parent / "data"
PAGE_FILES = sorted(file.name for file in (Path(web_page.__file__).parent / "web").iterdir())

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


# --- the files --------------------------------------------------------------------------------------------------------


def text_of(path: str) -> str:
    """A file of the page."""
    file = web_file(path)
    assert file is not None, path
    return file.body.decode()


@pytest.mark.parametrize("path", ["", "/"])
def test_the_root_is_the_page(path: str) -> None:
    """GET / is index.html."""
    assert web_file(path) == web_file("/index.html")
    assert "<title>Repartee</title>" in text_of(path)


@pytest.mark.parametrize("name", PAGE_FILES)
def test_every_file_is_served_as_what_it_is(name: str) -> None:
    """Each file has its type, and browsers are told not to guess."""
    file = web_file(f"/{name}")
    assert file is not None
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert file.content_type.startswith(kinds[name.split(".")[1]])
    assert file.body
    assert file.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["/../web_page.py", "/web/../web_page.py", "/%2e%2e/web_page.py", "/web_page.py", "/web", "/./app.js", "//etc"],
)
def test_nothing_else_is_served(path: str) -> None:
    """A path that is not the name of one of the files has no answer."""
    assert web_file(path) is None


def test_the_page_may_load_only_what_is_served() -> None:
    """The policy allows the page's own origin, no inline code and no frames."""
    file = web_file("/")
    assert file is not None
    policy = dict(part.split(" ", 1) for part in file.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {value for key, value in policy.items() if key.endswith("-src") and key != "default-src"} == {"'self'"}


def test_every_reference_of_the_page_is_a_file_of_the_page() -> None:
    """Links, scripts, images and imports lead to files that are served; nothing is inline or comes from elsewhere."""
    html = text_of("/")
    found = re.findall(r'(?:src|href)="([^"]+)"', html)
    for name in PAGE_FILES:
        found += re.findall(r'(?:from|addModule\() ?"\./?([^"]+)"', text_of(name)) if name.endswith(".js") else []
    assert {"app.js", "style.css", "worklet.js"} <= set(found)
    assert all(web_file(f"/{name}") for name in found), found
    assert not re.search(r"<script(?![^>]*src=)|<style| style=| on\w+=", html)
    everything = "".join(text_of(name) for name in PAGE_FILES)
    assert set(re.findall(r"https?://[^\"' ]+", everything)) <= {"http://www.w3.org/2000/svg"}


def test_texts_can_be_read_in_both_schemes() -> None:
    """Every text colour on every ground it is used on has the contrast of WCAG AA, 4.5."""
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+);", part)) for part in _palettes(text_of("style.css")))
    for colours in (light, light | dark):
        for ink, ground in [
            ("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("ink", "green-soft"),
            ("ink", "clay-soft"), ("soft", "green-soft"), ("on-green", "green"),
            ("alert", "alert-soft"), ("green", "paper"), ("paper", "clay"),
        ]:  # fmt: skip
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground, colours[ink], colours[ground])


def _palettes(css: str) -> tuple[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", css, flags=re.S)[:2]
    return light, dark


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG defines it."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        rgb = np.array([int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# --- in a browser -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def browser_page(tmp_path: Path, microphone: np.ndarray | None = None, **context: Any) -> AsyncIterator[Page]:
    """A browser whose microphone hears this (float32 [n], 24 kHz), then silence; a script error fails the test."""
    flags = list(FLAGS)
    if microphone is not None:
        soundfile.write(tmp_path / "mic.wav", soxr.resample(microphone, 24_000, 48_000), 48_000, subtype="PCM_16")
        flags.append(f"--use-file-for-fake-audio-capture={tmp_path / 'mic.wav'}%noloop")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = await (await browser.new_context(**context)).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text))
        yield page
        assert not [error for error in errors if not UNREACHABLE.search(error)]
        await browser.close()


def sent_and_received(page: Page) -> list[tuple[str, dict[str, Any]]]:
    """The messages of the page's connections as they come, ("sent" | "received", event), without those of audio."""
    log: list[tuple[str, dict[str, Any]]] = []

    def keep(way: str, text: str | bytes) -> None:
        event = json.loads(text)
        if event["type"] not in ("input_audio_buffer.append", "response.output_audio.delta"):
            log.append((way, event))

    def listen(socket: Any) -> None:
        socket.on("framesent", lambda text: keep("sent", text))
        socket.on("framereceived", lambda text: keep("received", text))

    page.on("websocket", listen)
    return log


def events_of(log: list[tuple[str, dict[str, Any]]], way: str, kind: str) -> list[dict[str, Any]]:
    """The logged events of one type."""
    return [event for direction, event in log if direction == way and event["type"] == kind]


async def state(page: Page, *names: str, timeout_s: float = 60.0) -> None:
    """Wait until the page is in one of these states."""
    states = ", ".join(f'body[data-state="{name}"]' for name in names)
    await page.locator(states).wait_for(timeout=timeout_s * 1000)


async def says(page: Page, *texts: str, timeout_s: float = 60.0) -> None:
    """Wait until entry after entry of the transcript says this."""
    entries = page.locator("#transcript li p")
    try:
        for place, text in enumerate(texts):
            await entries.nth(place).filter(has_text=re.compile(text)).wait_for(timeout=timeout_s * 1000)
    except TimeoutError as exc:
        raise AssertionError(f"the transcript says {await entries.all_text_contents()}") from exc


@in_browser
@pytest.mark.shipped
async def test_a_conversation_with_the_shipped_models(shipped_models: Path, tmp_path: Path) -> None:
    """Two spoken turns: both sides are written down, the agent is heard, its times and the order are shown."""
    heard = [silence(1.5), read_audio(SPOKEN / "question.wav"), silence(5.0), read_audio(SPOKEN / "thats_all.wav")]
    engine = Engine.load(shipped_models / "codec", shipped_models / "s2s")
    async with (
        running_daemon(engine, actions=load_actions(shipped_models / "s2s")) as daemon,
        browser_page(tmp_path, np.concatenate([*heard, silence(60.0)])) as page,
    ):
        log = sent_and_received(page)
        await page.goto(f"http://127.0.0.1:{daemon.port}/")
        await page.click("#talk")
        await state(page, "speaking", timeout_s=60.0)
        await page.locator("#level-agent:not([aria-valuenow='0'])").wait_for()  # sound comes out
        await state(page, "listening")
        await state(page, "speaking", timeout_s=60.0)
        await state(page, "listening")
        await says(
            page, "large latte with soy milk", "Okay, a large latte with soy milk", "all", "So that is .*soy milk"
        )
        assert await page.locator("#order li").all_text_contents() == ["lattelarge · soy milk"]
        assert await page.locator("#transcript .ahead, #transcript .cut").count() == 0  # all of it was heard
        turns = await page.locator("#turns li").all_inner_texts()
        assert len(turns) == 2
        for text in turns:
            total, *parts = (int(number) for number in re.findall(r"\d+", text))
            assert abs(total - sum(parts)) <= 2
            assert total > parts[0] > 0
        assert not events_of(log, "received", "error")
        await page.click("#talk")
        await state(page, "off")
        await eventually(lambda: not daemon.sessions)


@in_browser
async def test_an_interruption_is_told_where_it_was_heard(tmp_path: Path) -> None:
    """The user speaks into a reply: it stops, and the server remembers no more of it than was heard."""
    question = read_audio(SPOKEN / "question.wav")
    engine = FakeEngine(reply_frames=300, words=" ".join(["well"] * 250))
    async with (
        running_daemon(engine, *FAKE_SETTINGS, "reply.take_back_ms=0") as daemon,
        browser_page(tmp_path, np.concatenate([silence(1.0), question, silence(3.0), question, silence(60.0)])) as page,
    ):
        log = sent_and_received(page)
        await page.goto(f"http://127.0.0.1:{daemon.port}/")
        await page.click("#talk")
        await state(page, "speaking")
        await page.locator("#transcript .cut").wait_for(timeout=60_000)
        await eventually(lambda: bool(events_of(log, "received", "conversation.item.truncated")))
        (sent,) = events_of(log, "sent", "conversation.item.truncate")
        (told,) = events_of(log, "received", "conversation.item.truncated")
        assert told["audio_end_ms"] == sent["audio_end_ms"]
        assert 1_000 < sent["audio_end_ms"] < 12_000  # of 24 s; the server had sent two seconds more than was heard
        heard_frames = -(-sent["audio_end_ms"] // 80)
        assert await page.locator("#transcript .cut .ahead").count() > 0  # words that were never heard
        (conversation,) = engine.states[-1:]
        await eventually(lambda: min(conversation.truncations, default=heard_frames + 1) <= heard_frames)
        await state(page, "speaking")  # and the second question is answered
        assert not events_of(log, "received", "error")


@in_browser
async def test_prosody_buttons(tmp_path: Path) -> None:
    """They work while a reply is made, and put their tokens into it; there is one for each token."""
    async with (
        running_daemon(FakeEngine(reply_frames=250), *FAKE_SETTINGS) as daemon,
        browser_page(tmp_path, silence(60.0)) as page,
    ):
        log = sent_and_received(page)
        await page.goto(f"http://127.0.0.1:{daemon.port}/")
        values = [await button.get_attribute("value") for button in await page.locator("#prosody button").all()]
        assert sorted(map(str, values)) == sorted(PROSODY_TOKENS)
        assert await page.locator("#prosody button:enabled").count() == 0
        await page.fill("#composer input", "hello")
        await page.press("#composer input", "Enter")
        await page.locator("#prosody button:enabled").first.wait_for()
        await page.click("#prosody button >> text=Lower")
        await eventually(lambda: bool(events_of(log, "received", "repartee.prosody.entered")))
        (sent,) = events_of(log, "sent", "repartee.prosody.inject")
        (told,) = events_of(log, "received", "repartee.prosody.entered")
        assert (told["token"], told["request_event_id"]) == ("<pitch_low>", sent["event_id"])
        await page.locator("#prosody .waiting").wait_for(state="detached")
        assert not events_of(log, "received", "error")


@in_browser
async def test_push_to_talk_with_the_space_key(tmp_path: Path) -> None:
    """What is said while the space key is down is one turn; too short a press says so; the field keeps its spaces."""
    question = read_audio(SPOKEN / "question.wav")
    async with (
        running_daemon(FakeEngine(reply_frames=4), *FAKE_SETTINGS) as daemon,
        browser_page(tmp_path, np.concatenate([question] * 8)) as page,
    ):
        log = sent_and_received(page)
        await page.goto(f"http://127.0.0.1:{daemon.port}/")
        await page.click("#open-settings")
        await page.check("input[value=push]")
        await page.click("dialog button")
        await page.click("#talk")
        await state(page, "held")
        await page.evaluate("""for (const kind of ["keydown", "keyup"])
            document.body.dispatchEvent(new KeyboardEvent(kind, { code: "Space", bubbles: true }))""")
        await page.locator("#notice", has_text="too short").wait_for()
        await page.keyboard.down("Space")
        await state(page, "hearing")
        await page.wait_for_timeout(600)
        await page.keyboard.up("Space")
        await says(page, "w1", "sure one latte coming")
        await page.locator("#turns li", has_text="after letting go").wait_for()
        await page.fill("#composer input", "a")
        await page.keyboard.type(" b")
        assert await page.input_value("#composer input") == "a b"
        assert len(events_of(log, "sent", "input_audio_buffer.commit")) == 1
        assert not events_of(log, "received", "error")


@in_browser
async def test_a_context_that_must_run_at_the_rate_of_the_device(tmp_path: Path) -> None:
    """Where the browser connects a microphone only at its own rate, the page converts, and the talk goes on."""
    microphone = np.concatenate([silence(1.0), read_audio(SPOKEN / "question.wav"), silence(60.0)])
    as_in_firefox = """
        const connect = AudioContext.prototype.createMediaStreamSource;
        AudioContext.prototype.createMediaStreamSource = function (stream) {
            if (this.sampleRate === 24000) throw new DOMException("different sample-rate", "NotSupportedError");
            window.rate = this.sampleRate;
            return connect.call(this, stream);
        };
    """
    async with (
        running_daemon(FakeEngine(reply_frames=6), *FAKE_SETTINGS) as daemon,
        browser_page(tmp_path, microphone) as page,
    ):
        log = sent_and_received(page)
        await page.add_init_script(as_in_firefox)
        await page.goto(f"http://127.0.0.1:{daemon.port}/")
        await page.click("#talk")
        await says(page, "w1", "sure one latte coming")
        await page.locator("#turns li").wait_for()
        assert await page.evaluate("window.rate") in (44_100, 48_000)
        began = events_of(log, "received", "input_audio_buffer.speech_started")[0]["audio_start_ms"]
        ended = events_of(log, "received", "input_audio_buffer.speech_stopped")[0]["audio_end_ms"]
        spoken_ms = len(read_audio(SPOKEN / "question.wav")) / 24
        assert 0.75 * spoken_ms < ended - began < 1.5 * spoken_ms  # at the wrong rate it would be twice as long


@in_browser
async def test_a_full_server_and_one_that_goes_and_comes_back(tmp_path: Path) -> None:
    """The page says what is wrong, tries again by itself, and begins a new conversation."""
    settings = (*FAKE_SETTINGS, "server.max_sessions=1")
    microphone = np.concatenate([silence(1.0), read_audio(SPOKEN / "question.wav"), silence(120.0)])
    async with browser_page(tmp_path, microphone) as page:
        async with running_daemon(FakeEngine(reply_frames=2), *settings) as daemon:
            address = f"http://127.0.0.1:{daemon.port}/"
            other = await page.context.new_page()
            await other.goto(address)
            await other.fill("#composer input", "hello")
            await other.keyboard.press("Enter")  # holds the only session
            await state(other, "typing", "thinking", "speaking")
            await page.goto(address)
            await page.click("#talk")
            await page.locator("#notice", has_text="capacity").wait_for()
            await other.close()
            await says(page, "w1", "sure one latte coming")
            port = daemon.port
        await page.locator("#notice", has_text=re.compile("lost|stop|away|clos|answer", re.I)).wait_for()
        await page.click("#retry")
        await page.locator("#notice", has_text="does not answer").wait_for()
        async with running_daemon(FakeEngine(), *settings, f"server.port={port}"):
            await page.locator("#transcript .divider").wait_for(timeout=60_000)
            await page.locator("#notice").wait_for(state="hidden")


@in_browser
async def test_a_lost_connection_is_taken_up_again(tmp_path: Path) -> None:
    """Cut in the middle of a reply: the page comes back to its session, and plays the whole reply."""
    microphone = np.concatenate([silence(1.0), read_audio(SPOKEN / "question.wav"), silence(120.0)])
    engine = FakeEngine(reply_frames=60)
    async with running_daemon(engine, *FAKE_SETTINGS) as daemon, browser_page(tmp_path, microphone) as page:
        log = sent_and_received(page)
        await page.goto(f"http://127.0.0.1:{daemon.port}/")
        await page.click("#talk")
        await state(page, "speaking")
        (session,) = daemon.sessions
        assert session.door.link is not None
        session.door.link.client.abort()
        await eventually(lambda: len(events_of(log, "received", "session.created")) == 2, 30.0)
        before, after = events_of(log, "received", "session.created")
        assert after["session"]["id"] == before["session"]["id"]
        assert after["resumed"]["complete"]
        await says(page, "w1", "sure one latte coming")
        await state(page, "listening")
        assert await page.locator("#transcript .divider").count() == 0
        assert await page.locator("#transcript .ahead, #transcript .cut").count() == 0  # all of it was heard
        assert session.conversation.metrics.resumed == 1
        assert len(engine.states) == 1


@in_browser
async def test_a_text_that_is_refused_comes_back(tmp_path: Path) -> None:
    """What was typed stands in the box again, with the reason, to be put right."""

    async def refuse_text(client: Client) -> None:
        await client.send(json.dumps({"type": "session.created", "session": {"id": "sess_1", "tools": []}}))
        while (message := await client.receive()) is not None:
            event = json.loads(message)
            assert event["type"] in ("session.update", "conversation.item.create"), event
            if event["type"] == "conversation.item.create":
                assert event["item"]["content"] == [{"type": "input_text", "text": "<b>hello</b>"}]
                error = {"code": "invalid_value", "message": "unknown tag <b>", "event_id": event["event_id"]}
                await client.send(json.dumps({"type": "error", "error": error}))

    async with RealtimeServer(ServerConfig(port=0), refuse_text, dict) as server, browser_page(tmp_path) as page:
        await page.goto(f"http://127.0.0.1:{server.port}/")
        await page.fill("#composer input", "<b>hello</b>")
        await page.keyboard.press("Enter")
        await page.locator("#notice", has_text="unknown tag <b>").wait_for()
        assert await page.input_value("#composer input") == "<b>hello</b>"
        assert await page.is_enabled("#composer input")
        assert await page.locator("#transcript li").count() == 0


@in_browser
async def test_a_phone(tmp_path: Path) -> None:
    """On a small screen nothing is cut off at the side, and what is touched is large enough."""
    screen: Any = {"width": 360, "height": 640}
    async with (
        running_daemon(FakeEngine()) as daemon,
        browser_page(tmp_path, viewport=screen, has_touch=True, is_mobile=True) as page,
    ):
        await page.goto(f"http://127.0.0.1:{daemon.port}/")
        await page.tap("#talk")
        await state(page, "listening")
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        assert await page.evaluate("document.documentElement.scrollHeight") <= 640
        for button in await page.locator("button:visible").all():
            box = await button.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 44, await button.inner_text()


# --- its parts, run by the browser ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def modules(tmp_path: Path) -> AsyncIterator[Page]:
    """The page, opened for its modules."""

    async def nobody(client: Client) -> None:
        raise AssertionError("nobody connects")

    async with RealtimeServer(ServerConfig(port=0), nobody, dict) as server, browser_page(tmp_path) as page:
        await page.goto(f"http://127.0.0.1:{server.port}/")
        yield page


@in_browser
async def test_the_resampler(tmp_path: Path) -> None:
    """Between all rates: a tone stays that tone, chunked is whole, and what would alias is gone."""
    run = """async ([from, to, hz, chunk]) => {
        const { Resampler } = await import("/worklet.js");
        const resampler = new Resampler(from, to);
        const input = Float32Array.from({ length: from / 4 }, (_, k) => Math.sin((2 * Math.PI * hz * k) / from));
        const output = [];
        for (let at = 0; at < input.length; at += chunk) {
            resampler.push(input.subarray(at, at + chunk));
            const part = new Float32Array(8192);
            output.push(...part.subarray(0, resampler.take(part)));
        }
        return output;
    }"""
    async with modules(tmp_path) as page:
        for source, target in [
            (48_000, 24_000),
            (44_100, 24_000),
            (24_000, 48_000),
            (24_000, 44_100),
            (16_000, 24_000),
        ]:
            whole = np.array(await page.evaluate(run, [source, target, 1_000, 4_000]))
            chunked = np.array(await page.evaluate(run, [source, target, 1_000, 128]))
            assert np.array_equal(whole, chunked)
            ideal = np.sin(2 * np.pi * 1_000 * np.arange(len(whole)) / target)
            assert np.abs(whole - ideal)[100:].max() < 2e-3, (source, target)
            assert len(whole) >= target / 4 - 64
        alias = np.array(await page.evaluate(run, [48_000, 24_000, 14_000, 128]))
        assert np.sqrt(np.mean(alias[100:] ** 2)) < 2e-3
        assert np.array_equal(
            await page.evaluate(run, [24_000, 24_000, 500, 128]),
            np.sin(2 * np.pi * 500 * np.arange(6_000) / 24_000).astype(np.float32)[:5_999],
        )
        exact = """async ([from, to]) => {
            const { Resampler } = await import("/worklet.js");
            const resampler = new Resampler(from, to);
            return Array.from({ length: 50 }, () => {
                resampler.push(new Float32Array(resampler.missing(128)));
                return resampler.take(new Float32Array(128));
            });
        }"""
        for target in (24_000, 44_100, 48_000, 96_000):
            assert await page.evaluate(exact, [24_000, target]) == [128] * 50


@in_browser
async def test_a_held_reply_goes_on_with_the_same_sample(tmp_path: Path) -> None:
    """Holding gives silence after a fade, loses nothing, and what comes late because of it makes nobody wait longer."""
    run = """async () => {
        const { JitterBuffer } = await import("/worklet.js");
        const buffer = new JitterBuffer();
        let now = 0;
        const play = (samples) => {
            const part = new Float32Array(samples);
            buffer.pull(part, now);
            now += samples;
            return [...part];
        };
        const chunk = (first) => Float32Array.from({ length: 1920 }, (_, k) => 0.5 + (first + k) / 100000);
        buffer.push("a", chunk(0), now);
        now = 480;
        const before = play(1000);
        buffer.hold(now);
        const held = play(24000);
        buffer.resume(now);
        const after = play(920);
        buffer.push("a", chunk(1920), now);
        buffer.end("a");
        const next = play(1920);
        return { before, held, after, next, delay: buffer.delay, underruns: buffer.underruns };
    }"""
    async with modules(tmp_path) as page:
        result = await page.evaluate(run)
    ramp = 0.5 + np.arange(3840) / 100_000
    np.testing.assert_allclose(result["before"], ramp[:1000], atol=1e-6)
    assert np.abs(np.diff(result["held"][:2400])).max() < 0.05
    assert not np.any(result["held"][2400:])
    np.testing.assert_allclose(result["after"], ramp[1000:1920], atol=1e-6)
    np.testing.assert_allclose(result["next"], ramp[1920:], atol=1e-6)
    assert result["delay"] == 960  # 20 ms for the wait before the first sample, and the margin
    assert result["underruns"] == 0


@in_browser
async def test_the_jitter_buffer(tmp_path: Path) -> None:
    """Every sample is played once and counted, the wait follows the network, and a cut is counted to the sample."""
    run = """async () => {
        const { JitterBuffer } = await import("/worklet.js");
        const buffer = new JitterBuffer();
        const heard = [];
        let now = 0;
        const play = (samples) => {
            for (const end = now + samples; now < end; now += 100) {
                const part = new Float32Array(100);
                buffer.pull(part, now);
                heard.push(...part);
            }
        };
        const chunk = (first) => Float32Array.from({ length: 1920 }, (_, k) => (first + k + 1) / 100000);
        const result = {};
        buffer.push("a", chunk(0), now);
        play(3900);  // the first is over, the second comes late
        result.dry = { underruns: buffer.underruns, heard: heard.splice(0) };
        buffer.push("a", chunk(1920), now);
        buffer.push("a", chunk(3840), now);
        buffer.end("a");
        result.delay = buffer.delay;
        play(5000);
        result.rest = heard.splice(0);
        buffer.push("b", chunk(0), now);
        const began = now;
        play(5000);
        result.second = heard.splice(0);
        result.cut = buffer.clear();
        for (let k = 0; k < 8; k++) {
            buffer.push(`c${k}`, chunk(0), now);
            buffer.end(`c${k}`);
            play(2500);
        }
        result.calm = buffer.delay;
        heard.splice(0);
        buffer.push("d", chunk(0), now);
        play(1000);
        result.loud = heard.at(-1);
        result.early = buffer.clear();
        play(1000);
        result.after = heard.slice(-1000);
        result.events = buffer.events;
        return result;
    }"""
    async with modules(tmp_path) as page:
        result = await page.evaluate(run)
    ramp = (np.arange(1920 * 3) + 1) / 100_000
    wait = 480  # 20 ms
    late = 3900 - 1920
    dry = np.array(result["dry"]["heard"])
    start = int(np.argmax(dry > 0))
    assert wait <= start < wait + 100
    assert result["dry"]["underruns"] == 1
    assert np.allclose(dry[start : start + 1920], ramp[:1920], atol=1e-7)
    assert result["delay"] == late + wait
    rest = np.array(result["rest"])
    start = int(np.argmax(rest > 0.0192))
    assert np.allclose(rest[start : start + 3840], ramp[1920:], atol=1e-7)
    assert wait <= int(np.argmax(np.array(result["second"]) > 0)) - late < wait + 100  # it waits as the first had to
    assert result["cut"] == [{"id": "b", "played": 1920}]
    assert result["calm"] == wait
    assert result["early"] == [{"id": "d", "played": 500}]
    after = np.array(result["after"])
    assert result["loud"] >= after[0] > after[1] > 0.5 * result["loud"]  # no click,
    assert not after[200:].any()  # and silence at once
    assert [event["type"] for event in result["events"]][:3] == ["started", "finished", "started"]


@in_browser
async def test_audio_that_comes_after_an_interruption_is_not_played(tmp_path: Path) -> None:
    """Once the user speaks, or presses the button, the reply's audio is let go, also what was still on its way."""
    run = """async (interruption) => {
        const { Conversation } = await import("/conversation.js");
        const did = [];
        const keep = (name) => (...values) => did.push([name, ...values.map((value) => value?.byteLength ?? value)]);
        const audio = { play: keep("play"), clear: keep("clear"), end() {}, outputDelayMs: 30 };
        const connection = { state: "open", send: ({ type, ...rest }) => did.push([type, rest.audio_end_ms ?? null]) };
        const silent = new Proxy({}, { get: () => () => {} });
        const conversation = new Conversation(connection, audio, silent, silent);
        const message = { type: "message", id: "item_1" };
        const delta = { type: "response.output_audio.delta", item_id: "item_1", delta: btoa("1234") };
        conversation.take({ type: "response.created", response: { id: "resp_1" } });
        conversation.take({ type: "response.output_item.added", item: message });
        conversation.take(delta);
        conversation.playout({ type: "started", id: "item_1" });
        if (interruption) conversation.take(interruption);
        else conversation.press();
        conversation.take(delta);
        conversation.playout({ type: "cleared", cut: [{ id: "item_1", played: 2400 }] });
        return did.filter(([name]) => name !== "session.update");
    }"""
    spoken = {"type": "input_audio_buffer.speech_started", "item_id": "item_2"}
    async with modules(tmp_path) as page:
        ends = [["clear"], ["conversation.item.truncate", 70]]
        assert await page.evaluate(run, spoken) == [["play", "item_1", 4], *ends]
        pressed = await page.evaluate(run, None)
    assert [name for name, *_ in pressed] == [
        "play",
        "response.cancel",
        "clear",
        "input_audio_buffer.clear",
        "conversation.item.truncate",
    ]


@in_browser
async def test_what_a_close_means(tmp_path: Path) -> None:
    """The address, the token, and which closes are tried again."""
    async with modules(tmp_path) as page:
        address = "async (page) => (await import('/connection.js')).address(page)"
        assert await page.evaluate(address, {"protocol": "https:", "host": "a:1", "hash": "#token=s%20t"}) == {
            "url": "wss://a:1/v1/realtime?holds=true&prosody=true",
            "protocols": ["realtime", "openai-insecure-api-key.s t"],
        }
        assert await page.evaluate(address, {"protocol": "http:", "host": "a", "hash": ""}) == {
            "url": "ws://a/v1/realtime?holds=true&prosody=true",
            "protocols": ["realtime"],
        }
        resumed = "async (page) => (await import('/connection.js')).address(page, {id: 'sess_1', last: 'event_2'}).url"
        place = {"protocol": "http:", "host": "a", "hash": ""}
        assert (
            await page.evaluate(resumed, place)
            == "ws://a/v1/realtime?holds=true&prosody=true&session_id=sess_1&after=event_2"
        )
        explain = "async (close) => (await import('/connection.js')).explain(...close)"
        for close, words, again in [
            ([1013, "", {"message": "the server is at capacity"}, False, None], "capacity", True),
            ([1008, "", {"message": "no such api"}, False, None], "no such api", False),
            ([1001, "going away", None, True, None], "Going away.", True),
            ([1001, "", {"code": "session_idle", "message": "nothing was said"}, True, None], "was said", False),
            ([1001, "", {"code": "session_expired", "message": "an hour is over"}, True, None], "hour is over", True),
            ([1006, "", None, True, None], "lost", True),
            ([1000, "", None, True, None], "ended", False),
            ([1006, "", None, False, None], "does not answer", True),
            ([1006, "", None, False, {"status": "ok"}], "token", False),
        ]:
            meaning = await page.evaluate(explain, close)
            assert words in meaning["message"]
            assert meaning["again"] is again


@in_browser
async def test_where_speech_ended(tmp_path: Path) -> None:
    """The end of speech is the last chunk that stands out of the noise, before the server's position."""
    run = """async ([noise]) => {
        const { LevelTrace, TurnMarks } = await import("/timing.js");
        const trace = new LevelTrace();
        const level = (k) => (k >= 50 && k < 100 ? 0.1 : k >= 140 ? 0.2 : noise);
        for (let k = 0; k < 160; k++) trace.sent(480, level(k), 1000 + 20 * k);
        const marks = new TurnMarks("spoken", 100, 400);
        marks.mark("text", 450);
        marks.mark("text", 900);
        marks.mark("heard", 520);
        return [trace.speechEnd(2600), trace.speechEnd(0), marks.parts];
    }"""
    async with modules(tmp_path) as page:
        for noise in (0, 0.01):
            end, nothing, parts = await page.evaluate(run, [noise])
            assert end == 1000 + 20 * 99
            assert nothing is None
            assert parts == {"decision": 300, "text": 50, "audio": 70, "total": 420}


@in_browser
async def test_an_order_is_what_its_calls_made(tmp_path: Path) -> None:
    """Calls add up; one that is taken back never was; an order that was placed is followed by a new one."""
    run = """async (steps) => {
        const { Order, described, headSlot } = await import("/order.js");
        const order = new Order();
        return steps.map(([id, name, values]) => {
            if (name) order.call(id, name, JSON.stringify(values));
            else order.forget(id);
            const { items, placed } = order.state;
            return [items.map((item) => item.drink), placed];
        });
    }"""
    latte, mocha, tea = ({"drink": name} for name in ("latte", "mocha", "tea"))
    steps: list[Any] = [
        ["1", "add_items", {"items": [latte, mocha]}],
        ["2", "change_item", {"index": 1, "item": tea}],
        ["3", "remove_item", {"index": 0, "item": latte}],
        ["3"],
        ["4", "place_order", {"items": [latte]}],
        ["5", "add_items", {"items": [tea]}],
        ["6", "cancel_order", {}],
    ]
    async with modules(tmp_path) as page:
        assert await page.evaluate(run, steps) == [
            [["latte", "mocha"], False],
            [["latte", "tea"], False],
            [["tea"], False],
            [["latte", "tea"], False],
            [["latte"], True],
            [["tea"], False],
            [[], False],
        ]
