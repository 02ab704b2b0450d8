"""Pasting: an unchanged face changes nothing, masks are soft, neighbours share, the rest stays bit for bit."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from conftest import tiny_photo

from basicsr.faces.align import FFHQ_512, ffhq_matrix, warp_by
from basicsr.faces.paste import PlacedFace, draw_boxes, edge_mask, face_mask, paste_faces

SIDE = 128


def placed(x: float, y: float, side: float, degrees: float = 0.0) -> np.ndarray:
    """Similarity from the photo to a crop of SIDE px, of a face whose crop is `side` px and centred at x, y."""
    turn = cv2.getRotationMatrix2D((256.0, 256.0), degrees, side / 512)
    points = FFHQ_512 @ turn[:, :2].T + turn[:, 2]
    return ffhq_matrix(points + np.array([x, y]) - 256, SIDE)


def gray_face(value: int, side: int = SIDE) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0.0), (1.0, 25.0), (2.0, -10.0), (0.5, 5.0)])
def test_the_crop_of_a_smooth_photo_pasted_back_is_the_photo(
    rng: np.random.Generator, scale: float, degrees: float
) -> None:
    photo = np.asarray(cv2.GaussianBlur(tiny_photo(rng, 160, 200), (0, 0), 4), np.uint8)
    canvas = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
    matrix = placed(100, 80, 110, degrees)
    result = paste_faces(canvas, [PlacedFace(warp_by(photo, matrix, SIDE), matrix, SIDE)], scale)
    difference = np.abs(result.astype(int) - canvas)
    assert difference.max() <= 4  # of 255: interpolation twice; half a pixel of shift gives 8 and more
    assert difference.mean() < 0.3


def test_pixels_that_no_mask_reaches_stay_bit_for_bit(rng: np.random.Generator) -> None:
    photo = rng.integers(0, 256, (160, 200, 3), np.uint8)
    result = paste_faces(photo, [PlacedFace(gray_face(255), placed(100, 80, 80), SIDE)], 1.0)
    assert (result[80, 100] == 255).all()
    changed = (result != photo).any(-1)
    assert changed[41:119, 61:139].mean() > 0.6
    changed[40:121, 60:141] = False
    assert not changed.any()


def test_masks_fade_to_nothing_inside_the_crop_without_a_step() -> None:
    for mask in (face_mask(256), edge_mask(256)):
        assert mask.max() == 1.0
        assert mask[128, 128] == 1.0
        assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) < 0.01
        assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) < 0.12


def test_a_value_between_two_is_rounded_and_not_cut() -> None:
    photo = np.full((64, 64, 3), 100, np.uint8)
    face = PlacedFace(gray_face(101), placed(32, 32, 64), SIDE, np.full((SIDE, SIDE), 0.75, np.float32))
    assert paste_faces(photo, [face], 1.0)[32, 32].tolist() == [101, 101, 101]  # 100.75
    face = face._replace(mask=np.full((SIDE, SIDE), 0.25, np.float32))
    assert paste_faces(photo, [face], 1.0)[32, 32].tolist() == [100, 100, 100]


def test_a_photo_of_sixteen_bit_keeps_them_around_a_face(rng: np.random.Generator) -> None:
    photo = rng.integers(0, 65536, (160, 200, 3), np.uint16)
    face = PlacedFace(gray_face(255), placed(100, 80, 80), SIDE)
    result = paste_faces(photo, [face], 1.0)
    assert result.dtype == np.uint16
    assert (result[80, 100] == 65535).all()
    np.testing.assert_array_equal(result[:40], photo[:40])
    eight = paste_faces((photo // 257).astype(np.uint8), [face], 1.0)
    assert np.abs(result / 257 - eight).max() < 1.51  # the rounding of the photo and that of the result


def test_neighbours_share_a_pixel_whatever_their_order(rng: np.random.Generator) -> None:
    photo = rng.integers(0, 256, (120, 240, 3), np.uint8)
    faces = [PlacedFace(gray_face(value), placed(x, 60, 100), SIDE) for value, x in ((10, 60), (130, 110), (250, 160))]
    results = [paste_faces(photo, list(order), 1.0) for order in itertools.permutations(faces)]
    for result in results[1:]:
        assert np.abs(result.astype(int) - results[0]).max() <= 1
    assert 60 < results[0][60, 85].mean() < 80  # half of 10 and half of 130


def test_a_large_restored_face_is_averaged_to_a_small_place() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    photo = np.full((64, 64, 3), 128, np.uint8)
    result = paste_faces(photo, [PlacedFace(stripes, placed(32, 32, 40), SIDE)], 1.0)
    assert np.abs(result[28:36, 28:36].astype(int) - 128).max() <= 12  # sampled, it would be 0 and 255


def test_a_face_that_reaches_beyond_the_photo_is_pasted_as_far_as_it_goes() -> None:
    photo = np.zeros((60, 60, 3), np.uint8)
    result = paste_faces(photo, [PlacedFace(gray_face(200), placed(5, 5, 80), SIDE)], 1.0)
    assert result[5, 5].tolist() == [200, 200, 200]
    outside = PlacedFace(gray_face(200), placed(500, 500, 80), SIDE)
    np.testing.assert_array_equal(paste_faces(photo, [outside], 1.0), photo)


def test_boxes_are_drawn_green_where_the_face_is() -> None:
    drawn = draw_boxes(np.zeros((300, 300, 3), np.uint8), {0: np.array([20, 30, 60, 90], np.float32)}, 2.0)
    assert drawn[60, 80].tolist() == [0, 255, 0]
    assert drawn[150, 40].tolist() == [0, 255, 0]
    assert drawn[120, 80].tolist() == [0, 0, 0]
    other = draw_boxes(np.zeros((300, 300, 3), np.uint8), {7: np.array([20, 30, 60, 90], np.float32)}, 2.0)
    assert (other != drawn).any(), "the number is that of the face"
