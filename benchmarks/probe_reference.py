"""How much of a person a linear map takes from a reference: the least that conditioning can be asked for.

    python benchmarks/probe_reference.py --index datasets/lfw64/index.csv --size 64 \\
        --recognizer weights/recognizers/mobilefacenet_ms1m_128.onnx \\
        --judge weights/recognizers/mobilefacenet_casia_128.onnx

Ridge regression of the ground truth's pixels on the degraded photo, shrunk to 16 x 16 px, and the embedding of another
photo of the person; and, for comparison, on the degraded photo alone. Trained on the split `train`, its penalty chosen
on `val` (by the judge's IDS with right references), measured on `test`, with right and with wrong references. What it
gains is there to be had: a network that gains less has not learned to take it. Intervals are over people.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from basicsr.data.degradation import DegradationRanges
from basicsr.data.identity_blind_dataset import IdentityBlindDataset
from basicsr.evaluation.statistics import cluster_numbers, summarize_columns
from basicsr.recognizers import Recognizer, load_recognizer
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import UserError
from basicsr.utils.seed import rng_for
from basicsr.utils.text_util import write_json

Array = NDArray[np.float32]

SIDE = 16  # px of the degraded photo that the map sees
PENALTIES = (30.0, 300.0, 3000.0)
BATCH = 64
NUM_RESAMPLES = 2000


class Faces(NamedTuple):
    """N photos of a split, RGB in [-1, 1]."""

    lq: Array  # (N, 3, S, S)
    gt: Array
    ref: Array  # another photo of the person
    people: list[str]


class LinearMap(NamedTuple):
    """Ridge regression of pixels, Y = X W."""

    weight: NDArray[np.float64]  # (F, 3*S*S)

    @classmethod
    def fit(cls, features: Array, gt: Array, penalty: float) -> LinearMap:
        """The W with the least |X W - Y|^2 + penalty |W|^2, X (N, F), Y gt (N, 3, S, S)."""
        x = features.astype(np.float64)
        y = gt.reshape(len(gt), -1).astype(np.float64)
        return cls(np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y).astype(np.float64))

    def draw(self, features: Array, size: int) -> Array:
        """(N, F) -> pictures (N, 3, S, S)."""
        return (features @ self.weight).reshape(-1, 3, size, size).clip(-1, 1).astype(np.float32)


def read_faces(args: argparse.Namespace, split: str, limit: int | None) -> Faces:
    """The photos of a split (at most `limit`, evenly taken), degraded, each with one reference."""
    ranges = DegradationRanges(
        blur_sigma=tuple(args.blur_sigma), downsample_range=tuple(args.downsample_range), noise_range=(0, 20),
        jpeg_range=(30, 80),
    )  # fmt: skip
    dataset = IdentityBlindDataset(
        index=str(args.index), split=split, gt_size=args.size, num_refs=(1, 1), degradation=ranges, sampling="photo",
        use_hflip=False, augment_refs=False,
    )  # fmt: skip
    number = len(dataset) if limit is None else min(limit, len(dataset))
    places = np.linspace(0, len(dataset) - 1, number).round().astype(int).tolist()
    samples = [dataset[place] for place in progress(places, desc=f"photos of {split}")]
    usable = [sample for sample in samples if bool(sample["ref_mask"].any())]
    if not usable:
        raise UserError(f"--index {args.index}: no photo of split '{split}' has another one of the same person.")
    lq, gt = (np.stack([np.asarray(sample[key], np.float32) for sample in usable]) for key in ("lq", "gt"))
    refs = np.stack([np.asarray(sample["refs"][0], np.float32) for sample in usable])
    return Faces(lq, gt, refs, [sample["identity"] for sample in usable])


@torch.no_grad()
def embed(recognizer: Recognizer, faces: Array) -> Array:
    """Unit embeddings (N, E)."""
    batches = [torch.from_numpy(faces[start : start + BATCH]) for start in range(0, len(faces), BATCH)]
    return np.concatenate([recognizer(batch).embedding.numpy() for batch in progress(batches, desc="embeddings")])


def features_of(lq: Array, embedding: Array) -> Array:
    """What the map sees (N, F): pixels of the shrunk photo, entries of the embedding (of size 1), and a one."""
    small = [cv2.resize(face.transpose(1, 2, 0), (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel() for face in lq]
    return np.hstack([np.stack(small), embedding * embedding.shape[1] ** 0.5, np.ones((len(lq), 1), np.float32)])


def other_people(people: list[str]) -> list[int]:
    """For each photo the place of one of somebody else: the next person's, in turn around.

    Raises:
        UserError: there is nobody else.
    """
    if len(set(people)) < 2:
        raise UserError(
            "--index: a split has photos of one person alone, so that there is no wrong reference. Add people."
        )
    return [next(j % len(people) for j in range(i, i + len(people)) if people[j % len(people)] != people[i])
            for i in range(len(people))]  # fmt: skip


def pictures(train: Faces, known: Array, asked: Faces, asked_known: Array, penalty: float) -> dict[str, Array]:
    """What the maps draw of the faces `asked`: blind, with right references, with wrong ones."""
    size, nothing = asked.gt.shape[-1], np.zeros_like(asked_known)
    blind = LinearMap.fit(features_of(train.lq, np.zeros_like(known)), train.gt, penalty)
    knowing = LinearMap.fit(features_of(train.lq, known), train.gt, penalty)
    wrong = asked_known[other_people(asked.people)]
    return {
        "degraded photo": asked.lq,
        "linear map, blind": blind.draw(features_of(asked.lq, nothing), size),
        "linear map, right reference": knowing.draw(features_of(asked.lq, asked_known), size),
        "linear map, wrong reference": knowing.draw(features_of(asked.lq, wrong), size),
    }


def similarities(judge: Recognizer, drawn: dict[str, Array], gt: Array) -> dict[str, NDArray[np.float64]]:
    """IDS of each picture (N,), by kind."""
    wanted = embed(judge, gt)
    return {name: (embed(judge, faces) * wanted).sum(1).astype(np.float64) for name, faces in drawn.items()}


def report(found: dict[str, NDArray[np.float64]], people: list[str], penalty: float, out: Path | None) -> None:
    """Print the means with their intervals and the two differences; as JSON, too, where asked."""
    columns = dict(found)
    right = found["linear map, right reference"]
    columns["right - wrong"] = right - found["linear map, wrong reference"]
    columns["right - blind"] = right - found["linear map, blind"]
    stacked = np.stack(list(columns.values()), axis=1)
    summaries = summarize_columns(stacked, cluster_numbers(people), rng_for(0), NUM_RESAMPLES)
    print(f"{len(people)} photos of {len(set(people))} people, penalty {penalty:g}\n")
    print("| | IDS (judge) | 95 % |\n|---|---|---|")
    for name, summary in zip(columns, summaries, strict=True):
        interval = "" if summary.ci_low is None else f"[{summary.ci_low:.3f}, {summary.ci_high:.3f}]"
        print(f"| {name} | {summary.mean:.3f} | {interval} |")
    if out is not None:
        means = {name: [s.mean, s.ci_low, s.ci_high] for name, s in zip(columns, summaries, strict=True)}
        write_json(out, {"photos": len(people), "people": len(set(people)), "penalty": penalty, "ids": means})


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: one recogniser for both.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--recognizer", type=Path, required=True, help="embeds the references")
    parser.add_argument("--judge", type=Path, required=True, help="another one: measures IDS")
    parser.add_argument("--blur_sigma", type=float, nargs=2, default=(4.0, 20.0), help="at 512 px")
    parser.add_argument("--downsample_range", type=float, nargs=2, default=(8.0, 64.0), help="at 512 px")
    parser.add_argument("--num_test", type=int, default=400, help="photos of val and of test (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args(argv)
    if args.recognizer.resolve() == args.judge.resolve():
        raise UserError(f"--judge {args.judge}: also embeds the references. Judge with another recogniser.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    args = parse_arguments(argv)
    recognizer, judge = load_recognizer(args.recognizer), load_recognizer(args.judge)
    limits = {"train": None, "val": args.num_test, "test": args.num_test}
    faces = {split: read_faces(args, split, limit) for split, limit in limits.items()}
    known = {split: embed(recognizer, of.ref) for split, of in faces.items()}

    def judged(split: str, penalty: float) -> dict[str, NDArray[np.float64]]:
        drawn = pictures(faces["train"], known["train"], faces[split], known[split], penalty)
        return similarities(judge, drawn, faces[split].gt)

    penalty = max(PENALTIES, key=lambda p: float(judged("val", p)["linear map, right reference"].mean()))
    report(judged("test", penalty), faces["test"].people, penalty, args.out)
    return 0


if __name__ == "__main__":
    run_main(main)
