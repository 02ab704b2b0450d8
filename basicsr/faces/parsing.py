"""Which pixels of a restored face are face: a mask from facexlib's parsing networks.

Classes as CelebAMask-HQ has them. What is not face or hair (background, hat, necklace, neck, cloth) keeps the photo.

Shapes: B faces; S side of a face.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from basicsr.faces.facexlib_nets import PARSING_SIZE, build_parsing
from basicsr.faces.paste import Mask
from basicsr.utils.img_util import Image, img2tensor
from basicsr.utils.weights import load_state

# classes that are not pasted, by network: the two number them differently
NOT_FACE = {"ParseNet": (0, 14, 16, 17, 18), "BiSeNet": (0, 14, 15, 16, 18)}
FACES_AT_ONCE = 4  # a group photo has many
BLUR_KERNEL, BLUR_SIGMA = 101, 11.0  # px of PARSING_SIZE, applied twice
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FaceParser:
    """ParseNet or BiSeNet (facexlib's `parsing_parsenet.pth`, `parsing_bisenet.pth`).

    Raises:
        WeightsError: the file is missing or of another network.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.net = build_parsing(load_state(path), Path(path)).to(self.device)
        self.kind = type(self.net).__name__

    def masks(self, faces: Sequence[Image]) -> list[Mask]:
        """Soft masks (512, 512), 0..1, of restored faces, uint8 BGR (S, S, 3) each."""
        parts = [faces[i : i + FACES_AT_ONCE] for i in range(0, len(faces), FACES_AT_ONCE)]
        return [mask for part in parts for mask in self._masks(part)]

    @torch.inference_mode()
    def _masks(self, faces: Sequence[Image]) -> list[Mask]:
        size = (PARSING_SIZE, PARSING_SIZE)
        resized = [np.asarray(cv2.resize(face, size, interpolation=cv2.INTER_LINEAR), np.uint8) for face in faces]
        batch = torch.stack([img2tensor(face) for face in resized]).to(self.device)  # (B, 3, 512, 512)
        if self.kind == "BiSeNet":
            mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
            batch = ((batch + 1) / 2 - mean) / std
        classes = self.net(batch)[0].argmax(1).cpu().numpy()  # (B, 512, 512)
        masks = []
        for labels in classes:
            mask = (~np.isin(labels, NOT_FACE[self.kind])).astype(np.float32)
            for _ in range(2):
                mask = np.asarray(cv2.GaussianBlur(mask, (BLUR_KERNEL, BLUR_KERNEL), BLUR_SIGMA), np.float32)
            masks.append(mask)
        return masks
