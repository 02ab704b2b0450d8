"""Write a fixed test set from an index: degraded photo, ground truth, references, references of somebody else.

    python scripts/make_test_set.py --index datasets/lfw/index.csv --split test --size 64 --out datasets/lfw/test_set

OUT/lq, OUT/gt, OUT/ref, OUT/wrong_ref hold one picture for each sample under the same name; OUT/pairs.csv and
OUT/pairs_wrong.csv (columns lq,ref,gt,identity) go to inference_codeformer.py --pairs, the first also to
scripts/evaluate.py --pairs (its column ref:wrong is the reference of a run that is called wrong).
The degradation of a sample depends on --seed and its place in the index alone.
"""

from __future__ import annotations

import argparse
import csv
import logging
from pathlib import Path
from typing import Any

import _root  # noqa: F401

from basicsr.data.degradation import DegradationRanges
from basicsr.data.identity_blind_dataset import IdentityBlindDataset
from basicsr.utils.cli import progress, run_main
from basicsr.utils.img_util import imwrite, tensor2img

logger = logging.getLogger("make_test_set")

STRENGTHS = {  # blur sigma at 512 px, downsampling factor, noise of 255, JPEG quality
    "small": ((0.1, 10.0), (1.0, 12.0), (0.0, 15.0), (60.0, 100.0)),
    "large": ((1.0, 15.0), (4.0, 30.0), (0.0, 20.0), (30.0, 80.0)),
    "severe": ((8.0, 20.0), (20.0, 48.0), (0.0, 20.0), (30.0, 80.0)),
    "extreme": ((12.0, 24.0), (48.0, 112.0), (0.0, 20.0), (30.0, 80.0)),
}


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument(
        "--strength",
        choices=sorted(STRENGTHS),
        default="large",
        help="small, large: upstream's two ranges; severe: hardly a face; extreme: colours and an outline",
    )
    parser.add_argument("--num_images", type=int, help="default: every photo of a person with another photo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    right, wrong = build_dataset(args, wrong_reference=False), build_dataset(args, wrong_reference=True)
    total = min(len(right), args.num_images or len(right))
    step = len(right) / total  # spread over all people, not the first names of the alphabet
    rows: dict[str, list[dict[str, str]]] = {"pairs.csv": [], "pairs_wrong.csv": []}
    for place in progress(range(total), desc="test set"):
        index = int(place * step)
        sample, other = right[index], wrong[index]
        name = f"{index:05d}.png"
        write_sample(args.out, name, sample, other)
        row = {"lq": f"lq/{name}", "gt": f"gt/{name}", "identity": sample["identity"], "restored": name}
        rows["pairs.csv"].append({**row, "ref": f"ref/{name}", "ref:wrong": f"wrong_ref/{name}"})
        rows["pairs_wrong.csv"].append({**row, "ref": f"wrong_ref/{name}"})
    for file, entries in rows.items():
        write_rows(args.out / file, entries)
    logger.info("%d samples of %d people in %s", total, len({r["identity"] for r in rows["pairs.csv"]}), args.out)
    return 0


def build_dataset(args: argparse.Namespace, wrong_reference: bool) -> IdentityBlindDataset:
    """Every photo of the split once, with one reference, nothing augmented."""
    blur, down, noise, jpeg = STRENGTHS[args.strength]
    return IdentityBlindDataset(
        index=str(args.index),
        split=args.split,
        gt_size=args.size,
        num_refs=(1, 1),
        degradation=DegradationRanges(blur_sigma=blur, downsample_range=down, noise_range=noise, jpeg_range=jpeg),
        sampling="photo",
        use_hflip=False,
        augment_refs=False,
        wrong_reference=wrong_reference,
        seed=args.seed,
    )


def write_sample(out: Path, name: str, sample: dict[str, Any], other: dict[str, Any]) -> None:
    """The four pictures of one sample."""
    pictures = {
        "lq": sample["lq"],
        "gt": sample["gt"],
        "ref": sample["refs"][0],
        "wrong_ref": other["refs"][0],
    }
    for folder, picture in pictures.items():
        imwrite(out / folder / name, tensor2img(picture))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """A CSV with the columns of the first row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run_main(main)
