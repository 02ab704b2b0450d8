"""Restore and judge test sets: `python basicsr/test.py -opt options/test/celeba.yml`.

Every run of the option file restores every set into results/<name>/<set>/<run>; what is restored already is kept. Then
each set is judged, all runs side by side: results/<name>/<set>/report.html, report.md, metrics.json, per_image.csv.
Exit code 1 when some pictures could not be restored or judged, 2 when nothing could be.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # Python has put basicsr/ there, whose files must not hide modules of the standard library
sys.path.insert(1, str(ROOT / "scripts"))
import _root  # noqa: F401  a foreign basicsr is named and refused

from basicsr.evaluation import (
    analyse,
    evaluate_folders,
    make_folder,
    write_report,
    write_tables,
)
from basicsr.evaluation.plan import (
    SET_IN_FOLDER,
    EvaluationPlan,
    RunPlan,
    SetPlan,
    judging_options,
    missing_file,
    read_plan,
    runs_with_weights,
    sources_of,
)
from basicsr.recognizers import find_recognizer
from basicsr.utils.cli import run_main
from basicsr.utils.errors import OptionError, UserError
from basicsr.utils.text_util import write_text
from basicsr.utils.weights import sha256_of

logger = logging.getLogger("basicsr.test")

COMMAND_FILE = "command.json"  # beside results.json: what restored these pictures


def main(argv: list[str] | None = None) -> int:
    """Restore, judge, write a report per set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file (YAML), see options/test/")
    parser.add_argument(
        "--force_yml", nargs="+", action="extend", default=[], metavar="KEY:KEY=VALUE", help="change options"
    )
    parser.add_argument("--dry-run", action="store_true", help="check the file, say what would be restored, and leave")
    args = parser.parse_args(argv)
    plan = read_plan(args.opt, args.force_yml)
    missing = missing_file(plan)
    if missing is not None and not args.dry_run:
        raise OptionError(missing)
    if missing is not None:
        logger.warning("%s", missing)
    all_done = True
    for name, entry in plan.sets.items():
        if args.dry_run:
            labels = [label for label, _, _ in runs_with_weights(plan)]
            logger.info("%s: restore %s; judge %s", name, ", ".join(labels) or "nothing", ", ".join(plan.runs))
        else:
            all_done = test_set(plan, name, entry) and all_done
    return 0 if all_done else 1


def test_set(plan: EvaluationPlan, name: str, entry: SetPlan) -> bool:
    """Restore and judge one set; whether all pictures could be."""
    out = Path(plan.results_root) / plan.name / name
    make_folder(out)
    restored: dict[str, Path] = {}
    complete = True
    for label, run, w in runs_with_weights(plan):
        complete = restore(plan, entry, run, w, out / label) and complete
        restored[label] = out / label / "restored_faces"
    others = {label: run.folder for label, run in plan.runs.items() if run.folder is not None}
    restored |= {label: Path(folder.replace(SET_IN_FOLDER, name)) for label, folder in others.items()}
    result = evaluate_folders(
        sources_of(entry, restored),
        judging_options(plan, entry),
        title=f"{plan.name}: {name}",
        note=plan.description,
        seed=plan.seed,
    )
    write_tables(result, out)  # a fault in what to compare must not cost what was measured
    analysis = analyse(result, baseline=plan.baseline, compared=plan.compare, roles=plan.roles, slices=entry.slices)
    write_tables(result, out, analysis)
    logger.info("report: %s", write_report(result, out, analysis=analysis))
    return complete and not result.failures


def restore(plan: EvaluationPlan, entry: SetPlan, run: RunPlan, w: float, out: Path) -> bool:
    """Restore one set by one run, unless the same command with the same weights has done it; whether it is complete.

    Raises:
        UserError: nothing could be restored.
    """
    table = entry.pairs_wrong if run.wrong_references else entry.pairs
    source = ["--pairs", str(table)] if table is not None else ["-i", str(entry.lq)]
    command = ["inference_codeformer.py", *source, "--has_aligned", "--weights", str(run.weights), "--mode", run.mode]
    command += ["-w", f"{w:g}", "--w_id", f"{run.w_id:g}", "--id_scale", f"{run.id_scale:g}"]
    command += ["--batch_size", str(plan.batch_size), "-o", str(out)]
    command += ["--recognizer", run.recognizer] if run.recognizer else []
    command += ["--guide", str(run.guide)] if run.guide is not None else []
    recognizer = find_recognizer(run.recognizer) if run.recognizer else None
    done = {
        "command": command,
        "weights_sha256": sha256_of(Path(run.weights or "")),
        "recognizer_sha256": sha256_of(recognizer) if recognizer else None,
    }
    if was_restored(out, done):
        logger.info("%s: restored before", out)
        return True
    code = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], check=False).returncode
    if code not in (0, 1):
        raise UserError(f"{out}: restoring ended with code {code}; its reason stands above.")
    write_text(out / COMMAND_FILE, json.dumps(done, indent=1) + "\n")
    return code == 0


def was_restored(out: Path, done: Mapping[str, object]) -> bool:
    """Whether `out` holds the complete results of this very command."""
    try:
        earlier = json.loads((out / COMMAND_FILE).read_text(encoding="utf-8"))
        complete = bool(json.loads((out / "results.json").read_text(encoding="utf-8")).get("complete"))
    except (OSError, ValueError, AttributeError):
        return False
    return complete and earlier == done


if __name__ == "__main__":
    run_main(main)
