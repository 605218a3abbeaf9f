"""What prosody tokens do to the agent's speech, in pairs of sentences that differ in one token only.

    python -m training.evaluate_prosody --codec CODEC --s2s S2S --json runs/prosody.json
    python -m training.evaluate_prosody --teacher --codec CODEC_CHECKPOINT --json runs/prosody_teacher.json

- Half of the sentences are replies of the domain, half open text; ``--known FILE`` leaves out those of training lines.
- The agent speaks them as text to be said. Where its words are, PocketSphinx finds out (:mod:`training.alignment`);
  a pair in which it does not find them counts as failed. Only where words have no pitch without a token either, as
  where the voice ends in a creak, none can be moved: such pairs of pitch_high and pitch_low are left out, and told.
- ``--teacher`` measures the voice that the agent learns from instead, as it is and after the codec: its ceiling.
- Scopes are those of :mod:`models.prosody`, measures those of :mod:`training.prosody_measures`.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from tqdm import tqdm

from agent.config import AgentConfig
from agent.errors import ConfigError
from agent.local import say
from agent.worker import StepEngine
from models.errors import ModelError
from models.prosody import EMPH, GLIDES, LEVELS, PAUSES, PROSODY_TOKENS, canonical, plan_delivery, strip_marks
from models.runtime import Engine
from training.alignment import AlignmentError, align
from training.codec_metrics import RATE_HZ
from training.domain import DomainError, load_domain
from training.engine_pool import EnginePool, add_agent_arguments, agent_from, origin
from training.intelligibility import Recogniser, domain_path, replies_grammar, spoken_words
from training.lexicon import pronunciations
from training.open_text import phrases, word_strings
from training.prosody_measures import (
    Spoken,
    emphasis,
    final_slope_st,
    has_pitch,
    listen,
    pitch_change_st,
    silence_s,
    speech_s,
)
from training.random_marks import domain_sentences
from training.scoring import rate, word_errors
from training.tts import SAMPLE_RATE, Segment, TtsError, synthesise

TEACHER = "hibari:heart"
WORDS = (4, 12)
SEED = 90_210  # far from that of any training data
PITCH_ST, GLIDE_ST, EMPH_ST, EMPH_DB, EMPH_LONGER = 2.0, 2.0, 1.5, 3.0, 1.05
PAUSE_RANGE_S = {PAUSES[0]: (0.2, 0.4), PAUSES[1]: (0.5, 1.0)}
TIME_LEAK, PITCH_LEAK_ST = 0.1, 0.5
MUST = {**dict.fromkeys(PROSODY_TOKENS, 0.9), **dict.fromkeys(PAUSES, 0.95)}


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence, one token in it, and the words [first, last] that are measured; of a pause, those on both sides."""

    text: str
    token: str
    marked: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Heard:
    """One spoken sentence, None where its words are unknown; the recogniser's errors in so many words, if counted."""

    spoken: Spoken | None
    errors: int
    words: int


def mark(text: str, token: str, rng: random.Random) -> Pair:
    """A sentence with one token at a random place where it acts.

    Raises:
        ValueError: there is no such place.
    """
    plan = plan_delivery(text)
    places = range(1 if token in PAUSES else 0, len(plan))
    if not places:
        raise ValueError(f"{token} has no place in {text!r}")
    at = rng.choice(places)
    words = [word.text for word in plan]
    marked = canonical(" ".join([*words[:at], token + words[at], *words[at + 1 :]]))
    phrase = [index for index, word in enumerate(plan) if word.phrase == plan[at].phrase]
    first, last = {
        EMPH: (at, at),
        **dict.fromkeys(PAUSES, (at - 1, at)),
        **dict.fromkeys(LEVELS, (at, phrase[-1])),
        **dict.fromkeys(GLIDES, (phrase[0], phrase[-1])),
    }[token]
    return Pair(text, token, marked, first, last)


def held_out_sentences(domain: Path, count: int, known: frozenset[str], seed: int = SEED) -> list[str]:
    """``count`` sentences, half of them of the domain, none of ``known``, all of words that can be aligned.

    Raises:
        DomainError: the domain file breaks a rule.
        ValueError: there are not so many.
    """
    rng = random.Random(seed)
    table = pronunciations()

    def usable(text: str) -> bool:
        words = text.split()
        return (
            WORDS[0] <= len(words) <= WORDS[1]
            and text not in known
            and all(len(spoken_words(word)) == 1 and spoken_words(word)[0] in table for word in words)
        )

    half = count // 2
    ours = list(filter(usable, domain_sentences(domain, 10 * count, rng)))[:half]
    lines = [line for pair in zip(phrases(count, rng), word_strings(4000, 1, rng), strict=False) for line in pair]
    others = list(filter(usable, dict.fromkeys(lines)))[: count - half]
    if len(ours) + len(others) < count:
        raise ValueError(f"{domain}: only {len(ours)} replies and {len(others)} other sentences are not known")
    return ours + others


def effect(pair: Pair, plain: Spoken, tagged: Spoken) -> tuple[bool, dict[str, float]]:
    """Whether a token did what it is for, and by how much; ``leak`` is what it did beside."""
    token, first, last = pair.token, pair.first, pair.last
    if token in PAUSES:
        inserted = silence_s(tagged, first) - silence_s(plain, first)
        low, high = PAUSE_RANGE_S[token]
        leak = pitch_change_st(plain, tagged, 0, len(plain.words) - 1)
        return low <= inserted <= high, {"inserted_s": inserted, "leak": leak}
    if token == EMPH:
        semitones, decibels, length = emphasis(plain, tagged, first)
        stands_out = semitones >= EMPH_ST or decibels >= EMPH_DB
        return stands_out and length >= EMPH_LONGER, {"semitones": semitones, "decibels": decibels, "length": length}
    leak = speech_s(tagged) / speech_s(plain) - 1
    if token in LEVELS:
        change = pitch_change_st(plain, tagged, first, last)
        return (change if token == LEVELS[0] else -change) >= PITCH_ST, {"semitones": change, "leak": leak}
    slope = final_slope_st(tagged, first, last)
    return (slope if token == GLIDES[0] else -slope) >= GLIDE_ST, {"semitones": slope, "leak": leak}


def summary(pairs: Sequence[Pair], heard: dict[str, Heard], words: bool = True) -> dict[str, Any]:
    """Figures of every token over its pairs; a pair without known words has failed. ``words``: word errors as well."""
    report: dict[str, Any] = {}
    for token in PROSODY_TOKENS:
        rows = []
        for pair in pairs:
            if pair.token != token:
                continue
            plain, tagged = heard[pair.text], heard[pair.marked]
            row: dict[str, Any] = {"text": pair.marked, "right": False, "aligned": False}
            if token in LEVELS and plain.spoken and not has_pitch(plain.spoken, pair.first, pair.last):
                row["pitched"] = False
            elif plain.spoken and tagged.spoken:
                right, figures = effect(pair, plain.spoken, tagged.spoken)
                row |= {"right": right, "aligned": True, **{name: round(v, 3) for name, v in figures.items()}}
            rows.append(row)
        report[token] = token_figures(token, rows) | {"pairs": rows}
    if not words:
        return report
    for name, texts in (("plain", {pair.text for pair in pairs}), ("tagged", {pair.marked for pair in pairs})):
        chosen = [heard[text] for text in sorted(texts)]
        figure = rate([one.errors for one in chosen], [one.words for one in chosen])
        report[f"word_error_rate_{name}"] = figure.to_json()
    return report


def token_figures(token: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Share of right pairs, medians of what was measured, share of pairs with leaks within bounds."""
    mute = [row for row in rows if not row.get("pitched", True)]
    rows = [row for row in rows if row.get("pitched", True)]
    names = sorted({name for row in rows for name in row} - {"text", "right", "aligned"})
    medians = {
        name: round(float(np.median(values)), 3)
        for name in names
        if (values := [row[name] for row in rows if name in row and math.isfinite(row[name])])
    }
    bound = PITCH_LEAK_ST if token in PAUSES else TIME_LEAK
    leaks = [abs(row["leak"]) <= bound for row in rows if "leak" in row]
    right = rate([float(row["right"]) for row in rows], [1.0] * len(rows))
    aligned = sum(row["aligned"] for row in rows)
    figures = {"right": right.to_json(), "must": MUST[token], "aligned": aligned, "without_pitch": len(mute)}
    return figures | {"median": medians} | ({"leak_within": round(float(np.mean(leaks)), 3)} if leaks else {})


def to_lines(report: dict[str, Any]) -> list[str]:
    """The report as a table."""
    lines = [f"{'token':18s}{'right':>26s}{'must':>6s}{'aligned':>8s}  medians; leak within bounds"]
    for token in PROSODY_TOKENS:
        row = report[token]
        right = row["right"]
        share = f"{right['value']:.3f} [{right['low']:.3f}, {right['high']:.3f}]"
        medians = ", ".join(f"{name} {value:g}" for name, value in row["median"].items())
        leak = f"; {row['leak_within']:.2f}" if "leak_within" in row else ""
        leak += f"; {row['without_pitch']} left out" if row["without_pitch"] else ""
        lines.append(f"{token:18s}{share:>26s}{row['must']:6.2f}{row['aligned']:8d}  {medians}{leak}")
    if "word_error_rate_plain" not in report:
        return lines
    errors = [report[f"word_error_rate_{name}"]["value"] for name in ("plain", "tagged")]
    return [*lines, f"word errors: {errors[0]:.3f} without tokens, {errors[1]:.3f} with them"]


def speak_job(engine: StepEngine, _: AgentConfig, text: str) -> np.ndarray:
    """One text, spoken by the agent: float32 [N] at 24 kHz; a job of :class:`EnginePool`."""
    assert isinstance(engine, Engine)
    return say(engine, text)


class Listener:
    """Finds words and counts those that a recogniser gets wrong.

    Args:
        grammar: of the domain's replies; empty: no words are recognised.
        replies: the texts that the grammar knows; others are heard with a model of general English.
    """

    def __init__(self, grammar: str, replies: frozenset[str]) -> None:
        self._replies = replies
        self._recognisers = (Recogniser(grammar), Recogniser(None)) if grammar else None

    @property
    def counts_words(self) -> bool:
        """Whether there is a recogniser."""
        return self._recognisers is not None

    def __call__(self, text: str, pcm: np.ndarray, words: Sequence[Segment] | None = None) -> Heard:
        """A text as it was spoken, without ``words`` aligned here."""
        plain = strip_marks(text)
        meant = spoken_words(plain)
        errors = 0
        if self._recognisers:
            recogniser = self._recognisers[plain not in self._replies]
            errors = word_errors(meant, recogniser.hear(soxr.resample(pcm, SAMPLE_RATE, RATE_HZ)))
        if words is None:
            try:
                words = align(pcm, meant)[0]
            except AlignmentError:
                return Heard(None, errors, len(meant))
        return Heard(listen(pcm, words), errors, len(meant))


def evaluate_teacher(pairs: Sequence[Pair], listener: Listener, codec: Path) -> dict[str, Any]:
    """The teacher's voice, as it is and after the codec.

    Raises:
        ArtefactError: the codec is not a checkpoint directory.
        TtsError: the voice cannot speak.
    """
    from training.evaluate_codec import RoundTrip  # needs torch

    through = RoundTrip(codec)
    hear: dict[str, Callable[[np.ndarray], np.ndarray]] = {"teacher": lambda pcm: pcm, "codec": lambda p: through(p)[0]}
    heard: dict[str, dict[str, Heard]] = {name: {} for name in hear}
    texts = sorted({text for pair in pairs for text in (pair.text, pair.marked)})
    for text in tqdm(texts, desc="teacher", unit="text", disable=None):
        said = synthesise(text, TEACHER)
        for name, change in hear.items():
            heard[name][text] = listener(text, change(said.pcm), said.words)
    return {name: summary(pairs, found, listener.counts_words) for name, found in heard.items()}


def evaluate_agent(pairs: Sequence[Pair], listener: Listener, args: argparse.Namespace) -> dict[str, Any]:
    """The agent's voice.

    Raises:
        ArtefactError: a model cannot be loaded.
        InputError: the model cannot say a text.
    """
    texts = sorted({text for pair in pairs for text in (pair.text, pair.marked)})
    with EnginePool(agent_from(args), args.workers) as pool:
        spoken = pool.map(speak_job, texts, "say")
    return {
        "agent": summary(
            pairs,
            {text: listener(text, pcm) for text, pcm in zip(texts, spoken, strict=True)},
            listener.counts_words,
        ),
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_agent_arguments(parser)
    parser.add_argument("--domain", default="coffee", help="a name in configs/domains, or a path")
    parser.add_argument("--count", type=int, default=50, help="sentences, each with every token")
    parser.add_argument(
        "--known", type=Path, action="append", default=[], metavar="FILE", help="lines of training, left out"
    )
    parser.add_argument("--words", action=argparse.BooleanOptionalAction, default=True, help="count word errors, too")
    parser.add_argument("--teacher", action="store_true", help="measure the teacher's voice, with --codec a checkpoint")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and every pair here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        lines = [line for path in args.known for line in path.read_text("utf8").splitlines()]
        domain = domain_path(args.domain)
        texts = held_out_sentences(domain, args.count, frozenset(map(strip_marks, lines)))
        rng = random.Random(SEED)
        pairs = [mark(text, token, rng) for text in texts for token in PROSODY_TOKENS]
        grammar = replies_grammar(load_domain(domain).spec) if args.words else ""
        listener = Listener(grammar, frozenset(texts[: args.count // 2]))
        evaluate = (
            evaluate_teacher(pairs, listener, args.codec) if args.teacher else evaluate_agent(pairs, listener, args)
        )
    except (OSError, ValueError, DomainError, TtsError, ModelError, ConfigError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    for name, report in evaluate.items():
        print("\n".join([f"{name}, {args.count} sentences", *to_lines(report)]))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {**origin("training.evaluate_prosody", argv), "sentences": args.count, **evaluate}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
