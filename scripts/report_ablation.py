"""Make the draft of a paper's experiment section from the files of an ablation: nothing in it is typed in.

    python scripts/report_ablation.py --ablation experiments/ablation_lfw --out docs/report.md

Set-up, tables, the answers in sentences that claim no more than the verdicts, and charts beside the report (--images).
Pictures of faces go to the ablation's own folder (--pictures): those of a data set are not to be published with it.
What is missing (a row, a seed, a mode) is said in the report. Run it again when more is trained.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

import _root
from _ablation_facts import STAGES, Facts, read_facts
from _ablation_pictures import RULE, write_pictures
from _ablation_setup import setup_facts, training_rows

from basicsr.evaluation.ablation import AblationTable, tabulate
from basicsr.evaluation.ablation_charts import draw_answers, draw_questions, draw_sweep, draw_trainings
from basicsr.evaluation.ablation_options import ROWS
from basicsr.evaluation.ablation_text import answer_rows, counted, gap_rows, run_rows
from basicsr.evaluation.cells import difference_row
from basicsr.evaluation.charts import Curves
from basicsr.evaluation.checks import check_runs
from basicsr.evaluation.claims import claim_of, questions_of
from basicsr.evaluation.comparison import LEVEL, NUM_RESAMPLES, POWER
from basicsr.evaluation.report import environment
from basicsr.evaluation.training_facts import METRICS_LOG
from basicsr.utils.cli import run_main
from basicsr.utils.text_util import make_folder, write_text

logger = logging.getLogger("report_ablation")

TEMPLATE = "ablation_report.md.j2"
# a figure each: the steps of the claim, the whole, and whether D listens; run_ablation.py draws one for every question
DRAWN = {
    ("B", "A"), ("C ref", "B"), ("D ref", "C ref"), ("D ref", "A"), ("D ref", "D wrong"),
    ("M ref", "D ref"), ("M ref", "A"), ("M ref", "M wrong"),
}  # fmt: skip
TITLES = {2: "After stage II (codes alone, w = 0)", 3: "After stage III"}
MODES = ("ref", "self", "none", "wrong", "oracle")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablation", type=Path, required=True, metavar="DIR", help="the --out of run_ablation.py")
    parser.add_argument("--out", type=Path, default=Path("docs/report.md"), help="default: %(default)s")
    parser.add_argument("--images", type=Path, metavar="DIR", help="for charts; default: images/<name> beside --out")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="for faces; default: pictures/ in the ablation")
    args = parser.parse_args(argv)
    images = args.images or args.out.parent / "images" / args.out.stem
    facts = read_facts(args.ablation)
    make_folder(images)
    tables = {
        stage: tabulate(TITLES[stage], [facts.report(stage, seed) for seed in seeds])
        for stage, seeds in facts.seeds.items()
        if seeds
    }
    contents = {
        "ablation": facts.name,
        "title": facts.plan.options.title,
        "missing": facts.missing,
        "setup": setup_facts(facts),
        "trainings": training_rows(facts),
        "stages": [
            stage_contents(facts, stage, tables[stage], images, args.out) for stage in sorted(tables, reverse=True)
        ],
        "curves": draw_curves(facts, images, args.out),
        "pictures": write_pictures(facts, tables, args.pictures or _root.ROOT / args.ablation / "pictures"),
        "picture_rule": RULE,
        "num_resamples": NUM_RESAMPLES,
        "level": f"{LEVEL:.0%}",
        "power": f"{POWER:.0%}",
        "left_out": {TITLES[stage]: table.left_out for stage, table in tables.items() if table.left_out},
    }
    write_text(args.out, environment(escaped=False).get_template(TEMPLATE).render(contents))
    for line in facts.missing:
        logger.warning("%s", line)
    logger.info("report: %s", args.out)
    return 0


def stage_contents(facts: Facts, stage: int, table: AblationTable, images: Path, out: Path) -> dict[str, Any]:
    """What the template prints of one stage."""
    proposal = [figure for kind in ("perceptual", "ids") if (figure := table.first_figure(kind)) is not None]
    others = [figure for figure in table.columns if figure not in proposal]
    rows = [run for run in table.cells if run in ROWS or run.endswith(" ref")]
    bounds = [run for run in table.cells if run not in rows and " w=" not in run]
    sweep = [run for run in table.cells if " w=" in run]
    return {
        "title": TITLES[stage],
        "source": facts.reports_source(stage),
        "counted": counted(table),
        "rows": [run_rows(table, rows, figures) for figures in (proposal, others) if figures],
        "bounds": run_rows(table, bounds, table.columns) if bounds else [],
        "sweep": run_rows(table, sweep, proposal) if sweep else [],
        "claims": [claim_of(table, figure) for figure in reversed(proposal)],
        "questions": questions_of(table.answers),
        "answers": answer_rows(table.answers),
        "family": len(table.answers),
        "checks": copy_checks(table),
        "gap": gap_rows(table),
        "figures": draw_stage(facts, stage, table, images, out),
    }


def copy_checks(table: AblationTable) -> list[str]:
    """Rows of a table: is a face more alike to its reference than two photos of the person are, and to a wrong one?"""
    lines = []
    for row in (run.removesuffix(" ref") for run in table.cells if run.endswith(" ref")):
        roles = {"main": f"{row} ref", "wrong": f"{row} wrong"}
        known = {role: run for role, run in roles.items() if run in table.cells}
        for check in check_runs(table.runs, [known]):
            if check.difference.contrast.minus_key == check.difference.contrast.key:
                continue  # the same figure of two runs: asked among the questions
            cells = difference_row(check.difference, check.question, check.answer)
            lines.append(
                f"| {check.difference.contrast.run} | {cells.title} | {cells.mean} | {cells.interval} | {cells.p} | "
                f"{cells.verdict} |"
            )
    return lines


def draw_stage(facts: Facts, stage: int, table: AblationTable, images: Path, out: Path) -> list[dict[str, str]]:
    """The charts of one stage: caption and path below the folder of the report."""
    drawn: list[tuple[str, Path]] = []
    proposal = {kind: table.first_figure(kind) for kind in ("ids", "perceptual")}
    for kind, figure in proposal.items():
        if figure is not None and table.answers_in(figure.key):
            drawn.append((f"The answers in {figure.label}, but for the ceiling", images / f"stage{stage}_{kind}.png"))
            draw_answers(table, figure.key, drawn[-1][1])
    ids, perceptual = proposal["ids"], proposal["perceptual"]
    if ids is not None and perceptual is not None and any(" w=" in run for run in table.cells):
        drawn.append(("Identity against LPIPS over the fidelity weight w", images / f"stage{stage}_w.png"))
        draw_sweep(table, facts.plan.options.w, perceptual.key, ids.key, drawn[-1][1])
    asked = [question for question in table.asked if stage == 3 and (question.run, question.minus) in DRAWN]
    for question, path in draw_questions(table, asked, images, f"stage{stage}").items():
        drawn.append((f"{question.text} Every person's difference, {question.run} − {question.minus}", path))
    return [{"caption": caption, "path": link(path, out)} for caption, path in drawn]


def link(path: Path, out: Path) -> str:
    """A file as the report links it."""
    return Path(os.path.relpath(path, out.parent)).as_posix()


def draw_curves(facts: Facts, images: Path, out: Path) -> list[dict[str, str]]:
    """Training curves: a chart for what is shared, and for each stage of all rows and seeds."""
    charts = [(title, training.name, {"all rows": [training.curves]}) for title, training in facts.shared.items()]
    for stage in STAGES:
        rows: dict[str, list[Curves]] = {}
        for (at, row, _), training in facts.trainings.items():
            if at == stage:
                rows.setdefault(row, []).append(training.curves)
        if rows:
            charts.append((f"stage {stage}, a line per seed", f"stage{stage}_*", rows))
    drawn = []
    for title, name, lines in charts:
        path = images / f"training_{name.removesuffix('_*')}.png"
        draw_trainings(lines, path)
        source = f"experiments/{name}/{METRICS_LOG}"
        drawn.append({"caption": f"Losses, {title}", "path": link(path, out), "source": source})
    return drawn


if __name__ == "__main__":
    run_main(main)
