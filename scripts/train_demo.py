"""Train the weights of the demo (weights/demo/) from nothing, on generated faces, resumable.

    make demo-train
    python scripts/train_demo.py --precision bf16    # for CPUs with AMX; made the shipped weights

Stopped at any time, the same command goes on from there. Leaves with 0, or with 2 when a step failed.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from pathlib import Path

import _root
from _steps import Step, Steps
from convert_weights import CARRIED, checked_spec

from basicsr.recognizers import load_recognizer, save_recognizer
from basicsr.utils.cli import run_main
from basicsr.utils.text_util import write_text
from basicsr.utils.weights import load_file, load_state, save_safetensors, sha256_of

logger = logging.getLogger("train_demo")

OUT = Path("experiments/demo_train")
WEIGHTS = Path("weights/demo")
SUMS = "SHA256SUMS"
RECOGNIZERS = {"train": ("mobilefacenet", "0"), "judge": ("iresnet", "1")}  # architecture, seed
# Numbers of generated identities: no two sets overlap, and the demo's own people are in neither (run_demo.py).
RESTORER_PEOPLE, RECOGNIZER_PEOPLE, RECOGNIZER_OFFSET = 2000, 1500, 100_000


def face_steps() -> list[Step]:
    """Two sets of generated identities that share nobody: for the restorer and for the recognizers."""
    make = ["scripts/make_generated_faces.py", "--size", "64", "--workers", "2"]
    faces, others = OUT / "faces", OUT / "recognizer_faces"
    few = ["--people", str(RESTORER_PEOPLE), "--photos", "6", "--splits", "train=1900,val=100"]
    many = ["--people", str(RECOGNIZER_PEOPLE), "--photos", "8", "--splits", "train=1400,val=100"]
    many += ["--offset", str(RECOGNIZER_OFFSET)]
    return [
        Step("faces of the restorer", [*make, *few, "--out", str(faces)], faces / "index.csv"),
        Step("faces of the recognizers", [*make, *many, "--out", str(others)], others / "index.csv"),
    ]


def recognizer_steps() -> list[Step]:
    """The recognizer of tokens, L_ids and guidance, and the evaluation recognizer."""
    steps = []
    for name, (arch, seed) in RECOGNIZERS.items():
        weights = OUT / "recognizers" / f"{name}.safetensors"
        command = ["scripts/train_recognizer.py", "--index", str(OUT / "recognizer_faces" / "index.csv")]
        command += ["--arch", arch, "--embed_dim", "64", "--epochs", "6", "--threads", "2", "--seed", seed]
        steps.append(Step(f"recognizer {name}", [*command, "--out", str(weights)], weights))
    return steps


def trained(stage: int) -> Path:
    """The last weights of a training stage."""
    return OUT / f"demo_stage{stage}" / "models" / "net_g_latest.pth"


def stage_steps(precision: str) -> list[Step]:
    """Stages I, II and III."""
    return [
        Step(
            f"stage {stage}",
            ["basicsr/train.py", "-opt", f"options/demo/stage{stage}.yml", "--auto_resume"]
            + ["--force_yml", f"train:precision={precision}"],
            trained(stage),
        )
        for stage in (1, 2, 3)
    ]


def place_recognizer(source: Path, target: Path) -> None:
    """Copy a recognizer with float16 weights, made once; the network that loads them computes in float32.

    Made again it could have another checksum, since the entries of its header have no fixed order; the stages record
    the checksum of their recognizer.
    """
    half = source.with_name(f"{source.stem}_half.safetensors")
    if not half.exists():
        recognizer = load_recognizer(source)
        save_recognizer(recognizer.net.half(), half, recognizer.spec, recognizer.facts)  # type: ignore[arg-type]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(half, target)


def pack_network(source: Path, target: Path) -> None:
    """The averaged weights of a training in float16, with the header that rebuilds their network."""
    contents, state = load_file(source), load_state(source)
    about = {key: contents[key] for key in CARRIED if contents.get(key) is not None}
    about["network_g"] = checked_spec(source, about["network_g"], state)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_safetensors(half, {**about, "param_key": "params_ema"}, target)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when all weights are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of the three stages")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    target = _root.ROOT / WEIGHTS
    with Steps() as steps:
        for step in [*face_steps(), *recognizer_steps()]:
            steps.run(step)
        for name in RECOGNIZERS:
            place_recognizer(_root.ROOT / OUT / "recognizers" / f"{name}.safetensors", target / f"{name}.safetensors")
        for step in stage_steps(args.precision):
            steps.run(step)
    for stage in (1, 2, 3):
        pack_network(_root.ROOT / trained(stage), target / f"stage{stage}.safetensors")
    files = sorted(target.glob("*.safetensors"))
    write_text(target / SUMS, "".join(f"{sha256_of(file)}  {file.name}\n" for file in files))
    size = sum(file.stat().st_size for file in files)
    logger.info("%s: %d files, %.1f MB, in %.0f s", WEIGHTS, len(files), size / 1e6, time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    run_main(main)
