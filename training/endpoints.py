"""How soon a turn ends after its speech, and how often before: our turn taking beside voice detectors alone.

    python -m training.endpoints --data ORDERS_DEV --json runs/endpoints.json --plot runs/endpoints.png

- Each clip is heard once, in silence that goes on after it. What is kept is the detectors' probability of speech and
  the model's probability that the user has finished; every setting is then replayed through the daemon's own turn
  taker, to its first decision.
- A decision before the true end of speech is a cut-in, and the delays are those of all other decisions. The true end is
  the end of the last 20 ms frame within 30 dB of the loudest one.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np

from agent.bench.figures import loud_span
from agent.config import AgentConfig
from agent.errors import AgentError
from agent.turn import MODEL_OFF, TurnConfig, TurnTaker
from agent.turn_events import EndOfTurn, Quiet, StopTurn
from agent.worker import StepEngine
from models.errors import ModelError
from models.runtime import Mode
from streaming.frames import Framer
from streaming.resample import LiveResampler
from streaming.silence import LevelSilence, quiet_for
from streaming.vad import Detector, Hysteresis, SileroDetector, VadConfig, WebrtcDetector
from training.answers import write_report
from training.engine_pool import EnginePool, add_agent_arguments, agent_from, origin
from training.plots import plot_endpoints
from training.recordings import SAMPLE_RATE_HZ, Recording, RecordingError, find_recordings
from training.scoring import Rate, percentile, rate

CHUNK = SAMPLE_RATE_HZ // 50  # 20 ms
LEAD_S, TRAIL_S = 0.3, 2.5  # silence before and after the clip
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
SILENCES_MS = (120, 160, 200, 240, 280, 320)
DETECTOR_SILENCES_MS = (200, 300, 500, 800)


@dataclass(frozen=True, slots=True)
class Score:
    """A detector's probability of speech in samples `start` to `end`, known at sample `at`."""

    probability: float
    start: int
    end: int
    at: int


@dataclass(frozen=True, slots=True)
class Trace:
    """One clip as it was heard; all times are samples.

    Attributes:
        true_end: End of speech.
        scores: Of each detector, by its name.
        finished: End of each frame that the model listened to -> its probability that the user has finished.
        quiet: How long it has been quiet by the level, after each 20 ms.
    """

    name: str
    length: int
    true_end: int
    scores: dict[str, tuple[Score, ...]]
    finished: dict[int, float]
    quiet: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to end turns: a detector and its silence, and the model's part, if any."""

    vad: VadConfig
    turn: TurnConfig

    @property
    def name(self) -> str:
        """As in tables."""
        if self.turn.end_of_turn_threshold > 1.0:
            return f"{self.vad.detector} {self.vad.silence_duration_ms} ms"
        silences = {self.turn.end_of_turn_silence_ms, min(self.turn.end_of_turn_silence_ms, self.turn.sure_silence_ms)}
        shown = " to ".join(map(str, sorted(silences)))
        return f"model {self.turn.end_of_turn_threshold:g} after {shown} ms"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What a setting does to all clips: shares, and delays in milliseconds."""

    setting: Setting
    cut_ins: Rate
    missed: Rate
    median_ms: Rate
    p95_ms: Rate

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.setting.name,
            "detector": self.setting.vad.detector,
            "full_silence_ms": self.setting.vad.silence_duration_ms,
            "threshold": self.setting.turn.end_of_turn_threshold,
            "silence_ms": self.setting.turn.end_of_turn_silence_ms,
            "sure_silence_ms": self.setting.turn.sure_silence_ms,
            "cut_ins": self.cut_ins.to_json(),
            "missed": self.missed.to_json(),
            "median_ms": self.median_ms.to_json(),
            "p95_ms": self.p95_ms.to_json(),
        }


def trace(engine: StepEngine, config: AgentConfig, recording: Recording) -> list[Trace]:
    """Hears each turn of a recording as a session of its own, as if no decision were ever taken.

    Raises:
        RecordingError: A recording cannot be read.
    """
    traces = []
    for number, utterance in enumerate(recording.turns, start=1):
        pcm = utterance.load()
        lead = np.zeros(round(LEAD_S * SAMPLE_RATE_HZ), np.float32)
        heard = np.concatenate([lead, pcm, np.zeros(round(TRAIL_S * SAMPLE_RATE_HZ), np.float32)])
        heard = heard[: len(heard) // CHUNK * CHUNK]
        scores = {"silero": tuple(_detect(SileroDetector(), heard)), "webrtc": tuple(_detect(WebrtcDetector(), heard))}
        begins = _turn_begins(config.vad, scores)
        finished, quiet = _listen(engine, heard, begins), tuple(_quiet(heard, begins))
        true_end = len(lead) + loud_span(pcm)[1]
        traces.append(Trace(f"{recording.name}-{number}", len(heard), true_end, scores, finished, quiet))
    return traces


def _detect(detector: Detector, pcm: np.ndarray) -> Iterator[Score]:
    resampler, chunks = LiveResampler(SAMPLE_RATE_HZ, detector.rate_hz), Framer(detector.chunk_samples)
    for start in range(0, len(pcm), CHUNK):
        for chunk in chunks.push(resampler.push(pcm[start : start + CHUNK])):
            begin, end = (n * SAMPLE_RATE_HZ // detector.rate_hz for n in (chunk.start, chunk.end))
            yield Score(detector.probability(chunk.pcm), begin, end, start + CHUNK)


def _quiet(pcm: np.ndarray, begins: int | None) -> Iterator[int]:
    level = LevelSilence()
    for end in range(CHUNK, len(pcm) + 1, CHUNK):
        level.push(pcm[end - CHUNK : end])
        if end == begins:
            level.begin()
        yield level.samples


def _turn_begins(config: VadConfig, scores: dict[str, tuple[Score, ...]]) -> int | None:
    """The sample at which the daemon's detector opens the turn; None: never."""
    hysteresis = Hysteresis(config)
    for score in scores.get(config.detector, scores["silero"]):
        if hysteresis.step(score.probability, score.start, score.end):
            return score.at
    return None


def _listen(engine: StepEngine, pcm: np.ndarray, begins: int | None) -> dict[int, float]:
    state, finished = engine.new_state(), {}
    for end in range(engine.frame_size, len(pcm) + 1, engine.frame_size):
        frame = pcm[end - engine.frame_size : end]
        listening = begins is not None and end >= begins
        out = engine.step(frame, state, Mode.LISTEN if listening else Mode.IDLE)
        if listening:
            finished[end] = out.end_of_turn
    return finished


def first_decision(trace: Trace, setting: Setting) -> int | None:
    """The sample at which this setting says that the user has finished, the first time; None: never."""
    hysteresis, taker = Hysteresis(setting.vad), TurnTaker(setting.turn)
    scores = iter(trace.scores[setting.vad.detector])
    score = next(scores, None)
    for now in range(CHUNK, trace.length + 1, CHUNK):
        actions = []
        while score is not None and score.at <= now:
            for event in hysteresis.step(score.probability, score.start, score.end):
                actions += taker.on(event, now)
            score = next(scores, None)
        if taker.listening:
            quiet = quiet_for(hysteresis.silence_samples, trace.quiet[now // CHUNK - 1]) if hysteresis.speaking else 0
            actions += taker.on(Quiet(quiet), now)
        if taker.listening and now in trace.finished:
            actions += taker.on(EndOfTurn(trace.finished[now], now), now)
        if any(isinstance(action, StopTurn) for action in actions):
            return now
    return None


def settings(config: AgentConfig) -> list[Setting]:
    """The daemon's own setting first, then the sweep of the model's part, then detectors alone."""
    own = Setting(config.vad, config.turn)
    sweep = [
        Setting(
            config.vad,
            TurnConfig(end_of_turn_threshold=threshold, end_of_turn_silence_ms=silence_ms, sure_silence_ms=silence_ms),
        )
        for threshold, silence_ms in product(THRESHOLDS, SILENCES_MS)
    ]
    alone = [
        Setting(VadConfig(detector=name, silence_duration_ms=silence_ms), TurnConfig(end_of_turn_threshold=MODEL_OFF))
        for name in ("silero", "webrtc")
        for silence_ms in DETECTOR_SILENCES_MS
    ]
    return [own, *(setting for setting in sweep if setting != own), *alone]


def measure(traces: Sequence[Trace], setting: Setting) -> Endpoints:
    """Replays one setting over all clips."""
    decided = [(trace, first_decision(trace, setting)) for trace in traces]
    cut_ins = [at is not None and at < trace.true_end for trace, at in decided]
    delays_ms = [
        (at - trace.true_end) * 1000 / SAMPLE_RATE_HZ
        for trace, at in decided
        if at is not None and at >= trace.true_end
    ]
    missed = rate([at is None for _, at in decided])
    return Endpoints(setting, rate(cut_ins), missed, percentile(delays_ms, 50), percentile(delays_ms, 95))


def sweep(pool: EnginePool, recordings: Sequence[Recording], config: AgentConfig) -> list[Endpoints]:
    """Hears the recordings once and measures every setting, the daemon's own first.

    Raises:
        RecordingError: A recording cannot be read.
        ModelError: The models cannot be loaded.
    """
    if config.vad.detector == "energy":
        raise RecordingError("endpoints are measured with the detectors silero and webrtc")
    heard = list(chain.from_iterable(pool.map(trace, recordings, "endpoints")))
    return [measure(heard, setting) for setting in settings(config)]


def to_lines(rows: Sequence[Endpoints]) -> list[str]:
    """The table; the first row is the daemon's own setting."""
    lines = [f"{'turns end by':28s}{'cut-ins':>28s}{'missed':>8s}{'median ms':>11s}{'p95 ms':>8s}"]
    for number, row in enumerate(rows):
        name = row.setting.name + ("" if number else " *")
        cut_ins = f"{row.cut_ins.value:.3f} [{row.cut_ins.low:.3f}, {row.cut_ins.high:.3f}]"
        figures = f"{row.missed.value:8.3f}{row.median_ms.value:11.0f}{row.p95_ms.value:8.0f}"
        lines.append(f"{name:28s}{cut_ins:>28s}{figures}")
    return [*lines, f"* the daemon's settings; {rows[0].cut_ins.count if rows else 0} clips"]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="recordings or conversations")
    parser.add_argument("--split", choices=("train", "valid"), help="of conversations, take only these")
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N recordings")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw cut-ins against delay, a .png or .svg")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write every figure here; without FILE, print it"
    )
    add_agent_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    if args.workers < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--workers and --limit must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        recordings = find_recordings(args.data, args.limit, args.split)
        agent = agent_from(args)
        with EnginePool(agent, args.workers) as pool:
            rows = sweep(pool, recordings, agent.config)
    except (RecordingError, AgentError, ModelError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    if args.json == "-":
        print(json.dumps({"endpoints": [row.to_json() for row in rows]}, indent=1))
    else:
        print("\n".join(to_lines(rows)))
    if args.json not in (None, "-"):
        body = {**origin("training.endpoints", argv), "endpoints": [row.to_json() for row in rows]}
        write_report(Path(args.json), body)
    if args.plot:
        plot_endpoints([row.to_json() for row in rows], args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
