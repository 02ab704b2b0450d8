"""The machine-readable results: per_image.csv (one row per picture and run) and metrics.json (one entry per figure)."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from basicsr.evaluation.analysis import Analysis
from basicsr.evaluation.comparison import Difference
from basicsr.evaluation.groups import GroupRow, GroupTable
from basicsr.evaluation.results import EvaluationResult, Failure
from basicsr.evaluation.runs import METRICS, PER_IMAGE, SLICE_PREFIX
from basicsr.evaluation.statistics import MIN_CLUSTERS, Summary
from basicsr.utils.text_util import write_text

CONFIDENCE = 0.95


def write_tables(result: EvaluationResult, folder: Path, analysis: Analysis | None = None) -> tuple[Path, Path]:
    """Write per_image.csv and metrics.json into `folder`; returns their paths."""
    per_image, metrics = folder / PER_IMAGE, folder / METRICS
    write_text(per_image, per_image_csv(result))
    contents = metrics_dict(result) | (analysis_dict(analysis) if analysis else {})
    write_text(metrics, json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return per_image, metrics


def per_image_csv(result: EvaluationResult) -> str:
    """One row per picture and run; a figure that could not be computed is an empty cell, with the reason beside it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = [figure.key for figure in result.figures]
    attributes = list(dict.fromkeys(key for pair in result.pairs for key in pair.attributes))
    writer.writerow(["name", "identity", "run", *keys, "failure", *(SLICE_PREFIX + key for key in attributes)])
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
                    *(pair.attributes.get(key, "") for key in attributes),
                ]
            )
    listed = {pair.name for pair in result.pairs}
    for failure in result.failures:
        if failure.name not in listed:
            writer.writerow(
                [failure.name, "", failure.run or "", *("" for _ in keys), failure.reason, *("" for _ in attributes)]
            )
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
                    "value_range": figure.value_range,
                    "kind": figure.kind,
                    "judge": figure.judge,
                    "digits": figure.digits,
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
        "protocol": result.protocol,
        "title": result.title,
        "note": result.note,
        "labels": result.labels,
        "runs": result.runs,
        "num_pairs": len(result.pairs),
        "figures": entries,
        "sets": set_entries(result),
        "calibrations": [asdict(calibration) for calibration in result.calibrations],
        "speed_images_per_second": {label: round(value, 3) for label, value in result.speed.items()},
        "unavailable": [{"label": item.label, "reason": item.reason} for item in result.unavailable],
        "failures": [{"name": item.name, "run": item.run, "reason": item.reason} for item in result.failures],
        "warnings": result.warnings,
        "interval": interval_text(result),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def set_entries(result: EvaluationResult) -> list[dict[str, Any]]:
    """Figures of a whole set, such as FID, one entry per run."""
    return [
        {"run": run, "value": number(values[figure.key]), **asdict(figure)}
        for run, values in result.set_values.items()
        for figure in result.set_figures
    ]


def analysis_dict(analysis: Analysis) -> dict[str, Any]:
    """Slices, comparison, checks."""
    return {
        "baseline": analysis.baseline,
        "comparison": [difference_entry(difference) for difference in analysis.differences],
        "checks": [
            {"question": check.question, "answer": check.answer, **difference_entry(check.difference)}
            for check in analysis.checks
        ],
        "overfit": [
            {"question": check.question, "answer": check.answer, **difference_entry(check.difference)}
            for check in analysis.overfit
        ],
        "groups": [group_entry(table, row) for table in analysis.groups for row in table.rows],
        "slices": [
            {
                "column": one.column,
                "value": row.value,
                "num_people": row.num_people,
                "figures": [
                    {
                        "run": run, "key": key, "n": summary.n, "mean": number(summary.mean),
                        "ci95": [number(summary.ci_low), number(summary.ci_high)],
                    }
                    for (run, key), summary in row.summaries.items()
                ],
            }
            for one in analysis.slices
            for row in one.rows
        ],
    }  # fmt: skip


def group_entry(table: GroupTable, row: GroupRow) -> dict[str, Any]:
    """One slice as one judge sees it."""

    def by_run(summaries: Mapping[str, Summary]) -> dict[str, Any]:
        return {
            run: {"mean": number(found.mean), "ci95": [number(found.ci_low), number(found.ci_high)]}
            for run, found in summaries.items()
        }

    return {
        "column": table.column,
        "value": row.value,
        "n": row.n,
        "calibration": asdict(row.calibration),
        "normalized_ids": by_run(row.normalized),
        "not_recognised": by_run(row.missed),
    }


def difference_entry(difference: Difference) -> dict[str, Any]:
    """One difference of a family."""
    contrast = difference.contrast
    return {
        "run": contrast.run,
        "key": contrast.key,
        "minus_run": contrast.minus_run,
        "minus_key": contrast.minus_key,
        "n": difference.n,
        "num_people": difference.num_people,
        "mean": number(difference.mean),
        "ci95": [number(difference.ci_low), number(difference.ci_high)],
        "p": difference.p,
        "p_holm": difference.p_holm,
        "standard_error": difference.error,
        "detectable_at_80_percent_power": difference.detectable,
        "verdict": difference.verdict,
    }


def interval_text(result: EvaluationResult) -> str:
    """How the intervals were made, as one sentence."""
    unit = "photos"
    if result.has_identities:
        clusters = max((summary.num_clusters for summary in result.summaries.values()), default=0)
        unit = f"people ({clusters} identities; photos of one person are not independent)"
    return (
        f"{CONFIDENCE:.0%} bootstrap of the mean over {unit}, percentiles widened for their number, "
        f"{result.num_resamples} resamples, seed {result.seed}, the same draws for all runs; none for fewer than "
        f"{MIN_CLUSTERS}"
    )


def number(value: float | None) -> float | str | None:
    """JSON has no infinity: PSNR of equal pictures becomes the string "inf"."""
    if value is None or math.isfinite(value):
        return value
    return str(value)
