"""From the `datasets:` section to loaders: endless and resumable for training, this rank's share for validation."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import traceback
from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Subset

from basicsr.config.options import DatasetSpec
from basicsr.data.sampler import EndlessSampler
from basicsr.engine.interrupts import STOP_SIGNALS, stop_signals_held
from basicsr.utils.dist_util import rank, world_size
from basicsr.utils.errors import OptionError, UserError
from basicsr.utils.registry import DATASET_REGISTRY

Batch = dict[str, Any]


def build_dataset(options: DatasetSpec) -> Any:
    """The data set of an entry of `datasets`; an option that it refuses is named with its place."""
    try:
        dataset = DATASET_REGISTRY.build(options.spec)
    except OptionError as error:
        raise OptionError(f"datasets.{options.key}.{error}") from error
    if len(dataset) == 0:
        raise OptionError(f"datasets.{options.key}: the dataset has no sample. Check its index and split.")
    return dataset


def train_loader(dataset: Any, options: DatasetSpec, seed: int, samples: int, parts: int = 1) -> DataLoader[Batch]:
    """Batches of this rank for ever, beginning where `samples` of the common stream have been seen.

    The order of samples is f(seed) over all ranks: two ranks with half the batch see together what one rank sees. When
    the number of ranks has changed, fewer samples than there are ranks now may be seen twice.
    """
    start = samples - samples % world_size()
    batch_size = options.loader.batch_size_per_gpu * parts  # an iteration's batch; it is cut when it is there
    sampler = EndlessSampler(len(dataset), rank(), world_size(), seed, start)
    return _loader(dataset, options, sampler=sampler, batch_size=batch_size, drop_last=True)


def val_loader(options: DatasetSpec, num_images: int | None = None) -> DataLoader[Batch]:
    """This rank's share of the first `num_images` (None: all) of a validation set, in order."""
    dataset = build_dataset(options)
    end = len(dataset) if num_images is None else min(num_images, len(dataset))
    share = Subset(dataset, range(rank(), end, world_size()))
    return _loader(share, options, shuffle=False, batch_size=options.loader.batch_size_per_gpu)


def _loader(dataset: Any, options: DatasetSpec, **keywords: Any) -> DataLoader[Batch]:
    workers = options.loader.num_worker_per_gpu
    return DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        timeout=options.loader.timeout if workers > 0 else 0,  # without workers the run's watchdog sees a hang
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet_worker,
        # a loader draws a seed for its workers when it starts: not from torch's common generator, which after a resume
        # must stand where the run left it (Gumbel codes are drawn from it)
        generator=torch.Generator(),
        **keywords,
    )


def _quiet_worker(worker_id: int) -> None:
    """One thread for each worker: the workers themselves are the parallelism.

    Signals that stop the run reach its whole process group. The run stops by itself, and needs its workers until then;
    they end with it.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """End what workers are left when the program leaves.

    multiprocessing sends them SIGTERM, which they ignore, and waits: a run that a broken picture ended would hang for
    ever, since the error still holds its loader.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a worker's end for a fault
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


atexit.register(_end_workers)  # after multiprocessing's own, so that it runs before


def move_to(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def batches(loader: DataLoader[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on the device. An error of a worker comes out as the one line that the worker raised."""
    with stop_signals_held():
        loaded = iter(loader)  # the workers start
    try:
        for batch in loaded:
            yield move_to(batch, device)
    except Exception as error:
        # torch raises from a frame that holds the error: garbage in a cycle, whose workers hear too late of their end
        traceback.clear_frames(error.__traceback__)
        if not isinstance(error, UserError):
            raise
        # torch puts the worker's stack trace in front; the last line is the error itself, after its class name
        line = str(error).strip().splitlines()[-1]
        raise type(error)(line.partition("Error: ")[2] or line) from error
