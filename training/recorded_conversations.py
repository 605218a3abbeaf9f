"""Conversations whose user is a recorded person: spoken digits, and sentences that are none of the agent's business.

``python -m training.recorded_conversations --recordings DIGITS --recordings SENTENCES --output_dir data/people``

Each is one exchange: a recording (of digits, up to four of one speaker in a row), and the reply that the domain gives
to its transcript. A sentence that names something the domain knows is left out: nobody labelled what it asks for.
"""

import argparse
import functools
import multiprocessing
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models.prosody import strip_marks
from training.audio_data import read_audio
from training.conversation import SAMPLE_RATE, AssistantTurn, Conversation, Span, Turn, UserTurn, write_conversation
from training.domain import Domain, OrderState, load_domain
from training.timeline import LEAD_S, TRAIL_S, USER_GAP_S
from training.tts import synthesise
from training.user_features import recording_jobs

MAX_S = 9.0
DIGIT_GAP_S = (0.05, 0.5)
_FLOOR = 1e-3  # of the loudest 20 ms: quieter edges of a recording are cut


@dataclass(frozen=True, slots=True)
class Clip:
    """One exchange to make."""

    audio: tuple[str, ...]
    text: str
    split: str


def trim(pcm: np.ndarray) -> np.ndarray:
    """Cut the silence off both ends of a recording at 24 kHz, 30 dB below its loudest 20 ms."""
    size = SAMPLE_RATE // 50
    power = np.square(pcm[: len(pcm) // size * size]).reshape(-1, size).mean(axis=1) if len(pcm) >= size else np.ones(1)
    loud = np.flatnonzero(power > power.max() * _FLOOR)
    return pcm[loud[0] * size : (loud[-1] + 1) * size] if len(loud) else pcm


def choose(folder: Path, domain: Domain, limit: int, rng: random.Random) -> list[Clip]:
    """The exchanges that a folder of recordings gives, in random order, at most ``limit`` (0 = all)."""
    rows = recording_jobs(folder, 0, rng.randrange(1 << 30))
    numbers = {*domain.spec.numbers.digits}
    digits = [row for row in rows if row["text"] in numbers]
    clips = list(_digit_strings(digits, domain.spec.numbers.max_digits, rng))
    for row in rows:
        outside = domain.parse_user(row["text"]).intent == "unknown" and not domain.parse_reply(row["text"])
        if row["text"] not in numbers and outside:
            clips.append(Clip((row["audio"],), row["text"], row["split"]))
    rng.shuffle(clips)
    return clips[: limit or None]


def _digit_strings(rows: Sequence[dict[str, str]], longest: int, rng: random.Random) -> Iterator[Clip]:
    """Every digit once alone and once in a string of its speaker."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["speaker"], row["split"]), []).append(row)
        yield Clip((row["audio"],), row["text"], row["split"])
    for (_, split), group in groups.items():
        left = rng.sample(group, len(group))
        while len(left) > 1:
            part = [left.pop() for _ in range(min(len(left), rng.randint(2, longest)))]
            yield Clip(tuple(row["audio"] for row in part), " ".join(row["text"] for row in part), split)


def make(clip: Clip, index: int, domain: Domain, voice: str, cache: Path | None, output: Path, seed: int) -> None:
    """Write one conversation folder; recordings that are too long are left out."""
    rng = random.Random(f"{seed}:{index}")
    parts = [trim(read_audio(Path(path))) for path in clip.audio]
    for part in parts:
        part *= np.float32(0.1 / max(float(np.sqrt(np.mean(np.square(part)))), 1e-4))
    pieces = [parts[0]]
    for part in parts[1:]:
        pieces += [np.zeros(round(rng.uniform(*DIGIT_GAP_S) * SAMPLE_RATE), np.float32), part]
    speech = np.concatenate(pieces)
    length = len(speech) / SAMPLE_RATE
    if not 0.1 < length <= MAX_S:
        return
    parsed = domain.parse_user(clip.text)
    reply, state, actions = domain.answer(OrderState(), parsed)
    spoken = synthesise(strip_marks(reply), voice, cache)
    start = rng.uniform(*LEAD_S)
    answer = start + length + rng.uniform(*USER_GAP_S)
    total = round((answer + spoken.duration_s + TRAIL_S) * SAMPLE_RATE)
    tracks = np.zeros((2, total), np.float32)
    for track, at, pcm in ((tracks[0], start, speech), (tracks[1], answer, spoken.pcm)):
        track[round(at * SAMPLE_RATE) : round(at * SAMPLE_RATE) + len(pcm)] = pcm
    words, phones = (
        tuple(Span(name, begin + answer, end + answer) for name, begin, end in segments)
        for segments in (spoken.words, spoken.phones)
    )
    first, last = spoken.speech_span
    turn = Turn(
        UserTurn(clip.text, parsed.intent, "recording", start, start + length),
        AssistantTurn(strip_marks(reply), reply, first + answer, last + answer, words, phones),
        state.to_json(),
        tuple(actions),
    )
    conversation = Conversation(f"conv_{index + 1:06d}", domain.spec.name, clip.split, (turn,))
    write_conversation(output, conversation, tracks[0], tracks[1])


_domain = functools.cache(load_domain)


def _work(job: tuple[Clip, int, argparse.Namespace]) -> None:
    clip, index, args = job
    make(clip, index, _domain(args.domain), args.tts, args.cache_dir, args.output_dir, args.seed)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, action="append", required=True, help="manifest.jsonl folder")
    parser.add_argument("--domain", type=Path, default=Path("configs/domains/coffee.yaml"))
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=0, help="exchanges from each folder; 0 = all")
    parser.add_argument("--tts", default="hibari:heart", help="the agent's voice")
    parser.add_argument("--cache_dir", type=Path, help="where the agent's utterances are kept between runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    domain = load_domain(args.domain)
    clips = [clip for folder in args.recordings for clip in choose(folder, domain, args.limit, rng)]
    jobs = [
        (clip, index, args)
        for index, clip in enumerate(clips)
        if not (args.output_dir / f"conv_{index + 1:06d}" / "meta.json").exists()
    ]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for _ in tqdm(pool.imap_unordered(_work, jobs, chunksize=8), total=len(jobs), unit="conv"):
            pass


if __name__ == "__main__":
    main()
