"""Train the rows of an ablation over seeds, restore a test set with each, judge all of it, and write the tables.

    python scripts/run_ablation.py --config options/ablation/lfw.yml --seeds 3 --out experiments/ablation_lfw

Rows: A0, A, B, C, D, M and the arms A+C, A+D, C1, kv_share, capacity (options/ablation/stage*.yml say what each is);
A+G and D+G restore with the weights of A and D, and with identity guidance. Stage I is trained once. Every step is a
program of its own and is not done twice: interrupted, the same command goes on where it stopped. A step that fails
costs what needs it and nothing else; the exit code is then 1. OUT/ablation.md has a table after stage II (the codes
alone, w = 0) and one after stage III, with intervals over people and the answers to the questions; OUT/figures a
figure per question; OUT/report_*/report.html the pictures. scripts/report_ablation.py makes a draft of a paper's
section of it.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import _root
import msgspec
import torch
from _ablation_plan import Plan
from _steps import Steps

from basicsr.evaluation.ablation import AblationTable, tabulate, to_dict
from basicsr.evaluation.ablation_charts import draw_answers, draw_questions, draw_sweep
from basicsr.evaluation.ablation_options import check_rows, read_ablation
from basicsr.evaluation.ablation_text import to_markdown
from basicsr.utils.cli import run_main
from basicsr.utils.errors import OptionError, UserError
from basicsr.utils.text_util import make_folder, write_json, write_text

logger = logging.getLogger("run_ablation")

STAGE_TITLES = {2: "After stage II (codes alone, w = 0)", 3: "After stage III"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: a number below its minimum.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="options/ablation/<data>.yml")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="default: those of the option file")
    parser.add_argument("--budget", type=float, default=1.0, help="factor on all iterations (default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="steps at once, on shared cores; default: one for each GPU, or one")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and leave")
    args = parser.parse_args(argv)
    if args.seeds < 1 or not 0 < args.budget or (args.jobs is not None and args.jobs < 1):
        raise UserError("--seeds and --jobs must be at least 1, --budget above 0.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 when a step failed and what does not need it is done; 75 when a signal stopped it."""
    args = parse_arguments(argv)
    options = read_ablation(args.config)
    rows = tuple(args.rows or options.rows)
    check_rows(rows, lambda _row, message: OptionError(f"--rows: {message}"))
    plan = Plan(options, rows, args.seeds, args.budget, args.out)
    layers = plan.layers()
    if args.dry_run:
        for step in (step for layer in layers for step in layer):
            print(f"# {step.title}\npython {' '.join(step.command)}")
        return 0
    folder = _root.ROOT / args.out
    make_folder(folder)
    keep_to_the_plan(folder / "plan.json", plan)
    jobs = args.jobs or max(1, torch.cuda.device_count())
    logs = folder / "logs"
    with Steps() as steps:
        failures = [error for layer in layers for error in steps.run_all(layer, jobs, logs)]
        if not any(plan.is_restored(run) for _, _, run in plan.restorations()):
            raise UserError(f"nothing was restored, so there is nothing to judge; the first reason: {failures[0]}")
        evaluations = {key: plan.evaluation_step(*key, plan.recognizer()) for key in plan.evaluations()}
        failures += steps.run_all(list(evaluations.values()), jobs, logs)
    write_results(plan, [key for key, step in evaluations.items() if step.is_done(_root.ROOT / step.makes)])
    for error in failures:
        logger.error("%s", error)
    return 1 if failures else 0


def keep_to_the_plan(path: Path, plan: Plan) -> None:
    """Note what this folder is for, or refuse when it is for something else. Rows and seeds may be added.

    Raises:
        UserError: the folder holds another ablation.
    """
    wanted = {"budget": plan.budget, "options": msgspec.to_builtins(plan.options)}
    wanted["options"].pop("rows")
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        found["options"].setdefault("guide", plan.options.guide)  # folders from before there were guided rows
        if found != json.loads(json.dumps(wanted)):
            raise UserError(
                f"{path.parent}: holds an ablation with other options or another budget. Take another --out."
            )
    write_json(path, wanted)


def write_results(plan: Plan, evaluated: Sequence[tuple[int, int]]) -> None:
    """Tables, figures and ablation.json out of the evaluations, named by stage and seed.

    Raises:
        UserError: there is no evaluation.
    """
    folder = _root.ROOT / plan.out
    tables: dict[int, AblationTable] = {}
    for stage, title in STAGE_TITLES.items():
        reports = [_root.ROOT / plan.report_folder(*key) for key in evaluated if key[0] == stage]
        if reports:
            tables[stage] = tabulate(f"{title}: {plan.options.title}", reports)
            draw_figures(tables[stage], plan.options.w, folder, f"stage{stage}")
    if not tables:
        raise UserError(f"{folder}: no evaluation could be made; the logs say why.")
    text = "\n".join(to_markdown(table) for table in tables.values())
    write_text(folder / "ablation.md", text)
    write_json(folder / "ablation.json", {f"stage{stage}": to_dict(table) for stage, table in tables.items()})
    print(text)
    logger.info("tables: %s", folder / "ablation.md")


def draw_figures(table: AblationTable, w: float, folder: Path, name: str) -> None:
    """All answers in one figure by identity and one by LPIPS, the sweep of w, and a figure per question."""
    found = {kind: figure.key for kind in ("ids", "perceptual") if (figure := table.first_figure(kind)) is not None}
    for kind, key in found.items():
        draw_answers(table, key, folder / f"{name}_{kind}.png")
    if len(found) == 2:
        draw_sweep(table, w, found["perceptual"], found["ids"], folder / f"{name}_w.png")
    make_folder(folder / "figures")
    draw_questions(table, table.asked, folder / "figures", name)


if __name__ == "__main__":
    run_main(main)
