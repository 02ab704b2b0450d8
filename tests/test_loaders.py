"""Loaders: an error in a worker is the one line it was raised with; the stream resumes; workers change no sample."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_photo

from basicsr.config.options import DatasetSpec, LoaderOptions
from basicsr.engine.loaders import batches, build_dataset, train_loader
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import imwrite

SIZE = 32
CUT_OFF = "the picture is cut off. Copy or download it again."


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Path:
    for number in range(6):
        imwrite(tmp_path / f"{number}.png", tiny_photo(rng))
    rows = "".join(f"{number}.png,p{number // 2},train\n" for number in range(6))
    (tmp_path / "index.csv").write_text("path,identity,split\n" + rows)
    return tmp_path / "index.csv"


def stream(index: Path, workers: int, samples: int = 0) -> Any:
    loader = LoaderOptions(batch_size_per_gpu=2, num_worker_per_gpu=workers)
    spec = {"type": "IdentityBlindDataset", "index": str(index), "gt_size": SIZE, "num_refs": [1, 1]}
    options = DatasetSpec(key="train", loader=loader, spec=spec)
    return batches(train_loader(build_dataset(options), options, seed=3, samples=samples), torch.device("cpu"))


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other)
    for batch, twin in zip(one, other, strict=True):
        for key, value in batch.items():
            assert torch.equal(value, twin[key]) if isinstance(value, torch.Tensor) else value == twin[key]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_ends_the_stream_with_one_line_that_names_it(index, workers):
    whole = (index.parent / "3.png").read_bytes()
    (index.parent / "3.png").write_bytes(whole[: len(whole) // 2])
    before = set(multiprocessing.active_children())
    with pytest.raises(ImageFileError) as caught:
        list(islice(stream(index, workers), 20))
    assert str(caught.value) == f"{index.parent / '3.png'}: {CUT_OFF}"
    del caught
    assert not set(multiprocessing.active_children()) - before, "workers end with the error"


def test_workers_change_no_sample(index):
    assert_same(list(islice(stream(index, 0), 7)), list(islice(stream(index, 2), 7)))


def test_a_stream_that_starts_later_goes_on_as_the_one_that_came_there(index):
    straight = list(islice(stream(index, 0), 8))  # past the end of two epochs
    assert_same(list(islice(stream(index, 1, samples=10), 3)), straight[5:])


PROGRAM = """
import sys
sys.path[:0] = {paths}
from itertools import islice
from pathlib import Path
import basicsr.data
from test_loaders import stream
from basicsr.utils.cli import run_main

def main(argv):
    global kept
    kept = stream(Path({index!r}), workers=1)
    return len(list(islice(kept, 6))) - 6

run_main(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("is_broken", "code"), [(True, 2), (False, 0)])
def test_a_program_leaves_also_when_something_still_holds_its_workers(index, is_broken, code):
    if is_broken:
        (index.parent / "3.png").write_bytes((index.parent / "3.png").read_bytes()[:-100])
    program = PROGRAM.format(paths=[str(ROOT), str(ROOT / "tests")], index=str(index))
    done = subprocess.run([sys.executable, "-c", program], timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines() == ([f"error: {index.parent / '3.png'}: {CUT_OFF}"] if is_broken else [])
