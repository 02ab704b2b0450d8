"""The set-up of an ablation as facts: data, degradation, recognisers, networks, iterations, seeds, budget, versions.

Every fact names the file that it was read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import _root
from _ablation_facts import STAGES, Facts, read_json
from make_test_set import STRENGTHS

from basicsr.evaluation.runs import METRICS, read_figures
from basicsr.evaluation.training_facts import OPTIONS, Training
from basicsr.utils.csv_util import read_rows

UNITS = {
    "blur_sigma": "blur sigma {} px at 512 px",
    "downsample_range": "downsampling by {} at 512 px",
    "noise_range": "noise sigma {} of 255",
    "jpeg_range": "JPEG quality {}",
}
HASH_SHOWN = 12


class Fact(NamedTuple):
    """A line of the set-up."""

    what: str
    value: str
    source: str


def setup_facts(facts: Facts) -> list[Fact]:
    """Data, degradation, recognisers, weights of the metrics, seeds, budget, versions."""
    return [*data_facts(facts), *judging_facts(facts), *run_facts(facts)]


def data_facts(facts: Facts) -> list[Fact]:
    """People and how their photos are degraded."""
    test, found = facts.plan.options.test, []
    table = facts.plan.out / "test_set" / "pairs.csv"
    if (_root.ROOT / table).exists():
        people = [row["identity"] for _, row in read_rows(_root.ROOT / table, required=("identity",))]
        value = f"{len(people)} pictures of {len(set(people))} people, split '{test.split}' of {test.index}"
        found.append(Fact("held-out test set", f"{value}, {test.size} px", f"{facts.source(table)}, plan.json"))
    turns = "" if len(test.strength) == 1 else f", one of {len(test.strength)} in turns"
    for strength in test.strength:
        value = f"'{strength}': {degradation_text(dict(zip(UNITS, STRENGTHS[strength], strict=True)))}"
        found.append(Fact(f"degradation of the test set{turns}", value, "plan.json, scripts/make_test_set.py"))
    for stage, _, training, source in first_of_each_stage(facts):
        data = training.train_data
        index = data.get("index") or data.get("source")
        found.append(Fact(f"training data, {stage}", training_people(str(index), data.get("split")), source))
        for key in ("degradation", "degradation_large"):
            if data.get(key):
                what = f"{key.replace('_', ', ')}, {stage}"
                found.append(Fact(what, degradation_text(data[key]), source))
    return found


def degradation_text(ranges: Mapping[str, Any]) -> str:
    """The ranges of UNITS as text, whatever else is drawn."""
    return ", ".join(
        unit.format(" to ".join(f"{end:g}" for end in ranges[name])) for name, unit in UNITS.items() if ranges.get(name)
    )


def first_of_each_stage(facts: Facts) -> list[tuple[str, str, Training, str]]:
    """(stage, row, training, its options' file): what is shared, then of each stage the full model or the last row."""
    found = [(title, "", training) for title, training in facts.shared.items()]
    for stage in STAGES:
        rows = (
            [row for row in facts.plan.rows if (stage, row, facts.seeds[stage][0]) in facts.trainings]
            if facts.seeds[stage]
            else []
        )
        if rows:
            row = "D" if "D" in rows else rows[-1]
            found.append((f"stage {stage}", row, facts.trainings[stage, row, facts.seeds[stage][0]]))
    return [(title, row, training, f"experiments/{training.name}/{OPTIONS}") for title, row, training in found]


def training_people(index: str, split: str | None) -> str:
    """Photos and people of a split, counted in the index where it is still there."""
    named = f"split '{split}' of {index}"
    path = _root.ROOT / index
    if not path.is_file():
        return f"{named} (the index is not there any more: not counted)"
    rows = [row for _, row in read_rows(path, required=("identity", "split")) if split is None or row["split"] == split]
    return f"{named}: {len(rows)} photos of {len({row['identity'] for row in rows})} people"


def judging_facts(facts: Facts) -> list[Fact]:
    """The recogniser that trains, those that judge, the backbones of LPIPS."""
    found: list[Fact] = []
    for _, row, training, source in first_of_each_stage(facts):
        identity = training.options.get("network_identity")
        if identity and not found:  # one for both stages
            value = f"{Path(identity['path']).name}{trained_hash(facts, row)}"
            found.append(Fact("recogniser that trains", value, source))
    stage = next(stage for stage in STAGES if facts.seeds[stage])
    report = facts.report(stage, facts.seeds[stage][0])
    source = facts.source(report / METRICS)
    for figure in read_figures(report / METRICS).values():
        if figure.kind in ("ids", "perceptual") and figure.weights_file and not figure.key.endswith("_face"):
            what = "recogniser that judges" if figure.kind == "ids" else "weights of LPIPS"
            value = f"{figure.weights_file}, sha256 {str(figure.weights_sha256)[:HASH_SHOWN]}: {figure.label}"
            found.append(Fact(what, value, source))
    for known in read_json(report / METRICS)["calibrations"]:
        value = f"{known['genuine_mean']:.3f} ± {known['genuine_sd']:.3f} between photos of one person, "
        value += f"{known['impostor_mean']:.3f} ± {known['impostor_sd']:.3f} of two; at FAR {known['far']:g} the "
        value += f"threshold is {known['threshold']:.3f} and {known['tar']:.1%} of the pairs of one person pass"
        found.append(Fact(f"what cosines of {known['judge']} mean", value, source))
    return found


def trained_hash(facts: Facts, row: str) -> str:
    """sha256 of the recogniser that guided the restorations of a row, as text."""
    for stage in STAGES:
        for seed in facts.seeds[stage]:
            run = facts.restoration(stage, seed, f"{row} ref")
            path = None if run is None else facts.plan.folder_of(run) / "results.json"
            if path is not None and (_root.ROOT / path).exists():
                recognizer = read_json(path).get("recognizer")
                return f", sha256 {recognizer['sha256'][:HASH_SHOWN]}" if recognizer else ""
    return " (no results.json with its sha256)"


def run_facts(facts: Facts) -> list[Fact]:
    """Seeds, budget, knobs, versions."""
    options = facts.plan.options
    seeds = "; ".join(f"stage {s}: {', '.join(map(str, facts.seeds[s])) or 'none'}" for s in STAGES)
    sweep = ", ".join(f"{w:g}" for w in options.w_sweep)
    found = [
        Fact("seeds", seeds, "report_stage*_seed*/"),
        Fact("budget (factor on all iterations)", f"{facts.plan.budget:g}", "plan.json"),
        Fact("fidelity weight w", f"{options.w:g} after stage III, 0 after stage II; sweep: {sweep}", "plan.json"),
    ]
    versions = {(t.run["torch"], t.run["git_commit"]) for t in (*facts.shared.values(), *facts.trainings.values())}
    for torch_version, commit in sorted(versions):
        value = f"torch {torch_version}, commit {commit[:HASH_SHOWN]}"
        found.append(Fact("versions that trained", value, "experiments/*/run.json"))
    return found


def training_rows(facts: Facts) -> list[tuple[str, ...]]:
    """(training, name, parameters, of which train, GFLOPs, iterations, batch) of what is shared and each first seed."""
    named = {f"{title}, shared": training for title, training in facts.shared.items()}
    for (stage, row, _), training in facts.trainings.items():
        named.setdefault(f"stage {stage}, row {row}", training)
    rows: list[tuple[str, ...]] = []
    for title, training in named.items():
        sizes = training.run["networks"]["network_g"]
        numbers = (f"{sizes['params'] / 1e6:.2f} M", f"{sizes['trainable'] / 1e6:.2f} M", f"{sizes['flops'] / 1e9:.2f}")
        batch = str(training.train_data.get("batch_size_per_gpu", 1))
        rows.append((title, training.name, *numbers, training.iterations_text, batch))
    return rows
