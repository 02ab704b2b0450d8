"""What there is of an ablation: which seeds were judged, with which rows, and their trainings; what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _root
import msgspec
from _ablation_plan import BLIND, Plan, Restoration

from basicsr.evaluation.ablation_options import ROWS, AblationOptions
from basicsr.evaluation.runs import METRICS, PER_IMAGE
from basicsr.evaluation.training_facts import Training, read_training
from basicsr.utils.errors import UserError

STAGES = (2, 3)


@dataclass(frozen=True)
class Facts:
    """The folder of an ablation.

    Args:
        plan: what would be run to make it; for the names of trainings and pictures.
        seeds: evaluated seeds by stage.
        missing: what is not there, as sentences.
        shared: trainings that all rows share, by what they are.
        trainings: by (stage, row, seed), seed after seed in the order of the rows.
    """

    folder: Path
    plan: Plan
    seeds: Mapping[int, Sequence[int]]
    missing: list[str]
    shared: Mapping[str, Training]
    trainings: Mapping[tuple[int, str, int], Training]

    @property
    def name(self) -> str:
        """The folder as the report names it: below the repository, or by its last part."""
        full = _root.ROOT / self.folder
        return full.relative_to(_root.ROOT).as_posix() if full.is_relative_to(_root.ROOT) else full.name

    def report(self, stage: int, seed: int) -> Path:
        """Folder of an evaluation."""
        return _root.ROOT / self.plan.report_folder(stage, seed)

    def source(self, path: Path) -> str:
        """A file as the report names it: below the ablation's folder, or below the repository."""
        full = _root.ROOT / path
        for base in (_root.ROOT / self.folder, _root.ROOT):
            if full.is_relative_to(base):
                return full.relative_to(base).as_posix()
        return full.name

    def reports_source(self, stage: int) -> str:
        """The files that a table after a stage was made from."""
        seeds = self.seeds[stage]
        listed = str(seeds[0]) if len(seeds) == 1 else "{" + ",".join(map(str, seeds)) + "}"
        return f"report_stage{stage}_seed{listed}/{PER_IMAGE}"

    def restoration(self, stage: int, seed: int, label: str) -> Restoration | None:
        """How a run was restored."""
        found = (run for at, of, run in self.plan.restorations() if (at, of, run.label) == (stage, seed, label))
        return next(found, None)


def read_facts(folder: Path) -> Facts:
    """The facts of an ablation's folder.

    Raises:
        UserError: it is none, or nothing in it has been judged.
    """
    noted = read_json(folder / "plan.json")
    seeds = {stage: evaluated_seeds(folder, stage) for stage in STAGES}
    if not any(seeds.values()):
        raise UserError(
            f"{folder}: no report_stage*_seed*/ with {METRICS} and {PER_IMAGE}; run_ablation.py makes them."
        )
    labels = [label for stage in STAGES for seed in seeds[stage] for label in labels_of(folder, stage, seed)]
    rows = tuple(row for row in ROWS if any(label.split(" ")[0] == row for label in labels))
    try:
        options = msgspec.convert({**noted["options"], "rows": rows}, AblationOptions)
        num_seeds = 1 + max(seed for found in seeds.values() for seed in found)
        plan = Plan(options, rows, num_seeds, float(noted["budget"]), folder)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise UserError(f"{folder / 'plan.json'}: is not that of an ablation ({error})") from error
    experiments = _root.ROOT / plan.out / "experiments"
    shared = {title: read_training(experiments / name) for title, name in shared_names(plan).items()}
    there = {title: training for title, training in shared.items() if training is not None}
    facts = Facts(folder, plan, seeds, [], there, read_trainings(plan, seeds))
    facts.missing.extend(what_is_missing(facts, labels))
    return facts


def read_json(path: Path) -> Any:
    """A JSON file of the ablation.

    Raises:
        UserError: it is not there, or broken.
    """
    try:
        return json.loads((_root.ROOT / path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). --ablation names the --out of run_ablation.py.") from error


def evaluated_seeds(folder: Path, stage: int) -> list[int]:
    """Seeds whose evaluation after a stage is whole."""
    found = (_root.ROOT / folder).glob(f"report_stage{stage}_seed*")
    whole = [path.name for path in found if (path / METRICS).is_file() and (path / PER_IMAGE).is_file()]
    numbers = [name.rpartition("seed")[2] for name in whole]
    return sorted(int(number) for number in numbers if number.isdigit())


def labels_of(folder: Path, stage: int, seed: int) -> list[str]:
    """Runs of an evaluation."""
    labels: list[str] = read_json(folder / f"report_stage{stage}_seed{seed}" / METRICS)["runs"]
    return labels


def shared_names(plan: Plan) -> dict[str, str]:
    """Names of the trainings that all rows share, by what they are."""
    names = {"stage 1": "stage1", "before stage 2": BLIND}
    return {title: name for title, name in names.items() if name in plan.trainings}


def trained_rows(plan: Plan) -> list[str]:
    """The rows that have a training of their own; guided rows take another row's weights."""
    return [row for row in plan.rows if ROWS[row].guides is None]


def read_trainings(plan: Plan, seeds: Mapping[int, Sequence[int]]) -> dict[tuple[int, str, int], Training]:
    """What is there of the trainings of all rows that train."""
    names = {(stage, row, seed): plan.training_of(stage, row, seed)
             for stage in STAGES for seed in seeds[stage] for row in trained_rows(plan)}  # fmt: skip
    folders = {key: _root.ROOT / plan.out / "experiments" / name for key, name in names.items()}
    read = {folder: read_training(folder) for folder in set(folders.values())}
    return {key: training for key, folder in folders.items() if (training := read[folder]) is not None}


def what_is_missing(facts: Facts, labels: Sequence[str]) -> list[str]:
    """Sentences."""
    rows = facts.plan.rows
    said = [f"Row {row} was not judged." for row in ("A0", "A", "B", "C", "D") if row not in rows]
    for stage in STAGES:
        if not facts.seeds[stage]:
            said.append(f"Nothing was judged after stage {stage}.")
        elif len(facts.seeds[stage]) == 1:
            said.append(f"After stage {stage} there is one seed: how trainings scatter is not known.")
    for row in rows:
        if ROWS[row].sees:
            modes = [mode for mode in ROWS[row].modes[1:] if f"{row} {mode}" not in labels]
            said += [f"Row {row} was not judged in mode {mode}." for mode in modes]
    if "ceiling" not in labels:
        said.append("The ceiling (ground truths through the autoencoder of stage I) was not judged.")
    gone = [title for title in shared_names(facts.plan) if title not in facts.shared]
    gone += [f"stage {stage} of row {row}, seed {seed}" for stage in STAGES for row in trained_rows(facts.plan)
             for seed in facts.seeds[stage] if (stage, row, seed) not in facts.trainings]  # fmt: skip
    return said + [f"The folder of the training is not there: {what}." for what in gone]
