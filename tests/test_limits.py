"""What one session may use."""

import pytest

from agent.limits import Allowance


def test_the_burst_is_there_at_first() -> None:
    """As much as the burst at once, and no more."""
    allowance = Allowance(2.0, 10.0, now=0.0)
    assert allowance.take(10.0, 0.0)
    assert not allowance.take(0.1, 0.0)


def test_it_comes_back_with_time() -> None:
    """The rate refills it, up to the burst."""
    allowance = Allowance(2.0, 10.0, now=0.0)
    assert allowance.take(10.0, 0.0)
    assert allowance.take(6.0, 3.0)
    assert not allowance.take(0.5, 3.0)
    assert allowance.take(10.0, 1_000.0)
    assert not allowance.take(0.5, 1_000.0)


@pytest.mark.parametrize("step_s", [0.02, 0.5, 4.0])
def test_the_rate_holds_for_ever(step_s: float) -> None:
    """Who uses exactly the rate is never refused, and who uses a tenth more is in the end."""
    exact, greedy = Allowance(1.0, 10.0, 0.0), Allowance(1.0, 10.0, 0.0)
    steps = [n * step_s for n in range(1, int(400 / step_s))]
    assert all(exact.take(step_s, now) for now in steps)
    assert not all(greedy.take(step_s * 1.1, now) for now in steps)
