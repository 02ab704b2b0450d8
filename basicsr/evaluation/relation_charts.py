"""Charts of relations as inline SVG: identity before and after restoration, figures against the fidelity weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from basicsr.evaluation.charts import COLORS, NATURAL_COLOR, canvas, to_svg
from basicsr.evaluation.statistics import Summary

MAX_DOTS = 800  # of a run; more make the file large and the cloud no clearer
SWEEP_COLUMNS = 4


def scatter_svg(after: str, before: str, points: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """One panel per run, values after against before; above the diagonal the face came nearer to the person."""
    columns = min(SWEEP_COLUMNS, len(points))
    rows = math.ceil(len(points) / columns)
    everything = [value for x, y in points.values() for value in (*x, *y)]
    low, high = min(everything) - 0.02, max(everything) + 0.02
    with canvas(10.4, 2.7 * rows + 0.3) as drawing:
        grid = drawing.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        axes: Sequence[Axes] = grid.flatten().tolist()
        for i, (panel, (run, (x, y))) in enumerate(zip(axes, points.items(), strict=False)):
            step = max(1, -(-len(x) // MAX_DOTS))
            nearer = sum(b > a for a, b in zip(x, y, strict=True)) / max(1, len(x))
            panel.plot([low, high], [low, high], color=NATURAL_COLOR, linewidth=0.8, linestyle="--")
            panel.scatter(x[::step], y[::step], s=7, color=COLORS[i % len(COLORS)], alpha=0.45, linewidths=0)
            panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            panel.set_title(f"{run}: {nearer:.0%} nearer", loc="left")
        for unused in axes[len(points) :]:
            unused.set_visible(False)
        drawing.supxlabel(f"before: {before}", fontsize=9)
        drawing.supylabel("after", fontsize=9)
        return to_svg(drawing, f"{after}: after against before")


Swept = Sequence[tuple[float, Summary]]  # w, and the figure there


def sweep_svg(panels: Sequence[tuple[str, Mapping[str, Swept]]]) -> str:
    """One panel per figure: mean with its interval against w, a line per family of runs; `panels`: (label, lines)."""
    columns = min(SWEEP_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with canvas(10.4, 2.2 * rows + 0.1) as drawing:
        axes: Sequence[Axes] = drawing.subplots(rows, columns, squeeze=False).flatten().tolist()
        for panel, (label, lines) in zip(axes, panels, strict=False):
            for i, (family, values) in enumerate(lines.items()):
                color = COLORS[i % len(COLORS)]
                x, y = [w for w, _ in values], [found.mean for _, found in values]
                panel.plot(x, y, marker="o", markersize=3.5, color=color, label=family)
                for w, found in values:
                    if found.ci_low is not None and found.ci_high is not None:
                        panel.plot([w, w], [found.ci_low, found.ci_high], color=color, linewidth=1)
            panel.set_title(label, loc="left", fontsize=8)
            panel.set_xlabel("w")
        axes[0].legend(loc="best")
        for unused in axes[len(panels) :]:
            unused.set_visible(False)
        return to_svg(drawing, "Figures against the fidelity weight w")


def trade_off_svg(x_label: str, y_label: str, lines: Mapping[str, tuple[Swept, Swept]]) -> str:
    """The path of every family over w in the plane of two figures, each point with its w; lines: family -> (x, y)."""
    with canvas(5.6, 3.6) as drawing:
        axes = drawing.subplots()
        for i, (family, (x, y)) in enumerate(lines.items()):
            color = COLORS[i % len(COLORS)]
            points = [(across.mean, up.mean) for (_, across), (_, up) in zip(x, y, strict=True)]
            axes.plot(*zip(*points, strict=True), "o-", color=color, markersize=4, label=family)
            for (w, _), point in zip(x, points, strict=True):
                axes.annotate(f"w={w:g}", point, xytext=(4, 4), textcoords="offset points", fontsize=7, color=color)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.legend(loc="best")
        return to_svg(drawing, f"{y_label} against {x_label}")
