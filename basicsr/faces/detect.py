"""What a detected face is, merging of detections, and SCRFD (Guo et al. 2021) in ONNX Runtime.

Per stride (8, 16, 32) and anchor the network gives a score, the distances from the anchor to the four sides of the box,
and the offsets to the five landmarks, all in units of the stride.

Shapes: H, W photo; h, w grid of one stride; A anchors per grid point; N = h*w*A anchors, or boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.utils.errors import WeightsError
from basicsr.utils.img_util import Image

Array = NDArray[np.float32]

STRIDES = (8, 16, 32)
MEAN, STD = 127.5, 128.0  # of 0..255
TINY = np.finfo(np.float32).tiny
SMALLEST_SIDE = 256  # px: no further look at a photo that has been shrunk this far
CONTAINED = 0.8  # share of a box inside another from which both are one face: heads do not stand inside heads


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the photo."""

    box: Array  # (4,) left, top, right, bottom
    score: float  # 0..1
    landmarks: Array  # (5, 2) x, y: left-image eye, right-image eye, nose, left and right corner of the mouth


class ScrfdDetector:
    """SCRFD with landmarks (insightface's `det_*.onnx` and `scrfd_*_bnkps.onnx`).

    Args:
        path: the `.onnx` file.
        score_threshold: faces below are dropped, 0..1.
        nms_threshold: of two boxes whose intersection over union is above, the weaker one is dropped.
        max_side: the photo's longer side is brought to this many px, then to halves of it for large faces.
        num_threads: of ONNX Runtime; 0 lets it choose.
    Raises:
        WeightsError: the file is missing or no SCRFD network with landmarks.
    """

    def __init__(
        self,
        path: str | Path,
        score_threshold: float = 0.5,
        nms_threshold: float = 0.4,
        max_side: int = 640,
        num_threads: int = 0,
    ) -> None:
        import onnxruntime  # heavy: only who detects pays for it
        from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

        if not Path(path).is_file():
            raise WeightsError(f"{path}: no detector weights. Give an SCRFD file with landmarks, e.g. det_10g.onnx.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # errors only: a free input size warns at every new size
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (
            runtime_errors.InvalidProtobuf, runtime_errors.Fail, runtime_errors.InvalidGraph,
            runtime_errors.InvalidArgument,
        ) as error:  # fmt: skip
            raise WeightsError(f"{path}: cannot be read as ONNX, it is cut off or of another kind.") from error
        shapes = [output.shape for output in self.session.get_outputs() if output.shape]
        widths = sorted(shape[-1] if isinstance(shape[-1], int) else 0 for shape in shapes)  # a free one has a name
        if widths != [1, 1, 1, 4, 4, 4, 10, 10, 10]:
            raise WeightsError(
                f"{path}: outputs of widths {widths}; SCRFD with landmarks has scores (1), boxes (4) and landmarks "
                "(10) at three strides."
            )
        self.input_name = self.session.get_inputs()[0].name
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_side = max_side

    def detect(self, image: Image) -> list[Face]:
        """Faces in a photo, best score first. `image`: uint8 BGR (H, W, 3), any size."""
        # several times, since a face that fills the picture is beyond what the coarsest stride has learned
        found = [self._detect_at(image, side) for side in pyramid(self.max_side)]
        scores, boxes, landmarks = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return merged_faces(scores, boxes, landmarks, self.nms_threshold)

    def _detect_at(self, image: Image, side: int) -> tuple[Array, Array, Array]:
        """Scores (N,), boxes (N, 4) and landmarks (N, 5, 2) above the threshold, with the longer side at `side` px."""
        blob, scale = letterbox(image, side)
        outputs = self.session.run(None, {self.input_name: blob})
        # outputs may come in any order: the width tells the kind, the number of anchors the stride
        per_stride = sorted((out.reshape(-1, out.shape[-1]) for out in outputs), key=len, reverse=True)
        raw = {width: [out for out in per_stride if out.shape[-1] == width] for width in (1, 4, 10)}
        scores, boxes, landmarks = decode_anchors(raw[1], raw[4], raw[10], blob.shape[-2:])
        confident = scores >= self.score_threshold
        return scores[confident], boxes[confident] / scale, landmarks[confident] / scale


def pyramid(max_side: int) -> list[int]:
    """The sizes at which a detector looks at a photo: `max_side`, its half, and so on down to SMALLEST_SIDE."""
    sides = [max_side, max_side // 2]
    while sides[-1] // 2 >= SMALLEST_SIDE:
        sides.append(sides[-1] // 2)
    return sides


def fit_to_side(image: Image, max_side: int) -> tuple[Image, float]:
    """Scale a photo so that its longer side is `max_side`, and pad with black to whole strides on the right and below.

    Returns:
        uint8 BGR (h, w, 3), and the scale, px of it per px of the photo.
    """
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    step = STRIDES[-1]
    padded = np.zeros((-(-size[1] // step) * step, -(-size[0] // step) * step, 3), np.uint8)
    padded[: size[1], : size[0]] = resized
    return padded, scale


def letterbox(image: Image, max_side: int) -> tuple[Array, float]:
    """What `fit_to_side` gives, as input of SCRFD (1, 3, h, w), RGB, about [-1, 1]; and the scale."""
    padded, scale = fit_to_side(image, max_side)
    blob = (padded[..., ::-1].astype(np.float32) - MEAN) / np.float32(STD)
    return np.ascontiguousarray(blob.transpose(2, 0, 1)[None]), scale


def decode_anchors(
    scores: Sequence[Array], distances: Sequence[Array], offsets: Sequence[Array], grid: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Anchor-relative outputs of all strides -> scores (N,), boxes (N, 4), landmarks (N, 5, 2) in px of the input.

    Args:
        scores, distances, offsets: per stride (N, 1), (N, 4) left/top/right/bottom, (N, 10); units of the stride.
        grid: (height, width) of the network's input, px.
    """
    boxes, landmarks = [], []
    for stride, distance, offset in zip(STRIDES, distances, offsets, strict=True):
        rows, columns = np.mgrid[: grid[0] // stride, : grid[1] // stride].astype(np.float32) * stride  # (h, w) each
        points = np.stack([columns, rows], -1).reshape(-1, 2)  # (h*w, 2)
        anchors = points.repeat(len(distance) // len(points), 0)  # (h*w, 2) -> (N, 2)
        boxes.append(np.hstack([anchors - distance[:, :2] * stride, anchors + distance[:, 2:] * stride]))  # (N, 4)
        landmarks.append(anchors[:, None] + offset.reshape(-1, 5, 2) * stride)  # (N, 5, 2)
    return np.concatenate(scores)[:, 0], np.concatenate(boxes), np.concatenate(landmarks)


def merged_faces(scores: Array, boxes: Array, landmarks: Array, nms_threshold: float) -> list[Face]:
    """One face for all detections of it, best score first. (N,), (N, 4) and (N, 5, 2)."""
    kept = suppress_overlaps(boxes, scores, nms_threshold, CONTAINED)
    return [Face(boxes[i], float(scores[i]), landmarks[i]) for i in kept]


def suppress_overlaps(boxes: Array, scores: Array, threshold: float, contained: float = np.inf) -> list[int]:
    """Greedy non-maximum suppression: indices of the boxes (N, 4) that stay, best score first.

    Args:
        threshold: of two boxes whose intersection over union is above, the weaker one goes.
        contained: so does the weaker of two of which one lies inside the other by more than this share of its area.
    """
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        shared = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        intersection = np.prod(np.maximum(shared, 0), axis=1)
        union = np.maximum(areas[best] + areas[order] - intersection, TINY)
        inside = intersection / np.maximum(np.minimum(areas[best], areas[order]), TINY)
        order = order[(intersection / union <= threshold) & (inside <= contained)]
    return kept


def largest_face(faces: Sequence[Face]) -> Face | None:
    """The face with the largest box; None when there is none."""
    return max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])), default=None)


def center_face(faces: Sequence[Face], image_size: tuple[int, int]) -> Face | None:
    """The face whose box centre is nearest to the centre of a photo of `image_size` (H, W); None when there is none."""
    middle = np.array([image_size[1], image_size[0]]) / 2
    return min(faces, key=lambda face: float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - middle)), default=None)
