"""Who may interrupt the agent: people at once, coughs and noises not at all.

    python -m training.interruptions --speech ORDERS_DEV --sounds NOISE --json runs/interruptions.json

- The agent is asked something it answers at length; a second and a half into its reply a sound begins.
- Speech should silence it at once and end the reply: measured from the first 20 ms frame within 30 dB of the loudest
  one to the moment the reply is held (that is when the local speaker falls silent; a client over the network still
  plays what it has, see `reply.max_lead_ms`).
- Sounds without people, and short words that only say "I listen", should leave the reply alone: it may wait, but all
  of it comes.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.bench.figures import loud_span
from agent.config import AgentConfig
from agent.errors import AgentError
from agent.rehearsal import Rehearsal, RehearsalWorker
from agent.worker import StepEngine
from models.errors import ModelError
from training.answers import write_report
from training.engine_pool import EnginePool, add_agent_arguments, agent_from, origin
from training.evaluation_sets import find_noises
from training.recordings import SAMPLE_RATE_HZ, RecordingError, find_recordings, read_pcm
from training.scoring import Rate, percentile, rate
from training.tts import TtsError, synthesise

QUESTION, QUESTION_VOICE = "what drinks do you have", "flite:slt"
AFTER_S = 1.5
BACKCHANNELS = ("mm hmm", "uh huh", "yeah", "okay", "right")
BACKCHANNEL_VOICES = ("flite:awb", "flite:rms", "espeak:en-us+f4", "espeak:en-gb+m6", "hibari:heart?f0=0.7&formant=0.9")


@dataclass(frozen=True, slots=True)
class Trial:
    """A sound over a reply: a file, or a text and the voice that says it."""

    kind: str  # speech, sound or backchannel
    name: str
    audio: Path | None = None
    voice: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the reply.

    ``ended``: a turn of the user began, which ends the reply or drops what of it still waits to be played.
    ``silent_ms``: from the sound's onset until the reply was held, None if it never was.
    """

    kind: str
    name: str
    ended: bool
    silent_ms: float | None


def make(engine: StepEngine, config: AgentConfig, trial: Trial) -> Outcome:
    """Asks, waits for the reply, and makes the sound.

    Raises:
        StepError: the engine failed.
        RecordingError: a file cannot be read.
        TtsError: a text cannot be spoken.
        AgentError: the question got no reply.
    """
    pcm = read_pcm(trial.audio) if trial.audio else synthesise(trial.name, trial.voice).pcm
    question = synthesise(QUESTION, QUESTION_VOICE).pcm
    return asyncio.run(_make(engine, config, trial, question, pcm))


async def _make(
    engine: StepEngine, config: AgentConfig, trial: Trial, question: np.ndarray, pcm: np.ndarray
) -> Outcome:
    async with RehearsalWorker(engine) as worker, Rehearsal(worker, config) as session:
        turn = await session.speak_over(question, pcm, AFTER_S)
    noticed = [*turn.holds, *turn.starts]
    silent_ms = (min(noticed) - turn.began - loud_span(pcm)[0]) * 1000 / SAMPLE_RATE_HZ if noticed else None
    return Outcome(trial.kind, trial.name, bool(turn.starts), silent_ms)


def trials(speech: Path | None, sounds: Path | None, limit: int | None) -> list[Trial]:
    """All trials; short words are always among them.

    Raises:
        RecordingError: a folder holds nothing usable.
    """
    made = [Trial("backchannel", text, voice=voice) for voice in BACKCHANNEL_VOICES for text in BACKCHANNELS]
    if speech is not None:
        recordings = find_recordings(speech, limit)
        made += [Trial("speech", recording.name, recording.turns[0].audio) for recording in recordings]
    if sounds is not None:
        made += [Trial("sound", path.stem, path) for path in find_noises(sounds)[:limit]]
    return made


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Rate]:
    """The figures: shares of sounds, milliseconds."""

    def of(kind: str) -> list[Outcome]:
        return [outcome for outcome in outcomes if outcome.kind == kind]

    waits = [outcome.silent_ms for outcome in of("speech") if outcome.silent_ms is not None]
    return {
        "speech that ended the reply": rate([outcome.ended for outcome in of("speech")]),
        "onset to silence, median ms": percentile(waits, 50),
        "onset to silence, p95 ms": percentile(waits, 95),
        "backchannels that the reply survived": rate([not outcome.ended for outcome in of("backchannel")]),
        "sounds that the reply survived": rate([not outcome.ended for outcome in of("sound")]),
        "sounds that held it": rate([outcome.silent_ms is not None for outcome in of("sound")]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, metavar="DIR", help="recordings of people who interrupt")
    parser.add_argument("--sounds", type=Path, metavar="DIR", help="recordings of noise")
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and every trial here")
    add_agent_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    if args.workers < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--workers and --limit must be at least 1")
    try:
        with EnginePool(agent_from(args), args.workers) as pool:
            outcomes = pool.map(make, trials(args.speech, args.sounds, args.limit), "interruptions")
    except (RecordingError, AgentError, ModelError, TtsError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    figures = summarise(outcomes)
    for name, figure in figures.items():
        print(f"{name:40s} {figure}")
    if args.json:
        write_report(args.json, report(figures, outcomes, argv))
    return 0


def report(figures: dict[str, Rate], outcomes: Sequence[Outcome], argv: Sequence[str] | None) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {
        **origin("training.interruptions", argv),
        "figures": {name: figure.to_json() for name, figure in figures.items()},
        "trials": [
            {"kind": one.kind, "name": one.name, "ended": one.ended, "silent_ms": one.silent_ms} for one in outcomes
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
