import numpy as np
import pytest
from pydantic import ValidationError

from streaming.playout import Playout, PlayoutConfig

FADE = 120  # 5 ms at 24 kHz


def ones(count: int) -> np.ndarray:
    return np.ones(count, np.float32)


def test_audio_comes_out_as_it_went_in() -> None:
    """Frames are joined without a change, whatever sizes are pulled."""
    pcm = np.linspace(-0.5, 0.5, 1000, dtype=np.float32)
    playout = Playout()
    for i in range(0, 1000, 300):
        assert playout.push(pcm[i : i + 300], 0)
    assert np.array_equal(np.concatenate([playout.pull(n) for n in (1, 499, 0, 500)]), pcm)
    assert playout.played_samples == 1000


def test_silence_when_there_is_nothing() -> None:
    """An idle playout gives zeros and counts no underrun."""
    playout = Playout()
    assert not playout.pull(480).any()
    assert playout.idle and playout.underruns == 0 and playout.played_samples == 0


def test_the_producer_waits_at_the_bound() -> None:
    """A push beyond the lead is refused until something was played; an empty queue takes any frame."""
    playout = Playout(PlayoutConfig(max_lead_ms=100))
    assert playout.push(ones(1920), 0)
    assert not playout.push(ones(1920), 0)
    playout.pull(1920)
    assert playout.push(ones(9600), 0)
    assert playout.buffered_samples == 9600


def test_an_underrun_decays_counts_and_fades_in_again() -> None:
    """Audio that runs out in a reply dies away, is counted once, and comes back with a ramp."""
    playout = Playout()
    playout.push(ones(100), 0)
    out = playout.pull(500)
    assert out[99] == 1 and 0.9 < out[100] < 1 and out[100 + FADE :].max() == 0
    assert np.all(np.diff(out[99 : 100 + FADE]) < 0)
    assert not playout.pull(500).any()
    assert (playout.underruns, playout.underrun_samples) == (1, 900)
    playout.push(ones(500), 0)
    out = playout.pull(500)
    assert out[0] == 0 and np.all(np.diff(out[:FADE]) > 0) and out[FADE:].min() == 1
    assert playout.played_samples == 600
    playout.push(ones(50), 0)
    assert playout.pull(50).min() == 1


def test_an_underrun_at_the_end_leaves_the_next_reply_alone() -> None:
    """A reply that ended while it was starved does not fade in the one after it."""
    playout = Playout()
    playout.push(ones(10), 0)
    playout.pull(500)
    playout.end(0)
    playout.pull(500)
    playout.push(ones(50), 0)
    assert playout.pull(50).min() == 1


def test_the_end_of_a_reply_is_no_underrun() -> None:
    """Running out after `end` is expected; the next reply starts without a fade."""
    playout = Playout()
    playout.push(ones(100), 0)
    playout.end(0)
    assert not playout.idle
    playout.pull(400)
    assert playout.idle and playout.underruns == 0
    playout.push(ones(10), 0)
    assert playout.pull(10).min() == 1


def test_cancel_fades_and_drops_the_rest() -> None:
    """An interruption leaves a fade of 5 ms and silence; the position heard is returned."""
    playout = Playout()
    playout.push(ones(1920), 0)
    playout.pull(1000)
    assert playout.cancel(1) == 1000
    out = playout.pull(500)
    assert out[0] == 1 and np.all(np.diff(out[:FADE]) < 0) and not out[FADE:].any()
    assert playout.stale_samples == 1920 - 1000 - FADE
    assert playout.played_samples == 0 and playout.idle and playout.underruns == 0


def test_a_fade_that_somebody_else_plays_is_left_out() -> None:
    """Only it, not what comes after."""
    playout = Playout()
    playout.push(ones(1920), 0)
    playout.cancel(1)
    playout.push(ones(10), 1)
    assert (playout.cuts, playout.buffered_samples) == (1, FADE + 10)
    playout.drop_fade()
    assert playout.buffered_samples == 10
    playout.drop_fade()
    assert playout.pull(10).min() == 1
    assert playout.played_samples == 10


def test_cancel_fades_over_several_frames() -> None:
    """The fade may reach over frame borders and may be shorter than its full length."""
    playout = Playout()
    for _ in range(5):
        playout.push(ones(10), 0)
    playout.cancel(1)
    out = playout.pull(100)
    assert out[0] == 1 and out[49] == 0 and np.all(np.diff(out[:50]) < 0) and not out[50:].any()


def test_late_audio_of_a_cancelled_reply_is_dropped() -> None:
    """A frame of an older generation is accepted, counted and never heard."""
    playout = Playout()
    playout.cancel(3)
    assert playout.push(ones(50), 2)
    assert not playout.pull(50).any()
    assert playout.stale_samples == 50


def test_cancel_of_a_known_generation_does_nothing() -> None:
    """A repeated cancel does not hurt the reply that started since."""
    playout = Playout()
    playout.cancel(1)
    playout.push(ones(50), 1)
    assert playout.cancel(1) == 0
    assert playout.pull(50).min() == 1


def test_a_newer_generation_takes_over() -> None:
    """The first frame of a newer generation cancels what was waiting."""
    playout = Playout()
    playout.push(ones(1000), 0)
    playout.push(-ones(300), 1)
    out = playout.pull(FADE + 300)
    assert out[:FADE].min() == 0 and out[FADE:].max() == -1
    assert playout.generation == 1 and playout.played_samples == 300


def test_an_end_of_an_old_reply_does_not_end_the_new_one() -> None:
    """`end` with a stale generation is ignored."""
    playout = Playout()
    playout.push(ones(10), 1)
    playout.end(0)
    assert playout.in_reply


def test_bad_arguments_are_errors() -> None:
    """Negative counts, wrong audio and unknown settings are refused."""
    with pytest.raises(ValueError, match="negative"):
        Playout().pull(-1)
    with pytest.raises(ValueError, match="float32"):
        Playout().push(np.ones(3), 0)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        PlayoutConfig.model_validate({"lead": 3})


def test_a_held_reply_goes_on_with_the_same_sample() -> None:
    """Holding fades out, gives silence, loses nothing and is no underrun; a cancelled hold does not last."""
    playout = Playout(PlayoutConfig(fade_ms=5.0))
    pcm = np.linspace(0.5, 0.9, 4_800, dtype=np.float32)
    playout.push(pcm, 1)
    before = playout.pull(1_000)
    playout.hold()
    held = playout.pull(960)
    playout.resume()
    after = playout.pull(3_800)
    np.testing.assert_array_equal(before, pcm[:1_000])
    assert np.abs(np.diff(held[:120])).max() < 0.01
    assert not held[120:].any()
    np.testing.assert_array_equal(after[120:], pcm[1_120:])
    assert playout.underruns == 0
    playout.hold()
    playout.cancel(2)
    playout.push(pcm, 2)
    np.testing.assert_array_equal(playout.pull(960), pcm[:960])
