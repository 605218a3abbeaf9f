"""Frame sequences for the S2S model: a dialogue as alternating listening and speaking steps.

Idle time is not in the sequence, as it is not in the running agent: a user turn is its speech with some silence around
it, a reply follows at once. A turn without recorded speech is text to be said. Written dialogues are text alone, far
shorter than spoken ones: they teach what to answer when. Everything random about a sequence (silence kept, corrupted
inputs) comes from ``rng``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.s2s import LISTEN, NOTE, READ, SPEAK, WRITE, S2SConfig
from models.tokenizer import BOS, EOS, PAD
from training.encode_dataset import EncodedTurn
from training.mishearing import disturb

IGNORE = -100
LEAD_FRAMES = (0, 6)  # silence kept before speech
TRAIL_FRAMES = (4, 11)  # and after it
SOUND_SHARE = 0.12  # of user turns in disturbed batches begin after a sound in which there is nothing to hear
MAX_GAP, GAP_SHARE = 3, 0.3  # steps between words in a share of the written dialogues; others need half the room

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


def after_sound(heard: dict[str, np.ndarray], sound: np.ndarray) -> dict[str, np.ndarray]:
    """A user's turn with a sound [T, groups] before it: no words, no speech, no end."""
    empty = {"mode": LISTEN, "text_target": IGNORE, "transcript_target": PAD, "agent_target": IGNORE, "turn_target": 0}
    return {
        name: np.concatenate(
            [sound.astype(np.int64) if name == "user" else np.full((len(sound), *row.shape[1:]), empty[name]), row]
        )
        for name, row in heard.items()
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


def _spoken_steps(
    turn: EncodedTurn, config: S2SConfig, rng: np.random.Generator, sounds: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """A spoken turn, after a sound or not."""
    heard = listen_steps(turn, config, rng)
    if sounds and rng.random() < SOUND_SHARE:
        heard = after_sound(heard, sounds[int(rng.integers(len(sounds)))])
    return heard


def build_sequence(
    turns: Sequence[EncodedTurn],
    config: S2SConfig,
    rng: np.random.Generator,
    corrupt: float = 0.0,
    typed_share: float = 0.0,
    unknown: list[int] | None = None,
    sounds: Sequence[np.ndarray] = (),
) -> FrameSequence:
    """A dialogue as teacher-forced inputs and targets.

    Args:
        turns: the dialogue; a turn without user frames is text to be said.
        config: delays.
        rng: source of all randomness.
        corrupt: share of steps whose fed-back agent codes are disturbed; half of it have their transcript hidden.
        typed_share: share of user turns that are typed instead of heard, and of replies written instead of spoken.
        unknown: the unknown word; with it some turns are misheard.
        sounds: codes [T, groups] of sounds that are no turn; some turns begin after one.
    """
    parts: list[dict[str, np.ndarray]] = []
    say: list[np.ndarray] = []
    for turn in turns:
        groups = (turn.user.shape[1], turn.agent.shape[1])
        typed, written = rng.random(2) < typed_share
        if not len(turn.user):
            heard = written_steps([ids for ids, _ in turn.agent_words], READ, groups, rng, gap=1)
            heard["transcript_target"] = np.where(heard["transcript_target"] == IGNORE, PAD, heard["transcript_target"])
        elif typed and turn.user_words:
            heard = written_steps([ids for ids, _ in turn.user_words], READ, groups, rng)
        else:
            misheard = disturb(turn, config.user_levels, unknown, rng) if unknown else turn
            heard = _spoken_steps(misheard, config, rng, sounds)
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
    return FrameSequence(
        mode, joined["user"], text, transcript, agent, recent, joined["text_target"], joined["transcript_target"],
        joined["agent_target"], joined["turn_target"],
    )  # fmt: skip


def latest_pieces(tokens: np.ndarray) -> np.ndarray:
    """The latest piece that is not PAD at every step, and the one before it: [T] -> [T, 2]; PAD where there is none."""
    real = tokens != PAD
    pieces = np.concatenate([[PAD, PAD], tokens[real]])
    count = np.cumsum(real)
    return np.stack([pieces[count + 1], pieces[count]], axis=1)
