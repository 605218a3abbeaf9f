"""Two voices on one clock."""

from collections.abc import Iterable

import numpy as np
import pytest

from agent.timeline import LATE, Timeline
from tests.fakes import tone

SECOND = 24_000


def mixed(*blocks: Iterable[np.ndarray]) -> np.ndarray:
    """int16 [n, 2] of what was given out."""
    pieces = [piece for group in blocks for piece in group]
    return np.concatenate(pieces) if pieces else np.zeros((0, 2), np.int16)


def constant(samples: int, level: float = 0.5) -> np.ndarray:
    return np.full(samples, level, np.float32)


def spans(channel: np.ndarray) -> list[tuple[int, int]]:
    """Where a channel is not silent."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (channel != 0).astype(int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


@pytest.mark.parametrize("chunk", [480, 1_920, 100_000])
def test_the_user_is_not_changed(chunk: int) -> None:
    """However it is cut and however it jitters, the user's audio is continuous."""
    timeline, said = Timeline(), tone(3 * SECOND)
    out: list[list[np.ndarray]] = []
    for n, start in enumerate(range(0, len(said), chunk)):
        piece, jitter = said[start : start + chunk], (n % 5) * SECOND // 20
        out.append(list(timeline.hear(piece, start + len(piece) + jitter)))
    both = mixed(*out)
    np.testing.assert_allclose(both[:, 0] / 32_767, said, atol=1e-4)
    assert not both[:, 1].any()
    assert timeline.heard == timeline.position == len(said)


def test_a_user_who_sends_nothing_is_silent() -> None:
    """A pause longer than half a second becomes silence of that length; a shorter one is jitter."""
    timeline = Timeline()
    out = [list(timeline.hear(constant(SECOND), SECOND))]
    out.append(list(timeline.hear(constant(SECOND), 2 * SECOND + LATE)))
    out.append(list(timeline.hear(constant(SECOND), 3 * SECOND + LATE + 1)))
    assert spans(mixed(*out)[:, 0]) == [(0, 2 * SECOND), (2 * SECOND + LATE + 1, 3 * SECOND + LATE + 1)]
    assert timeline.heard == 3 * SECOND
    assert timeline.position == 3 * SECOND + LATE + 1


def test_the_agent_is_where_it_is_heard() -> None:
    """Frames sent ahead are played one after the other from the moment the first was sent."""
    timeline = Timeline()
    out = [list(timeline.hear(constant(SECOND), SECOND))]
    for now in (SECOND + 100, SECOND + 200):
        out.append(list(timeline.say(constant(1_920, 0.2), now)))
    out.append(list(timeline.hear(constant(SECOND), 2 * SECOND)))
    assert spans(mixed(*out)[:, 1]) == [(SECOND + 100, SECOND + 100 + 2 * 1_920)]


def test_an_interruption_takes_back_what_was_not_played() -> None:
    """The agent breaks off where the user was noticed, and what it says next begins when it is sent."""
    timeline = Timeline()
    out = [list(timeline.hear(constant(SECOND), SECOND))]
    out.append(list(timeline.say(constant(2 * SECOND, 0.2), SECOND)))
    out.append(list(timeline.hear(constant(SECOND), 2 * SECOND)))
    timeline.hush(2 * SECOND + 500)
    out.append(list(timeline.say(constant(100, 0.2), 2 * SECOND + 900)))
    out.append(list(timeline.hear(constant(SECOND), 3 * SECOND)))
    assert spans(mixed(*out)[:, 1]) == [(SECOND, 2 * SECOND + 500), (2 * SECOND + 900, 2 * SECOND + 1_000)]


def test_a_user_faster_than_real_time() -> None:
    """Then the user's own clock leads: a reply begins where the user's audio has come to."""
    timeline = Timeline()
    out = [list(timeline.hear(constant(10 * SECOND), 100)), list(timeline.say(constant(1_920, 0.2), 200))]
    out.append(list(timeline.finish(300)))
    assert spans(mixed(*out)[:, 1]) == [(10 * SECOND, 10 * SECOND + 1_920)]


def test_the_end() -> None:
    """What was sent is given out to its end, and a silent rest up to now."""
    timeline = Timeline()
    out = [list(timeline.say(constant(1_920, 0.2), 0)), list(timeline.finish(5 * SECOND))]
    assert mixed(*out).shape == (5 * SECOND, 2)
    assert spans(mixed(*out)[:, 1]) == [(0, 1_920)]


def test_a_long_silence_comes_in_pieces() -> None:
    """An hour of nothing is no array of an hour."""
    assert max(len(block) for block in Timeline().catch_up(3_600 * SECOND)) <= SECOND
