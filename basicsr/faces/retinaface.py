"""Face detection with RetinaFace (Deng et al. 2020): facexlib's networks, decoding of our own.

Each anchor is a square of one of two sizes at a grid point of its stride. The network gives, per anchor, the softmax of
background and face, and box and landmarks relative to the anchor with the variances .1 and .2.

Shapes: H, W photo; h, w input; N anchors.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from basicsr.faces.detect import Array, Face, fit_to_side, merged_faces, pyramid
from basicsr.faces.facexlib_nets import build_retinaface, is_retinaface
from basicsr.utils.errors import WeightsError
from basicsr.utils.img_util import Image
from basicsr.utils.weights import load_state

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))  # px of the input, per stride
CENTER_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
MEAN_BGR = np.array([104.0, 117.0, 123.0], np.float32)
MAX_FACE = (
    400  # px of the input: of a larger face it finds parts, each with full confidence; a smaller picture has it whole
)


class RetinaFaceDetector:
    """RetinaFace with ResNet-50 or MobileNet 0.25 (facexlib's `detection_*_Final.pth`).

    Args:
        path: the `.pth` file; the backbone follows from its keys.
        score_threshold: faces below are dropped, 0..1.
        nms_threshold: of two boxes whose intersection over union is above, the weaker one is dropped.
        max_side: the photo's longer side is brought to this many px, then to halves of it for large faces.
        device: where the network runs.
    Raises:
        WeightsError: the file is missing or of another network.
    """

    def __init__(
        self,
        path: str | Path,
        score_threshold: float = 0.8,
        nms_threshold: float = 0.4,
        max_side: int = 640,
        device: str | torch.device = "cpu",
    ) -> None:
        state = load_state(path)
        if not is_retinaface(state):
            raise WeightsError(
                f"{path}: no RetinaFace weights. Expected facexlib's detection_Resnet50_Final.pth or "
                "detection_mobilenet0.25_Final.pth."
            )
        self.device = torch.device(device)
        self.net = build_retinaface(state, Path(path)).to(self.device)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_side = max_side

    def detect(self, image: Image) -> list[Face]:
        """Faces in a photo, best score first. `image`: uint8 BGR (H, W, 3), any size."""
        sides = pyramid(self.max_side)
        found = [self._detect_at(image, side, MAX_FACE if side > sides[-1] else np.inf) for side in sides]
        scores, boxes, landmarks = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return merged_faces(scores, boxes, landmarks, self.nms_threshold)

    @torch.inference_mode()
    def _detect_at(self, image: Image, side: int, max_face: float) -> tuple[Array, Array, Array]:
        """Scores (N,), boxes (N, 4) and landmarks (N, 5, 2) above the threshold, with the longer side at `side` px."""
        padded, scale = fit_to_side(image, side)
        blob = (padded.astype(np.float32) - MEAN_BGR).transpose(2, 0, 1)[None]
        found = self.net(torch.from_numpy(blob).to(self.device))
        deltas, classes, offsets = (out[0].float().cpu().numpy() for out in found)
        confident = classes[:, 1] >= self.score_threshold
        anchors = anchor_grid(padded.shape[0], padded.shape[1])[confident]
        boxes, landmarks = decode_deltas(anchors, deltas[confident], offsets[confident])
        fits = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) <= max_face
        return classes[confident, 1][fits], boxes[fits] / scale, landmarks[fits] / scale


@lru_cache(maxsize=32)
def anchor_grid(height: int, width: int) -> NDArray[np.float32]:
    """Anchors (N, 3) of an input of that size: centre x, centre y, side; px, edges as coordinates."""
    anchors = []
    for stride, sizes in zip(STRIDES, ANCHOR_SIZES, strict=True):
        rows, columns = np.mgrid[: -(-height // stride), : -(-width // stride)]
        centers = (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * stride  # (h*w, 2)
        sides = np.tile(sizes, len(centers))[:, None]  # (h*w*2, 1)
        anchors.append(np.hstack([centers.repeat(len(sizes), 0), sides]))
    return np.concatenate(anchors).astype(np.float32)


def decode_deltas(anchors: Array, deltas: Array, offsets: Array) -> tuple[Array, Array]:
    """Boxes (N, 4) and landmarks (N, 5, 2) in px from what the network says relative to the anchors (N, 3)."""
    centers, sides = anchors[:, :2], anchors[:, 2:]
    middle = centers + deltas[:, :2] * CENTER_VARIANCE * sides
    half = sides * np.exp(deltas[:, 2:] * SIZE_VARIANCE) / 2
    landmarks = centers[:, None] + offsets.reshape(-1, 5, 2) * CENTER_VARIANCE * sides[:, None]
    return np.hstack([middle - half, middle + half]), landmarks
