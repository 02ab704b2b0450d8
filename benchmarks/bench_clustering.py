"""Clustering at the size of FFHQ: seconds and peak memory for 70 000 embeddings of 512 numbers, made at random.

    python benchmarks/bench_clustering.py --out results/bench_clustering.json

People of 1 to 8 photos around random directions. An N x N matrix of float32 would take 19.6 GB; the peak says that none
is made.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from basicsr.data.clustering import agreement, cluster_faces
from basicsr.data.similarity import BLOCK, Floats, Ints, similar_pairs
from basicsr.utils.seed import rng_for
from basicsr.utils.text_util import write_json

SPREAD = 0.035  # of each number around a person's direction: cosines of one person are about .6 at 512
THRESHOLD, MAX_DIAMETER = 0.45, 0.8


def random_people(num_photos: int, width: int) -> tuple[Floats, Ints]:
    """Unit rows (num_photos, width), and whose they are."""
    rng = rng_for(0)
    who = np.repeat(np.arange(num_photos), rng.integers(1, 9, num_photos))[:num_photos]
    middles = rng.standard_normal((who[-1] + 1, width), np.float32)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    rows = rng.standard_normal((num_photos, width), np.float32)
    for start in range(0, num_photos, BLOCK):  # in place: the peak must be that of the clustering, not of this
        block = rows[start : start + BLOCK]
        block *= SPREAD
        block += middles[who[start : start + BLOCK]]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows, who


def peak_mb() -> float:
    """Largest resident memory of this process so far (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=70_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    vectors, who = random_people(args.photos, args.width)
    before = peak_mb()
    start = time.perf_counter()
    pairs = similar_pairs(vectors, None, THRESHOLD)
    compared = time.perf_counter()
    clusters = cluster_faces(vectors, pairs, THRESHOLD, MAX_DIAMETER)
    done = time.perf_counter()
    found = agreement(clusters, who.astype(str))
    report = {
        "benchmark": "bench_clustering",
        "photos": args.photos, "width": args.width, "pairs": len(pairs.first), "clusters": int(clusters.max() + 1),
        "precision": found.precision, "recall": found.recall,
        "median_s": {"similar pairs": compared - start, "clusters": done - compared},
        "median_MB": {"embeddings and before": before, "peak": peak_mb()},
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    if args.out:
        write_json(args.out, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
