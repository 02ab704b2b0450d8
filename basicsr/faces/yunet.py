"""Face detection with YuNet (Wu et al. 2023) in OpenCV: `face_detection_yunet_*.onnx` of OpenCV's model zoo."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np

from basicsr.faces.detect import Array, Face, fit_to_side, merged_faces
from basicsr.utils.errors import WeightsError
from basicsr.utils.img_util import Image

MAX_CANDIDATES = 5000  # detections before suppression that are looked at
NUM_LANDMARK_VALUES = 10


class YuNetDetector:
    """YuNet of 2023 and later.

    Args:
        path: the `.onnx` file.
        score_threshold: faces below are dropped, 0..1.
        nms_threshold: of two boxes whose intersection over union is above, the weaker one is dropped.
        max_side: the photo's longer side is brought to this many px. YuNet knows faces of 10 to 300 px.
    Raises:
        WeightsError: the file is missing or OpenCV cannot use it.
    """

    def __init__(
        self, path: str | Path, score_threshold: float = 0.7, nms_threshold: float = 0.4, max_side: int = 640
    ) -> None:
        if not Path(path).is_file():
            raise WeightsError(f"{path}: no detector weights. Expected a YuNet file, face_detection_yunet_*.onnx.")
        try:
            self.net = cv2.FaceDetectorYN.create(
                str(path), "", (max_side, max_side), score_threshold, nms_threshold, MAX_CANDIDATES
            )
        except cv2.error as error:
            raise WeightsError(f"{path}: OpenCV {cv2.__version__} cannot use it as YuNet ({error.err}).") from error
        self.nms_threshold = nms_threshold
        self.max_side = max_side
        self._one_at_a_time = threading.Lock()  # the input size is state of the network

    def detect(self, image: Image) -> list[Face]:
        """Faces in a photo, best score first. `image`: uint8 BGR (H, W, 3), any size."""
        padded, scale = fit_to_side(image, self.max_side)
        with self._one_at_a_time:
            self.net.setInputSize((padded.shape[1], padded.shape[0]))
            _, found = self.net.detect(padded)
        if found is None:
            return []
        rows: Array = np.asarray(found, np.float32)  # (N, 15): left, top, width, height, five points, score
        boxes = (np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:4]]) / scale).astype(np.float32)
        landmarks = (rows[:, 4 : 4 + NUM_LANDMARK_VALUES].reshape(-1, 5, 2) / scale).astype(np.float32)
        return merged_faces(rows[:, -1], boxes, landmarks, self.nms_threshold)
