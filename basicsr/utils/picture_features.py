"""Figures of many picture files: threads decode and prepare, batches are computed, a cache keeps what is done.

Shapes: N pictures, in the order of the list; a column is (N, ...).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from basicsr.utils.cli import progress
from basicsr.utils.errors import ImageFileError
from basicsr.utils.feature_cache import Columns, FeatureCache, file_key
from basicsr.utils.img_util import Image, imread

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

LISTED_FAILURES = 5  # that the log names; all of them are in the result


class PictureFeatures(NamedTuple):
    """Figures of a list of pictures; the rows of those that failed are zero."""

    columns: Columns  # each (N, ...)
    ok: NDArray[np.bool_]  # (N,)
    failures: list[tuple[Path, str]]  # and why


class Job(NamedTuple):
    """A picture on its way: its place in the list, its key in the cache, what the thread made of it."""

    place: int
    key: bytes | None
    item: Future[Any]


def picture_features(
    paths: Sequence[Path],
    prepare: Callable[[Image], Item],
    compute: Callable[[list[Item]], Columns],
    recipe: str,
    cache: str | Path | None = None,
    batch_size: int = 64,
    threads: int = 4,
    desc: str = "pictures",
) -> PictureFeatures:
    """`compute` of the prepared pictures, batch by batch, or what the cache has of them.

    Args:
        paths: one picture may stand there several times.
        prepare: of a decoded picture uint8 BGR (H, W, 3), in a thread; may raise ImageFileError.
        compute: of a batch of prepared items -> columns with a row for each; may raise ImageFileError.
        recipe: everything that the figures depend on besides the picture, see `FeatureCache`.
        cache: folder, or None.
        desc: of the progress bar and the log.
    Raises:
        ImageFileError: no picture at all could be used.
    """
    start = time.perf_counter()
    keys = [file_key(path) for path in paths]
    failures: dict[int, str] = {}
    done: dict[int, tuple[Columns, int]] = {}  # place -> columns and row in them
    with FeatureCache(cache, recipe) as store:
        for place, key in enumerate(keys):
            row = store.row_of.get(key) if key is not None else None
            if row is not None:
                done[place] = (store.columns, row)
        num_known = len(done)
        todo = [place for place in range(len(paths)) if place not in done]
        with progress(total=len(todo), desc=desc) as bar:
            for jobs in _prepared(paths, keys, todo, prepare, batch_size, threads):
                rows, columns = _compute(jobs, compute, failures, paths)
                if rows:
                    store.add([job.key for job in rows], columns)
                    done.update((job.place, (columns, row)) for row, job in enumerate(rows))
                bar.update(len(jobs))
    seconds = time.perf_counter() - start
    logger.info(
        "%s: %d pictures, %d from the cache, %d failed; %.1f s, %.1f pictures/s",
        desc, len(paths), num_known, len(failures), seconds, len(todo) / max(seconds, 1e-9),
    )  # fmt: skip
    return _collect(paths, done, failures)


def _prepared(
    paths: Sequence[Path],
    keys: Sequence[bytes | None],
    todo: Sequence[int],
    prepare: Callable[[Image], Any],
    batch_size: int,
    threads: int,
) -> Iterator[list[Job]]:
    """Batches whose pictures are being decoded while the one before is computed."""
    waiting: deque[list[Job]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for first in range(0, len(todo), batch_size):
            batch = todo[first : first + batch_size]
            waiting.append([Job(i, keys[i], pool.submit(lambda path: prepare(imread(path)), paths[i])) for i in batch])
            if len(waiting) > 2:  # bounds the memory however long the list is
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compute(
    jobs: Sequence[Job],
    compute: Callable[[list[Any]], Columns],
    failures: dict[int, str],
    paths: Sequence[Path],
) -> tuple[list[Job], Columns]:
    """The jobs of a batch that came out, and their columns. One picture that fails takes none of the others along."""
    ready: list[Job] = []
    for job in jobs:
        try:
            job.item.result()
            ready.append(job)
        except ImageFileError as error:
            failures[job.place] = str(error)
    if not ready:
        return [], {}
    try:
        return ready, compute([job.item.result() for job in ready])
    except ImageFileError as error:
        if len(ready) == 1:
            failures[ready[0].place] = f"{paths[ready[0].place]}: {error}"
            return [], {}
    single = [_compute([job], compute, failures, paths) for job in ready]
    parts = [(rows, columns) for rows, columns in single if rows]
    if not parts:
        return [], {}
    return (
        [job for rows, _ in parts for job in rows],
        {name: np.concatenate([columns[name] for _, columns in parts]) for name in parts[0][1]},
    )


def _collect(paths: Sequence[Path], done: dict[int, tuple[Columns, int]], failures: dict[int, str]) -> PictureFeatures:
    """Rows in the order of the list."""
    for place, reason in list(failures.items())[:LISTED_FAILURES]:
        logger.warning("%s", reason if str(paths[place]) in reason else f"{paths[place]}: {reason}")
    if len(failures) > LISTED_FAILURES:
        logger.warning("... and %d more", len(failures) - LISTED_FAILURES)
    if not done:
        first = failures[min(failures)] if failures else "the list is empty."
        raise ImageFileError(f"none of {len(paths)} pictures can be used: {first}")
    ok = np.zeros(len(paths), np.bool_)
    ok[list(done)] = True
    example, _ = next(iter(done.values()))
    columns = {name: np.zeros((len(paths), *c.shape[1:]), c.dtype) for name, c in example.items()}
    for name, column in columns.items():
        for place, (source, row) in done.items():
            column[place] = source[name][row]
    return PictureFeatures(columns, ok, [(paths[place], failures[place]) for place in sorted(failures)])
