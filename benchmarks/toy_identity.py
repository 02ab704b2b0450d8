"""Does the conditioned transformer carry identity? Rows A and C on generated people, judged by another recogniser.

    python benchmarks/toy_identity.py --out experiments/toy_identity --seeds 3

A: plain CodeFormer, stage II. C: with L_ids and identity tokens. The same stage I, data, order and iterations; degraded
so far that a face says little of its owner. Held-out people, w = 0. Printed: the ceiling of the codebook, IDS of each
row, and the differences C(right reference) - A and C(right) - C(wrong) with 95 % intervals over people, the mean of all
seeds. Every step is a program of its own and is not done twice: interrupted, the same command goes on. Exit code 1 when
one of the two intervals reaches down to 0.

Shapes: N pictures; S seeds.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import _root
import numpy as np
from _steps import Step, Steps, all_restored
from numpy.typing import NDArray

from basicsr.evaluation.statistics import bootstrap_means, cluster_numbers
from basicsr.utils.cli import run_main
from basicsr.utils.seed import rng_for
from basicsr.utils.text_util import write_json

logger = logging.getLogger("toy_identity")

HELD_OUT_PEOPLE = 120
SPLITS = f"train=450,val=30,test={HELD_OUT_PEOPLE}"
RUNS = ("A", "C_right", "C_wrong", "C_none")
RESAMPLES = 10_000


def data_steps(out: Path) -> list[Step]:
    """People for the restorer, other people for the two recognisers, a test set of held-out people."""
    make = ["scripts/make_generated_faces.py", "--size", "64", "--photos", "6"]
    people, others = out / "faces", out / "recognizer_faces"
    total = str(sum(int(part.partition("=")[2]) for part in SPLITS.split(",")))
    steps = [
        Step("faces", [*make, "--people", total, "--splits", SPLITS, "--out", str(people)], people / "index.csv"),
        Step(
            "faces of others",
            [*make, "--people", "500", "--offset", "100000", "--out", str(others)],
            others / "index.csv",
        ),
    ]
    for name, arch, seed in (("train", "mobilefacenet", "0"), ("judge", "iresnet", "1")):
        weights = out / f"{name}.safetensors"
        command = ["scripts/train_recognizer.py", "--index", str(others / "index.csv"), "--arch", arch, "--seed", seed]
        steps.append(Step(f"recogniser to {name}", [*command, "--threads", "2", "--out", str(weights)], weights))
    test = ["scripts/make_test_set.py", "--index", str(people / "index.csv"), "--size", "64", "--strength", "extreme"]
    steps.append(Step("test set", [*test, "--out", str(out / "test_set")], out / "test_set" / "pairs_wrong.csv"))
    return steps


def training_step(out: Path, option_file: str, name: str, seed: int, *changes: str) -> Step:
    """One training of an option file in options/toy/, with its paths below `out`."""
    forced = [f"name={name}", f"manual_seed={seed}", f"path:experiments_root={out}/experiments", *changes]
    command = ["basicsr/train.py", "-opt", f"options/toy/{option_file}", "--auto_resume", "--force_yml", *forced]
    return Step(name, command, weights_of(out, name))


def weights_of(out: Path, name: str) -> Path:
    """What the training `name` leaves."""
    return out / "experiments" / name / "models" / "net_g_latest.pth"


def seed_steps(out: Path, seed: int, iterations: int) -> list[Step]:
    """Rows A and C of one seed: training, and restoration of the test set."""
    common = [
        f"datasets:train:index={out}/faces/index.csv",
        f"path:pretrain_network_vqgan={weights_of(out, 'stage1')}",
        f"train:total_iter={iterations}",
        f"train:scheduler:periods=[{iterations}]",
        f"logger:save_checkpoint_freq={iterations}",
    ]
    identity = [f"network_identity:path={out}/train.safetensors"]
    steps = [
        training_step(out, "stage2_a.yml", f"a_{seed}", seed, *common),
        training_step(out, "stage2_c.yml", f"c_{seed}", seed, *common, *identity),
    ]
    for run in RUNS:
        pairs = out / "test_set" / ("pairs_wrong.csv" if run == "C_wrong" else "pairs.csv")
        folder = out / f"results_{seed}" / run
        weights = weights_of(out, f"{run[0].lower()}_{seed}")
        command = ["inference_codeformer.py", "--pairs", str(pairs), "--has_aligned", "-w", "0", "--no-adain"]
        command += ["--weights", str(weights), "--batch_size", "16", "-o", str(folder)]
        command += ["--mode", "none" if run in ("A", "C_none") else "ref"]
        steps.append(Step(f"restore {run}, seed {seed}", command, folder / "results.json", all_restored))
    return steps


def evaluation_step(out: Path, seed: int, runs: dict[str, Path]) -> Step:
    """Figures of the runs of one seed, and of the ceiling."""
    command = ["scripts/evaluate.py", "--pairs", str(out / "test_set" / "pairs.csv")]
    for name, folder in runs.items():
        command += ["--restored", f"{name}={folder}"]
    command += ["--recognizer", str(out / "judge.safetensors"), "--trained_with", str(out / "train.safetensors")]
    command += [
        "--lpips_net",
        "--title",
        f"Toy experiment on identity, seed {seed}",
        "--out",
        str(out / f"report_{seed}"),
    ]
    return Step(f"report, seed {seed}", command, out / f"report_{seed}" / "per_image.csv")


def ceiling_step(out: Path, folder: Path) -> Step:
    """Ground truths through the VQGAN: what no code prediction at w = 0 can surpass. It goes on by itself."""
    command = ["scripts/reconstruct.py", "--weights", str(weights_of(out, "stage1"))]
    command += ["--input", str(out / "test_set" / "gt"), "--out", str(folder)]
    return Step("ceiling", command, folder, lambda _: False)


def ids_by_run(out: Path, seed: int) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """IDS (N,) of each run by the judge, and the person of each picture, both in the order of the table."""
    values: dict[str, dict[str, float]] = {}
    identities: dict[str, str] = {}
    with (_root.ROOT / out / f"report_{seed}" / "per_image.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values.setdefault(row["run"], {})[row["name"]] = float(row["ids_judge"])
            identities[row["name"]] = row["identity"]
    names = sorted(identities)
    return {run: np.array([of[name] for name in names]) for run, of in values.items()}, [identities[n] for n in names]


def interval(values: NDArray[np.float64], people: Sequence[str]) -> dict[str, float]:
    """Mean of (N,) and its 95 % interval over people."""
    means = bootstrap_means(values, cluster_numbers(people), rng_for(0), RESAMPLES)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def summarize(out: Path, seeds: int) -> dict[str, Any]:
    """Table of all seeds: IDS of each run (mean over seeds of each picture), and the two differences."""
    per_seed = [ids_by_run(out, seed) for seed in range(seeds)]
    people = per_seed[0][1]
    runs = {run: np.stack([values[run] for values, _ in per_seed]) for run in ("ceiling", *RUNS)}  # (S, N)
    differences = {
        "C(right) - A": runs["C_right"] - runs["A"],
        "C(right) - C(wrong)": runs["C_right"] - runs["C_wrong"],
        "C(right) - C(none)": runs["C_right"] - runs["C_none"],
    }
    return {
        "benchmark": "toy_identity",
        "seeds": seeds,
        "people": len(set(people)),
        "pictures": len(people),
        "ids": {run: interval(values.mean(0), people) for run, values in runs.items()},
        "differences": {name: interval(values.mean(0), people) for name, values in differences.items()},
        "differences_by_seed": {name: values.mean(1).tolist() for name, values in differences.items()},
    }


def table(report: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"{report['people']} held-out people, {report['pictures']} pictures, {report['seeds']} seeds", ""]
    lines += ["| | IDS (judge) | 95 % |", "|---|---|---|"]
    for name, entry in {**report["ids"], **report["differences"]}.items():
        lines.append(f"| {name} | {entry['mean']:.3f} | [{entry['low']:.3f}, {entry['high']:.3f}] |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when both differences lie above 0, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("experiments/toy_identity"), help="folder below the repository"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=400, help="of stage II (default: %(default)s)")
    args = parser.parse_args(argv)
    faces = f"datasets:train:source={args.out}/faces/index.csv"
    ceiling = args.out / "results_ceiling"
    todo = [*data_steps(args.out), training_step(args.out, "stage1.yml", "stage1", 0, faces)]
    todo.append(ceiling_step(args.out, ceiling))
    for seed in range(args.seeds):
        runs = {"ceiling": ceiling, **{run: args.out / f"results_{seed}" / run / "restored_faces" for run in RUNS}}
        todo += [*seed_steps(args.out, seed, args.iterations), evaluation_step(args.out, seed, runs)]
    with Steps() as steps:
        for step in todo:
            steps.run(step)
    report = summarize(args.out, args.seeds)
    write_json(_root.ROOT / args.out / "summary.json", report)
    print(table(report))
    decisive = [report["differences"][name]["low"] for name in ("C(right) - A", "C(right) - C(wrong)")]
    return 0 if min(decisive) > 0 else 1


if __name__ == "__main__":
    run_main(main)
