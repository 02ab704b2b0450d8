"""Every detector behind one interface: what a file is follows from the file, what is missing is one line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_graphs import write_scrfd, write_yunet
from recognizer_graphs import write_insightface_graph

from basicsr.faces import ScrfdDetector, load_detector
from basicsr.faces.align import FFHQ_512
from basicsr.faces.detect import suppress_overlaps
from basicsr.faces.facexlib_nets import build_retinaface
from basicsr.faces.load import AlignedDetector
from basicsr.faces.retinaface import RetinaFaceDetector, anchor_grid, decode_deltas
from basicsr.faces.yunet import YuNetDetector
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.img_util import imread


def photo_with_faces(*corners: tuple[int, int], size: int = 256) -> np.ndarray:
    """A black picture with a white cell where the toy SCRFD sees the top left corner of a face."""
    image = np.zeros((size, size, 3), np.uint8)
    for x, y in corners:
        image[y : y + 32, x : x + 32] = 255
    return image


def test_the_kind_of_a_detector_follows_from_its_file(tmp_path: Path) -> None:
    assert isinstance(load_detector(write_yunet(tmp_path / "a.onnx")), YuNetDetector)
    assert isinstance(load_detector(write_scrfd(tmp_path / "b.onnx")), ScrfdDetector)
    assert isinstance(load_detector("aligned"), AlignedDetector)
    (tmp_path / "pack").mkdir()
    write_scrfd(tmp_path / "pack/det_10g.onnx")
    assert isinstance(load_detector(tmp_path / "pack"), ScrfdDetector)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("retinaface_resnet50", r"facelib/detection_Resnet50_Final\.pth: no such file.*download_pretrained_models"),
        ("retinaface_mobile0.25", r"facelib/detection_mobilenet0\.25_Final\.pth: no such file.*put it there"),
        ("YOLOv5l", "not read here. Known are SCRFD"),
        ("nowhere.onnx", "no such detector file. Known are SCRFD"),
    ],
)
def test_a_missing_file_says_which_to_put_where(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        load_detector(name, weights_folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_files_of_another_kind_and_values_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="SCRFD with landmarks has"):
        load_detector(write_insightface_graph(tmp_path / "w600k_r50.onnx"))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="no RetinaFace weights"):
        load_detector(tmp_path / "net.pth")
    (tmp_path / "cut.onnx").write_bytes(write_scrfd(tmp_path / "b.onnx").read_bytes()[:300])
    with pytest.raises(WeightsError, match="cut off"):
        load_detector(tmp_path / "cut.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="found none"):
        load_detector(tmp_path / "empty")
    with pytest.raises(UserError, match=r"expected 0 \.\. 1"):
        load_detector("aligned", score_threshold=1.5)


def test_yunet_gives_boxes_points_and_scores_in_pixels_of_the_photo(tmp_path: Path) -> None:
    detector = load_detector(write_yunet(tmp_path / "a.onnx", score=0.9), max_side=64)
    faces = detector.detect(np.zeros((64, 128, 3), np.uint8))
    assert len(faces) == 2  # two grid points of stride 32
    assert faces[0].score == pytest.approx(0.9, abs=1e-3)
    sides = faces[0].box[2:] - faces[0].box[:2]
    np.testing.assert_allclose(sides, [64, 64], atol=0.5)  # exp(0) = 1 stride of the input, 2 px of the photo each
    np.testing.assert_allclose(faces[0].landmarks, faces[0].landmarks[[0]].repeat(5, 0))
    assert load_detector(tmp_path / "a.onnx", score_threshold=0.95).detect(np.zeros((64, 64, 3), np.uint8)) == []


def test_an_aligned_picture_has_its_face_where_the_template_says() -> None:
    (face,) = load_detector("aligned").detect(np.zeros((512, 512, 3), np.uint8))
    np.testing.assert_allclose(face.landmarks, FFHQ_512, atol=1e-3)


def test_a_box_inside_another_is_the_same_face() -> None:
    boxes = np.array([[0, 0, 100, 100], [30, 20, 70, 60], [90, 0, 190, 100]], np.float32)
    scores = np.array([0.9, 0.95, 0.8], np.float32)
    assert suppress_overlaps(boxes, scores, 0.4, contained=0.8) == [1, 2]
    assert suppress_overlaps(boxes, scores, 0.4) == [1, 0, 2]


def test_photos_detected_by_several_threads_have_the_faces_they_have_alone(tmp_path: Path) -> None:
    detectors = [load_detector(write_scrfd(tmp_path / "b.onnx"), max_side=256, num_threads=1)]
    detectors.append(load_detector(write_yunet(tmp_path / "a.onnx"), max_side=64))
    photos = [photo_with_faces((32 * i, 64)) for i in range(6)]
    for detector in detectors:
        alone = [detector.detect(photo) for photo in photos]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(detector.detect, photos))
        for one, other in zip(alone, together, strict=True):
            assert len(one) == len(other) > 0
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a.landmarks, b.landmarks)


def test_anchors_and_their_decoding_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    height, width = 72, 40
    anchors = anchor_grid(height, width)
    deltas, offsets = (rng.normal(size=(len(anchors), k)).astype(np.float32) for k in (4, 10))
    boxes, landmarks = decode_deltas(anchors, deltas, offsets)
    i = 0
    for stride, sizes in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for row in range(-(-height // stride)):
            for column in range(-(-width // stride)):
                for size in sizes:
                    x, y = (column + 0.5) * stride, (row + 0.5) * stride
                    dx, dy, dw, dh = deltas[i]
                    middle_x, middle_y = x + dx * 0.1 * size, y + dy * 0.1 * size
                    half_w, half_h = size * np.exp(dw * 0.2) / 2, size * np.exp(dh * 0.2) / 2
                    box = [middle_x - half_w, middle_y - half_h, middle_x + half_w, middle_y + half_h]
                    np.testing.assert_allclose(boxes[i], box, rtol=1e-4, atol=1e-3)
                    for p in range(5):
                        point = [x + offsets[i, 2 * p] * 0.1 * size, y + offsets[i, 2 * p + 1] * 0.1 * size]
                        np.testing.assert_allclose(landmarks[i, p], point, rtol=1e-4, atol=1e-3)
                    i += 1
    assert i == len(anchors)


@pytest.mark.slow
def test_untrained_retinaface_of_both_backbones_is_read_from_its_file_alone(tmp_path: Path) -> None:
    from facexlib.detection.retinaface import RetinaFace

    for name in ("mobile0.25", "resnet50"):
        net = RetinaFace(network_name=name, phase="test", device="cpu")
        state = {f"module.{key}": value for key, value in net.state_dict().items()}  # as the released files are
        for key, value in state.items():
            if "Head" in key:
                value.zero_()  # every anchor is a face with probability 1/2, at the anchor itself
        torch.save(state, tmp_path / "net.pth")
        photo = np.zeros((64, 64, 3), np.uint8)
        detector = load_detector(tmp_path / "net.pth", score_threshold=0.6, max_side=64)
        assert isinstance(detector, RetinaFaceDetector)
        assert detector.detect(photo) == []
        found = load_detector(tmp_path / "net.pth", score_threshold=0.4, max_side=64).detect(photo)
        assert {face.score for face in found} == {0.5}
        with pytest.raises(WeightsError, match="do not fit RetinaFace: 1 missing"):
            build_retinaface(dict(list(net.state_dict().items())[1:]), tmp_path / "net.pth")


@pytest.mark.slow
def test_two_detectors_find_the_same_faces_in_real_photos_each_once(test_data: Path) -> None:
    names = ("scrfd_2.5g_bnkps.onnx", "retinaface_mobilenet0.25_Final.pth")
    one, other = (load_detector(test_data / "detectors" / name) for name in names)
    files = [*sorted((test_data / "whole_photos").iterdir()), *sorted((test_data / "refsets").glob("*/lq.png"))]
    for file in files:
        image = imread(file)
        found, again = one.detect(image), other.detect(image)
        assert len(found) == len(again) > 0, file
        for face in found:
            eyes = float(np.linalg.norm(face.landmarks[0] - face.landmarks[1]))
            nearest = min(float(np.linalg.norm(face.landmarks - b.landmarks, axis=1).mean()) for b in again)
            assert nearest < 0.25 * eyes, file
