"""Frame sequences for the S2S model: a dialogue as alternating listening and speaking steps.

Idle time is not in the sequence, as it is not in the running agent: a user turn is its speech with some silence around
it, a reply follows at once. Everything random about a sequence (silence kept, corrupted inputs) comes from ``rng``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.s2s import LISTEN, SPEAK, FrameInput, S2SConfig
from models.tokenizer import BOS, EOS, PAD
from training.encode_dataset import EncodedTurn

IGNORE = -100
LEAD_FRAMES = (0, 6)  # silence kept before speech
TRAIL_FRAMES = (4, 11)  # and after it


@dataclass(slots=True)
class FrameSequence:
    """One dialogue, T steps. Inputs: mode, user, text, transcript, agent. Targets: *_target, IGNORE where free."""

    mode: np.ndarray
    user: np.ndarray
    text: np.ndarray
    transcript: np.ndarray
    agent: np.ndarray
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


def build_sequence(
    turns: Sequence[EncodedTurn], config: S2SConfig, rng: np.random.Generator, corrupt: float = 0.0
) -> FrameSequence:
    """A dialogue as teacher-forced inputs and targets.

    Args:
        turns: the dialogue.
        config: delays.
        rng: source of all randomness.
        corrupt: share of steps whose fed-back agent codes are disturbed; half of it have their transcript hidden.
    """
    parts: list[dict[str, np.ndarray]] = []
    for turn in turns:
        parts += [listen_steps(turn, config, rng), speak_steps(turn, config, turn.user.shape[1])]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    mode = joined["mode"]
    size = len(mode)
    starts = np.flatnonzero((mode == SPEAK) & (np.concatenate([[LISTEN], mode[:-1]]) == LISTEN))

    def previous(target: np.ndarray, empty: int) -> np.ndarray:
        fed = np.concatenate([np.full_like(target[:1], empty), target[:-1]])
        return np.where(fed == IGNORE, empty, fed)

    text = previous(joined["text_target"], PAD)
    text[starts] = BOS
    text[mode == LISTEN] = PAD
    transcript = previous(joined["transcript_target"], PAD)
    agent = previous(joined["agent_target"], -1)
    agent[mode == LISTEN] = -1
    if corrupt:
        hit = (rng.random(size) < corrupt) & (agent[:, 0] >= 0)
        agent[hit] = agent[rng.permutation(np.flatnonzero(agent[:, 0] >= 0))[: hit.sum()]] if hit.any() else agent[hit]
        transcript[rng.random(size) < corrupt * 0.5] = PAD
    return FrameSequence(mode=mode, user=joined["user"], text=text, transcript=transcript, agent=agent, **{
        key: joined[key] for key in ("text_target", "transcript_target", "agent_target", "turn_target")
    })  # fmt: skip


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
        stack("mode", LISTEN), stack("user", 0), stack("text", PAD), stack("transcript", PAD), stack("agent", -1)
    )
    return Batch(
        frame, padding, stack("text_target", IGNORE), stack("transcript_target", IGNORE),
        stack("agent_target", IGNORE), stack("turn_target", IGNORE),
    )  # fmt: skip


class Batcher:
    """Endless batches of about ``frames`` steps, of dialogues of similar length, without repeats inside an epoch."""

    def __init__(
        self, dialogues: Sequence[Sequence[EncodedTurn]], config: S2SConfig, frames: int, corrupt: float, seed: int
    ) -> None:
        self._dialogues, self._config, self._frames, self._corrupt = dialogues, config, frames, corrupt
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._lengths = np.array([self._most_steps(turns, config) for turns in dialogues])
        self._queue: list[np.ndarray] = []

    @staticmethod
    def _most_steps(turns: Sequence[EncodedTurn], config: S2SConfig) -> int:
        around = LEAD_FRAMES[1] + TRAIL_FRAMES[1] + config.lead_frames
        return sum(int(turn.speech[1] - turn.speech[0]) + around + len(turn.agent) for turn in turns)

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
        self._rng, self._queue = np.random.default_rng([self._seed, step]), []

    def epoch_batches(self) -> int:
        """About how many batches an epoch has."""
        return max(int(self._lengths.sum() / self._frames), 1)

    def next(self) -> Batch:
        """The next batch; a new epoch begins when one is used up."""
        if not self._queue:
            self._refill()
        return collate(
            [
                build_sequence(self._dialogues[pick], self._config, self._rng, self._corrupt)
                for pick in self._queue.pop()
            ]
        )
