"""The whole evaluation of an agent: every set in turn, and one table of what came out."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.config import AgentConfig
from training import endpoints, evaluation_sets
from training.answers import pair, report, to_json
from training.domain import Domain
from training.engine_pool import HISS_S, EnginePool, Unprompted, listen, speak
from training.plots import plot_endpoints, plot_understood
from training.recordings import Recording, RecordingError, find_recordings
from training.scoring import Rate, percentile, rate

ORDERS, DIGITS, SENTENCES, NOISE = "orders_dev", "digits", ("kathleen", "ljspeech"), "noise"  # folders of the suite
SNRS_DB = (6.0, 12.0, 18.0, 24.0)
WINDOW_MINUTES = 10.0  # false turns are counted per ten minutes


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; a unit, where the figure is no share."""

    what: str
    figure: Rate
    unit: str = ""


@dataclass(slots=True)
class Suite:
    """The sets of one evaluation; each method runs one and returns its rows, and keeps its details.

    Attributes:
        pool: Runs the agent, entered.
        config: The daemon's settings.
        domain: What the conversation is about.
        limit: Most clips of each set; None: all.
        seed: Of everything drawn.
        details: Set name -> its whole report.
    """

    pool: EnginePool
    config: AgentConfig
    domain: Domain
    limit: int | None = None
    seed: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    def say(self, name: str, recordings: Sequence[Recording]) -> dict[str, Any]:
        """Speaks recordings and reports on them.

        Raises:
            RecordingError, StepError, ModelError: See `training.engine_pool.speak`.
        """
        self.details[name] = report(self.domain, pair(recordings, self.pool.map(speak, recordings, name)))
        return self.details[name]

    def orders(self, folder: Path, split: str | None = None) -> list[Row]:
        """Recorded commands as they are."""
        return list(_order_rows("orders, clean", self.say("orders, clean", find_recordings(folder, self.limit, split))))

    def orders_in_noise(
        self, folder: Path, noise_dir: Path, snrs_db: Sequence[float], split: str | None = None
    ) -> list[Row]:
        """The same commands with noise behind them, once a ratio."""
        recordings, noises = find_recordings(folder, self.limit, split), evaluation_sets.find_noises(noise_dir)
        rows: list[Row] = []
        for snr_db in sorted(snrs_db, reverse=True):
            name = f"orders, {snr_db:g} dB"
            noisy = evaluation_sets.with_noise(recordings, noises, snr_db, self.seed)
            rows += _order_rows(name, self.say(name, noisy))
        return rows

    def digits(self, folder: Path) -> list[Row]:
        """Spoken digits of held-out people: whether the reply says the number."""
        result = self.say("digits", evaluation_sets.digits(folder, self.limit, self.seed))
        return list(_order_rows("digits", result))

    def outside(self, folder: Path) -> list[Row]:
        """Held-out sentences outside the domain."""
        recordings, left_out = evaluation_sets.outside(folder, self.domain, self.limit, self.seed)
        name = f"outside, {folder.name}"
        result = self.say(name, recordings)
        result["left_out"] = left_out
        titles = {"declined": "declined", "no_order": "no order made", "answered": "answered"}
        return [Row(f"{name}: {title}", result[key]) for key, title in titles.items()]

    def nobody_speaks(self, noise_dir: Path, minutes: float) -> list[Row]:
        """One session of noise and one of silence."""
        noises = evaluation_sets.find_noises(noise_dir)
        noisy = evaluation_sets.noise_alone(noises, minutes, self.seed)[: self.limit]
        silent = [None] * max(1, round(minutes * 60 / HISS_S))
        sessions: list[Sequence[Path | None]] = [noisy, silent[: self.limit]]
        heard = self.pool.map(listen, sessions, "nobody speaks")
        rows = []
        for name, given in zip(("noise alone", "silence"), heard, strict=True):
            self.details[name] = {"clips": [to_json(piece) for piece in given]}
            for title in ("turns", "replies"):
                figure = per_window([getattr(piece, title) for piece in given], given)
                self.details[name][f"{title}_per_10_minutes"] = figure
                rows.append(Row(f"{name}: {title}", figure, "per 10 min"))
        return rows

    def conversations(self, folder: Path) -> list[Row]:
        """Held-out conversations from a folder."""
        return self._dialogue_rows("conversations", find_recordings(folder, self.limit, "valid"))

    def change_dialogues(self, count: int) -> list[Row]:
        """Dialogues with a read-back after a change, drawn and spoken now."""
        with tempfile.TemporaryDirectory() as folder:
            recordings = evaluation_sets.change_dialogues(self.domain, count, Path(folder), self.seed)
            return self._dialogue_rows("change dialogues", recordings)

    def _dialogue_rows(self, name: str, recordings: Sequence[Recording]) -> list[Row]:
        result = self.say(name, recordings)
        titles = {
            "read_back_right_after_change": "read-back right in all items",
            "reply_right": "reply right to the word",
            "meaning_right": "meaning right",
        }
        rows = [Row(f"{name}: {title}", result[key]) for key, title in titles.items() if key in result]
        by_intent = result.get("reply_right_by_intent", {})
        return rows + [Row(f"{name}: reply right, {intent}", figure) for intent, figure in by_intent.items()]

    def endpoints(self, folder: Path, split: str | None = None) -> list[Row]:
        """Cut-ins and delays of the daemon's own turn taking and of voice detectors alone."""
        measured = endpoints.sweep(self.pool, find_recordings(folder, self.limit, split), self.config)
        self.details["endpoints"] = [one.to_json() for one in measured]
        own, *others = measured
        rows = []
        for one in (own, *(other for other in others if other.setting.turn.end_of_turn_threshold > 1.0)):
            name = f"turns end by {one.setting.name}{' *' if one is own else ''}"
            rows += [Row(f"{name}: cut-ins", one.cut_ins), Row(f"{name}: median delay", one.median_ms, "ms")]
            rows.append(Row(f"{name}: p95 delay", one.p95_ms, "ms"))
        return rows

    def plot(self, folder: Path) -> None:
        """Draws what the sets run so far allow: understood over the noise, cut-ins over the delay."""
        curves: dict[str, list[tuple[float, Rate]]] = {}
        clean: dict[str, Rate] = {}
        for name, result in self.details.items():
            for source in ("reply", "transcript"):
                title = f"understood by {source}"
                if not name.startswith("orders, ") or f"by_{source}" not in result:
                    continue
                if name == "orders, clean":
                    clean[title] = result[f"by_{source}"]["understood"]
                else:
                    ratio_db = float(name.split()[1])
                    curves.setdefault(title, []).append((ratio_db, result[f"by_{source}"]["understood"]))
        if curves:
            plot_understood(curves, clean, folder / "understood.png")
        if "endpoints" in self.details:
            plot_endpoints(self.details["endpoints"], folder / "endpoints.png")


def run_all(
    suite: Suite, root: Path, conversations: Path | None, dialogues: int, minutes: float
) -> Iterator[list[Row]]:
    """Runs every set, and yields the rows of each as they come.

    Args:
        suite: Who is evaluated.
        root: Holds the folders orders_dev, digits, kathleen, ljspeech and noise.
        conversations: Folder of conversations; None leaves them out.
        dialogues: Dialogues to draw and speak; 0 leaves them out.
        minutes: Of noise, and of silence.

    Raises:
        RecordingError: A folder is missing, or something in it cannot be used.
        TtsError: A voice of the dialogues cannot speak.
        StepError, ModelError: The agent failed.
    """
    missing = [name for name in (ORDERS, DIGITS, *SENTENCES, NOISE) if not (root / name).is_dir()]
    if missing:
        raise RecordingError(f"{root}: {', '.join(missing)} is not there")
    yield suite.orders(root / ORDERS)
    yield suite.orders_in_noise(root / ORDERS, root / NOISE, SNRS_DB)
    yield suite.digits(root / DIGITS)
    for name in SENTENCES:
        yield suite.outside(root / name)
    yield suite.nobody_speaks(root / NOISE, minutes)
    if conversations is not None:
        yield suite.conversations(conversations)
    if dialogues:
        yield suite.change_dialogues(dialogues)
    yield suite.endpoints(root / ORDERS)


def per_window(counts: Sequence[int], pieces: Sequence[Unprompted]) -> Rate:
    """Events per ten minutes, with the interval over pieces."""
    windows = [piece.seconds / 60.0 / WINDOW_MINUTES for piece in pieces]
    return replace(rate(counts, windows), count=len(pieces))


def to_table(rows: Sequence[Row]) -> list[str]:
    """The table: what, how many, the figure with its unit, its 95 % interval."""
    width = max([len(row.what) for row in rows], default=0) + 2
    lines = [f"{'what':{width}s}{'n':>6s}{'figure':>10s} {'unit':12s}{'95 % interval':>20s}"]
    for row in rows:
        places = 0 if row.unit == "ms" else 1 if row.unit else 3
        value, low, high = (f"{x:.{places}f}" for x in (row.figure.value, row.figure.low, row.figure.high))
        lines.append(f"{row.what:{width}s}{row.figure.count:6d}{value:>10s} {row.unit:12s}{f'{low} - {high}':>20s}")
    return lines


def _order_rows(name: str, result: dict[str, Any]) -> Iterator[Row]:
    """Understanding, endpoints and latency of one pass over single commands."""
    for source in ("reply", "transcript"):
        if f"by_{source}" in result:
            yield Row(f"{name}: understood by {source}", result[f"by_{source}"]["understood"])
    if "reply_right" in result:
        yield Row(f"{name}: reply right to the word", result["reply_right"])
    yield Row(f"{name}: answered", result["answered"])
    yield Row(f"{name}: cut-ins", result["cut_ins"])
    audible_ms = [row["audible_ms"] for row in result["clips"] if row["audible_ms"] is not None and not row["cut_in"]]
    for title, share in (("median", 50), ("p95", 95)):
        yield Row(f"{name}: end of speech to audible, {title}", percentile(audible_ms, share), "ms")
