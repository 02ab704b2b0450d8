"""Judge folders of restored pictures: read, measure in batches, collect what failed.

Shapes: B pictures of one size; H, W pixels; R references; E embedding.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from basicsr.evaluation.instruments import (
    Instruments,
    Judge,
    JudgingOptions,
    build_instruments,
    recognizers_of_runs,
)
from basicsr.evaluation.pairing import Sources, match
from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Failure
from basicsr.utils.cli import progress
from basicsr.utils.dist_util import default_device
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import img2tensor, imread

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

PIXELS_PER_BATCH = 1 << 20  # four pictures of 512x512: LPIPS keeps every feature map of a batch
MAX_BATCH = 64
MIN_SIDE = 32  # below it the deepest LPIPS features have no pixel left
NUM_THREADS = 4
READ_AHEAD = 32  # pairs


@dataclass(frozen=True)
class LoadedPair:
    """The pixels of one pair; a run whose picture failed is missing."""

    pair: EvaluationPair
    gt: Tensor  # (3, H, W) RGB [-1, 1]
    restored: dict[str, Tensor]  # run -> (3, H, W)


def evaluate_folders(
    sources: Sources,
    options: JudgingOptions | None = None,
    *,
    title: str = "Evaluation",
    note: str = "",
    device: torch.device | None = None,
    seed: int = 0,
    num_resamples: int = 2000,
) -> EvaluationResult:
    """Judge every run of `sources` on the same ground truths.

    Args:
        title, note: stand on top of the report.
        seed, num_resamples: of the bootstrap.
    Returns:
        The result; pictures that could not be judged are in `failures`, the rest is judged.
    Raises:
        UserError: nothing can be judged (folders, CSV or weights).
    """
    options = options or JudgingOptions()
    device = device or default_device()
    instruments = build_instruments(options, recognizers_of_runs(sources.restored.values()))
    matching = match(sources)
    with_refs = any(pair.refs for pair in matching.pairs)
    figures = instruments.figures(with_refs)
    runs = list(sources.restored)
    values: dict[str, dict[str, dict[str, float]]] = {run: {figure.key: {} for figure in figures} for run in runs}
    references, failures = embed_references(matching.pairs, instruments.judges, device)
    failures = matching.failures + failures
    for batch in batches(load_pairs(matching.pairs, instruments, failures), lambda item: item.gt):
        measure_batch(batch, instruments, references, device, values)
    if not any(values[run]["psnr"] for run in runs):
        first = failures[0] if failures else "no pairs"
        raise UserError(f"none of the {len(matching.pairs)} pairs could be judged; the first reason: {first}")
    for failure in failures:
        logger.warning("not judged: %s", failure)
    for warning in matching.warnings:
        logger.warning("%s", warning)
    return EvaluationResult(
        title=title,
        note=note,
        runs=runs,
        pairs=matching.pairs,
        figures=figures,
        values=values,
        unavailable=instruments.unavailable,
        failures=failures,
        warnings=matching.warnings,
        labels=instruments.labels,
        seed=seed,
        num_resamples=num_resamples,
    )


def embed_references(
    pairs: Iterable[EvaluationPair], judges: list[Judge], device: torch.device
) -> tuple[dict[tuple[str, Path], Tensor], list[Failure]]:
    """Embedding (E,) by (judge, file) of every reference, each file read once; and the pairs whose reference failed."""
    users: dict[Path, list[str]] = {}  # file -> names of the pairs that use it
    for pair in pairs:
        for path in {path for refs in pair.refs.values() for path in refs}:
            users.setdefault(path, []).append(pair.name)
    embeddings: dict[tuple[str, Path], Tensor] = {}
    failures: list[Failure] = []
    if not judges or not users:
        return embeddings, failures

    def readable() -> Iterator[tuple[Path, Tensor]]:
        loaded = read_ahead(read_reference, sorted(users))
        for path, image in progress(loaded, total=len(users), desc="references"):
            if isinstance(image, Tensor):
                yield path, image
            else:
                failures.extend(Failure(name, None, f"reference: {image}") for name in users[path])

    for batch in batches(readable(), lambda item: item[1]):
        images = torch.stack([image for _, image in batch]).to(device)  # (B, 3, S, S)
        for judge in judges:
            keys = [(judge.name, path) for path, _ in batch]
            embeddings.update(zip(keys, judge.embed(images).cpu(), strict=True))
    return embeddings, failures


def read_reference(path: Path) -> Tensor | str:
    """Square picture as (3, S, S), or the reason why not."""
    try:
        image = img2tensor(imread(path))
    except ImageFileError as error:
        return str(error)
    return image if image.shape[1] == image.shape[2] else f"{path}: not square, recognisers take FFHQ-framed faces"


def load_pairs(pairs: list[EvaluationPair], instruments: Instruments, failures: list[Failure]) -> Iterator[LoadedPair]:
    """Read all pairs in threads, in order; what fails goes into `failures`."""

    def load(pair: EvaluationPair) -> tuple[LoadedPair | None, list[Failure]]:
        return load_pair(pair, instruments)

    for _, (loaded, found) in progress(read_ahead(load, pairs), total=len(pairs), desc="judging"):
        failures.extend(found)
        if loaded is not None and loaded.restored:
            yield loaded


def load_pair(pair: EvaluationPair, instruments: Instruments) -> tuple[LoadedPair | None, list[Failure]]:
    """The pixels of a pair, and a failure for every picture that cannot be judged."""
    try:
        gt = img2tensor(imread(pair.gt))
    except ImageFileError as error:
        return None, [Failure(pair.name, None, f"ground truth: {error}")]
    height, width = gt.shape[1:]
    if min(height, width) - 2 * instruments.crop_border < MIN_SIDE:
        reason = f"ground truth is {width}x{height}; at least {MIN_SIDE} pixels a side are needed inside the border"
        return None, [Failure(pair.name, None, reason)]
    if instruments.judges and height != width:
        reason = f"ground truth is {width}x{height}, not square; recognisers take FFHQ-framed faces"
        return None, [Failure(pair.name, None, reason)]
    restored: dict[str, Tensor] = {}
    failures: list[Failure] = []
    for run, path in pair.restored.items():
        try:
            image = img2tensor(imread(path))
        except ImageFileError as error:
            failures.append(Failure(pair.name, run, f"restored: {error}"))
            continue
        if image.shape != gt.shape:
            reason = f"restored is {image.shape[2]}x{image.shape[1]}, ground truth {width}x{height} ({path})"
            failures.append(Failure(pair.name, run, reason))
            continue
        restored[run] = image
    return LoadedPair(pair, gt, restored), failures


def batches(items: Iterable[Item], image_of: Callable[[Item], Tensor]) -> Iterator[list[Item]]:
    """Lists of items whose image (3, H, W) has one size, in order within a size."""
    waiting: dict[torch.Size, list[Item]] = {}
    for item in items:
        shape = image_of(item).shape
        same_size = waiting.setdefault(shape, [])
        same_size.append(item)
        if len(same_size) >= max(1, min(MAX_BATCH, PIXELS_PER_BATCH // shape[1:].numel())):
            yield waiting.pop(shape)
    yield from waiting.values()


def measure_batch(
    batch: list[LoadedPair],
    instruments: Instruments,
    references: dict[tuple[str, Path], Tensor],
    device: torch.device,
    values: dict[str, dict[str, dict[str, float]]],
) -> None:
    """All figures of pairs of one size, written into `values` (run -> figure key -> name)."""
    gt = torch.stack([item.gt for item in batch]).to(device)  # (B, 3, H, W)
    gt_embeddings = {judge.name: judge.embed(gt) for judge in instruments.judges}  # (B, E)
    for run, by_key in values.items():
        members = [i for i, item in enumerate(batch) if run in item.restored]
        if not members:
            continue
        restored = torch.stack([batch[i].restored[run] for i in members]).to(device)
        for figure, metric in instruments.metrics:
            scores = metric.measure(restored, gt[members]).tolist()
            by_key[figure.key].update(zip([batch[i].pair.name for i in members], scores, strict=True))
        for judge in instruments.judges:
            keys = {figure.kind: figure.key for figure in judge.figures(with_refs=True)}
            embeddings = judge.embed(restored).cpu()
            for embedding, i in zip(embeddings, members, strict=True):
                pair = batch[i].pair
                target = gt_embeddings[judge.name][i].cpu()
                by_key[keys["ids"]][pair.name] = float(embedding @ target)
                found = [references.get((judge.name, path)) for path in pair.refs.get(run, ())]
                refs = [ref for ref in found if ref is not None]
                if refs:
                    stacked = torch.stack(refs)  # (R, E)
                    by_key[keys["ids_ref"]][pair.name] = float((stacked @ embedding).mean())
                    by_key[keys["cos_ref_gt"]][pair.name] = float((stacked @ target).mean())


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
