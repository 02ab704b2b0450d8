"""LMDB: the same samples as from files, in forked and in spawned workers; packed resumably; faults are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_lmdb
import numpy as np
import pytest
import torch
from conftest import tiny_photo
from torch.utils.data import DataLoader

from basicsr.data import lmdb_store
from basicsr.data.degradation import DegradationRanges
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset
from basicsr.data.identity_blind_dataset import IdentityBlindDataset
from basicsr.data.lmdb_store import LmdbStore, open_environment
from basicsr.utils.errors import ImageFileError, OptionError
from basicsr.utils.img_util import imwrite

pytest.importorskip("lmdb", reason="the extra lmdb is not installed: pip install lmdb")
SIZE = 32
NAMES = ("Ann/0.png", "Ann/1.jpg", "Bob/0.webp", "Bob/1.png")


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Path:
    for name in NAMES:
        imwrite(tmp_path / "faces" / name, tiny_photo(rng))
    rows = "".join(f"{name},{name[:3]},train\n" for name in NAMES)
    (tmp_path / "faces" / "index.csv").write_text("path,identity,split\n" + rows)
    return tmp_path / "faces" / "index.csv"


@pytest.fixture
def packed(index: Path, tmp_path: Path) -> Path:
    assert make_lmdb.main(["--source", str(index), "--out", str(tmp_path / "faces.lmdb")]) == 0
    return tmp_path / "faces.lmdb"


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


def test_a_sample_from_lmdb_is_that_of_the_files(index, packed):
    options: dict[str, Any] = {"gt_size": SIZE, "degradation": DegradationRanges()}
    from_files = IdentityBlindDataset(str(index), **options)
    from_lmdb = IdentityBlindDataset(str(index), lmdb=str(packed), **options)
    samples = [from_files[(1, number)] for number in range(len(from_files))]
    for name in NAMES:
        (index.parent / name).unlink()  # nothing is read from the files any more
    assert all(same(sample, from_lmdb[(1, number)]) for number, sample in enumerate(samples))


def test_a_folder_is_packed_with_names_relative_to_it(index, tmp_path):
    assert make_lmdb.main(["--source", str(index.parent), "--out", str(tmp_path / "folder.lmdb")]) == 0
    dataset = FFHQBlindDataset(str(index.parent), gt_size=SIZE, lmdb=str(tmp_path / "folder.lmdb"))
    plain = FFHQBlindDataset(str(index.parent), gt_size=SIZE)
    assert all(same(plain[number], dataset[number]) for number in range(4))


def test_forked_workers_each_open_the_file(index, packed):
    dataset = FFHQBlindDataset(str(index), gt_size=SIZE, lmdb=str(packed))
    twin = FFHQBlindDataset(str(index), gt_size=SIZE, lmdb=str(packed))
    assert same(dataset[0], twin[0])  # open in this process, too, for two datasets
    loader = DataLoader(dataset, num_workers=2, multiprocessing_context="fork")
    assert [batch["gt_path"][0] for batch in loader] == [str(path) for path in dataset.paths]
    assert same(dataset[1], twin[1])


@pytest.mark.slow
def test_spawned_workers_each_open_the_file(index, packed):
    dataset = FFHQBlindDataset(str(index), gt_size=SIZE, lmdb=str(packed))
    _ = dataset[0]
    loader = DataLoader(dataset, num_workers=2, multiprocessing_context="spawn")
    assert [batch["gt_path"][0] for batch in loader] == [str(path) for path in dataset.paths]


def test_an_interrupted_packing_is_refused_and_goes_on(index, tmp_path, monkeypatch):
    out = tmp_path / "cut.lmdb"
    written: list[Path] = []
    monkeypatch.setattr(make_lmdb, "BATCH", 1)

    def write_two(environment: Any, items: list[tuple[Path, bytes]], root: Path) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        lmdb_store.write_files(environment, items, root)
        written.extend(file for file, _ in items)

    monkeypatch.setattr(make_lmdb, "write_files", write_two)
    with pytest.raises(KeyboardInterrupt):
        make_lmdb.main(["--source", str(index), "--out", str(out)])
    with pytest.raises(OptionError, match=r"not complete. The same make_lmdb.py command goes on"):
        LmdbStore(out, index)
    before, written[:] = set(written), []
    monkeypatch.setattr(make_lmdb, "write_files", lambda *args: written.extend(file for file, _ in args[1]))
    make_lmdb.main(["--source", str(index), "--out", str(out)])
    assert before & set(written) == set()
    assert len(before | set(written)) == 4


def test_new_pictures_are_added(index, packed, rng):
    imwrite(index.parent / "Cy/0.png", tiny_photo(rng))
    index.write_text(index.read_text() + "Cy/0.png,Cy,train\n")
    assert make_lmdb.main(["--source", str(index), "--out", str(packed)]) == 0
    assert LmdbStore(packed, index).num_pictures == 5


def test_a_broken_picture_is_named_and_left_out(index, tmp_path, caplog):
    whole = (index.parent / NAMES[1]).read_bytes()
    (index.parent / NAMES[1]).write_bytes(whole[: len(whole) // 2])
    (index.parent / NAMES[3]).unlink()
    assert make_lmdb.main(["--source", str(index), "--out", str(tmp_path / "some.lmdb")]) == 1
    assert "1.jpg: the picture is cut off" in caplog.text
    assert "Bob/1.png: cannot be read" in caplog.text
    store = LmdbStore(tmp_path / "some.lmdb", index)
    assert store.num_pictures == 2
    with pytest.raises(ImageFileError, match=r"1.jpg: not in .*some.lmdb, which holds 2 pictures"):
        store.read_bytes(index.parent / NAMES[1])


def test_what_is_no_lmdb_is_one_line(index, tmp_path):
    with pytest.raises(OptionError, match=r"none.lmdb: no such folder. Write it: python scripts/make_lmdb.py"):
        FFHQBlindDataset(str(index), gt_size=SIZE, lmdb=str(tmp_path / "none.lmdb"))
    (tmp_path / "empty.lmdb").mkdir()
    with pytest.raises(OptionError, match="cannot be opened"):
        LmdbStore(tmp_path / "empty.lmdb", index)


def test_a_picture_outside_of_the_folder_keeps_its_whole_name(tmp_path):
    assert lmdb_store.key_of(tmp_path / "a/b.png", tmp_path / "a") == b"b.png"
    assert lmdb_store.key_of(tmp_path / "b.png", tmp_path / "a") == str(tmp_path / "b.png").encode()


def test_the_room_asked_for_is_enough_for_many_small_pictures(tmp_path):
    files = [tmp_path / f"{number:05d}.png" for number in range(2000)]
    for file in files:
        file.write_bytes(b"x" * 3000)
    environment = open_environment(_made(tmp_path / "room.lmdb"), map_size=make_lmdb.room_for(files))
    lmdb_store.write_files(environment, ((file, file.read_bytes()) for file in files), tmp_path)
    assert lmdb_store.missing_files(environment, files, tmp_path) == []
    environment.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
