"""What Prometheus is told: `GET /metrics`.

* Times go into histograms as they are measured; the model threads do that themselves.
* Everything else is counted where it happens, in plain numbers, and read when somebody asks: sums over the sessions
  that are open and those that have ended, and gauges from whoever knows the present value.
* Every instance has a registry of its own, so that two daemons in one process do not mix.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from agent.metrics import SessionMetrics
from models.runtime import Mode

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_STEP_BUCKETS = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.32, 0.64)
_FRAME_BUCKETS = tuple(
    ms / 1000 for ms in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 35, 40, 50, 60, 70, 80, 100, 120, 160, 320, 640)
)
_FRAME_KINDS = {mode.name.lower() for mode in Mode}
_LATENCY_BUCKETS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0)

_SUMS = {
    "replies": ("replies", "Replies begun."),
    "interrupted": ("replies_interrupted", "Replies ended by the user or the client before they were complete."),
    "held": ("replies_held", "Times a reply waited to learn what the sound over it was."),
    "taken_back": ("replies_taken_back", "Replies forgotten because the user went on at once."),
    "frames_heard": ("frames_heard", "Frames of 80 ms of users that the model took."),
    "frames_spoken": ("frames_spoken", "Frames of 80 ms of replies that were sent."),
    "speculated": ("replies_speculated", "Replies begun before it was known that the turn was over."),
    "speculations_used": ("replies_speculated_used", "Replies that were begun so, and given."),
    "resumed": ("sessions_resumed", "Times a client came back to its session after its connection was lost."),
    "dropped_frames": ("frames_dropped", "Frames of users that were not kept while a reply could not be interrupted."),
    "stale_messages": ("messages_stale", "Audio messages that were ready and not sent: their reply was interrupted."),
    "underruns": ("underruns", "Frames of replies that left later than the one before had ended."),
}
_COUNTS = {
    "turns_ended": ("turns", "by", "Turns of users, by what ended them."),
    "replies_ended": ("replies_ended", "status", "Replies that ended, by how."),
}


@dataclass(slots=True)
class Gauges:
    """Present values; see :meth:`Telemetry.collect` for their names."""

    sessions: int = 0
    capacity: int = 0
    draining: bool = False
    queues: Mapping[str, int] = field(default_factory=dict)  # queue -> items in the longest of its kind
    refused: Mapping[str, int] = field(default_factory=dict)  # reason -> clients since the start
    away: int = 0


class Telemetry:
    """Collects the daemon's figures.

    Args:
        frame_s: seconds in a frame; a step that takes longer has missed its deadline.
        version: of the program.
    """

    def __init__(self, frame_s: float, version: str) -> None:
        self.gauges: Callable[[], Gauges] = Gauges
        self.opened = 0
        self.closed: Counter[str] = Counter()
        self.recordings: Counter[str] = Counter()
        self._frame_s = frame_s
        self._version = version
        self._misses: Counter[str] = Counter()
        self._watched: list[SessionMetrics] = []
        self._ended = SessionMetrics()  # sums of what is not watched any more
        self._registry = CollectorRegistry()
        self._steps = Histogram(
            "repartee_step_seconds",
            "Time the model takes for one call, by kind.",
            ["kind"],
            registry=self._registry,
            buckets=_STEP_BUCKETS,
        )
        self._waits = Histogram(
            "repartee_step_wait_seconds",
            "Time a call waits for a model thread.",
            registry=self._registry,
            buckets=_STEP_BUCKETS,
        )
        self._frames = Histogram(
            "repartee_frame_seconds",
            "Time from when a frame is ready for the model until it is done, the wait for a thread included.",
            registry=self._registry,
            buckets=_FRAME_BUCKETS,
        )
        self._latency = Histogram(
            "repartee_turn_latency_seconds",
            "Parts of the wait for a reply.",
            ["part"],
            registry=self._registry,
            buckets=_LATENCY_BUCKETS,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def step(self, kind: str, waited_s: float, took_s: float) -> None:
        """One call of the engine is over; called on a model thread, one call at a time."""
        self._waits.observe(waited_s)
        self._steps.labels(kind).observe(took_s)
        if kind in _FRAME_KINDS:
            self._frames.observe(waited_s + took_s)
        self._misses[kind] += took_s > self._frame_s

    @contextlib.contextmanager
    def watch(self) -> Iterator[SessionMetrics]:
        """Counters for one conversation, read while it lasts and kept in the sums after."""
        metrics = SessionMetrics(tell=self._tell)
        self._watched.append(metrics)
        try:
            yield metrics
        finally:
            self._watched.remove(metrics)
            for name in _SUMS:
                setattr(self._ended, name, getattr(self._ended, name) + getattr(metrics, name))
            for name in _COUNTS:
                getattr(self._ended, name).update(getattr(metrics, name))

    def exposition(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """What is counted elsewhere (called by the registry)."""
        yield InfoMetricFamily("repartee_build", "The program.", {"version": self._version})
        everyone = [self._ended, *self._watched]
        for name, (metric, text) in _SUMS.items():
            yield CounterMetricFamily(f"repartee_{metric}", text, sum(getattr(one, name) for one in everyone))
        for name, (metric, label, text) in _COUNTS.items():
            total: Counter[str] = sum((getattr(one, name) for one in everyone), Counter())
            yield _by(metric, text, label, total)
        yield _by("deadline_misses", "Engine calls that took longer than a frame lasts.", "kind", dict(self._misses))
        yield CounterMetricFamily("repartee_sessions_opened", "Sessions that began.", self.opened)
        yield _by("sessions_closed", "Sessions that ended, by why.", "reason", self.closed)
        yield _by("recordings", "Recordings of sessions, by what became of them.", "result", self.recordings)
        gauges = self.gauges()
        yield _by("sessions_refused", "Clients that were not let in, by why.", "reason", gauges.refused)
        yield GaugeMetricFamily("repartee_sessions", "Sessions that are open.", gauges.sessions)
        yield GaugeMetricFamily("repartee_capacity", "Sessions there may be now.", gauges.capacity)
        yield GaugeMetricFamily("repartee_sessions_away", "Of them, those that wait for their client.", gauges.away)
        yield GaugeMetricFamily("repartee_draining", "1 while the daemon lets nobody in and ends.", gauges.draining)
        depths = GaugeMetricFamily("repartee_queue_depth", "Items in the longest queue of a kind.", labels=["queue"])
        for queue, depth in gauges.queues.items():
            depths.add_metric([queue], depth)
        yield depths

    def _tell(self, part: str, milliseconds: float) -> None:
        self._latency.labels(part).observe(milliseconds / 1000.0)


def _by(metric: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"repartee_{metric}", text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
