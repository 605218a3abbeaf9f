from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from models.runtime_state import latest
from models.s2s import LISTEN, NOTE, READ, SPEAK, WRITE, S2SConfig
from models.tokenizer import BOS, EOS, PAD
from tests.tiny import LLAMA
from training.encode_dataset import EncodedTurn
from training.s2s_batches import Batcher, collate
from training.s2s_data import (
    IGNORE,
    LEAD_FRAMES,
    TRAIL_FRAMES,
    WrittenTurn,
    build_sequence,
    build_written,
    latest_pieces,
    listen_steps,
    place,
)

CONFIG = S2SConfig(100, ((8, 5),), ((9, 9), (8, 5)), window=200, backbone=LLAMA)
LEAD, DELAY = CONFIG.lead_frames, CONFIG.transcript_delay_frames


def turn(seed: int = 0, frames: int = 40, reply: int = 12) -> EncodedTurn:
    """Speech in frames 10.4 to 25.2; two user words, two reply words."""
    rng = np.random.default_rng(seed)
    return EncodedTurn(
        user=np.arange(frames, dtype=np.uint16)[:, None],
        speech=(10.4, 25.2),
        user_words=[([20], 15.5), ([21], 25.2)],
        agent=rng.integers(1, 40, (reply, 2)).astype(np.uint16),
        agent_words=[([30], 0.2), ([31, 32], 5.7)],
        agent_text="Two words.",
    )


@pytest.fixture
def sequence() -> dict[str, np.ndarray]:
    """Two exchanges as arrays by name."""
    made = build_sequence([turn(0), turn(1)], CONFIG, np.random.default_rng(3))
    return {name: getattr(made, name) for name in made.__slots__}


def _spans(mode: np.ndarray) -> list[tuple[int, int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(mode)) + 1), len(mode)]
    return [(int(mode[a]), int(a), int(b)) for a, b in pairwise(edges)]


def test_turns_alternate(sequence: dict[str, np.ndarray]) -> None:
    """Listen, speak, listen, speak; a reply is as long as its audio and the lead of its text."""
    spans = _spans(sequence["mode"])
    assert [mode for mode, _, _ in spans] == [LISTEN, SPEAK, LISTEN, SPEAK]
    assert [b - a for mode, a, b in spans if mode == SPEAK] == [12 + LEAD] * 2


def test_text_leads_its_audio(sequence: dict[str, np.ndarray]) -> None:
    """A word is said ``lead_frames`` steps before the frame it sounds in; EOS comes with the last audio frame."""
    _, start, stop = _spans(sequence["mode"])[1]
    text, agent = sequence["text_target"][start:stop], sequence["agent_target"][start:stop]
    assert (agent[:LEAD] == IGNORE).all()
    np.testing.assert_array_equal(agent[LEAD:], turn(0).agent)
    expected = np.full(12 + LEAD, PAD)
    expected[[0, 5, 6, -1]] = [30, 31, 32, EOS]
    np.testing.assert_array_equal(text, expected)


def test_inputs_are_the_targets_of_the_step_before(sequence: dict[str, np.ndarray]) -> None:
    """BOS opens a reply, and only a reply hears its own text and codes."""
    for mode, start, stop in _spans(sequence["mode"]):
        text, agent = sequence["text"][start:stop], sequence["agent"][start:stop]
        if mode == LISTEN:
            assert (text == PAD).all()
            assert (agent == -1).all()
            continue
        assert text[0] == BOS
        np.testing.assert_array_equal(text[1:], sequence["text_target"][start : stop - 1])
        assert (agent[: LEAD + 1] == -1).all()
        np.testing.assert_array_equal(agent[LEAD + 1 :], sequence["agent_target"][start + LEAD : stop - 1])


def test_recent_pieces_skip_what_lies_between_words() -> None:
    """The latest two pieces up to and with every step; PAD before there are any."""
    pieces = latest_pieces(np.array([PAD, 7, PAD, PAD, 8, 9, PAD]))
    assert pieces.T.tolist() == [[PAD, 7, 7, 7, 8, 9, 9], [PAD, PAD, PAD, PAD, 7, 8, 8]]


def test_recent_pieces_are_those_of_the_inputs(sequence: dict[str, np.ndarray]) -> None:
    """Text in the first two columns, transcript in the others; the runtime counts them up one step at a time."""
    recent = [PAD] * 4
    for step, row in enumerate(sequence["recent"].tolist()):
        recent = latest(recent, int(sequence["text"][step]), int(sequence["transcript"][step]))
        assert recent == row
    assert len(set(sequence["recent"][:, 0])) > 2


def test_transcript_input_is_last_steps_target(sequence: dict[str, np.ndarray]) -> None:
    """Also the first step of a reply still hears the last listening step's piece, as the engine does."""
    target = sequence["transcript_target"]
    expected = np.where(target == IGNORE, PAD, target)
    assert sequence["transcript"][0] == PAD
    np.testing.assert_array_equal(sequence["transcript"][1:], expected[:-1])


def test_losses_are_free_where_nothing_is_asked(sequence: dict[str, np.ndarray]) -> None:
    """Text and audio are asked for in SPEAK only; transcript and turn state in LISTEN only."""
    listening = sequence["mode"] == LISTEN
    for name in ("transcript_target", "turn_target"):
        assert (sequence[name][~listening] == IGNORE).all()
        assert (sequence[name][listening] != IGNORE).all()
    for name in ("text_target", "agent_target"):
        assert (sequence[name][listening] == IGNORE).all()
    assert (sequence["text_target"][~listening] != IGNORE).all()


def test_user_words_are_written_late() -> None:
    """A word appears ``transcript_delay_frames`` after the frame in which it ends, the last one too."""
    for seed in range(30):
        made = listen_steps(turn(), CONFIG, np.random.default_rng(seed))
        begin = int(made["user"][0, 0])  # the codes count frames
        ends = {20: 15, 21: 25}  # the frames in which the words end
        for token, frame in ends.items():
            assert np.flatnonzero(made["transcript_target"] == token).tolist() == [frame + DELAY - begin]
        assert (made["transcript_target"] != PAD).sum() == 2


def test_turn_state_follows_the_speech() -> None:
    """Speaking from the first frame of speech to the last, finished after it; silence around it varies in bounds."""
    leads, trails = set(), set()
    for seed in range(60):
        made = listen_steps(turn(), CONFIG, np.random.default_rng(seed))
        frames = made["user"][:, 0]
        finished, speaking = made["turn_target"].T
        np.testing.assert_array_equal(speaking == 1, (frames >= 10) & (frames < 26))
        np.testing.assert_array_equal(finished == 1, frames >= 26)
        leads.add(10 - int(frames[0]))
        trails.add(int(frames[-1]) - 25)
    assert leads == set(range(*LEAD_FRAMES))
    assert trails == set(range(*TRAIL_FRAMES))


def test_silence_kept_ends_with_the_recording() -> None:
    """A turn that ends with its recording is not read past its end."""
    made = listen_steps(turn(frames=27), CONFIG, np.random.default_rng(0))
    assert made["user"][-1, 0] == 26
    assert len(made["mode"]) == len(made["user"]) == len(made["transcript_target"])


def test_pieces_never_share_a_step() -> None:
    """Pieces that come too fast are pushed back; those past the end are lost, not wrapped."""
    row = place([([5, 6], 2.0), ([7], 2.9), ([8], 6.0), ([9, 10], 7.0)], 0, 8)
    assert row.tolist() == [PAD, PAD, 5, 6, 7, PAD, 8, 9]


def test_corruption_touches_fed_back_inputs_only() -> None:
    """Targets stay clean; disturbed codes are codes of the same dialogue; some transcripts are hidden."""
    clean = build_sequence([turn(seed) for seed in range(4)], CONFIG, np.random.default_rng(5))
    dirty = build_sequence([turn(seed) for seed in range(4)], CONFIG, np.random.default_rng(5), corrupt=0.9)
    for name in ("mode", "user", "text", "text_target", "transcript_target", "agent_target", "turn_target"):
        np.testing.assert_array_equal(getattr(dirty, name), getattr(clean, name))
    changed = (dirty.agent != clean.agent).any(axis=1)
    assert 5 < changed.sum() < len(changed)
    assert (clean.agent[changed, 0] >= 0).all()
    assert {tuple(row) for row in dirty.agent} <= {tuple(row) for row in clean.agent}
    assert set(dirty.transcript) <= set(clean.transcript)
    assert not np.array_equal(dirty.transcript, clean.transcript)


def test_collate_pads_at_the_end() -> None:
    """Shorter rows get neutral inputs and free targets."""
    short = build_sequence([turn(0)], CONFIG, np.random.default_rng(0))
    long = build_sequence([turn(0), turn(1)], CONFIG, np.random.default_rng(0))
    batch = collate([short, long])
    size = len(short.mode)
    assert batch.padding.sum(1).tolist() == [size, len(long.mode)]
    for target in (batch.text, batch.transcript, batch.turn):
        assert (target[0, size:] == IGNORE).all()
        assert target.dtype == torch.int64
    assert torch.equal(batch.frame.agent[0, :size], torch.from_numpy(short.agent))
    assert (batch.frame.agent[0, size:] == -1).all()


def _batcher(count: int, frames: int = 300, seed: int = 0) -> Batcher:
    dialogues = [[turn(index, reply=5 + index)] * (1 + index % 2) for index in range(count)]
    return Batcher(dialogues, CONFIG, frames, 0.0, seed)


def test_an_epoch_has_every_dialogue_once() -> None:
    """Replies tell the dialogues apart: each is seen once before any is seen again."""
    batcher = _batcher(12)
    seen: list[int] = []
    while len(seen) < 12:
        batch = batcher.next()
        seen += (batch.frame.mode * batch.padding == SPEAK).sum(1).tolist()
    assert sorted(seen) == sorted((1 + i % 2) * (5 + i + LEAD) for i in range(12))


def test_batches_keep_their_size_and_the_window() -> None:
    """No batch is much larger than asked, no sequence longer than the context."""
    batcher = _batcher(40, frames=200)
    for _ in range(60):
        batch = batcher.next()
        assert batch.padding.shape[1] <= CONFIG.window
        assert batch.padding.numel() <= 200 * 1.5


def test_the_same_seed_draws_the_same_batches() -> None:
    """And another seed others."""
    first, second, other = _batcher(12), _batcher(12), _batcher(12, seed=1)
    pairs = [(first.next(), second.next(), other.next()) for _ in range(5)]
    assert all(torch.equal(a.frame.agent, b.frame.agent) for a, b, _ in pairs)
    assert not all(
        a.frame.agent.shape == c.frame.agent.shape and torch.equal(a.frame.agent, c.frame.agent) for a, _, c in pairs
    )


def test_dialogues_beyond_the_window_are_left_out() -> None:
    """They are counted out, so that a trainer can say that none is left."""
    batcher = Batcher([[turn()] * 9, [turn()]], CONFIG, 300, 0.0, 0)
    assert batcher.usable == 1
    assert all(len(batcher.next().padding) == 1 for _ in range(4))
    assert Batcher([[turn()] * 9], CONFIG, 300, 0.0, 0).usable == 0
    assert Batcher([], CONFIG, 300, 0.0, 0).usable == 0


def test_text_to_be_said_is_read_first() -> None:
    """A turn without recorded speech: its pieces are read, marked by EOS in the text stream, then spoken."""
    said = turn(0)
    silent = EncodedTurn(np.zeros((0, 1), np.uint16), (0.0, 0.0), [], said.agent, said.agent_words, said.agent_text)
    made = build_sequence([silent], CONFIG, np.random.default_rng(1))
    (first, start, stop), (second, _, _) = _spans(made.mode)
    assert (first, second) == (READ, SPEAK)
    assert (made.text[start:stop] == EOS).all()
    assert [token for token in made.transcript[start:stop] if token != PAD] == [30, 31, 32]
    assert (made.transcript_target[start:stop] == IGNORE).all()
    assert [token for token in made.text_target[stop:] if token != PAD] == [30, 31, 32, EOS]


def test_written_dialogues_are_text_alone() -> None:
    """Typed words are fed and asked for, a reply opens with BOS and ends with EOS; nothing is heard or spoken."""
    dialogue = [([[20], [21]], [[30], [31, 32]], [40]), ([[22]], [[33]], [])]
    made = build_written(dialogue, CONFIG, np.random.default_rng(2))
    spans = _spans(made.mode)
    assert [mode for mode, _, _ in spans] == [READ, WRITE, READ, WRITE]
    for (_, start, stop), words in zip(spans, ([20, 21], [30, 31, 32, EOS], [22], [33, EOS]), strict=True):
        targets = np.maximum(made.transcript_target[start:stop], made.text_target[start:stop])
        assert [target for target in targets if target != IGNORE] == words
    assert [made.text[start] for mode, start, _ in spans if mode == WRITE] == [BOS, BOS]
    assert (made.agent == -1).all()
    assert (made.agent_target == IGNORE).all()
    assert (made.turn_target == IGNORE).all()


def test_notes_follow_replies() -> None:
    """A piece a step in the text stream, from BOS to EOS, nothing heard or spoken; without being asked for, none."""
    config = replace(CONFIG, notes=True)
    noted = [replace(turn(0), note=[40, 41]), replace(turn(1), note=[])]
    made = build_sequence(noted, config, np.random.default_rng(3))
    spans = _spans(made.mode)
    assert [mode for mode, _, _ in spans] == [LISTEN, SPEAK, NOTE, LISTEN, SPEAK, NOTE]
    for (_, start, stop), pieces in ((spans[2], [40, 41]), (spans[5], [])):
        assert made.text_target[start:stop].tolist() == [*pieces, EOS]
        assert made.text[start:stop].tolist() == [BOS, *pieces]
        assert (made.agent[start:stop] == -1).all()
        assert (made.agent_target[start:stop] == IGNORE).all()
        assert (made.transcript_target[start:stop] == IGNORE).all()
    plain = build_sequence(noted, CONFIG, np.random.default_rng(3))
    assert NOTE not in plain.mode
    written = build_written([([[20]], [[30]], [40, 41])], config, np.random.default_rng(2))
    assert [mode for mode, _, _ in _spans(written.mode)] == [READ, WRITE, NOTE]
    assert [token for token in written.text_target if token not in (PAD, IGNORE)] == [30, EOS, 40, 41, EOS]


def test_a_batcher_mixes_in_written_dialogues() -> None:
    """Their share is what was asked for; without recordings a share of one needs no dialogue at all."""

    def draw(rng: np.random.Generator) -> list[WrittenTurn]:
        return [([[20]] * int(rng.integers(1, 9)), [[30], [31]], [40])]

    mixed = Batcher([[turn(0)]], CONFIG, 200, 0.0, 0, draw, 0.5)
    written = sum(int(mixed.next().frame.mode.max()) == WRITE for _ in range(60))
    assert 15 < written < 45
    alone = Batcher([], CONFIG, 200, 0.0, 0, draw, 1.0).next()
    assert set(alone.frame.mode[alone.padding == 1].tolist()) == {READ, WRITE}
    assert 100 < alone.padding.numel() < 400


def test_some_turns_are_typed_or_written() -> None:
    """A share of one leaves nothing to hear or to speak, and asks for the same words."""
    made = build_sequence([turn(0), turn(1)], CONFIG, np.random.default_rng(3), typed_share=1.0)
    spans = _spans(made.mode)
    assert [mode for mode, _, _ in spans] == [READ, WRITE, READ, WRITE]
    assert [token for token in made.transcript_target if token not in (PAD, IGNORE)] == [20, 21] * 2
    assert [token for token in made.text_target if token not in (PAD, IGNORE)] == [30, 31, 32, EOS] * 2


def test_a_sound_before_a_turn_holds_nothing_to_hear() -> None:
    """Some turns begin after a sound: its codes are heard, with no word, no speech and no end in them."""
    sound = np.full((7, 1), 39, np.uint16)
    turns = [turn(0)]
    plain = build_sequence(turns, CONFIG, np.random.default_rng(0))
    lengths = set()
    for seed in range(60):
        sequence = build_sequence(turns, CONFIG, np.random.default_rng(seed), sounds=[sound])
        begins = (sequence.user[:7] == 39).all()
        lengths.add(bool(begins))
        if begins:
            assert (sequence.mode[:7] == LISTEN).all()
            assert (sequence.transcript_target[:7] == PAD).all()
            assert (sequence.turn_target[:7] == 0).all()
            assert (sequence.text_target[:7] == IGNORE).all()
            words = sequence.transcript_target[sequence.transcript_target > 0]
            assert words.tolist() == plain.transcript_target[plain.transcript_target > 0].tolist()
    assert lengths == {True, False}
