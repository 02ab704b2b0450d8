"""The decoding behind the detector, against plain loops; and a real photo where the data is at hand."""

from pathlib import Path

import numpy as np
import pytest
from recognizer_graphs import write_insightface_graph

from basicsr.faces.detect import (
    STRIDES,
    Face,
    ScrfdDetector,
    center_face,
    decode_anchors,
    largest_face,
    letterbox,
    suppress_overlaps,
)
from basicsr.utils.errors import WeightsError
from basicsr.utils.img_util import imread


def face(left: float, top: float, right: float, bottom: float) -> Face:
    return Face(np.array([left, top, right, bottom], np.float32), 0.9, np.zeros((5, 2), np.float32))


def test_decoding_equals_a_loop_over_grid_points_and_anchors():
    rng = np.random.default_rng(0)
    height, width, anchors = 64, 96, 2
    counts = [(height // s) * (width // s) * anchors for s in STRIDES]
    raw = tuple([rng.random((n, k)).astype(np.float32) for n in counts] for k in (1, 4, 10))
    scores, boxes, landmarks = decode_anchors(raw[0], raw[1], raw[2], (height, width))
    i = 0
    for level, stride in enumerate(STRIDES):
        j = 0
        for y in range(0, height, stride):
            for x in range(0, width, stride):
                for _ in range(anchors):
                    score, distance, offset = (raw[kind][level][j] for kind in range(3))
                    box = [
                        x - distance[0] * stride,
                        y - distance[1] * stride,
                        x + distance[2] * stride,
                        y + distance[3] * stride,
                    ]
                    points = [(x + offset[2 * p] * stride, y + offset[2 * p + 1] * stride) for p in range(5)]
                    assert scores[i] == score[0]
                    np.testing.assert_allclose(boxes[i], box, atol=1e-4)
                    np.testing.assert_allclose(landmarks[i], points, atol=1e-4)
                    i, j = i + 1, j + 1
    assert i == len(boxes)


def test_of_overlapping_boxes_the_best_score_stays():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 4]], np.float32)
    scores = np.array([0.8, 0.9, 0.5, 0.7], np.float32)
    assert suppress_overlaps(boxes, scores, 0.4) == [1, 3, 2]
    assert suppress_overlaps(boxes[:0], scores[:0], 0.4) == []


def test_letterbox_keeps_the_shape_and_swaps_to_rgb():
    photo = np.zeros((100, 200, 3), np.uint8)
    photo[..., 0] = 255  # blue
    blob, scale = letterbox(photo, 320)
    assert (blob.shape, scale) == ((1, 3, 160, 320), 1.6)
    np.testing.assert_allclose(blob[0, :, 80, 160], [-127.5 / 128, -127.5 / 128, 127.5 / 128])
    assert letterbox(np.zeros((70, 100, 3), np.uint8), 100)[0].shape == (1, 3, 96, 128)


def test_largest_and_most_central_face_are_found_and_none_is_none():
    faces = [face(0, 0, 50, 50), face(40, 45, 60, 65)]
    assert largest_face(faces) is faces[0]
    assert center_face(faces, (100, 100)) is faces[1]
    assert largest_face([]) is None
    assert center_face([], (10, 10)) is None


def test_missing_and_broken_weights_are_one_line(tmp_path: Path):
    with pytest.raises(WeightsError, match="no detector weights"):
        ScrfdDetector(tmp_path / "none.onnx")
    for contents in (b"not a graph", b""):
        (tmp_path / "broken.onnx").write_bytes(contents)
        with pytest.raises(WeightsError, match="cut off"):
            ScrfdDetector(tmp_path / "broken.onnx")


def test_a_recogniser_is_refused_as_detector(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"outputs of widths \[512\]; SCRFD"):
        ScrfdDetector(write_insightface_graph(tmp_path / "w600k_r50.onnx"))


@pytest.mark.slow
def test_an_aligned_real_face_has_its_landmarks_near_the_template(test_data: Path):
    from basicsr.faces.align import FFHQ_512

    detector = ScrfdDetector(test_data / "detectors" / "scrfd_2.5g_bnkps.onnx", num_threads=1)
    distances = []
    for path in sorted((test_data / "refsets").glob("*/refs/*.png"))[::8]:
        found = largest_face(detector.detect(imread(path)))
        assert found is not None, path
        distances.append(np.linalg.norm(found.landmarks - FFHQ_512, axis=1).mean())
    assert np.median(distances) < 12  # px of 512: head pose moves them, a wrong decode by tens
