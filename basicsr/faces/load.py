"""One interface for every face detector, and the detector that a file, a folder or a name stands for.

Nothing is downloaded here. A file that is missing is one line with its place and source.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import numpy as np

from basicsr.faces.align import FFHQ_512, FFHQ_SIZE, scale_template
from basicsr.faces.detect import Face, ScrfdDetector
from basicsr.faces.retinaface import RetinaFaceDetector
from basicsr.faces.yunet import YuNetDetector
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.img_util import Image

logger = logging.getLogger(__name__)

PACKS_FOLDER = "~/.insightface/models"  # where insightface unzips its packs
# upstream's --detection_model -> the file it loads; below weights/
NAMED_FILES = {
    "retinaface_resnet50": "facelib/detection_Resnet50_Final.pth",
    "retinaface_mobile0.25": "facelib/detection_mobilenet0.25_Final.pth",
}
NOT_TAKEN = ("YOLOv5l", "YOLOv5n", "dlib")  # names of upstream's tool that stand for no detector here
ALIGNED = ("aligned", "none")
SOURCES = (
    "SCRFD: github.com/deepinsight/insightface; YuNet: github.com/opencv/opencv_zoo; RetinaFace: python "
    "scripts/download_pretrained_models.py detection_Resnet50_Final.pth"
)
KINDS = "SCRFD with landmarks (.onnx), YuNet (.onnx), RetinaFace of facexlib (.pth)"


class FaceDetector(Protocol):
    """What every detector can do. One object may be used by several threads."""

    def detect(self, image: Image) -> list[Face]:
        """Faces in a photo, each once, best score first. `image`: uint8 BGR (H, W, 3), any size."""


class AlignedDetector:
    """For pictures that are aligned crops already: the face is where FFHQ framing puts it."""

    def detect(self, image: Image) -> list[Face]:
        """The whole picture as one face. `image`: uint8 BGR (S, S, 3)."""
        height, width = image.shape[:2]
        points = scale_template(FFHQ_512, min(height, width) / FFHQ_SIZE).astype(np.float32)
        return [Face(np.array([0, 0, width, height], np.float32), 1.0, points)]


def load_detector(
    name: str | Path,
    *,
    score_threshold: float | None = None,
    nms_threshold: float = 0.4,
    max_side: int = 640,
    num_threads: int = 0,
    device: str = "cpu",
    weights_folder: str | Path = "weights",
) -> FaceDetector:
    """Build the detector that `name` stands for; its kind follows from the file.

    Args:
        name: a weights file; the folder or name of an insightface pack; a name of upstream's `--detection_model`, whose
            file is looked for below `weights_folder`; or "aligned".
        score_threshold: faces below are dropped; None takes the usual one of the kind.
        nms_threshold: of two boxes whose intersection over union is above, the weaker one is dropped.
        max_side: px, what the photo's longer side is brought to.
        num_threads: of ONNX Runtime; 0 lets it choose.
        device: of RetinaFace.
    Raises:
        UserError: a threshold or size that cannot be.
        WeightsError: no such file, or no detector that is known.
    """
    if not (score_threshold is None or 0 <= score_threshold <= 1) or not 0 <= nms_threshold <= 1:
        raise UserError(f"detection thresholds are {score_threshold} and {nms_threshold}, expected 0 .. 1.")
    if max_side < 32:
        raise UserError(f"the detector's picture has {max_side} px, expected at least 32.")
    if str(name) in ALIGNED:
        return AlignedDetector()
    path = find_detector(name, Path(weights_folder))
    score = {} if score_threshold is None else {"score_threshold": score_threshold}
    if path.suffix.lower() != ".onnx":
        return RetinaFaceDetector(path, nms_threshold=nms_threshold, max_side=max_side, device=device, **score)
    if any(output.startswith("cls_") for output in output_names(path)):
        return YuNetDetector(path, nms_threshold=nms_threshold, max_side=max_side, **score)
    return ScrfdDetector(path, nms_threshold=nms_threshold, max_side=max_side, num_threads=num_threads, **score)


def find_detector(name: str | Path, weights_folder: Path = Path("weights")) -> Path:
    """The file that a path, a pack's folder or name, or a name of upstream's tool stands for.

    Raises:
        WeightsError: there is none; the text says which file to put where.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if str(name) in NOT_TAKEN:
        raise WeightsError(f"{name}: this detector is not read here. Known are {KINDS}: name such a file.")
    if str(name) in NAMED_FILES:
        path = weights_folder / NAMED_FILES[str(name)]
        if path.is_file():
            return path
        raise WeightsError(
            f"{path}: no such file, and the detector {name} needs it. Fetch it with `python "
            f"scripts/download_pretrained_models.py {path.name}`, put it there by hand, or name another detector's "
            f"file: {KINDS}."
        )
    places = [path, Path(PACKS_FOLDER).expanduser() / path]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise WeightsError(f"{name}: no such detector file. Known are {KINDS}, or a pack in {PACKS_FOLDER}. {SOURCES}.")
    files = sorted([*folder.glob("det_*.onnx"), *folder.glob("scrfd_*.onnx")])
    files = files or sorted((folder / folder.name).glob("scrfd_*.onnx"))  # antelopev2.zip unpacks one level too deep
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise WeightsError(f"{folder}: expected one detector det_*.onnx or scrfd_*.onnx, found {found}. Name the file.")
    return files[0]


def output_names(path: Path) -> list[str]:
    """Names of the outputs of an ONNX graph; none where it cannot be read, which the detector's constructor tells."""
    import onnx  # heavy: only who detects pays for it
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return [output.name for output in onnx.load(path, load_external_data=False).graph.output]
    except DecodeError:
        return []
