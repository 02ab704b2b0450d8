"""Comparison pictures: a tile for each column, in order, and files for crops and for faces of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from restorer_toys import make_net, photo_arguments, photo_with
from toy_run import SIZE

import inference_codeformer as tool
from basicsr.inference.comparison import GAP, MIN_TILE, Tile, comparison, draw_row
from basicsr.inference.values import Knobs, RestoredFace
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread, imwrite


def flat(colour: tuple[int, int, int], side: int = MIN_TILE) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


def test_tiles_stand_in_order_of_one_size_with_labels_below() -> None:
    row = draw_row([Tile(flat((255, 0, 0), 32), "one"), Tile(flat((0, 0, 255)), "two", "note")])
    assert row.shape[1] == 2 * MIN_TILE + 3 * GAP
    for i, colour in enumerate([(255, 0, 0), (0, 0, 255)]):
        left = GAP + i * (MIN_TILE + GAP)
        assert np.array_equal(row[GAP : GAP + MIN_TILE, left : left + MIN_TILE], flat(colour))
        assert (row[GAP + MIN_TILE :, left : left + MIN_TILE] < 100).any(), "a label"
    assert (row[:GAP] == 255).all()


def test_columns_are_degraded_reference_and_the_sweep() -> None:
    knobs = Knobs(0.5, False, None, None)
    sweep: list[tuple[float, RestoredFace | UserError]] = [
        (0.0, RestoredFace(flat((0, 255, 0)), "ref", 0.1, 0.4, knobs)),
        (1.0, UserError("no")),
    ]
    row = comparison(flat((9, 9, 9)), flat((99, 9, 9)), sweep)
    middles = [tuple(row[MIN_TILE // 2, GAP + i * (MIN_TILE + GAP) + 9]) for i in range(4)]
    assert middles == [(9, 9, 9), (99, 9, 9), (0, 255, 0), (0, 0, 0)]
    assert comparison(flat((9, 9, 9)), None, sweep).shape[1] == 3 * MIN_TILE + 4 * GAP


def test_the_command_writes_one_for_each_face(tmp_path: Path) -> None:
    make_net(tmp_path)
    imwrite(tmp_path / "two.png", photo_with((0, 0), (2, 2)))
    imwrite(tmp_path / "crop.png", np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    base = [*photo_arguments(tmp_path), "-o", str(tmp_path / "out"), "-i"]
    assert tool.main([*base, str(tmp_path / "two.png"), "--grid", "0", "1"]) == 0
    crop = [*base, str(tmp_path / "crop.png"), "--ref", str(tmp_path / "crop.png"), "--has_aligned", "--grid"]
    crop = [a for a in crop if a not in ("--detector", str(tmp_path / "scrfd.onnx"))]
    assert tool.main(crop) == 0
    names = sorted(path.name for path in (tmp_path / "out/comparisons").iterdir())
    assert names == ["crop.png", "two_00.png", "two_01.png"]
    wide = imread(tmp_path / "out/comparisons/crop.png").shape
    assert wide[1] == 7 * MIN_TILE + 8 * GAP, "degraded, reference, five w"
    with pytest.raises(UserError, match="w is -1"):
        tool.main([*base, str(tmp_path / "two.png"), "--grid", "-1"])
