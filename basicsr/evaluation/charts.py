"""Charts of the report as inline SVG: distribution of a figure, loss curves. Colours are Okabe and Ito's, told apart
with every kind of colour vision.

Shapes: N images; T logged iterations.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from basicsr.evaluation.statistics import Floats
from basicsr.utils.errors import UserError

logger = logging.getLogger(__name__)

Curves = dict[str, tuple[Floats, Floats]]  # loss -> iterations (T,), values (T,)

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
NATURAL_COLOR = "#8a8f98"
MAX_BINS = 30
MAX_LINES = len(COLORS)  # of one drawing; more runs are drawn below each other
CURVE_COLUMNS = 4
SMOOTHING_POINTS = 100  # longer curves get a running mean over 1/25 of their length
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the browser's font, selectable
    "svg.hashsalt": "id-codeformer",  # the same data gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a6",
    "axes.labelcolor": "#3c4043",
    "xtick.color": "#5f6368",
    "ytick.color": "#5f6368",
    "axes.grid": True,
    "grid.color": "#e8eaed",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@contextmanager
def canvas(width: float, height: float) -> Iterator[Canvas]:
    """A drawing of the given size in inches, in the report's style; no global pyplot state."""
    with rc_context(STYLE):
        yield Canvas(figsize=(width, height), layout="constrained")


def to_svg(drawing: Canvas, title: str) -> str:
    """Inline SVG, without the XML prolog; `title` is for screen readers."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None, "Title": title}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def distribution_svg(
    label: str, values: Mapping[str, Floats], natural: Floats | None = None, threshold: float | None = None
) -> str:
    """Histogram and ECDF of (N,) values per run; `natural` is drawn in gray behind them (cos(ref, GT)).

    Args:
        threshold: at or below it the judge does not accept the face as the person.
    """
    everything = np.concatenate([*values.values(), *([natural] if natural is not None else [])])
    largest = max(len(run_values) for run_values in values.values())
    num_bins = min(MAX_BINS, math.ceil(2 * math.sqrt(largest)))
    edges = np.linspace(everything.min(), everything.max() + 1e-6, num_bins + 1)  # every chart spans all runs
    with canvas(10.4, 3.1) as drawing:
        histogram, ecdf = drawing.subplots(1, 2)
        if natural is not None:
            ecdf.step(*ecdf_points(natural), where="post", color=NATURAL_COLOR, linestyle="--", label="cos(ref, GT)")
            histogram.hist(natural, bins=edges, histtype="step", color=NATURAL_COLOR, linestyle="--")
        for i, (run, run_values) in enumerate(values.items()):
            color = COLORS[i % len(COLORS)]
            histogram.hist(run_values, bins=edges, histtype="stepfilled", color=color, alpha=0.12)
            histogram.hist(run_values, bins=edges, histtype="step", color=color, linewidth=1.4)
            ecdf.step(*ecdf_points(run_values), where="post", color=color, linewidth=1.4, label=run)
        if threshold is not None:
            histogram.axvline(threshold, color=NATURAL_COLOR, linewidth=1, linestyle=":")
            ecdf.axvline(threshold, color=NATURAL_COLOR, linewidth=1, linestyle=":", label="threshold at FAR 1e-3")
        histogram.set(xlabel=label, ylabel="images", title="Histogram")
        ecdf.set(xlabel=label, ylabel="share of images at or below", title="Cumulative distribution", ylim=(0, 1.02))
        ecdf.legend(loc="best")
        return to_svg(drawing, f"Distribution of {label}")


def spread_svg(
    label: str, values: Mapping[str, Floats], natural: Floats | None = None, threshold: float | None = None
) -> str:
    """Median, p10 to p90 (thick) and p5 to p95 (thin) of (N,) values per run, below each other: for many runs."""
    shown = {**values, **({"cos(ref, GT)": natural} if natural is not None else {})}
    with canvas(10.4, 0.7 + 0.24 * len(shown)) as drawing:
        axes = drawing.subplots()
        for place, (run, run_values) in enumerate(shown.items()):
            color = COLORS[0] if run in values else NATURAL_COLOR
            p5, p10, p50, p90, p95 = np.percentile(run_values, [5, 10, 50, 90, 95])
            axes.plot([p5, p95], [place, place], color=color, linewidth=1)
            axes.plot([p10, p90], [place, place], color=color, linewidth=4, alpha=0.45, solid_capstyle="butt")
            axes.plot(p50, place, "o", color=color, markersize=4)
        if threshold is not None:
            axes.axvline(threshold, color=NATURAL_COLOR, linewidth=1, linestyle=":", label="threshold at FAR 1e-3")
            axes.legend(loc="lower right")
        axes.set_yticks(range(len(shown)), list(shown))
        axes.invert_yaxis()
        axes.set_xlabel(f"{label}: median, p10 to p90, p5 to p95")
        return to_svg(drawing, f"Spread of {label}")


def ecdf_points(values: Floats) -> tuple[Floats, Floats]:
    """x and share of (N,) values <= x, at every value."""
    x = np.sort(values)
    return np.concatenate([x[:1], x]), np.arange(len(x) + 1) / len(x)


def read_curves(path: Path) -> Curves:
    """Iterations (T,) and values (T,) of every loss (l_*) in a metrics.jsonl.

    Raises:
        UserError: no such file, a broken line that is not the last one, or no losses.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    points: dict[str, list[tuple[int, float]]] = {}
    for i, line in enumerate(lines):
        try:
            entry = json.loads(line)
            iteration = int(entry["iter"])
        except (ValueError, KeyError, TypeError) as error:
            if i == len(lines) - 1:
                logger.warning("%s: the last line is cut off and was left out", path)
                break
            raise UserError(f"{path}:{i + 1}: not a line of a training log ({line[:60]})") from error
        for key, value in entry.items():
            if key.startswith("l_") and isinstance(value, (int, float)) and math.isfinite(value):
                points.setdefault(key, []).append((iteration, float(value)))
    if not points:
        raise UserError(f"{path}: no losses (l_*) in it; is it the metrics.jsonl of a training run?")
    return {key: tuple(np.array(pairs, np.float64).T) for key, pairs in points.items()}


def curves_svg(name: str, curves: Curves) -> str:
    """One small panel per loss against the iteration."""
    rows = math.ceil(len(curves) / CURVE_COLUMNS)
    with canvas(10.4, 2.0 * rows + 0.1) as drawing:
        axes: Sequence[Axes] = drawing.subplots(rows, CURVE_COLUMNS, squeeze=False).flatten().tolist()
        for panel, (key, (iterations, values)) in zip(axes, curves.items(), strict=False):
            smooth = running_mean(values)
            panel.plot(iterations, values, color=COLORS[0], linewidth=1.3, alpha=1.0 if smooth is None else 0.25)
            if smooth is not None:
                panel.plot(iterations, smooth, color=COLORS[0], linewidth=1.3)
            panel.set_title(key, loc="left", fontfamily="monospace")
            panel.set_xlabel("iteration")
        for unused in axes[len(curves) :]:
            unused.set_visible(False)
        return to_svg(drawing, f"Loss curves of {name}")


def running_mean(values: Floats) -> Floats | None:
    """(T,) mean over a centred window, narrower at the ends; None for a short curve."""
    if len(values) < SMOOTHING_POINTS:
        return None
    half = len(values) // 50
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
