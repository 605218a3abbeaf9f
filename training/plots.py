"""Pictures of an evaluation, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from training.scoring import Rate

SIZE_INCHES = (6.4, 4.2)
PITCH_HZ = (60.0, 400.0)  # shown of a voice


def plot_understood(curves: Mapping[str, Sequence[tuple[float, Rate]]], clean: Mapping[str, Rate], path: Path) -> None:
    """Shares over the signal-to-noise ratio, with their intervals; dotted lines are the shares without noise.

    Args:
        curves: Name of a share -> its (ratio in dB, figure).
        clean: Name of a share -> its figure without noise.
        path: Where the picture goes.
    """
    figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
    for name, points in curves.items():
        ordered = sorted(points, key=lambda point: point[0])
        ratios, values = [ratio for ratio, _ in ordered], [value.value for _, value in ordered]
        below = [value.value - value.low for _, value in ordered]
        above = [value.high - value.value for _, value in ordered]
        line = axes.errorbar(ratios, values, yerr=[below, above], marker="o", capsize=3, label=name)
        if name in clean:
            axes.axhline(clean[name].value, linestyle=":", color=line.lines[0].get_color())
    axes.set(xlabel="signal-to-noise ratio (dB)", ylabel="share of orders", ylim=(0.0, 1.02))
    _finish(figure, axes, path)


def plot_endpoints(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Cut-ins over the median delay: one mark a setting, a colour a family; the first row is the daemon's own.

    Args:
        rows: As `training.endpoints.Endpoints.to_json` gives them.
        path: Where the picture goes.
    """
    figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
    families: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        family = f"{row['detector']} alone" if row["threshold"] > 1.0 else f"model at {row['threshold']:g}"
        families.setdefault(family, []).append((row["median_ms"]["value"], row["cut_ins"]["value"]))
    for family, points in families.items():
        delays, cut_ins = zip(*sorted(points), strict=True)
        axes.plot(delays, cut_ins, marker="s" if "alone" in family else ".", label=family)
    if rows:
        own = rows[0]
        axes.plot(own["median_ms"]["value"], own["cut_ins"]["value"], "k*", markersize=12, label="the daemon")
    axes.set(xlabel="median delay after the end of speech (ms)", ylabel="share of speakers cut off", ylim=(-0.01, None))
    _finish(figure, axes, path)


def plot_voices(pitch_hz: Mapping[str, Any], bars: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """How voices differ: their pitch as distributions, and a panel of bars for each figure.

    Args:
        pitch_hz: Name of a voice -> its F0 values in Hz.
        bars: Name of a figure -> name of a voice -> value.
        path: Where the picture goes.
    """
    figure, panels = pyplot.subplots(1, 1 + len(bars), figsize=(3.2 * (1 + len(bars)), SIZE_INCHES[1]))
    for name, values in pitch_hz.items():
        inside = np.asarray(values)[(np.asarray(values) >= PITCH_HZ[0]) & (np.asarray(values) <= PITCH_HZ[1])]
        shares = np.full(len(inside), 1 / max(len(inside), 1))  # a voice without any pitch has none
        panels[0].hist(inside, bins=40, range=PITCH_HZ, weights=shares, histtype="step", label=name)
    panels[0].set(xlabel="F0 (Hz)", ylabel="share")
    panels[0].legend(fontsize="x-small")
    for axes, (what, values) in zip(panels[1:], bars.items(), strict=True):
        axes.bar(range(len(values)), list(values.values()), color=[f"C{list(pitch_hz).index(name)}" for name in values])
        axes.set_xticks(range(len(values)), list(values), rotation=30, ha="right", fontsize="x-small")
        axes.set(title=what)
        axes.title.set_fontsize("small")
        axes.grid(alpha=0.3)
    _finish(figure, panels[0], path)


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
