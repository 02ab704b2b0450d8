"""Clean faces and degraded copies: a sample is a function of (seed, epoch, index), faults name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from basicsr.data.degradation import DegradationRanges
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset
from basicsr.utils.errors import ImageFileError, OptionError
from basicsr.utils.img_util import img2tensor, imread, imwrite
from basicsr.utils.registry import DATASET_REGISTRY

SIZE = 32
RANGES = DegradationRanges()


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    for name in ("b.png", "a.png", "sub/c.png"):
        imwrite(tmp_path / "faces" / name, rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    (tmp_path / "faces" / "notes.txt").write_text("no picture")
    return tmp_path / "faces"


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one if isinstance(one[key], torch.Tensor))


def test_a_folder_is_read_sorted_with_its_sub_folders_and_pictures_alone(folder):
    dataset = FFHQBlindDataset(str(folder), gt_size=SIZE)
    assert [path.relative_to(folder).as_posix() for path in dataset.paths] == ["a.png", "b.png", "sub/c.png"]


def test_an_index_gives_the_pictures_of_its_split(folder):
    (folder / "index.csv").write_text("path,identity,split\nb.png,,train\na.png,,val\nsub/c.png,,train\n")
    dataset = FFHQBlindDataset(str(folder / "index.csv"), split="train", gt_size=SIZE)
    assert [path.name for path in dataset.paths] == ["b.png", "c.png"]


def test_stage_one_gets_the_picture_itself_and_no_lq(folder):
    sample = FFHQBlindDataset(str(folder), gt_size=SIZE, use_hflip=False)[0]
    assert torch.equal(sample["gt"], img2tensor(imread(folder / "a.png")))
    assert "lq" not in sample
    assert sample["gt_path"] == str(folder / "a.png")


def test_lq_and_lq_large_are_8_bit_pictures_in_minus_1_to_1(folder):
    sample = FFHQBlindDataset(str(folder), gt_size=SIZE, degradation=RANGES, degradation_large=RANGES)[0]
    for name in ("lq", "lq_large"):
        assert sample[name].shape == (3, SIZE, SIZE)
        assert sample[name].dtype == torch.float32
        levels = (sample[name] + 1) * 127.5
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert levels.min() >= 0
        assert levels.max() <= 255
    assert not torch.equal(sample["lq"], sample["lq_large"])


def test_a_sample_depends_on_seed_epoch_and_index_alone(folder):
    first, again, other = (
        FFHQBlindDataset(str(folder), gt_size=SIZE, degradation=RANGES, seed=seed) for seed in (0, 0, 1)
    )
    _ = again[2], again[0]  # what was read before does not matter
    assert same(first[(3, 1)], again[(3, 1)])
    assert not same(first[(3, 1)], first[(4, 1)])
    assert not same(first[(3, 1)], other[(3, 1)])
    assert same(first[1], first[(0, 1)])


def test_half_of_the_samples_are_mirrored(folder):
    dataset = FFHQBlindDataset(str(folder), gt_size=SIZE)
    upright = img2tensor(imread(folder / "a.png"))
    mirrored = [torch.equal(dataset[(epoch, 0)]["gt"], upright.flip(-1)) for epoch in range(100)]
    assert all(m or torch.equal(dataset[(e, 0)]["gt"], upright) for e, m in enumerate(mirrored[:20]))
    assert 30 <= sum(mirrored) <= 70


def test_identity_draws_are_uniform_numbers_for_identity_dropout(folder):
    dataset = FFHQBlindDataset(str(folder), gt_size=SIZE)
    draws = torch.stack([dataset[(epoch, 0)]["identity_draw"] for epoch in range(200)])
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.1


def test_another_size_is_refused_with_the_remedy_or_resized(folder):
    with pytest.raises(ImageFileError, match=r"a.png: 32x32 px, expected 16x16. Set `resize: true`"):
        FFHQBlindDataset(str(folder), gt_size=16)[0]
    assert FFHQBlindDataset(str(folder), gt_size=16, resize=True)[0]["gt"].shape == (3, 16, 16)


def test_a_picture_that_is_not_square_is_never_squashed(folder):
    imwrite(folder / "a.png", np.zeros((SIZE, SIZE + 4, 3), np.uint8))
    with pytest.raises(ImageFileError, match=r"a.png: 36x32 px.*Crop it to a square"):
        FFHQBlindDataset(str(folder), gt_size=SIZE, resize=True)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named_also_from_a_worker(folder, workers):
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    loader = DataLoader(FFHQBlindDataset(str(folder), gt_size=SIZE), batch_size=3, num_workers=workers)
    with pytest.raises(ImageFileError, match=r"b.png: the picture is cut off"):
        next(iter(loader))


def test_a_large_degradation_needs_the_plain_one(folder):
    with pytest.raises(OptionError, match="degradation_large"):
        FFHQBlindDataset(str(folder), gt_size=SIZE, degradation_large=RANGES)


def test_it_is_built_from_plain_option_values(folder):
    spec = {"type": "FFHQBlindDataset", "source": str(folder), "gt_size": SIZE, "degradation": {"blur_sigma": [1, 2]}}
    dataset = DATASET_REGISTRY.build(spec)
    assert dataset.degradation == DegradationRanges(blur_sigma=(1.0, 2.0))
