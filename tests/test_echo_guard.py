"""What counts as somebody, from levels alone."""

import numpy as np

from streaming.echo_guard import EchoGuard

QUIET, ECHO, LOUD = 1e-7, 1e-3, 2e-3
PLAYED = 1e-2


def feed(guard: EchoGuard, frames: int, played: float, heard: float, left: float) -> list[bool]:
    return [guard.is_echo(played, heard, left) for _ in range(frames)]


def proven() -> EchoGuard:
    """A guard whose canceller has shown that it takes 30 dB of the echo out."""
    guard = EchoGuard()
    feed(guard, 100, 0.0, QUIET, QUIET)
    feed(guard, 300, PLAYED, ECHO, ECHO * 1e-3)
    assert guard.trusting
    return guard


def test_at_first_nothing_counts_while_the_speaker_plays() -> None:
    """The canceller does not know the room: whatever it leaves, loud as it may be, is taken for the echo."""
    guard = EchoGuard()
    assert not any(feed(guard, 100, 0.0, QUIET, QUIET))  # the speaker is silent
    assert all(feed(guard, 200, PLAYED, LOUD, LOUD))
    assert not guard.trusting


def test_a_proven_canceller_lets_the_user_through_at_once() -> None:
    """A voice as loud as the echo counts within 50 ms, and goes on counting."""
    verdicts = feed(proven(), 40, PLAYED, LOUD, ECHO)
    assert verdicts.index(False) <= 5
    assert not any(verdicts[verdicts.index(False) :])


def test_what_is_left_of_the_echo_does_not_count() -> None:
    """As much as was left before, and a little more, is still the echo; far more is not."""
    guard = proven()
    assert all(feed(guard, 500, PLAYED, ECHO, ECHO * 1e-3))
    assert all(feed(guard, 20, PLAYED, ECHO, ECHO * 3e-3))
    assert not feed(guard, 20, PLAYED, ECHO, ECHO * 1e-1)[-1]


def test_a_room_that_rings_is_not_somebody() -> None:
    """After the speaker stopped, what dies away in it is the echo, though the canceller leaves all of it."""
    guard, power = proven(), ECHO
    for frame in range(150):
        power *= 10**-0.04  # 40 dB a second
        assert guard.is_echo(0.0, power, power * (0.1 if frame > 30 else 0.002))


def test_a_user_right_after_the_reply_counts() -> None:
    """A voice as loud as the echo was counts 300 ms after the speaker fell silent, if not before."""
    guard = proven()
    feed(guard, 35, 0.0, QUIET, QUIET)
    assert not feed(guard, 5, 0.0, ECHO, ECHO)[-1]


def test_without_an_echo_everything_counts() -> None:
    """Headphones: what the microphone hears does not follow the speaker, so after two seconds nothing is held back."""
    guard = EchoGuard()
    feed(guard, 100, 0.0, QUIET, QUIET)
    feed(guard, 200, PLAYED, QUIET, QUIET)
    assert guard.trusting
    assert not any(feed(guard, 40, PLAYED, LOUD, LOUD))


def test_a_stumble_does_not_matter_to_headphones() -> None:
    """Where there was no echo, there is none after audio was lost; where there was one, it may be anywhere now."""
    headphones, loudspeaker = EchoGuard(), proven()
    feed(headphones, 100, 0.0, QUIET, QUIET)
    feed(headphones, 200, PLAYED, QUIET, QUIET)
    for guard, still in ((headphones, True), (loudspeaker, False)):
        guard.doubt()
        assert guard.trusting is still
    assert not feed(headphones, 20, PLAYED, ECHO, ECHO)[-1]
    feed(headphones, 60, PLAYED, ECHO, ECHO)  # it was put on a loudspeaker meanwhile
    assert not headphones.trusting


def test_a_microphone_that_was_muted_is_heard_again() -> None:
    """What a headset hears after it was switched on is a room, not an echo that the canceller leaves."""
    guard = EchoGuard()
    feed(guard, 200, PLAYED, 0.0, 0.0)
    feed(guard, 1_000, 0.0, 0.0, 0.0)
    feed(guard, 600, 0.0, QUIET, QUIET)
    feed(guard, 300, PLAYED, QUIET, QUIET)
    assert guard.trusting
    assert not feed(guard, 20, PLAYED, ECHO, ECHO)[-1]


def test_a_microphone_that_closes_between_words_still_hears_the_echo() -> None:
    """Zeros of a noise gate are the floor of its room: what comes through at first is the echo."""
    guard = EchoGuard()
    for _ in range(20):
        feed(guard, 50, 0.0, 0.0, 0.0)
        feed(guard, 50, 0.0, LOUD, LOUD)  # somebody speaks
    assert all(feed(guard, 200, PLAYED, ECHO, ECHO)[5:])


def test_a_canceller_that_lost_its_way_is_doubted() -> None:
    """When the delay has moved and the echo comes back whole, it stops counting in two seconds; so after doubt."""
    guard = proven()
    feed(guard, 200, PLAYED, ECHO, ECHO)
    assert not guard.trusting
    guard = proven()
    guard.doubt()
    assert all(feed(guard, 30, PLAYED, ECHO, ECHO))


def test_how_much_was_taken_out_is_told() -> None:
    """In decibels, over what was taken for an echo; nothing at first."""
    assert EchoGuard().taken_out_db == 0.0
    assert 25 < proven().taken_out_db < 35


def test_an_echo_that_comes_back_later_than_before_is_known_by_its_course() -> None:
    """Right after a silence the canceller may fail; what then rises and falls as what was played is the echo."""
    rng = np.random.default_rng(0)
    played, other = 10 ** rng.uniform(-4.5, -1.5, (2, 80))
    echo = np.concatenate([np.zeros(12), 0.1 * played[:-12]])
    for heard, counts in ((echo, False), (echo + other, True)):
        guard = proven()
        feed(guard, 100, 0.0, QUIET, QUIET)
        verdicts = [guard.is_echo(*powers) for powers in zip(played, heard + QUIET, 0.5 * heard + QUIET, strict=True)]
        assert not any(verdicts[30:70]) if counts else all(verdicts[30:70])
