"""Reading the pictures of an evaluation in threads. What cannot be judged becomes a failure with its reason.

Shapes: H, W pixels; S side of a square face.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from basicsr.evaluation.instruments import Instruments
from basicsr.evaluation.judges import Digest
from basicsr.evaluation.results import EvaluationPair, Failure
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, imread

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

# LPIPS keeps every feature map of a batch. On a CPU one picture of 512x512 is the fastest: more leave the cache
PIXELS_PER_BATCH = {"cpu": 1 << 18, "cuda": 1 << 21}
MAX_BATCH = 64
MIN_SIDE = 32  # below it the deepest LPIPS features have no pixel left
NUM_THREADS = 4
READ_AHEAD = 32  # pairs
DIGEST_BYTES = 16


@dataclass
class LoadedPair:
    """The pixels of one pair; a run whose picture failed is missing. Pictures are uint8 RGB (3, H, W) of one size."""

    pair: EvaluationPair
    gt: Tensor | None
    restored: dict[str, Tensor]
    mask: Tensor | None = None  # (H, W) bool
    gt_digest: Digest = b""
    digests: dict[str, Digest] = field(default_factory=dict)  # of the restored pictures
    values: dict[str, dict[str, float]] = field(default_factory=dict)  # run -> key -> figures of the file gauge
    failures: list[Failure] = field(default_factory=list)

    @property
    def size(self) -> torch.Size:
        """Shape that all pictures share."""
        return next(iter(self.restored.values())).shape


def to_tensor(image: Image) -> Tensor:
    """uint8 BGR (H, W, 3) -> uint8 RGB (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))


def digest_of(image: Image) -> Digest:
    """What tells the content of two pictures apart."""
    shape = "x".join(map(str, image.shape[:2])).encode()
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=DIGEST_BYTES, person=shape).digest()


def load_pair(pair: EvaluationPair, instruments: Instruments) -> LoadedPair:
    """The pixels of a pair, with a failure for every picture that cannot be judged."""
    loaded = LoadedPair(pair, None, {})
    gt = read_ground_truth(pair, instruments, loaded) if pair.gt else None
    if loaded.failures:
        return loaded
    gauge = instruments.file_gauge
    gt_landmarks = gauge.landmarks_of(gt) if gauge else None
    if gauge and gauge.detector and gt is not None and gt_landmarks is None:
        # the same for every run, so it favours none; but it is named
        loaded.failures.append(Failure(pair.name, None, "ground truth: the detector finds no face, no landmarks"))
    expected = gt.shape if gt is not None else None
    for run, path in pair.restored.items():
        image = read_restored(path, run, expected, instruments, loaded)
        if image is None:
            continue
        expected = image.shape
        loaded.restored[run] = to_tensor(image)
        if instruments.judges:
            loaded.digests[run] = digest_of(image)
        try:
            loaded.values[run] = gauge.measure(image, gt_landmarks) if gauge else {}
        except UserError as error:
            loaded.failures.append(Failure(pair.name, run, f"restored: {error}"))
    if instruments.with_masks and expected is not None:
        read_mask(pair.mask, expected, loaded)
    return loaded


def read_ground_truth(pair: EvaluationPair, instruments: Instruments, loaded: LoadedPair) -> Image | None:
    """The ground truth, put into `loaded`; None and a failure where it cannot be used."""
    try:
        image = imread(pair.gt or "")
    except ImageFileError as error:
        loaded.failures.append(Failure(pair.name, None, f"ground truth: {error}"))
        return None
    if reason := unfit(image, instruments):
        loaded.failures.append(Failure(pair.name, None, f"ground truth is {reason}"))
        return None
    loaded.gt = to_tensor(image)
    if instruments.judges:
        loaded.gt_digest = digest_of(image)
    return image


def read_restored(
    path: Path, run: str, expected: tuple[int, ...] | None, instruments: Instruments, loaded: LoadedPair
) -> Image | None:
    """A restored picture of the expected shape; None and a failure where it is not."""
    name = loaded.pair.name
    try:
        image = imread(path)
    except ImageFileError as error:
        loaded.failures.append(Failure(name, run, f"restored: {error}"))
        return None
    height, width = image.shape[:2]
    if expected is not None and image.shape != expected:
        other = "ground truth" if loaded.gt is not None else "another run"
        reason = f"restored is {width}x{height}, {other} {expected[1]}x{expected[0]} ({path})"
        loaded.failures.append(Failure(name, run, reason))
        return None
    if expected is None and (reason := unfit(image, instruments)):
        loaded.failures.append(Failure(name, run, f"restored is {reason}"))
        return None
    return image


def unfit(image: Image, instruments: Instruments) -> str:
    """Why a picture of this size cannot be judged; empty where it can."""
    height, width = image.shape[:2]
    if min(height, width) - 2 * instruments.crop_border < MIN_SIDE:
        return f"{width}x{height}; at least {MIN_SIDE} pixels a side are needed inside the border"
    if instruments.judges and height != width:
        return f"{width}x{height}, not square; recognisers take FFHQ-framed faces"
    return ""


def read_mask(path: Path | None, expected: tuple[int, ...], loaded: LoadedPair) -> None:
    """The mask of the face, put into `loaded`; a failure where there is none, and the pair is not judged."""
    if path is None:  # named when the pairs were matched, or the cell of the table is empty
        loaded.failures.append(Failure(loaded.pair.name, None, "mask of the face: none, other pictures have one"))
        loaded.restored.clear()
        return
    try:
        mask = imread(path).max(axis=2) > 0
    except ImageFileError as error:
        reason = str(error)
    else:
        reason = "" if mask.shape == expected[:2] else f"{mask.shape[1]}x{mask.shape[0]} ({path})"
        reason = reason or ("" if mask.any() else f"empty ({path})")
        loaded.mask = torch.from_numpy(mask)
    if reason:
        loaded.failures.append(Failure(loaded.pair.name, None, f"mask of the face: {reason}"))
        loaded.restored.clear()


def read_face(path: Path) -> tuple[Tensor, Digest] | str:
    """Square picture (3, S, S) with its digest, or the reason why not."""
    try:
        image = imread(path)
    except ImageFileError as error:
        return str(error)
    if image.shape[0] != image.shape[1]:
        return f"{path}: not square, recognisers take FFHQ-framed faces"
    return to_tensor(image), digest_of(image)


def batches(items: Iterable[Item], size_of: Callable[[Item], torch.Size], device: torch.device) -> Iterator[list[Item]]:
    """Lists of items whose pictures (3, H, W) have one size, in order within a size; as long as suits the device."""
    most_pixels = PIXELS_PER_BATCH[device.type]
    waiting: dict[torch.Size, list[Item]] = {}
    for item in items:
        shape = size_of(item)
        same_size = waiting.setdefault(shape, [])
        same_size.append(item)
        if len(same_size) >= max(1, min(MAX_BATCH, most_pixels // shape[1:].numel())):
            yield waiting.pop(shape)
    yield from waiting.values()


def read_ahead(load: Callable[[Item], Loaded], items: Iterable[Item]) -> Iterator[tuple[Item, Loaded]]:
    """`(item, load(item))` in order, read by threads at most READ_AHEAD items in front."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        waiting: deque[tuple[Item, Future[Loaded]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(load, item)))
            if len(waiting) > READ_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
