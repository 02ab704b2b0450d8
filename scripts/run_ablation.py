"""Train the rows of an ablation over seeds, restore a test set with each, judge all of it, and write the tables.

    python scripts/run_ablation.py --config options/ablation/lfw.yml --seeds 3 --out experiments/ablation_lfw

Rows: A0, A, B, C, D and the arms A+C, A+D, C1, kv_share, capacity (options/ablation/stage*.yml say what each is).
Stage I is trained once. Every step is a program of its own and is not done twice: interrupted, the same command goes on
where it stopped. OUT/ablation.md has a table after stage II (the codes alone, w = 0) and one after stage III, with
intervals over people and the answers to the questions; OUT/report_*/report.html the pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _root
import msgspec
import torch
from _ablation_plan import Plan
from _steps import Step, run_step

from basicsr.evaluation.ablation import AblationTable, draw_answers, draw_sweep, tabulate, to_dict, to_markdown
from basicsr.evaluation.ablation_options import check_rows, read_ablation
from basicsr.utils.cli import progress, run_main
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
    parser.add_argument("--jobs", type=int, help="steps at once; default: one for each GPU, or one")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and leave")
    args = parser.parse_args(argv)
    if args.seeds < 1 or not 0 < args.budget or (args.jobs is not None and args.jobs < 1):
        raise UserError("--seeds and --jobs must be at least 1, --budget above 0.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
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
    for layer in layers:
        run_steps(layer, jobs, folder / "logs")
    write_results(plan, folder)
    return 0


def keep_to_the_plan(path: Path, plan: Plan) -> None:
    """Note what this folder is for, or refuse when it is for something else. Rows and seeds may be added.

    Raises:
        UserError: the folder holds another ablation.
    """
    wanted = {"budget": plan.budget, "options": msgspec.to_builtins(plan.options)}
    wanted["options"].pop("rows")
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != json.loads(json.dumps(wanted)):
            raise UserError(
                f"{path.parent}: holds an ablation with other options or another budget. Take another --out."
            )
    write_json(path, wanted)


def run_steps(steps: Sequence[Step], jobs: int, logs: Path) -> None:
    """Run steps that do not need each other; several at once write to files of their own, each on its own GPU.

    Raises:
        UserError: one failed; those under way are finished first.
    """
    if jobs == 1 or len(steps) == 1:
        for step in steps:
            run_step(step)
        return
    make_folder(logs)
    gpus: queue.SimpleQueue[int] = queue.SimpleQueue()
    num_gpus = torch.cuda.device_count()
    for job in range(jobs):
        gpus.put(job % num_gpus if num_gpus else -1)

    def run(step: Step) -> None:
        gpu = gpus.get()
        try:
            run_step(step, {} if gpu < 0 else {"CUDA_VISIBLE_DEVICES": visible_gpus()[gpu]}, logs / f"{step.title}.log")
        finally:
            gpus.put(gpu)

    with ThreadPoolExecutor(jobs) as pool:
        for future in progress([pool.submit(run, step) for step in steps], desc="steps"):
            future.result()


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


def write_results(plan: Plan, folder: Path) -> None:
    """Evaluate every seed, then tables, figures and ablation.json."""
    tables: dict[int, AblationTable] = {}
    for stage, title in STAGE_TITLES.items():
        for seed in range(plan.seeds):
            run_step(plan.evaluation_step(stage, seed, plan.recognizer()))
        reports = [_root.ROOT / plan.report_folder(stage, seed) for seed in range(plan.seeds)]
        tables[stage] = tabulate(f"{title}: {plan.options.title}", reports)
    texts = []
    for stage, table in tables.items():
        texts.append(to_markdown(table))
        figures = {figure.kind: figure.key for figure in reversed(table.figures)}
        for kind in ("ids", "perceptual"):
            if kind in figures:
                draw_answers(table, figures[kind], folder / f"stage{stage}_{kind}.png")
        if "ids" in figures and "perceptual" in figures:
            draw_sweep(table, plan.options.w, figures["perceptual"], figures["ids"], folder / f"stage{stage}_w.png")
    write_text(folder / "ablation.md", "\n".join(texts))
    report = {f"stage{stage}": to_dict(table) for stage, table in tables.items()}
    write_json(folder / "ablation.json", report)
    print("\n".join(texts))
    logger.info("tables: %s", folder / "ablation.md")


if __name__ == "__main__":
    run_main(main)
