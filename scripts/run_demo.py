"""The whole path on generated faces, in minutes on a CPU: data, recognisers, stages I to III, restoration, report.

    make demo

Every step is a program that a real run uses too; only the options (options/demo/) are small. A step that is done is not
done again; --fresh starts over.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from pathlib import Path

import _root
import cv2
import numpy as np
from _steps import Step, Steps, all_restored

from basicsr.utils.cli import run_main
from basicsr.utils.img_util import imread, imwrite, list_images

logger = logging.getLogger("demo")

OUT = Path("demo_out")
RESTORER_PEOPLE, RECOGNIZER_PEOPLE = 500, 500
NUM_PICTURED = 4
MODES = ("none", "self", "ref", "wrong")


def demo_steps() -> list[Step]:
    """All steps in order."""
    return [*data_steps(), *training_steps(), *restoration_steps(), evaluation_step()]


def data_steps() -> list[Step]:
    """Two sets of generated people that share nobody, and a recogniser to train with and one to judge."""
    faces, people = OUT / "faces", OUT / "recognizer_faces"
    make = ["scripts/make_generated_faces.py", "--size", "64", "--workers", "2"]
    steps = [
        Step(
            "faces for the restorer",
            [*make, "--people", str(RESTORER_PEOPLE), "--photos", "6", "--out", str(faces)],
            faces / "index.csv",
        ),
        Step(
            "other people for the recognisers",
            [*make, "--people", str(RECOGNIZER_PEOPLE), "--photos", "6", "--offset", "100000", "--out", str(people)],
            people / "index.csv",
        ),
    ]
    for name, arch, seed in (("train", "mobilefacenet", "0"), ("judge", "iresnet", "1")):
        weights = OUT / "recognizers" / f"{name}.safetensors"
        command = [
            "scripts/train_recognizer.py",
            "--index",
            str(people / "index.csv"),
            "--arch",
            arch,
            "--threads",
            "2",
        ]
        steps.append(Step(f"recogniser to {name}", [*command, "--seed", seed, "--out", str(weights)], weights))
    return steps


def training_steps() -> list[Step]:
    """Stages I, II and III."""
    return [
        Step(
            f"stage {numeral}",
            ["basicsr/train.py", "-opt", f"options/demo/stage{number}.yml", "--auto_resume"],
            OUT / "experiments" / f"demo_stage{number}" / "models" / "net_g_latest.pth",
        )
        for number, numeral in ((1, "I"), (2, "II"), (3, "III"))
    ]


def restoration_steps() -> list[Step]:
    """Held-out people, restored without an identity, with their own degraded photo, a reference, a wrong reference."""
    test_set = OUT / "test_set"
    make = ["scripts/make_test_set.py", "--index", str(OUT / "faces" / "index.csv"), "--size", "64"]
    steps = [
        Step(
            "test set",
            [*make, "--num_images", "200", "--strength", "severe", "--out", str(test_set)],
            test_set / "pairs_wrong.csv",
        )
    ]
    weights = OUT / "experiments" / "demo_stage3" / "models" / "net_g_latest.pth"
    for mode in MODES:
        pairs = test_set / ("pairs_wrong.csv" if mode == "wrong" else "pairs.csv")
        out = OUT / "results" / mode
        command = ["inference_codeformer.py", "--pairs", str(pairs), "--has_aligned", "--weights", str(weights)]
        command += ["--mode", "ref" if mode == "wrong" else mode, "-w", "0.5", "--batch_size", "16", "-o", str(out)]
        steps.append(Step(f"restore, identity: {mode}", command, out / "results.json", all_restored))
    return steps


def evaluation_step() -> Step:
    """The report over all ways to restore."""
    command = ["scripts/evaluate.py", "--pairs", str(OUT / "test_set" / "pairs.csv")]
    for name, folder in (
        ("degraded", OUT / "test_set" / "lq"),
        *((m, OUT / "results" / m / "restored_faces") for m in MODES),
    ):
        command += ["--restored", f"{name}={folder}"]
    recognizers = OUT / "recognizers"
    command += ["--recognizer", str(recognizers / "judge.safetensors")]
    command += ["--recognizer_label", "generated-face recogniser"]
    command += ["--trained_with", str(recognizers / "train.safetensors")]
    for number, numeral in ((1, "I"), (2, "II"), (3, "III")):
        curve = OUT / "experiments" / f"demo_stage{number}" / "metrics.jsonl"
        command += ["--curves", f"stage {numeral}={curve}"]
    command += ["--title", "ID-CodeFormer demo: generated faces, 64 px", "--out", str(OUT / "report")]
    return Step("report", command, OUT / "report" / "report.html")


def write_picture() -> Path:
    """Four held-out faces below each other: degraded, reference, restored blind, restored with it, ground truth."""
    folders = [OUT / "test_set" / "lq", OUT / "test_set" / "ref"]
    folders += [OUT / "results" / mode / "restored_faces" for mode in ("none", "ref")]
    folders.append(OUT / "test_set" / "gt")
    names = [path.name for path in list_images(_root.ROOT / folders[-1])]
    chosen = names[:: max(1, len(names) // NUM_PICTURED)][:NUM_PICTURED]
    rows = [np.concatenate([imread(_root.ROOT / folder / name) for folder in folders], axis=1) for name in chosen]
    grid = cv2.resize(np.concatenate(rows), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    picture = _root.ROOT / OUT / "demo.png"
    imwrite(picture, np.asarray(grid, np.uint8))
    return picture


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the report is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="delete demo_out/ first")
    args = parser.parse_args(argv)
    if args.fresh:
        shutil.rmtree(_root.ROOT / OUT, ignore_errors=True)
    start = time.perf_counter()
    with Steps() as steps:
        for step in demo_steps():
            steps.run(step)
    logger.info("picture: %s", write_picture())
    logger.info(
        "demo finished in %.0f s. Open %s", time.perf_counter() - start, _root.ROOT / OUT / "report/report.html"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
