"""What Prometheus is told, read back with Prometheus's own parser."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.metrics import TurnMetrics
from agent.telemetry import Gauges, Telemetry
from agent.worker import Worker
from models.runtime import Mode
from tests.fakes import FRAME, FakeEngine, silence

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Samples:
    """Every sample of an exposition: (name, labels) -> value."""
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def samples(telemetry: Telemetry) -> Samples:
    return read(telemetry.exposition().decode())


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(frame_s=0.08, version="1.2")


def test_steps(telemetry: Telemetry) -> None:
    """Each call is counted by kind and time; one longer than a frame missed its deadline, one as long did not."""
    for kind, took_s in (("listen", 0.005), ("listen", 0.08), ("speak", 0.09)):
        telemetry.step(kind, 0.001, took_s)
    seen = samples(telemetry)
    assert seen["repartee_step_seconds_count", (("kind", "listen"),)] == 2
    assert seen["repartee_step_seconds_bucket", (("kind", "listen"), ("le", "0.006"))] == 1
    assert seen["repartee_step_seconds_sum", (("kind", "speak"),)] == pytest.approx(0.09)
    assert seen["repartee_step_wait_seconds_count", ()] == 3
    assert seen["repartee_deadline_misses_total", (("kind", "speak"),)] == 1
    assert seen["repartee_deadline_misses_total", (("kind", "listen"),)] == 0


async def test_the_worker_tells_its_steps(telemetry: Telemetry) -> None:
    """Every call on the model thread arrives under its kind, a failing one too."""
    engine = FakeEngine(fail_at=4)
    async with Worker(engine, telemetry.step) as worker:
        lane = await worker.open()
        for mode in (Mode.IDLE, Mode.LISTEN, Mode.LISTEN):
            await lane.step(silence(FRAME / 24_000), mode)
        await lane.truncate_reply(0)
        await asyncio.gather(lane.step(None, Mode.SPEAK), return_exceptions=True)
        assert worker.waiting == 0
    seen = samples(telemetry)
    counts = {kind: seen["repartee_step_seconds_count", (("kind", kind),)] for kind in ("idle", "listen", "speak")}
    assert counts == {"idle": 1, "listen": 2, "speak": 1}
    assert seen["repartee_step_seconds_count", (("kind", "open"),)] == 1
    assert seen["repartee_step_seconds_count", (("kind", "truncate"),)] == 1


def test_a_turns_latency(telemetry: Telemetry) -> None:
    """Each part is told once, in seconds, as soon as it is known."""
    with telemetry.watch() as metrics:
        metrics.turn_ended(TurnMetrics(1, "model", 300.0, decided_at=10.0))
        for now in (10.05, 10.5):
            metrics.mark(1, "audio", now)
        metrics.mark(1, "text", 10.02)
        metrics.mark(7, "text", 10.02)
        seen = samples(telemetry)
    parts = {
        labels[0][1]: value for (name, labels), value in seen.items() if name == "repartee_turn_latency_seconds_sum"
    }
    assert parts == pytest.approx(
        {
            "speech_end_to_decision": 0.3,
            "decision_to_audio": 0.05,
            "speech_end_to_audio": 0.35,
            "decision_to_text": 0.02,
        }
    )


def test_a_client_that_ends_turns_has_no_end_of_speech(telemetry: Telemetry) -> None:
    """With push to talk only what follows the decision is a latency."""
    with telemetry.watch() as metrics:
        metrics.turn_ended(TurnMetrics(1, "client", 0.0, decided_at=10.0))
        metrics.mark(1, "audio", 10.05)
    seen = samples(telemetry)
    assert {labels for name, labels in seen if name == "repartee_turn_latency_seconds_count"} == {
        (("part", "decision_to_audio"),)
    }


def test_counters_outlive_their_sessions(telemetry: Telemetry) -> None:
    """What ended sessions counted stays in the sum with what open ones count."""
    with telemetry.watch() as first, telemetry.watch() as second:
        first.replies, second.replies = 2, 3
        first.underruns = 1
        first.turn_ended(TurnMetrics(1, "silence", 1.0, 0.0))
        second.reply_ended(1, "cancelled", 5)
        assert samples(telemetry)["repartee_replies_total", ()] == 5
    with telemetry.watch() as third:
        third.replies = 1
        third.reply_ended(1, "cancelled", 5)
        seen = samples(telemetry)
    assert seen["repartee_replies_total", ()] == 6
    assert seen["repartee_underruns_total", ()] == 1
    assert seen["repartee_turns_total", (("by", "silence"),)] == 1
    assert seen["repartee_replies_ended_total", (("status", "cancelled"),)] == 2


def test_present_values(telemetry: Telemetry) -> None:
    """Gauges are asked for when somebody looks; memory and the version are there."""
    telemetry.gauges = lambda: Gauges(2, 9, True, {"model": 1, "inbox": 4}, {"capacity": 7})
    telemetry.opened = 9
    telemetry.closed["client"] += 3
    seen = samples(telemetry)
    assert seen["repartee_sessions", ()] == 2
    assert seen["repartee_draining", ()] == 1
    assert seen["repartee_queue_depth", (("queue", "inbox"),)] == 4
    assert seen["repartee_sessions_refused_total", (("reason", "capacity"),)] == 7
    assert seen["repartee_sessions_opened_total", ()] == 9
    assert seen["repartee_sessions_closed_total", (("reason", "client"),)] == 3
    assert seen["repartee_build_info", (("version", "1.2"),)] == 1
    assert seen["process_resident_memory_bytes", ()] > 1e6


def test_two_daemons_do_not_mix() -> None:
    """Each has its own registry."""
    one, other = Telemetry(0.08, "1"), Telemetry(0.08, "1")
    one.step("listen", 0.0, 0.005)
    assert ("repartee_step_seconds_count", (("kind", "listen"),)) not in samples(other)
