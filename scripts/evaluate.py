"""Judge folders of restored faces, ours or another method's, against the ground truth.

    python scripts/evaluate.py --restored results/ref --gt datasets/test/gt --ref datasets/test/ref \\
        --recognizer weights/recognizers/judge.onnx --out results/report

Writes per_image.csv, metrics.json, report.md and report.html. Under torchrun every rank measures its share. A set
without ground truth (no --gt, no column gt) gets the figures that are defined on it. Exit code 1 when some pictures
could not be judged (all are named), 2 when nothing could be.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import _root  # noqa: F401
import torch

from basicsr.evaluation import (
    JudgingOptions,
    Sources,
    analyse,
    evaluate_folders,
    make_folder,
    read_curves,
    refuse_unknown_runs,
    write_report,
    write_tables,
)
from basicsr.evaluation.checks import ROLES
from basicsr.evaluation.comparison import Question
from basicsr.evaluation.judging_options import NEEDS
from basicsr.evaluation.results import EvaluationResult
from basicsr.evaluation.sources import ANY_RUN
from basicsr.metrics.fid import RANGES
from basicsr.utils.cli import run_main
from basicsr.utils.csv_util import read_rows
from basicsr.utils.dist_util import close_distributed, default_device, init_distributed, is_main
from basicsr.utils.errors import UserError

logger = logging.getLogger("evaluate")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pictures(parser.add_argument_group("pictures"))
    add_judges(parser.add_argument_group("judges"))
    report = parser.add_argument_group("report")
    report.add_argument("--out", type=Path, required=True, metavar="DIR")
    report.add_argument("--title", default="Face restoration: evaluation")
    report.add_argument("--note", default="", help="one line below the title, e.g. the settings of the runs")
    report.add_argument("--cover", type=Path, metavar="PNG", help="image below the note, on the first screen")
    add_many(report, "--curves", str, "[NAME=]FILE", "metrics.jsonl of trainings, drawn as loss curves")
    report.add_argument("--seed", type=int, default=0, help="of the bootstrap; default: 0")
    add_comparison(parser.add_argument_group("comparison"))
    return parser.parse_args(argv)


def add_many(group: argparse._ArgumentGroup, flag: str, kind: type, metavar: str, text: str) -> None:
    """An option that takes several values and may be repeated."""
    group.add_argument(flag, action="extend", nargs="+", default=[], type=kind, metavar=metavar, help=text)


def add_pictures(group: argparse._ArgumentGroup) -> None:
    """Folders and tables."""
    add_many(group, "--restored", str, "[NAME=]DIR", "folder of results; several are set side by side")
    group.add_argument("--gt", type=Path, metavar="DIR", help="ground truth, matched by file name up to the suffix")
    add_many(group, "--ref", str, "[NAME=]DIR", "references; NAME=DIR for the run that was given others")
    group.add_argument("--lq", type=Path, metavar="DIR", help="low-quality pictures, shown in the report")
    group.add_argument("--gallery", type=Path, metavar="DIR", help="photos of the people that no run was given")
    group.add_argument("--masks", type=Path, metavar="DIR", help="masks of the face; default: an ellipse")
    pairs = "columns gt, restored, ref, ref:NAME, lq, gallery, mask, identity instead of matching by name"
    group.add_argument("--pairs", type=Path, metavar="CSV", help=pairs)
    identities = "columns path, identity: intervals are then over people; further columns give slices"
    group.add_argument("--identities", type=Path, metavar="CSV", help=identities)


def add_judges(group: argparse._ArgumentGroup) -> None:
    """Recognisers and LPIPS."""
    add_many(group, "--recognizer", Path, "FILE", "recognisers that judge identity")
    group.add_argument("--recognizer_label", metavar="TEXT", help="kind of these recognisers, for every label")
    add_many(group, "--trained_with", Path, "FILE", "recognisers of the training; none of them may judge")
    allow = "let a recogniser of the training judge; the first line of the report says so"
    group.add_argument("--allow_same_recognizer", action="store_true", help=allow)
    nets = ("alex", "vgg", "squeeze")
    group.add_argument("--lpips_net", nargs="*", choices=nets, default=["alex", "vgg"], help="default: alex vgg")
    add_many(group, "--lpips_backbone", Path, "FILE", "one per net; default: weights/lpips, torch's hub folder")
    group.add_argument("--crop_border", type=int, default=0, help="pixels that PSNR and SSIM leave out; default: 0")
    group.add_argument("--metrics", nargs="+", choices=sorted(NEEDS), help="default: all that the set allows")
    group.add_argument("--detector", type=Path, metavar="FILE", help="SCRFD .onnx, for the landmark distance")
    niqe = "Gaussian of good photographs, .npz or .mat"
    group.add_argument("--niqe_parameters", type=Path, metavar="FILE", help=niqe)
    group.add_argument("--fid_network", type=Path, metavar="FILE", help="feature network, TorchScript or .onnx")
    statistics = ".npz with mu and sigma of reference sets; the ground truth is always one"
    add_many(group, "--fid_statistics", Path, "FILE", statistics)
    group.add_argument("--fid_side", type=int, default=299, help="px that the feature network takes; default: 299")
    group.add_argument("--fid_range", choices=list(RANGES), default="-1..1", help="pixel range of that network")
    calibration = "columns a, b, same (1, 0): pairs for the judges' thresholds; default: the people of the set"
    group.add_argument("--calibration_pairs", type=Path, metavar="CSV", help=calibration)


def add_comparison(group: argparse._ArgumentGroup) -> None:
    """What is compared with what."""
    group.add_argument("--baseline", metavar="RUN", help="the others are compared with it; default: the first run")
    family = "keys of metrics.json: the family of figures that is tested; default: all that rank runs"
    group.add_argument("--compare", nargs="+", metavar="KEY", help=family)
    questions = "columns question, run, minus: differences to test in place of all runs against the baseline"
    group.add_argument("--questions", type=Path, metavar="CSV", help=questions)
    roles = f"{', '.join(ROLES)}: runs for the checks; default: by their names"
    group.add_argument("--role", nargs="+", metavar="ROLE=RUN", help=roles)
    group.add_argument("--slice", nargs="+", metavar="COLUMN", help="default: every column that sorts into groups")


def split_name(argument: str) -> tuple[str, str, str]:
    """`NAME=PATH` at the last `=` behind which there is a file or folder ("D w=0.5=results/d"), else at the first."""
    parts = argument.split("=")
    for i in range(len(parts) - 1, 1, -1):
        if Path("=".join(parts[i:])).exists():
            return "=".join(parts[:i]), "=", "=".join(parts[i:])
    return argument.partition("=")


def named_paths(arguments: list[str], flag: str, default_name: str | None = None) -> dict[str, Path]:
    """`NAME=PATH` or `PATH` (named `default_name`, or after the file or folder) -> path by name.

    Raises:
        UserError: a name occurs twice.
    """
    paths: dict[str, Path] = {}
    for argument in arguments:
        name, equals, rest = split_name(argument)
        if not equals or not name or "/" in name or Path(argument).exists():
            path = Path(argument)
            name = path.resolve().name if default_name is None else default_name
        else:
            path = Path(rest)
        if name in paths:
            raise UserError(f"{flag} {argument}: the name '{name}' is taken by {paths[name]}; write {flag} NAME=PATH")
        paths[name] = path
    return paths


def sources_of(args: argparse.Namespace) -> Sources:
    """Where the pictures are."""
    return Sources(
        restored=named_paths(args.restored, "--restored"),
        gt=args.gt,
        ref=named_paths(args.ref, "--ref", default_name=ANY_RUN),
        lq=args.lq,
        pairs=args.pairs,
        identities=args.identities,
        gallery=args.gallery,
        masks=args.masks,
    )


def judging_of(args: argparse.Namespace) -> JudgingOptions:
    """What to judge with."""
    return JudgingOptions(
        recognizers=args.recognizer,
        recognizer_label=args.recognizer_label,
        lpips_nets=args.lpips_net,
        lpips_backbones=args.lpips_backbone,
        crop_border=args.crop_border,
        trained_with=args.trained_with,
        allow_same_recognizer=args.allow_same_recognizer,
        metrics=args.metrics,
        detector=args.detector,
        niqe_parameters=args.niqe_parameters,
        fid_network=args.fid_network,
        fid_statistics=args.fid_statistics,
        fid_side=args.fid_side,
        fid_range=args.fid_range,
        calibration_pairs=args.calibration_pairs,
    )


def roles_of(arguments: list[str] | None) -> dict[str, str] | None:
    """`ROLE=RUN` -> run by role.

    Raises:
        UserError: no `=` in it.
    """
    if arguments is None:
        return None
    for argument in arguments:
        if "=" not in argument:
            raise UserError(f"--role {argument}: expected ROLE=RUN with one of {', '.join(ROLES)}")
    return dict(argument.split("=", 1) for argument in arguments)


def questions_of(table: Path | None) -> list[Question] | None:
    """The rows of a table of questions.

    Raises:
        UserError: it cannot be read, or a column is missing.
    """
    if table is None:
        return None
    rows = read_rows(table, required=("question", "run", "minus"))
    return [Question(row["question"], row["run"], row["minus"]) for _, row in rows]


def main(argv: list[str] | None = None) -> int:
    """Evaluate, write, and say what came out."""
    args = parse_arguments(argv)
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: at least 0 is needed.")
    device = default_device()
    init_distributed(device)
    try:
        return evaluate(args, device)
    finally:
        close_distributed()


def evaluate(args: argparse.Namespace, device: torch.device) -> int:
    """The exit code."""
    sources, options, roles = sources_of(args), judging_of(args), roles_of(args.role)
    questions = questions_of(args.questions)
    refuse_unknown_runs(list(sources.restored), args.baseline, roles)
    curves = {name: read_curves(path) for name, path in named_paths(args.curves, "--curves").items()}
    make_folder(args.out)
    result = evaluate_folders(sources, options, title=args.title, note=args.note, seed=args.seed, device=device)
    if is_main():
        write_tables(result, args.out)  # a fault in what to compare must not cost what was measured
        analysis = analyse(
            result,
            baseline=args.baseline,
            compared=args.compare,
            roles=roles,
            slices=args.slice,
            questions=questions,
        )
        write_tables(result, args.out, analysis)
        report = write_report(result, args.out, curves, analysis, args.cover)
        log_summary(result)
        logger.info("report: %s", report)
    return 1 if result.failures else 0


def log_summary(result: EvaluationResult) -> None:
    """The means, one line per figure."""
    for figure in result.figures:
        cells = []
        for run in result.runs:
            summary = result.summaries.get((run, figure.key))
            cells.append(f"{run} {summary.mean:.{figure.digits}f}" if summary else f"{run} none")
        logger.info("%s: %s", figure.label, ", ".join(cells))
    for figure in result.set_figures:
        found = [f"{run} {by_key[figure.key]:.{figure.digits}f}" for run, by_key in result.set_values.items()]
        logger.info("%s: %s", figure.label, ", ".join(found))
    for label, value in result.speed.items():
        logger.info("%s: %.2f%s", label, value, "" if "share" in label else " images/s")
    for item in result.unavailable:
        logger.info("%s: not available: %s", item.label, item.reason)
    if result.failures:
        logger.warning("%d pictures were not judged, see the report", len(result.failures))


if __name__ == "__main__":
    run_main(main)
