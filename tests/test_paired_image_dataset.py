"""Given pairs: what belongs together, and that what has no partner is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.errors import ImageFileError, OptionError
from basicsr.utils.img_util import img2tensor, imread, imwrite

SIZE = 8


@pytest.fixture
def root(tmp_path: Path, rng: np.random.Generator) -> Path:
    for folder, suffix in (("lq", "png"), ("gt", "png"), ("ref", "jpg")):
        for stem in ("x.1", "y"):
            imwrite(tmp_path / folder / f"{stem}.{suffix}", rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    return tmp_path


def folders(root: Path, *names: str) -> PairedImageDataset:
    return PairedImageDataset(**{f"dataroot_{name}": str(root / name) for name in names}, gt_size=SIZE)  # type: ignore[arg-type]


def test_files_of_one_name_belong_together_whatever_their_suffix(root):
    dataset = folders(root, "lq", "gt", "ref")
    assert len(dataset) == 2
    sample = dataset[(4, 1)]  # a key of the sampler: the epoch changes nothing
    assert torch.equal(sample["lq"], img2tensor(imread(root / "lq" / "y.png")))
    assert torch.equal(sample["gt"], img2tensor(imread(root / "gt" / "y.png")))
    assert torch.equal(sample["refs"][0], img2tensor(imread(root / "ref" / "y.jpg")))
    assert sample["ref_mask"].tolist() == [True]
    assert (sample["lq_path"], sample["gt_path"]) == (str(root / "lq" / "y.png"), str(root / "gt" / "y.png"))


def test_without_references_there_are_none(root):
    assert "refs" not in folders(root, "lq", "gt")[0]


def test_files_without_a_partner_are_named_with_their_folder(root):
    (root / "lq" / "y.png").rename(root / "lq" / "z.png")
    with pytest.raises(ImageFileError, match=r"dataroot_lq lacks 1 names .*: y; dataroot_gt lacks 1 names .*: z"):
        folders(root, "lq", "gt")


def test_two_files_of_one_name_are_refused(root):
    imwrite(root / "gt" / "y.bmp", np.zeros((SIZE, SIZE, 3), np.uint8))
    with pytest.raises(ImageFileError, match="same name"):
        folders(root, "lq", "gt")


def pairs(root: Path, text: str) -> PairedImageDataset:
    (root / "pairs.csv").write_text(text)
    return PairedImageDataset(pairs=str(root / "pairs.csv"), gt_size=SIZE)


def test_a_csv_pairs_any_files_in_its_order(root):
    dataset = pairs(
        root, "lq,gt,identity,ref\nlq/y.png,gt/x.1.png,Ann,ref/x.1.jpg\nlq/x.1.png,gt/y.png,Bob,ref/y.jpg\n"
    )
    sample = dataset[0]
    assert torch.equal(sample["lq"], img2tensor(imread(root / "lq" / "y.png")))
    assert torch.equal(sample["gt"], img2tensor(imread(root / "gt" / "x.1.png")))
    assert torch.equal(sample["refs"][0], img2tensor(imread(root / "ref" / "x.1.jpg")))
    assert [dataset[i]["identity"] for i in range(2)] == ["Ann", "Bob"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lq,gt\nlq/y.png,\n", "pairs.csv:2: a pair needs lq and gt, found lq"),
        ("lq,gt\nlq/y.png,gt/y.png\nlq/y.png,gt/absent.png\n", "pairs.csv:3: no such file: .*absent.png"),
        ("lq,gt\n", "no pairs"),
        ("lq,gt,ref\nlq/y.png,gt/y.png,ref/y.jpg\nlq/y.png,gt/y.png,\n", "some rows have a ref"),
    ],
)
def test_a_faulty_csv_is_named_with_its_line(root, text, message):
    with pytest.raises(OptionError, match=message):
        pairs(root, text)


def test_folders_and_a_csv_exclude_each_other(root):
    with pytest.raises(OptionError, match="either 'pairs', or"):
        PairedImageDataset(dataroot_lq=str(root / "lq"))
    with pytest.raises(OptionError, match="either 'pairs', or"):
        PairedImageDataset(pairs=str(root / "pairs.csv"), dataroot_gt=str(root / "gt"))
