"""Frame sequences for the S2S model: a dialogue as alternating listening and speaking steps.

Idle time is not in the sequence, as it is not in the running agent: a user turn is its speech with some silence around
it, a reply follows at once. A turn without recorded speech is text to be said. Written dialogues are text alone, far
shorter than spoken ones: they teach what to answer when. Everything random about a sequence (silence kept, corrupted
inputs) comes from ``rng``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.s2s import LISTEN, NOTE, READ, SPEAK, WRITE, FrameInput, S2SConfig
from models.tokenizer import BOS, EOS, PAD
from training.encode_dataset import EncodedTurn
from training.mishearing import disturb

IGNORE = -100
LEAD_FRAMES = (0, 6)  # silence kept before speech
TRAIL_FRAMES = (4, 11)  # and after it
TYPED_SHARE = 0.08  # of disturbed training batches, see build_sequence
MAX_GAP, GAP_SHARE = 3, 0.3  # steps between words in a share of the written dialogues; others need half the room
PREDICTED_SHARE = 0.2  # of written batches have the user's words as targets, too: few of them can be known
WRITTEN_POOL = 256  # written dialogues that are drawn together, to be sorted by length

WrittenTurn = tuple[list[list[int]], list[list[int]], list[int]]
"""Pieces of every word of the user and of the reply, and of the note after it."""


@dataclass(slots=True)
class FrameSequence:
    """One dialogue, T steps. Inputs: mode to recent. Targets: *_target, IGNORE where free."""

    mode: np.ndarray
    user: np.ndarray
    text: np.ndarray
    transcript: np.ndarray
    agent: np.ndarray
    recent: np.ndarray
    text_target: np.ndarray
    transcript_target: np.ndarray
    agent_target: np.ndarray
    turn_target: np.ndarray


def place(words: Sequence[tuple[list[int], float]], first: int, size: int) -> np.ndarray:
    """Put word pieces one a step, each word not before its frame; PAD elsewhere; pieces beyond ``size`` are lost."""
    row = np.full(size, PAD, np.int64)
    cursor = first
    for ids, frame in words:
        cursor = max(cursor, int(frame))
        for token in ids:
            if 0 <= cursor < size:
                row[cursor] = token
            cursor += 1
    return row


def listen_steps(turn: EncodedTurn, config: S2SConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The user's turn: codes in, transcript and turn state out."""
    start, end = turn.speech
    lead, trail = int(rng.integers(*LEAD_FRAMES)), int(rng.integers(*TRAIL_FRAMES))
    begin = max(int(start) - lead, 0)
    stop = min(int(np.ceil(end)) + trail, len(turn.user))
    size = stop - begin
    delayed = [(ids, np.ceil(frame) - 1 + config.transcript_delay_frames - begin) for ids, frame in turn.user_words]
    index = np.arange(begin, stop)
    finished = index >= np.ceil(end)
    speaking = (index >= int(start)) & (index < np.ceil(end))
    return {
        "mode": np.full(size, LISTEN),
        "user": turn.user[begin:stop].astype(np.int64),
        "text_target": np.full(size, IGNORE),
        "transcript_target": place(delayed, 0, size),
        "agent_target": np.full((size, turn.agent.shape[1]), IGNORE),
        "turn_target": np.stack([finished, speaking], axis=1).astype(np.int64),
    }


def speak_steps(turn: EncodedTurn, config: S2SConfig, user_groups: int) -> dict[str, np.ndarray]:
    """The reply: text leads, audio codes follow ``lead_frames`` later, EOS on the last audio frame."""
    size = len(turn.agent) + config.lead_frames
    text = place(turn.agent_words, 0, size - 1)
    agent = np.full((size, turn.agent.shape[1]), IGNORE)
    agent[config.lead_frames :] = turn.agent
    return {
        "mode": np.full(size, SPEAK),
        "user": np.zeros((size, user_groups), np.int64),
        "text_target": np.concatenate([text, [EOS]]),
        "transcript_target": np.full(size, IGNORE),
        "agent_target": agent,
        "turn_target": np.full((size, 2), IGNORE),
    }


def written_steps(
    words: Sequence[list[int]], mode: int, groups: tuple[int, int], rng: np.random.Generator, gap: int = MAX_GAP
) -> dict[str, np.ndarray]:
    """A typed turn (READ) or a written reply (WRITE), a piece a step; gaps, shorter than ``gap``, are no targets."""
    row: list[int] = []
    for ids in words:
        row += [PAD] * int(rng.integers(0, gap)) + ids
    tokens = np.array([*row, EOS] if mode == WRITE else [*row, PAD], np.int64)
    target = np.where(tokens == PAD, IGNORE, tokens)
    size = len(tokens)
    free = np.full(size, IGNORE)
    return {
        "mode": np.full(size, mode),
        "user": np.zeros((size, groups[0]), np.int64),
        "text_target": target if mode == WRITE else free,
        "transcript_target": target if mode == READ else free,
        "agent_target": np.full((size, groups[1]), IGNORE),
        "turn_target": np.full((size, 2), IGNORE),
    }


def note_steps(pieces: Sequence[int], groups: tuple[int, int]) -> dict[str, np.ndarray]:
    """What is remembered after a reply, a piece a step."""
    size = len(pieces) + 1
    return {
        "mode": np.full(size, NOTE),
        "user": np.zeros((size, groups[0]), np.int64),
        "text_target": np.array([*pieces, EOS], np.int64),
        "transcript_target": np.full(size, IGNORE),
        "agent_target": np.full((size, groups[1]), IGNORE),
        "turn_target": np.full((size, 2), IGNORE),
    }


def build_sequence(
    turns: Sequence[EncodedTurn],
    config: S2SConfig,
    rng: np.random.Generator,
    corrupt: float = 0.0,
    typed_share: float = 0.0,
    unknown: list[int] | None = None,
) -> FrameSequence:
    """A dialogue as teacher-forced inputs and targets.

    Args:
        turns: the dialogue; a turn without user frames is text to be said.
        config: delays.
        rng: source of all randomness.
        corrupt: share of steps whose fed-back agent codes are disturbed; half of it have their transcript hidden.
        typed_share: share of user turns that are typed instead of heard, and of replies written instead of spoken.
        unknown: the unknown word; with it some turns are misheard.
    """
    parts: list[dict[str, np.ndarray]] = []
    say: list[np.ndarray] = []
    for turn in turns:
        groups = (turn.user.shape[1], turn.agent.shape[1])
        typed, written = rng.random(2) < typed_share
        if not len(turn.user):
            heard = written_steps([ids for ids, _ in turn.agent_words], READ, groups, rng)
            heard["transcript_target"] = np.where(heard["transcript_target"] == IGNORE, PAD, heard["transcript_target"])
        elif typed and turn.user_words:
            heard = written_steps([ids for ids, _ in turn.user_words], READ, groups, rng)
        else:
            misheard = disturb(turn, config.user_levels, unknown, rng) if unknown else turn
            heard = listen_steps(misheard, config, rng)
        if written and len(turn.user) and turn.agent_words:
            said = written_steps([ids for ids, _ in turn.agent_words], WRITE, groups, rng)
        else:
            said = speak_steps(turn, config, groups[0])
        noted = [note_steps(turn.note, groups)] if turn.note is not None and config.notes else []
        parts += [heard, said, *noted]
        say += [np.full(len(heard["mode"]), not len(turn.user))]
        say += [np.zeros(len(part["mode"]), bool) for part in (said, *noted)]
    return _teacher_forced(parts, np.concatenate(say), rng, corrupt)


def build_written(turns: Sequence[WrittenTurn], config: S2SConfig, rng: np.random.Generator) -> FrameSequence:
    """A dialogue in text alone; arguments as for :func:`build_sequence`."""
    groups = (len(config.user_levels), len(config.agent_levels))
    gap = MAX_GAP if rng.random() < GAP_SHARE else 1
    parts = []
    for user, agent, note in turns:
        parts += [written_steps(user, READ, groups, rng, gap), written_steps(agent, WRITE, groups, rng, gap)]
        parts += [note_steps(note, groups)] if config.notes else []
    return _teacher_forced(parts, np.zeros(sum(len(part["mode"]) for part in parts), bool), rng, 0.0)


def _teacher_forced(
    parts: Sequence[dict[str, np.ndarray]], say: np.ndarray, rng: np.random.Generator, corrupt: float
) -> FrameSequence:
    """Join steps and feed every target to the step after it; ``say`` marks text that is read to be said."""
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    mode = joined["mode"]
    size = len(mode)
    answering = (mode == SPEAK) | (mode == WRITE) | (mode == NOTE)
    starts = np.flatnonzero(answering & (mode != np.concatenate([[LISTEN], mode[:-1]])))

    def previous(target: np.ndarray, empty: int) -> np.ndarray:
        fed = np.concatenate([np.full_like(target[:1], empty), target[:-1]])
        return np.where(fed == IGNORE, empty, fed)

    text = previous(joined["text_target"], PAD)
    text[starts] = BOS
    text[~answering] = np.where(say[~answering], EOS, PAD)
    transcript = previous(joined["transcript_target"], PAD)
    joined["transcript_target"][say] = IGNORE  # nobody can know what will be asked to be said
    agent = previous(joined["agent_target"], -1)
    agent[mode != SPEAK] = -1
    if corrupt:
        hit = (rng.random(size) < corrupt) & (agent[:, 0] >= 0)
        agent[hit] = agent[rng.permutation(np.flatnonzero(agent[:, 0] >= 0))[: hit.sum()]] if hit.any() else agent[hit]
        hidden = (rng.random(size) < corrupt * 0.5) & (mode == LISTEN)
        transcript[hidden] = PAD
    recent = np.concatenate([latest_pieces(text), latest_pieces(transcript)], axis=1)
    targets = (joined[name] for name in ("text_target", "transcript_target", "agent_target", "turn_target"))
    return FrameSequence(mode, joined["user"], text, transcript, agent, recent, *targets)


def latest_pieces(tokens: np.ndarray) -> np.ndarray:
    """The latest piece that is not PAD at every step, and the one before it: [T] -> [T, 2]; PAD where there is none."""
    real = tokens != PAD
    pieces = np.concatenate([[PAD, PAD], tokens[real]])
    count = np.cumsum(real)
    return np.stack([pieces[count + 1], pieces[count]], axis=1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded sequences as tensors: model input, padding [B, T] (1 = real), targets by name."""

    frame: FrameInput
    padding: Tensor
    text: Tensor
    transcript: Tensor
    agent: Tensor
    turn: Tensor


def collate(sequences: Sequence[FrameSequence]) -> Batch:
    """Pad at the end to the longest sequence."""
    longest = max(len(sequence.mode) for sequence in sequences)

    def stack(name: str, fill: int) -> Tensor:
        rows = []
        for sequence in sequences:
            value = getattr(sequence, name)
            width = [(0, longest - len(value))] + [(0, 0)] * (value.ndim - 1)
            rows.append(np.pad(value, width, constant_values=fill))
        return torch.from_numpy(np.stack(rows)).long()

    padding = torch.tensor([[1] * len(s.mode) + [0] * (longest - len(s.mode)) for s in sequences])
    frame = FrameInput(
        stack("mode", LISTEN), stack("user", 0), stack("text", PAD), stack("transcript", PAD), stack("agent", -1),
        stack("recent", PAD),
    )  # fmt: skip
    return Batch(
        frame, padding, stack("text_target", IGNORE), stack("transcript_target", IGNORE),
        stack("agent_target", IGNORE), stack("turn_target", IGNORE),
    )  # fmt: skip


class Batcher:
    """Endless batches of about ``frames`` steps, of dialogues of similar length, without repeats inside an epoch.

    ``written`` draws a written dialogue; ``written_share`` of the batches are made of them. With the ``unknown`` word,
    some turns are misheard.
    """

    def __init__(
        self,
        dialogues: Sequence[Sequence[EncodedTurn]],
        config: S2SConfig,
        frames: int,
        corrupt: float,
        seed: int,
        written: Callable[[np.random.Generator], list[WrittenTurn]] | None = None,
        written_share: float = 0.0,
        unknown: list[int] | None = None,
    ) -> None:
        self._written, self._written_share = written, written_share
        self._dialogues, self._config, self._frames, self._corrupt = dialogues, config, frames, corrupt
        self._unknown = unknown
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._lengths = np.array([self._most_steps(turns, config) for turns in dialogues])
        self._queue: list[np.ndarray] = []
        self._written_queue: list[list[FrameSequence]] = []

    @staticmethod
    def _most_steps(turns: Sequence[EncodedTurn], config: S2SConfig) -> int:
        around = LEAD_FRAMES[1] + TRAIL_FRAMES[1] + config.lead_frames
        return sum(
            int(turn.speech[1] - turn.speech[0]) + around + len(turn.agent) + len(turn.note or ()) + 1 for turn in turns
        )

    def _refill(self) -> None:
        rng = self._rng
        usable = np.flatnonzero(self._lengths <= self._config.window)
        order = usable[np.argsort(self._lengths[usable] * rng.uniform(0.85, 1.15, len(usable)))]
        batches, start = [], 0
        while start < len(order):
            longest = self._lengths[order[start]]
            count = max(int(self._frames // longest), 1)
            batches.append(order[start : start + count])
            start += count
        rng.shuffle(batches)  # type: ignore[arg-type]
        self._queue = batches

    @property
    def usable(self) -> int:
        """How many dialogues fit into the window; the others are left out."""
        return int((self._lengths <= self._config.window).sum())

    def restart(self, step: int) -> None:
        """Go on with batches that differ from those before ``step``: what a resumed run calls."""
        self._rng, self._queue, self._written_queue = np.random.default_rng([self._seed, step]), [], []

    def epoch_batches(self) -> int:
        """About how many batches an epoch has."""
        return max(int(self._lengths.sum() / self._frames), 1)

    def next(self) -> Batch:
        """The next batch; a new epoch begins when one is used up."""
        if self._written and self._rng.random() < self._written_share:
            return self._written_batch()
        typed = TYPED_SHARE if self._corrupt else 0.0
        if not self._queue:
            self._refill()
        return collate(
            [build_sequence(self._dialogues[pick], self._config, self._rng, self._corrupt, typed, self._unknown)
             for pick in self._queue.pop()]
        )  # fmt: skip

    def _written_batch(self) -> Batch:
        if not self._written_queue:
            self._written_queue = self._draw_written()
        batch = collate(self._written_queue.pop())
        if self._rng.random() >= PREDICTED_SHARE:
            batch.transcript.fill_(IGNORE)
        return batch

    def _draw_written(self) -> list[list[FrameSequence]]:
        """Written dialogues of a pool in batches of similar length: less than a tenth of their steps is padding."""
        assert self._written is not None
        drawn = (build_written(self._written(self._rng), self._config, self._rng) for _ in range(WRITTEN_POOL))
        pool = sorted((one for one in drawn if len(one.mode) <= self._config.window), key=lambda one: len(one.mode))
        batches: list[list[FrameSequence]] = [[]]
        for sequence in pool:
            if batches[-1] and (len(batches[-1]) + 1) * len(sequence.mode) > self._frames:
                batches.append([])
            batches[-1].append(sequence)
        self._rng.shuffle(batches)  # type: ignore[arg-type]
        return batches
