"""The machine-readable results: per_image.csv (one row per picture and run) and metrics.json (one entry per figure)."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from basicsr.evaluation.results import EvaluationResult, Failure
from basicsr.utils.text_util import write_text

CONFIDENCE = 0.95


def write_tables(result: EvaluationResult, folder: Path) -> tuple[Path, Path]:
    """Write per_image.csv and metrics.json into `folder`; returns their paths."""
    per_image, metrics = folder / "per_image.csv", folder / "metrics.json"
    write_text(per_image, per_image_csv(result))
    write_text(metrics, json.dumps(metrics_dict(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return per_image, metrics


def per_image_csv(result: EvaluationResult) -> str:
    """One row per picture and run; a figure that could not be computed is an empty cell, with the reason beside it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = [figure.key for figure in result.figures]
    writer.writerow(["name", "identity", "run", *keys, "failure"])
    failures: dict[str, list[Failure]] = {}
    for failure in result.failures:
        failures.setdefault(failure.name, []).append(failure)
    for pair in result.pairs:
        for run in result.runs:
            cells = [result.values[run][key].get(pair.name) for key in keys]
            reasons = [f.reason for f in failures.get(pair.name, []) if f.run in (None, run)]
            writer.writerow(
                [
                    pair.name,
                    pair.identity or "",
                    run,
                    *("" if c is None else repr(c) for c in cells),
                    "; ".join(reasons),
                ]
            )
    listed = {pair.name for pair in result.pairs}
    for failure in result.failures:
        if failure.name not in listed:
            writer.writerow([failure.name, "", failure.run or "", *("" for _ in keys), failure.reason])
    return buffer.getvalue()


def metrics_dict(result: EvaluationResult) -> dict[str, Any]:
    """Every figure of every run with direction, label, spread, interval, protocol and weights."""
    entries = []
    for figure in result.figures:
        for run in result.runs:
            summary = result.summaries.get((run, figure.key))
            if summary is None:
                continue
            entries.append(
                {
                    "run": run,
                    "key": figure.key,
                    "label": figure.label,
                    "better": figure.better,
                    "n": summary.n,
                    "mean": number(summary.mean),
                    "sd": number(summary.sd),
                    "ci95": [number(summary.ci_low), number(summary.ci_high)],
                    "percentiles": {f"p{p}": number(value) for p, value in summary.percentiles.items()},
                    "protocol": figure.protocol,
                    "weights_file": figure.weights_file,
                    "weights_sha256": figure.weights_sha256,
                }
            )
    return {
        "title": result.title,
        "note": result.note,
        "labels": result.labels,
        "runs": result.runs,
        "num_pairs": len(result.pairs),
        "figures": entries,
        "unavailable": [{"label": item.label, "reason": item.reason} for item in result.unavailable],
        "failures": [{"name": item.name, "run": item.run, "reason": item.reason} for item in result.failures],
        "warnings": result.warnings,
        "interval": interval_text(result),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def interval_text(result: EvaluationResult) -> str:
    """How the intervals were made, as one sentence."""
    unit = "photos"
    if result.has_identities:
        clusters = max((summary.num_clusters for summary in result.summaries.values()), default=0)
        unit = f"people ({clusters} identities; photos of one person are not independent)"
    return (
        f"{CONFIDENCE:.0%} percentile bootstrap of the mean over {unit}, {result.num_resamples} resamples, "
        f"seed {result.seed}, the same draws for all runs"
    )


def number(value: float | None) -> float | str | None:
    """JSON has no infinity: PSNR of equal pictures becomes the string "inf"."""
    if value is None or math.isfinite(value):
        return value
    return str(value)
