"""Write a fixed test set from an index: degraded photo, ground truth, references, references of somebody else.

    python scripts/make_test_set.py --index datasets/lfw/index.csv --split test --size 64 --out datasets/lfw/test_set

OUT/lq, OUT/gt, OUT/ref, OUT/wrong_ref hold one picture for each sample under the same name; OUT/pairs.csv and
OUT/pairs_wrong.csv (columns lq,ref,gt,identity) go to inference_codeformer.py --pairs, the first also to
scripts/evaluate.py --pairs (its column ref:wrong is the reference of a run that is called wrong). OUT/pairs_oracle.csv
gives the ground truth itself as reference: no result, but the bound of what a reference could give.
Further columns of the index (yaw, eyeglasses, ...) and the strength of the degradation are carried along for slices.

--strength real leaves the photos as they are: a set without ground truth. --gallery takes one more photo of the person,
OUT/gallery, which is neither restored nor given as a reference: the restored face is judged against it.
The degradation of a sample depends on --seed and its place in the index alone. A photo whose references all look like
the photo itself is left out.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import _root  # noqa: F401

from basicsr.data.degradation import DegradationRanges
from basicsr.data.identity_blind_dataset import IdentityBlindDataset
from basicsr.utils.cli import progress, run_main
from basicsr.utils.csv_util import write_rows
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imwrite, tensor2img
from basicsr.utils.text_util import make_folder

logger = logging.getLogger("make_test_set")

REAL = "real"
STRENGTHS = {  # blur sigma at 512 px, downsampling factor, noise of 255, JPEG quality
    "small": ((0.1, 10.0), (1.0, 12.0), (0.0, 15.0), (60.0, 100.0)),
    "large": ((1.0, 15.0), (4.0, 30.0), (0.0, 20.0), (30.0, 80.0)),
    "severe": ((8.0, 20.0), (20.0, 48.0), (0.0, 20.0), (30.0, 80.0)),
    "extreme": ((12.0, 24.0), (48.0, 112.0), (0.0, 20.0), (30.0, 80.0)),
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: a number below its minimum.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument(
        "--strength",
        choices=[*sorted(STRENGTHS), REAL],
        nargs="+",
        default=["large"],
        help="small, large: upstream's two ranges; severe: hardly a face; extreme: colours and an outline; several: in "
        "turns; real: none, and no ground truth",
    )
    parser.add_argument("--gallery", action="store_true", help="one more photo of the person, to judge against")
    parser.add_argument("--num_refs", type=int, default=1, help="references of a photo, at most (default: %(default)s)")
    parser.add_argument("--num_images", type=int, help="default: every photo of a person with another photo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    for name, minimum in (("num_images", 1), ("num_refs", 1), ("seed", 0), ("size", 1)):
        value = getattr(args, name)
        if value is not None and value < minimum:
            raise UserError(f"--{name} is {value}, expected at least {minimum}.")
    if REAL in args.strength and len(args.strength) > 1:
        raise UserError(f"--strength {' '.join(args.strength)}: a set with ground truth or without, not both.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 0. A photo without a usable reference is left out and counted."""
    args = parse_arguments(argv)
    make_folder(args.out)
    sets = {strength: build_dataset(args, strength, wrong_reference=False) for strength in args.strength}
    right = sets[args.strength[0]]
    wrong = build_dataset(args, args.strength[0], wrong_reference=True)
    total = min(len(right), args.num_images or len(right))
    step = len(right) / total  # spread over all people, not the first names of the alphabet
    rows: dict[str, list[dict[str, str]]] = {"pairs.csv": [], "pairs_wrong.csv": [], "pairs_oracle.csv": []}
    for place in progress(range(total), desc="test set"):
        index = int(place * step)
        strength = args.strength[place % len(args.strength)]
        sample, other = sets[strength][index], wrong[index]
        num_refs = int(sample["ref_mask"].sum()) - args.gallery  # behind the mask is padding, a gray card
        if num_refs < 1 or not other["ref_mask"].any():
            continue
        name = f"{index:05d}.png"
        refs = write_sample(args.out, name, sample, other, strength, num_refs)
        row = {"lq": f"lq/{name}", "identity": sample["identity"], "restored": name, "degradation": strength}
        row |= {"gallery": f"gallery/{name}"} if args.gallery else {}
        row |= {} if strength == REAL else {"gt": f"gt/{name}"}
        # what the index says of the photo; it may not take the place of a column above
        row = {**right.faces.rows[int(right.people.photos[index])].attributes, **row}
        rows["pairs.csv"].append({**row, "ref": ";".join(refs), "ref:wrong": f"wrong_ref/{name}"})
        rows["pairs_wrong.csv"].append({**row, "ref": f"wrong_ref/{name}"})
        if strength != REAL:
            rows["pairs_oracle.csv"].append({**row, "ref": f"gt/{name}"})
    num_written = len(rows["pairs.csv"])
    if not num_written:
        raise UserError(f"{args.index}: none of {total} photos of split '{args.split}' has a usable reference.")
    for file, entries in rows.items():
        if entries:  # photos as they are have no ground truth, so no perfect reference
            write_rows(args.out / file, entries)
    logger.info("%d samples of %d people in %s", num_written, len({r["identity"] for r in rows["pairs.csv"]}), args.out)
    if num_written < total:
        logger.warning("%d of %d samples left out: no usable reference, or wrong reference", total - num_written, total)
    return 0


def build_dataset(args: argparse.Namespace, strength: str, wrong_reference: bool) -> IdentityBlindDataset:
    """Every photo of the split once, with references (and one more photo for the gallery), nothing augmented."""
    blur, down, noise, jpeg = STRENGTHS["small" if strength == REAL else strength]
    num_photos = 1 if wrong_reference else args.num_refs + args.gallery
    return IdentityBlindDataset(
        index=str(args.index),
        split=args.split,
        gt_size=args.size,
        num_refs=(num_photos, num_photos),
        degradation=DegradationRanges(blur_sigma=blur, downsample_range=down, noise_range=noise, jpeg_range=jpeg),
        sampling="photo",
        use_hflip=False,
        augment_refs=False,
        wrong_reference=wrong_reference,
        seed=args.seed,
    )


def write_sample(
    out: Path, name: str, sample: dict[str, Any], other: dict[str, Any], strength: str, num_refs: int
) -> list[str]:
    """Write the images of one sample; returns its references, relative to `out`."""
    stem = name.removesuffix(".png")
    refs = [f"ref/{name}", *(f"ref/{stem}_{k}.png" for k in range(1, num_refs))]
    images = {f"lq/{name}": sample["gt"] if strength == REAL else sample["lq"], f"wrong_ref/{name}": other["refs"][0]}
    images |= dict(zip(refs, sample["refs"], strict=False))
    if strength != REAL:
        images[f"gt/{name}"] = sample["gt"]
    if sample["ref_mask"].sum() > num_refs:
        images[f"gallery/{name}"] = sample["refs"][num_refs]
    for file, image in images.items():
        imwrite(out / file, tensor2img(image))
    return refs


if __name__ == "__main__":
    run_main(main)
