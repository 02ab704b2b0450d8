"""Pictures of an ablation: a few held-out people, chosen by a rule, LQ, reference, every row and GT side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _root
import numpy as np
from _ablation_facts import Facts

from basicsr.evaluation.ablation import AblationTable
from basicsr.evaluation.runs import RunValues, common_names
from basicsr.inference.comparison import Tile, draw_row
from basicsr.utils.img_util import imread, imwrite
from basicsr.utils.text_util import make_folder

SHOWN = ("A", "B", "C ref", "D ref", "M ref")
PER_GROUP = 2
RULE = (
    f"for each person the picture with the median of D − A in identity (mean over seeds); of these the {PER_GROUP} "
    f"with the lowest, the {PER_GROUP} about the median and the {PER_GROUP} with the highest"
)


class Chosen(NamedTuple):
    """One picture of the grid."""

    group: str
    name: str
    difference: float


def write_pictures(facts: Facts, tables: Mapping[int, AblationTable], folder: Path) -> dict[str, Any] | None:
    """Write <folder>/grid.png from the first seed after stage III; what the report says of it.

    None where A or D was not judged, or the pictures are not there any more.
    """
    table = tables.get(3)
    figure = None if table is None else table.first_figure("ids")
    runs = {} if table is None else {run.label: run for run in table.runs}
    if figure is None or not {"A", "D ref"} <= runs.keys():
        return None
    chosen = choose(runs["A"], runs["D ref"], figure.key)
    seed = facts.seeds[3][0]
    paths = {one.name: paths_of(facts, seed, [run for run in SHOWN if run in runs], one.name) for one in chosen}
    if not all(path.is_file() for of in paths.values() for path in of.values()):
        return None
    make_folder(folder)
    grid = [draw_row(tiles_of(paths[one.name], runs, figure.key, one)) for one in chosen]
    imwrite(folder / "grid.png", np.concatenate(grid))
    listed = [(one.group, one.name, f"{one.difference:+.{figure.digits}f}") for one in chosen]
    return {"path": facts.source(folder / "grid.png"), "seed": seed, "rows": listed, "figure": figure.label}


def choose(baseline: RunValues, run: RunValues, key: str) -> list[Chosen]:
    """The pictures of RULE, worst first; a person is there once."""
    people: dict[str, list[tuple[float, str]]] = {}
    for name in common_names([run, baseline], key):
        difference = run.values[key][name] - baseline.values[key][name]
        people.setdefault(run.identity[name] or name, []).append((difference, name))
    medians = sorted(sorted(pictures)[(len(pictures) - 1) // 2] for pictures in people.values())
    middle = (len(medians) - PER_GROUP) // 2
    if len(medians) < 3 * PER_GROUP:
        groups: list[tuple[str, Sequence[tuple[float, str]]]] = [("all people", medians)]
    else:
        groups = [
            ("lowest", medians[:PER_GROUP]),
            ("median", medians[middle : middle + PER_GROUP]),
            ("highest", medians[-PER_GROUP:]),
        ]
    return [Chosen(group, name, difference) for group, members in groups for difference, name in members]


def paths_of(facts: Facts, seed: int, columns: Sequence[str], name: str) -> dict[str, Path]:
    """The pictures of a row by what stands below them: LQ, reference, the runs, GT; some may be missing."""
    # the evaluation names a picture by its ground truth, gt/<name>
    test_set, file = _root.ROOT / facts.plan.out / "test_set", f"{Path(name).name}.png"
    restored = {label: facts.restoration(3, seed, label) for label in columns}
    folders = {label: _root.ROOT / facts.plan.folder_of(run) for label, run in restored.items() if run is not None}
    paths = {"LQ": test_set / "lq" / file, "reference": test_set / "ref" / file}
    paths |= {label: folder / "restored_faces" / file for label, folder in folders.items()}
    return paths | {"GT": test_set / "gt" / file}


def tiles_of(paths: Mapping[str, Path], runs: Mapping[str, RunValues], key: str, one: Chosen) -> list[Tile]:
    """The tiles of a row; below each run its identity, the mean over seeds."""
    notes = {label: f"IDS {runs[label].values[key][one.name]:.3f}" for label in paths if label in runs}
    notes["LQ"] = one.group
    return [Tile(imread(path), label, notes.get(label, "")) for label, path in paths.items()]
