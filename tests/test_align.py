"""Templates, similarity estimates and the warp into FFHQ framing."""

import cv2
import numpy as np
import pytest

from basicsr.faces.align import (
    ARCFACE_112,
    BORDER_BGR,
    FFHQ_512,
    lmeds_similarity,
    scale_template,
    umeyama_similarity,
    warp_face,
)


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def test_templates_are_the_published_ones():
    # a known typo in the wild has 72.5318 for the right eye
    assert ARCFACE_112.sum(0) == pytest.approx([280.1307, 359.5039])
    assert ARCFACE_112[1].tolist() == [73.5318, 51.5014]
    assert FFHQ_512.sum(0) == pytest.approx([1282.86853, 1536.72164])
    for template, center in ((ARCFACE_112, 56), (FFHQ_512, 256)):
        left_eye, right_eye, nose, left_mouth, right_mouth = template
        assert left_eye[0] < center < right_eye[0]
        assert left_eye[1] < nose[1] < left_mouth[1]
        assert left_mouth[0] < nose[0] < right_mouth[0]


def test_least_squares_similarity_equals_the_solution_of_the_linear_system():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(5, 2)) * 50
    target = apply(similarity(0.7, 33, 4, -9), source) + rng.normal(size=(5, 2))
    # u = a x - b y + s, v = b x + a y + t is linear in a, b, s, t
    x, y, one, zero = source[:, 0], source[:, 1], np.ones(5), np.zeros(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, s, t = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(umeyama_similarity(source, target), [[a, -b, s], [b, a, t]], atol=1e-9)


def test_mirrored_landmarks_give_a_rotation_and_never_a_reflection():
    matrix = umeyama_similarity(FFHQ_512, FFHQ_512 * [-1, 1])
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("estimate", [umeyama_similarity, lmeds_similarity])
def test_both_estimates_find_an_exact_similarity(estimate):
    truth = similarity(1.7, -20, 30, 12)
    np.testing.assert_allclose(
        estimate(FFHQ_512, apply(truth, FFHQ_512)), truth, atol=1e-4
    )  # OpenCV refines in float32


def test_least_median_estimate_ignores_one_wrong_landmark():
    truth = similarity(0.5, 10, 3, 4)
    target = apply(truth, FFHQ_512)
    target[2] += 60
    np.testing.assert_allclose(lmeds_similarity(FFHQ_512, target), truth, atol=1e-3)


@pytest.mark.parametrize("estimate", [umeyama_similarity, lmeds_similarity])
def test_landmarks_in_one_point_are_refused(estimate):
    with pytest.raises(ValueError, match="coincide"):
        estimate(np.full((5, 2), 7.0), FFHQ_512)


@pytest.mark.parametrize("size", [64, 128, 512])
def test_landmarks_land_on_the_template_of_any_size(size: int):
    photo = np.zeros((900, 900, 3), np.uint8)
    landmarks = apply(similarity(1.2, 8, 60, 90), FFHQ_512)
    for x, y in landmarks:
        cv2.circle(photo, (round(x * 16), round(y * 16)), 18 * 16, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
    face = warp_face(photo, landmarks, size)[..., 0]
    expected = scale_template(FFHQ_512, size / 512)
    for x, y in expected:
        radius = 30 * size / 512
        rows, columns = np.mgrid[:size, :size]
        mass = face * ((np.hypot(columns - x, rows - y) < radius) & (face > 0))
        assert (mass * columns).sum() / mass.sum() == pytest.approx(x, abs=0.2)
        assert (mass * rows).sum() / mass.sum() == pytest.approx(y, abs=0.2)


def test_a_face_already_in_place_is_left_as_it_is():
    photo = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    assert np.abs(warp_face(photo, FFHQ_512, 512).astype(int) - photo).max() <= 1


def test_shrinking_by_eight_is_the_mean_of_eight_by_eight_pixels():
    photo = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    expected = photo.reshape(64, 8, 64, 8, 3).mean((1, 3))
    assert np.abs(warp_face(photo, FFHQ_512, 64) - expected).max() < 1.5  # rounding twice


def test_outside_of_the_photo_has_the_border_colour():
    photo = np.full((200, 200, 3), 9, np.uint8)
    face = warp_face(photo, FFHQ_512 * 0.5, 128)
    assert face[-1, -1].tolist() == list(BORDER_BGR)
    assert face[64, 64].tolist() == [9, 9, 9]
