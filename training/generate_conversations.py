"""Makes spoken conversations from a domain file: both sides synthesised, with exact word and phone times.

    python -m training.generate_conversations --domain coffee --num_pairs 1000 --output_dir data/conversations

- What is said in conversation ``i``, by which voices and when, depends on ``(seed, i)`` alone (the synthesisers' own
  breath noise does not repeat to the sample), so a run can be stopped, resumed and split over workers.
- Every twentieth conversation is ``valid`` and uses voices that no ``train`` conversation uses.
- The user's side is stored clean; rooms, noise and microphones are added when it is encoded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from models.prosody import strip_marks
from training import online
from training.conversation import (
    SAMPLE_RATE,
    AssistantTurn,
    Conversation,
    ConversationError,
    Turn,
    UserTurn,
    read_conversation,
    write_conversation,
)
from training.domain import Domain, DomainError, load_domain
from training.timeline import hesitate, lay_out
from training.tts import TtsError, Utterance, synthesise
from training.voices import draw_voice, read_voices

DOMAIN_DIR = Path("configs/domains")
VALID_EVERY = 20
_FREE_MARGIN = 1 << 30
_CHARACTERS_PER_S = 14.0
_GAPS_PER_TURN_S = 1.5
_BYTES_PER_S = 2 * 2 * SAMPLE_RATE  # two 16-bit files


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to make any conversation of a run."""

    domain: Path
    output_dir: Path
    tts: str = "hibari:heart"
    seed: int = 0
    max_turns: int = 6
    cache_dir: Path | None = None
    user_voices: tuple[str, ...] = ()
    text_api: str | None = None
    text_model: str = "gpt-4o-mini"
    speech_api: str | None = None


def conversation_id(index: int) -> str:
    """``conv_000001`` for index 0."""
    return f"conv_{index + 1:06d}"


def split_of(index: int) -> str:
    """``valid`` for every twentieth conversation, else ``train``."""
    return "valid" if index % VALID_EVERY == VALID_EVERY - 1 else "train"


def make_conversation(job: Job, domain: Domain, index: int) -> Path:
    """Makes and writes one conversation.

    Raises:
        TtsError: speech could not be made.
        OSError: the folder could not be written.
    """
    rng = random.Random(f"{job.seed}:{index}")
    split = split_of(index)
    voice = rng.choice(job.user_voices) if job.user_voices else draw_voice(rng, split)
    dialogue = domain.sample_dialogue(rng, max_turns=job.max_turns)
    replies = [_reply(job, domain, turn.user_text, turn.reply, rng) for turn in dialogue]
    spoken: list[tuple[Utterance, Utterance]] = []
    for turn, marked in zip(dialogue, replies, strict=True):
        user = hesitate(synthesise(turn.user_text, voice), rng)
        spoken.append((user, synthesise(strip_marks(marked), job.tts, job.cache_dir)))
    user_pcm, agent_pcm, placed = lay_out(spoken, rng)
    turns = []
    for turn, marked, (user_at, agent_at) in zip(dialogue, replies, placed, strict=True):
        user_turn = UserTurn(
            turn.user_text, turn.intent, voice, user_at.start_s, user_at.end_s, user_at.words, user_at.phones
        )
        agent_turn = AssistantTurn(
            strip_marks(marked), marked, agent_at.start_s, agent_at.end_s, agent_at.words, agent_at.phones
        )
        turns.append(Turn(user_turn, agent_turn, turn.state.to_json(), tuple(turn.actions)))
    conversation = Conversation(conversation_id(index), job.domain.stem, split, tuple(turns))
    return write_conversation(job.output_dir, conversation, user_pcm, agent_pcm)


def _reply(job: Job, domain: Domain, user_text: str, reply: str, rng: random.Random) -> str:
    """The reply to speak: reworded online when asked for, unless that would change what it says."""
    if job.text_api is None:
        return reply
    worded = online.reword(job.text_api, job.text_model, user_text, strip_marks(reply), rng.getrandbits(31))
    same = "<" not in worded and domain.parse_reply(worded) == domain.parse_reply(strip_marks(reply))
    return worded if same else reply


_worker: tuple[Job, Domain] | None = None  # set once per worker process


def _start_worker(job: Job) -> None:
    global _worker
    os.environ["OMP_NUM_THREADS"] = "1"
    if job.speech_api:
        os.environ[online.SPEECH_URL_VARIABLE] = job.speech_api
    _worker = (job, load_domain(job.domain))


def _work(index: int) -> tuple[int, str]:
    """Makes one conversation in a worker; returns its index and what went wrong ("" if nothing)."""
    assert _worker is not None
    try:
        make_conversation(*_worker, index)
    except (TtsError, ConversationError, OSError) as error:
        return index, f"{type(error).__name__}: {error}"
    return index, ""


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a whole conversation (folders are written as a whole or not at all)."""
    try:
        read_conversation(folder)
    except ConversationError:
        return False
    return all((folder / name).is_file() for name in ("user.wav", "assistant.wav"))


def estimate_bytes(job: Job, indices: Sequence[int]) -> int:
    """Estimates the disk use of these conversations from the length of 50 sampled dialogues."""
    if not indices:
        return 0
    domain = load_domain(job.domain)
    lengths = []
    for index in indices[:: max(1, len(indices) // 50)]:
        rng = random.Random(f"{job.seed}:{index}:size")
        dialogue = domain.sample_dialogue(rng, max_turns=job.max_turns)
        letters = sum(len(turn.user_text) + len(strip_marks(turn.reply)) for turn in dialogue)
        lengths.append(letters / _CHARACTERS_PER_S + _GAPS_PER_TURN_S * len(dialogue) + 1.5)
    return int(statistics.fmean(lengths) * _BYTES_PER_S * len(indices))


def generate(job: Job, num_pairs: int, workers: int) -> list[tuple[int, str]]:
    """Makes what is missing of ``num_pairs`` conversations, showing a progress bar.

    Returns:
        Index and reason of each conversation that failed.

    Raises:
        ConversationError: the disk has too little room.
    """
    job.output_dir.mkdir(parents=True, exist_ok=True)
    for leftover in job.output_dir.glob(".conv_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    missing = [i for i in range(num_pairs) if not is_complete(job.output_dir / conversation_id(i))]
    need, free = estimate_bytes(job, missing), shutil.disk_usage(job.output_dir).free
    print(
        f"{num_pairs} conversations, {num_pairs - len(missing)} there already; to make: {len(missing)}, "
        f"about {need / 1e9:.2f} GB in {job.output_dir} ({free / 1e9:.1f} GB free)",
        flush=True,
    )
    if need + _FREE_MARGIN > free:
        raise ConversationError(f"{job.output_dir}: not enough room; make fewer conversations or choose another disk")
    if not missing:
        return []
    failed: list[tuple[int, str]] = []
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(workers, _start_worker, (job,)) as pool,
        tqdm(total=len(missing), unit="conv", smoothing=0.05, mininterval=1.0) as bar,
    ):
        for index, problem in pool.imap_unordered(_work, missing, chunksize=4):
            bar.update()
            if problem:
                failed.append((index, problem))
                bar.set_postfix(failed=len(failed))
        pool.close()
        pool.join()
    return failed


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="training.generate_conversations", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--domain", default="coffee", help="name of a file in configs/domains, or a path (default: coffee)")
    add("--num_pairs", type=int, default=1000, help="how many conversations (default: 1000)")
    add("--output_dir", type=Path, default=Path("data/conversations"), help="where they go")
    add("--codec", type=Path, help="also encode each folder with this codec")
    add("--tts", default="hibari:heart", help="the agent's voice (default: hibari:heart)")
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=2, help="processes (default: 2)")
    add("--max_turns", type=int, default=6, help="most turns of a conversation (default: 6)")
    add("--user_voices", type=Path, help="file of user voices, one a line, instead of the built-in draw")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "repartee" / "tts"
    add("--cache_dir", type=Path, default=cache, help="where the agent's utterances are kept between runs")
    add("--text_api", metavar="URL", help="OpenAI-compatible base address that rewords replies (online)")
    add("--text_model", default="gpt-4o-mini", help="model asked of --text_api")
    add("--speech_api", metavar="URL", help="OpenAI-compatible base address for --tts openai:VOICE (online)")
    args = parser.parse_args(argv)
    for name, low in (("num_pairs", 1), ("workers", 1), ("max_turns", 1)):
        if getattr(args, name) < low:
            parser.error(f"--{name} must be at least {low}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = _arguments(argv)
    domain = Path(args.domain)
    if domain.suffix not in (".yaml", ".yml"):
        domain = DOMAIN_DIR / f"{args.domain}.yaml"
    try:
        load_domain(domain)
        job = Job(
            domain=domain,
            output_dir=args.output_dir,
            tts=args.tts,
            seed=args.seed,
            max_turns=args.max_turns,
            cache_dir=args.cache_dir,
            user_voices=read_voices(args.user_voices) if args.user_voices else (),
            text_api=args.text_api,
            text_model=args.text_model,
            speech_api=args.speech_api,
        )
        failed = generate(job, args.num_pairs, args.workers)
    except (DomainError, TtsError, ConversationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for index, problem in failed[:10]:
        print(f"failed: {conversation_id(index)}: {problem}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} conversations failed; run the same command again to retry them", file=sys.stderr)
    if args.codec is not None:
        encode_folders(args.output_dir, args.codec, args.num_pairs)
    return 1 if failed else 0


def encode_folders(output_dir: Path, codec: Path, num_pairs: int) -> None:
    """Encodes every complete conversation that has no codes yet."""
    from training.encode_dataset import encode_folder  # needs torch, which the rest does not

    for index in tqdm(range(num_pairs), unit="conv", desc="encoding"):
        folder = output_dir / conversation_id(index)
        if is_complete(folder) and not (folder / "codes.npz").exists():
            encode_folder(folder, codec)


if __name__ == "__main__":
    sys.exit(main())
