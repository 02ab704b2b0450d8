"""Faces without names -> an index with an identity for each: people found by a recogniser.

    python scripts/cluster_identities.py --source datasets/ffhq512 --recognizer w600k_r50.onnx --out datasets/ffhq.csv

Photos more similar than --threshold are joined; a group wider than --max_diameter is split, see
basicsr/data/clustering.py. Without --threshold it is the cosine that a share --far of random pairs should reach.
Writes OUT (path, identity = cluster_000123, split; a cluster has one split), and beside it <name>_report.json and
<name>_sheet.png, a contact sheet of the widest clusters. Where the source is an index with names, pairwise and B-cubed
precision and recall against them are printed, with --sweep at several thresholds: do that on a set with names before
a set without is trusted.

Embeddings are kept in --cache; a killed run goes on. Photos that cannot be read are named and left out: exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
import numpy as np
from _embedding import add_embedding_arguments, check_numbers, embed_photos
from numpy.typing import NDArray
from prepare_lfw import split_people

from basicsr.data.clustering import Agreement, agreement, cluster_faces, members_of
from basicsr.data.contact_sheet import Group, Tile, write_contact_sheet
from basicsr.data.photo_list import ListedPhoto, read_photos
from basicsr.data.similarity import Floats, Ints, similar_pairs, stranger_threshold
from basicsr.utils.cli import run_main
from basicsr.utils.csv_util import write_rows
from basicsr.utils.errors import OptionError
from basicsr.utils.seed import rng_for
from basicsr.utils.text_util import make_folder, write_json

logger = logging.getLogger("cluster_identities")

SIZES = (1, 2, 3, 5, 10, 20, 50, 100)  # lower ends of the classes in which cluster sizes are reported
SHEET_CLUSTERS, SHEET_PHOTOS = 40, 12


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise OptionError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--source", type=Path, required=True, help="index CSV, or a folder of aligned faces")
    add("--out", type=Path, required=True, help="index CSV to write")
    add_embedding_arguments(parser)
    add("--threshold", type=float, help="cosine from which two photos are joined (default: from --far)")
    add("--far", type=float, default=1e-6, help="share of random pairs that the threshold lets pass (%(default)s)")
    add("--max_diameter", type=float, default=0.8, help="largest 1 - cosine within a cluster (default: %(default)s)")
    add("--sweep", type=float, nargs="+", default=[], metavar="COSINE", help="also report these thresholds")
    add("--val_people", type=float, default=0.1, help="share of the clusters (default: %(default)s)")
    add("--test_people", type=float, default=0.1, help="share of the clusters (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the splits and of the random pairs")
    args = parser.parse_args(argv)
    check_numbers(args, {"far": (1e-12, 0.5), "max_diameter": (0.0, 2.0), "threshold": (0.0, 1.0)})
    for threshold in args.sweep:
        if not 0 < threshold <= 1:
            raise OptionError(f"--sweep {threshold:g}: cosines between 0 and 1 are expected.")
    if min(args.val_people, args.test_people) < 0 or args.val_people + args.test_people >= 1:
        raise OptionError(f"--val_people {args.val_people} --test_people {args.test_people}: shares below 1 in all.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when a photo could not be read, else 0."""
    args = parse_args(argv)
    photos = read_photos(args.source)
    make_folder(args.out.parent)
    embedded = embed_photos([photo.path for photo in photos], args)
    photos = [photo for photo, ok in zip(photos, embedded.ok, strict=True) if ok]
    vectors = embedded.vectors[embedded.ok]
    threshold = args.threshold
    if threshold is None:
        threshold = stranger_threshold(vectors, None, args.far, rng_for(args.seed, 0))
        logger.info("threshold %.3f: false accept rate %g, from the spread of random pairs", threshold, args.far)
    pairs = similar_pairs(vectors, None, min([threshold, *args.sweep]))
    names = np.array([photo.identity for photo in photos])
    report: dict[str, Any] = {
        "threshold": threshold, "max_diameter": args.max_diameter, "photos": len(photos),
        "failed": len(embedded.failures), "recognizer": str(args.recognizer), "sweep": [],
    }  # fmt: skip
    for value in sorted({threshold, *args.sweep}):
        clusters = cluster_faces(vectors, pairs, value, args.max_diameter)
        report["sweep"].append(summary_of(value, clusters, names))
        if value == threshold:
            chosen = clusters
    logger.info("%s", table(report["sweep"]))
    write_index(args, photos, chosen)
    write_sheet(args.out.with_name(f"{args.out.stem}_sheet.png"), photos, vectors, chosen)
    report["sizes"] = log_sizes(chosen)
    write_json(args.out.with_name(f"{args.out.stem}_report.json"), report)
    logger.info("%s: %d photos, %d clusters", args.out, len(photos), chosen.max() + 1)
    return int(bool(embedded.failures))


def summary_of(threshold: float, clusters: Ints, names: NDArray[np.str_]) -> dict[str, Any]:
    """A line of the table."""
    sizes = np.bincount(clusters)
    line: dict[str, Any] = {
        "threshold": threshold, "clusters": len(sizes), "with_two_or_more": int((sizes > 1).sum()),
        "photos_in_these": int(sizes[sizes > 1].sum()), "largest": int(sizes.max()),
    }  # fmt: skip
    if (names != "").any():
        found = agreement(clusters, names)
        line |= {field: getattr(found, field) for field in (*Agreement._fields[:4], "f1")}
    return line


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The sweep as text."""
    named = "precision" in lines[0]
    text = ["threshold  clusters  with >= 2  photos in these  largest"]
    if named:
        text[0] += "  pair precision  recall     F1  B-cubed precision  recall"
    for line in lines:
        row = f"{line['threshold']:9.3f}  {line['clusters']:8d}  {line['with_two_or_more']:9d}"
        row += f"  {line['photos_in_these']:15d}  {line['largest']:7d}"
        if named:
            row += f"  {line['precision']:14.4f}  {line['recall']:6.4f}  {line['f1']:.3f}"
            row += f"  {line['bcubed_precision']:17.4f}  {line['bcubed_recall']:6.4f}"
        text.append(row)
    return "\n".join(text)


def log_sizes(clusters: Ints) -> dict[str, int]:
    """How many clusters have how many photos."""
    sizes = np.bincount(clusters)
    counts, _ = np.histogram(sizes, [*SIZES, max(SIZES[-1], int(sizes.max())) + 1])
    ends = [f"{end - 1}" for end in SIZES[1:]] + [""]
    classes = {
        (f"{low}" if f"{low}" == end else f"{low}-{end}" if end else f"{low} and more"): int(count)
        for low, end, count in zip(SIZES, ends, counts, strict=True)
    }
    logger.info("photos: clusters   %s", ",  ".join(f"{name}: {count}" for name, count in classes.items()))
    return classes


def write_index(args: argparse.Namespace, photos: Sequence[ListedPhoto], clusters: Ints) -> None:
    """The index. A cluster's split depends on the seed and the cluster's first photo alone."""
    first: dict[int, str] = {}
    paths = [os.path.relpath(photo.path, args.out.parent).replace(os.sep, "/") for photo in photos]
    for path, cluster in zip(paths, clusters.tolist(), strict=True):
        first[cluster] = min(path, first.get(cluster, path))
    split_of = split_by_hash(first, args.val_people, args.test_people, args.seed)
    rows = [
        {"path": path, "identity": f"cluster_{cluster:06d}", "split": split_of[cluster]}
        | ({"name": photo.identity} if photo.identity else {})
        | photo.attributes
        for path, photo, cluster in zip(paths, photos, clusters.tolist(), strict=True)
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    write_rows(args.out, [{column: row.get(column, "") for column in columns} for row in rows])


def split_by_hash(first: dict[int, str], val_share: float, test_share: float, seed: int) -> dict[int, str]:
    """Cluster -> split, in an order drawn from the name of each cluster's first photo."""
    if len(first) < 3:
        return dict.fromkeys(first, "train")
    order = sorted(first, key=lambda cluster: hashlib.sha256(f"{seed}:{first[cluster]}".encode()).digest())
    splits = split_people([str(cluster) for cluster in order], val_share, test_share)
    return {int(cluster): split for cluster, split in splits.items()}


def write_sheet(path: Path, photos: Sequence[ListedPhoto], vectors: Floats, clusters: Ints) -> None:
    """The clusters whose farthest photos are farthest apart: where a mistake is, it is among them."""
    widths: list[tuple[float, int, Ints]] = []
    for members in members_of(clusters):
        if len(members) > 1:
            diameter = max(float(1 - (vectors[members[s : s + 512]] @ vectors[members].T).min())
                           for s in range(0, len(members), 512))  # fmt: skip
            widths.append((diameter, int(clusters[members[0]]), members))
    widths.sort(key=lambda entry: (-entry[0], entry[1]))
    groups = []
    for diameter, cluster, members in widths[:SHEET_CLUSTERS]:
        farthest = members[np.argsort(vectors[members] @ vectors[members].mean(0))][:SHEET_PHOTOS]
        tiles = [Tile(photos[i].path, photos[i].identity or photos[i].path.stem) for i in farthest]
        groups.append(Group(f"{cluster:06d}: {len(members)} photos, {diameter:.2f} wide", tiles))
    if groups:
        write_contact_sheet(path, "The widest clusters, each from the photo farthest from its middle", groups)


if __name__ == "__main__":
    run_main(main)
