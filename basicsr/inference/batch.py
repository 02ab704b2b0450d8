"""Faces through the network, many at once: one that cannot be restored, or too little memory, costs the others nothing.

Shapes: S side of an aligned crop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from basicsr.faces.detect import Face
from basicsr.inference.photo import FoundFace
from basicsr.inference.restorer import FaceRestorer, References
from basicsr.inference.values import RestoredFace
from basicsr.models.identity_source import IdentityMode
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image

logger = logging.getLogger(__name__)


def whole_face(image: Image) -> FoundFace:
    """An aligned crop as the one face of itself."""
    size = len(image)
    box = np.array([0, 0, size, size], np.float32)
    return FoundFace(Face(box, 1.0, np.zeros((5, 2), np.float32)), np.eye(2, 3), image)


def show_cost(bar: tqdm[Any], faces: Sequence[RestoredFace | UserError], seconds: float) -> None:
    """The seconds of a face on the bar, where guidance makes them many."""
    if any(isinstance(face, RestoredFace) and face.guidance is not None for face in faces):
        bar.set_postfix_str(f"{seconds:.1f} s/face")


def restore_each(
    restorer: FaceRestorer,
    crops: Sequence[Image],
    refs: Sequence[References],
    modes: Sequence[IdentityMode | None],
    guide_from: Sequence[Tensor | None] = (),
    **knobs: Any,
) -> list[RestoredFace | UserError]:
    """Restore a batch; a face that cannot be restored, or no memory for so many, costs the others nothing."""
    try:
        return list(restorer.restore_batch(crops, refs, mode=modes, guide_from=guide_from, **knobs))
    except ImageFileError as error:
        if len(crops) == 1:
            return [error]
    except torch.OutOfMemoryError as error:
        if len(crops) == 1:
            raise UserError("not enough memory for a single face. Free the device, or take --device cpu.") from error
        logger.warning("not enough memory for %d faces at once, taken in halves; lower --batch_size", len(crops))
    half = len(crops) // 2
    return [
        *restore_each(restorer, crops[:half], refs[:half], modes[:half], guide_from[:half], **knobs),
        *restore_each(restorer, crops[half:], refs[half:], modes[half:], guide_from[half:], **knobs),
    ]
