"""The lead of a reply over its listener."""

import numpy as np
import pytest

from agent.pacing import Pacer
from agent.reply import from_onset

FRAME_S = 0.08


def test_without_a_limit_nothing_waits() -> None:
    """No lead limit means no delay."""
    pacer = Pacer(FRAME_S, None)
    for _ in range(100):
        assert pacer.delay_s(5.0) == 0.0
        pacer.sent(5.0, FRAME_S)


def test_the_lead_is_bounded() -> None:
    """At one moment only as many frames leave as fit into the lead."""
    pacer = Pacer(FRAME_S, 0.4)
    sent = 0
    while pacer.delay_s(10.0) <= 0.0:
        pacer.sent(10.0, FRAME_S)
        sent += 1
    assert sent == 5
    assert pacer.delay_s(10.0) == pytest.approx(0.08)
    assert pacer.delay_s(10.08) == pytest.approx(0.0, abs=1e-9)


def test_an_underrun_shifts_the_schedule() -> None:
    """A frame that comes too late is played from then on, and that is told."""
    pacer = Pacer(FRAME_S, 0.4)
    assert pacer.sent(0.0, FRAME_S)
    assert not pacer.sent(1.0, FRAME_S)
    assert pacer.heard_frames(1.04) == 2


@pytest.mark.parametrize(("after_s", "heard"), [(0.0, 0), (0.01, 1), (0.08, 1), (0.2, 3), (9.0, 5)])
def test_what_can_have_been_heard(after_s: float, heard: int) -> None:
    """A begun frame counts as heard; never more than was sent."""
    pacer = Pacer(FRAME_S, None)
    for _ in range(5):
        pacer.sent(0.0, FRAME_S)
    assert pacer.heard_frames(after_s) == heard


def test_nothing_sent_is_nothing_heard() -> None:
    """Before the first frame nothing was heard."""
    assert Pacer(FRAME_S, None).heard_frames(1.0) == 0


def test_a_pause_moves_what_the_listener_hears() -> None:
    """A listener that stops plays on where it was; one that ran dry has heard everything, and that is no underrun."""
    for stopped, heard in ((True, 1), (False, 3)):
        pacer = Pacer(FRAME_S, 1.0)
        for _ in range(3):
            pacer.sent(0.0, FRAME_S)
        pacer.resumed(1.04, 1.0, stopped)
        assert pacer.heard_frames(1.04) == heard
        assert pacer.sent(1.04, FRAME_S)


def test_what_is_sent_again_is_still_to_be_heard() -> None:
    """A listener that gets the last two frames once more has them to play from then on."""
    pacer = Pacer(FRAME_S, 0.4)
    for _ in range(5):
        pacer.sent(0.0, FRAME_S)
    pacer.repeated(3.0, 2)
    assert pacer.heard_frames(3.0) == 3
    assert pacer.unheard_s(3.0) == pytest.approx(0.16)


def test_a_shorter_frame_ends_earlier() -> None:
    """The silence that a first frame lost is not waited for."""
    pacer = Pacer(FRAME_S, None)
    pacer.sent(0.0, 0.05)
    assert pacer.unheard_s(0.03) == pytest.approx(0.02)
    assert pacer.sent(0.05, FRAME_S)
    assert pacer.unheard_s(0.05) == pytest.approx(0.08)


def test_a_reply_begins_with_its_voice() -> None:
    """All but 5 ms of the silence before the voice is dropped, none of the voice, and nothing of a silent frame."""
    pcm = np.zeros(1920, np.float32)
    assert from_onset(pcm) is pcm
    pcm[800:] = 0.1
    assert np.array_equal(from_onset(pcm), pcm[800 - 120 :])
    assert len(from_onset(pcm[750:])) == 1920 - 750
