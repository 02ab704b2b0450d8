"""An ablation's folder as run_ablation.py leaves it, made out of numbers with a known truth: nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from _ablation_plan import Plan

from basicsr.config import resolved
from basicsr.evaluation.ablation_options import read_ablation
from basicsr.utils.csv_util import write_rows
from basicsr.utils.img_util import imwrite

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "options" / "ablation" / "lfw.yml"
ROWS = ("A0", "A", "B", "C", "D")
PEOPLE, PHOTOS, SIDE = 30, 2, 16
PICTURED = ("A", "B", "C ref", "D ref")
NOISE = 0.01  # of a picture's IDS
FIGURES = [
    ("psnr", "PSNR", "higher", "pixel", 2, None),
    ("lpips_squeeze", "LPIPS-squeeze", "lower", "perceptual", 4, "squeeze.pth"),
    ("ids_judge", "IDS (judge)", "higher", "ids", 3, "judge.onnx"),
    ("ids_ref_judge", "IDS to reference (judge)", "neither", "ids_ref", 3, "judge.onnx"),
    ("cos_ref_gt_judge", "cos(ref, GT) (judge)", "neither", "cos_ref_gt", 3, "judge.onnx"),
]
GAP = ("gap_train_judge", "Overfit gap", "neither", "gap", 3, "train.onnx")
NATURAL = 0.6  # cos(ref, GT)


def write_report(folder: Path, ids: Mapping[str, float], seed: int, gaps: Mapping[str, float] | None = None) -> Path:
    """An evaluation of made-up values: a run's IDS is its number plus noise of picture and seed, LPIPS falls with it.

    Its IDS to the reference is a tenth below the IDS, of a wrong reference 0.1.

    Args:
        gaps: by how much more the recogniser that trains sees; None: it did not look.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    person = np.random.default_rng(99).normal(0, 0.05, PEOPLE)
    figures = FIGURES if gaps is None else [*FIGURES, GAP]
    keys = [key for key, *_ in figures]
    lines = [f"name,identity,run,{','.join(keys)},failure"]
    for run, level in ids.items():
        for n in range(PEOPLE * PHOTOS):
            found = level + person[n // PHOTOS] + rng.normal(0, NOISE)
            lpips = 0.5 - level / 10 + rng.normal(0, NOISE / 10)
            to_ref = 0.1 if run.endswith("wrong") else found - 0.1
            natural = 0.0 if run.endswith("wrong") else NATURAL
            values = [20 + level, lpips, found, to_ref, natural]
            values += [] if gaps is None else [gaps[run] + rng.normal(0, NOISE)]
            lines.append(f"gt/{n:05d},p{n // PHOTOS},{run},{','.join(repr(float(value)) for value in values)},")
    (folder / "per_image.csv").write_text("\n".join(lines) + "\n")
    entries = [
        {"key": key, "label": label, "better": better, "protocol": "made up", "digits": digits, "kind": kind,
         "judge": "judge" if kind in ("ids", "ids_ref", "cos_ref_gt") else "", "weights_file": weights,
         "weights_sha256": weights and "0123456789abcdef" * 4}
        for key, label, better, kind, digits, weights in figures
    ]  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps({"runs": list(ids), "figures": entries, "calibrations": []}))
    return folder


def make_ablation(folder: Path, ids: Mapping[str, tuple[float | None, ...]], rows: Sequence[str] = ROWS) -> Path:
    """A complete folder. The working directory is the root.

    Args:
        ids: label -> IDS of each seed, after both stages; None: that seed was not restored in this way.
    """
    options = read_ablation(SHIPPED)
    num_seeds = len(next(iter(ids.values())))
    plan = Plan(options, rows, num_seeds, 0.5, folder)
    noted = msgspec.to_builtins(options)
    noted.pop("rows")
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"budget": 0.5, "options": noted}))
    for stage in (2, 3):
        for seed in range(num_seeds):
            levels = {run: level for run, of in ids.items() if (level := of[seed]) is not None}
            if stage == 2:
                levels = {run: level for run, level in levels.items() if " w=" not in run}
            write_report(plan.report_folder(stage, seed), levels, 10 * stage + seed)
    write_trainings(plan)
    write_test_set(plan, PICTURED)
    return folder


def write_trainings(plan: Plan) -> None:
    """What every training leaves, with its real options and made-up curves."""
    for name, step in plan.trainings.items():
        _, _, option_file, _, _, *forced = step.command
        options = plan.parsed([option_file, *forced])
        experiment = plan.out / "experiments" / name
        experiment.mkdir(parents=True)
        (experiment / "options.yml").write_text(resolved(options))
        sizes = {"network_g": {"params": 2_345_678, "trainable": 1_234_567, "flops": 730_000_000}}
        run = {"torch": "2.0", "git_commit": "f" * 40, "networks": sizes}
        (experiment / "run.json").write_text(json.dumps(run))
        assert options.train is not None
        ends = np.linspace(1, options.train.total_iter, 8).round().astype(int).tolist()
        lines = [json.dumps({"iter": end, "l_g_code": 5 - end / options.train.total_iter}) for end in ends]
        (experiment / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_test_set(plan: Plan, labels: Container[str]) -> None:
    """Flat pictures, a colour for each folder."""
    test_set, rows = plan.out / "test_set", []
    wanted = {run.label: plan.folder_of(run) for stage, seed, run in plan.restorations() if (stage, seed) == (3, 0)}
    folders = {label: path / "restored_faces" for label, path in wanted.items() if label in labels}
    folders |= {name: test_set / name for name in ("lq", "gt", "ref", "wrong_ref")}
    for place, path in enumerate(folders.values()):
        for n in range(PEOPLE * PHOTOS):
            imwrite(path / f"{n:05d}.png", np.full((SIDE, SIDE, 3), 10 * place, np.uint8))
    for n in range(PEOPLE * PHOTOS):
        name = f"{n:05d}.png"
        rows.append({"lq": f"lq/{name}", "gt": f"gt/{name}", "ref": f"ref/{name}", "identity": f"p{n // PHOTOS}"})
    write_rows(test_set / "pairs.csv", rows)
