"""The data at 512 px, images a second: the degradation against plain OpenCV calls, and the loader against its workers.

    python benchmarks/bench_data.py --out results/bench_data.json

Degradation: stage II makes one degraded copy of a picture, stage III two (small and large ranges). Both arms get the
same drawn degradations and take turns; the medians are over rounds. One thread, as in a worker of the loader.
Loader: samples of stage II as training sees them (1 to 4 augmented references), from JPEG and WebP files and from an
LMDB of the JPEG files, on made pictures in a temporary folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import cv2
import make_lmdb
import numpy as np
import torch

import basicsr.data  # noqa: F401  fills the registry
from basicsr.config.options import DatasetSpec, LoaderOptions
from basicsr.data.blur_kernels import FloatImage
from basicsr.data.degradation import Degradation, DegradationRanges
from basicsr.engine.loaders import build_dataset, train_loader
from basicsr.utils.img_util import Image, imwrite
from basicsr.utils.seed import rng_for
from basicsr.utils.text_util import write_json

LARGE = DegradationRanges()
SMALL = DegradationRanges(
    blur_sigma=(0.1, 10.0), downsample_range=(1.0, 12.0), noise_range=(0.0, 15.0), jpeg_range=(60.0, 100.0)
)
PEOPLE, PHOTOS = 8, 6  # of the loader's data set
BATCH_SIZE = 4
STAGES = {"stage II": (LARGE,), "stage III": (SMALL, LARGE)}
Arm = Callable[[Degradation, FloatImage], Image]


def plain_opencv(drawn: Degradation, image: FloatImage) -> Image:
    """Blur, downsample, noise, JPEG, upsample, round: one library call for each, in its default precision."""
    size = (drawn.small_size, drawn.small_size)
    assert drawn.kernel is not None  # only inpainting goes without
    lq = cv2.resize(cv2.filter2D(image, -1, drawn.kernel.weights()), size, interpolation=cv2.INTER_LINEAR)
    if drawn.noise_sigma is not None:
        noise = rng_for(drawn.noise_seed).standard_normal(lq.shape)
        lq = np.clip(lq + noise * (drawn.noise_sigma / 255), 0, 1).astype(np.float32)
    if drawn.jpeg_quality is not None:
        _, encoded = cv2.imencode(
            ".jpg", np.rint(lq * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, drawn.jpeg_quality]
        )
        lq = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.float32) / 255
    lq = cv2.resize(lq, image.shape[:2], interpolation=cv2.INTER_LINEAR)
    return np.clip(np.rint(lq * 255), 0, 255).astype(np.uint8)


def ours(drawn: Degradation, image: FloatImage) -> Image:
    return drawn.apply_to_bytes(image)


def smooth_picture(size: int, seed: int = 0) -> FloatImage:
    """A picture with the falling spectrum of a photo; noise in float32 [0, 1]."""
    rng, image = rng_for(seed), np.zeros((size, size, 3), np.float32)
    for side in (4, 16, 64, 256):
        layer = rng.standard_normal((side, side, 3), dtype=np.float32) * np.float32(0.5 / side**0.5)
        image += cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + np.float32(0.5), 0, 1)


def seconds(arm: Arm, draws: Sequence[Degradation], image: FloatImage) -> float:
    start = time.perf_counter()
    for drawn in draws:
        arm(drawn, image)
    return time.perf_counter() - start


def measure(ranges: Sequence[DegradationRanges], image: FloatImage, images: int, rounds: int) -> dict[str, float]:
    """Arm -> median images a second."""
    arms: dict[str, Arm] = {"plain OpenCV": plain_opencv, "ours": ours}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        draws = [r.sample(rng_for(turn, number), image.shape[0]) for number in range(images) for r in ranges]
        for name, arm in arms.items():
            took = seconds(arm, draws, image)
            if turn > 0:  # the first round warms up
                rates[name].append(images / took)
    return {name: median(values) for name, values in rates.items()}


def largest_difference(ranges: Sequence[DegradationRanges], image: FloatImage, images: int) -> dict[str, float]:
    """How far apart the two arms are without noise and JPEG, which draw or amplify rounding; levels of 255."""
    worst, unequal = 0, []
    for number in range(images):
        for r in ranges:
            quiet = DegradationRanges(
                blur_sigma=r.blur_sigma, downsample_range=r.downsample_range, noise_range=None, jpeg_range=None
            ).sample(rng_for(99, number), image.shape[0])
            gap = np.abs(plain_opencv(quiet, image).astype(int) - ours(quiet, image).astype(int))
            worst = max(worst, int(gap.max()))
            unequal.append(float((gap > 0).mean()))
    return {"largest_difference_levels": worst, "share_of_unequal_values": float(np.mean(unequal))}


def make_pictures(folder: Path, suffix: str, size: int) -> Path:
    """An index of made pictures."""
    lines = ["path,identity,split"]
    for number in range(PEOPLE * PHOTOS):
        name = f"{number}{suffix}"
        imwrite(folder / name, np.rint(smooth_picture(size, number) * 255).astype(np.uint8))
        lines.append(f"{name},{number // PHOTOS},train")
    (folder / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "index.csv"


def loader_rate(index: Path, lmdb: Path | None, size: int, workers: int, rounds: int, batches: int) -> float:
    """Median images a second over rounds, once the workers run."""
    spec = {
        "type": "IdentityBlindDataset",
        "index": str(index),
        "lmdb": None if lmdb is None else str(lmdb),
        "gt_size": size,
        "num_refs": [1, 4],
    }
    loader = LoaderOptions(batch_size_per_gpu=BATCH_SIZE, num_worker_per_gpu=workers)
    options = DatasetSpec(key="train", loader=loader, spec=spec)
    stream = iter(train_loader(build_dataset(options), options, seed=0, samples=0))
    next(islice(stream, 2 * max(workers, 1), None))  # what the workers have loaded ahead is not counted
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        next(islice(stream, batches - 1, None))
        rates.append(batches * BATCH_SIZE / (time.perf_counter() - start))
    return median(rates)


def measure_loader(size: int, workers: Sequence[int], rounds: int, batches: int) -> dict[str, dict[str, float]]:
    """Storage -> number of workers -> images a second."""
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jpeg, webp = (make_pictures(folder / suffix[1:], suffix, size) for suffix in (".jpg", ".webp"))
        storages: dict[str, tuple[Path, Path | None]] = {"JPEG files": (jpeg, None), "WebP files": (webp, None)}
        if importlib.util.find_spec("lmdb") is not None:
            make_lmdb.main(["--source", str(jpeg), "--out", str(folder / "faces.lmdb")])
            storages["LMDB of JPEG"] = (jpeg, folder / "faces.lmdb")
        print(f"\n| loader, images/s | {' | '.join(f'{count} workers' for count in workers)} |")
        print("|---" * (len(workers) + 1) + "|")
        for storage, (index, lmdb) in storages.items():
            rates[storage] = {str(count): loader_rate(index, lmdb, size, count, rounds, batches) for count in workers}
            print(f"| {storage} | {' | '.join(f'{rate:.1f}' for rate in rates[storage].values())} |", flush=True)
    return rates


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--size", type=int, default=512, help="px (default: %(default)s)")
    parser.add_argument("--images", type=int, default=60, help="per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="of the loader; none: leave it out")
    parser.add_argument("--batches", type=int, default=8, help="of the loader per round (default: %(default)s)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    image = smooth_picture(args.size)
    report: dict[str, object] = {"benchmark": "data", "size": args.size, "threads": args.threads}
    medians: dict[str, float] = {}
    print("| degradation | plain OpenCV, images/s | ours, images/s | ratio |\n|---|---|---|---|")
    for stage, ranges in STAGES.items():
        rates = measure(ranges, image, args.images, args.rounds)
        medians |= {f"{stage}, {name}": rate for name, rate in rates.items()}
        plain, own = rates["plain OpenCV"], rates["ours"]
        print(f"| {stage} | {plain:.1f} | {own:.1f} | {own / plain:.2f} |", flush=True)
        report[f"speedup, {stage}"] = own / plain
        report[f"agreement, {stage}"] = largest_difference(ranges, image, min(args.images, 20))
    if args.workers:
        loader = measure_loader(args.size, args.workers, args.rounds, args.batches)
        report["loader"] = loader
        for storage, rates in loader.items():
            medians |= {f"loader, {storage}, {count} workers": rate for count, rate in rates.items()}
    report["median_images_per_second"] = medians
    if args.out is not None:
        write_json(args.out, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
