"""Enlarging of backgrounds (and faces) by any super-resolution network that spandrel knows, tile by tile.

The only file that imports spandrel, which is an extra: pip install 'id-codeformer[spandrel]'.

Shapes: H, W picture; s scale of the network.
"""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import torch

from basicsr.utils.errors import ImageFileError, UserError, WeightsError
from basicsr.utils.img_util import Image, img2tensor, tensor2img
from basicsr.utils.weights import load_state

MARGIN = 24  # px around a tile that the network sees beside it, so that tiles meet without a seam


class Upsampler:
    """A super-resolution network.

    Args:
        path: its weights, `.pth` or `.safetensors`; only tensors are read.
        tile: side of a tile, px of the input; 0 takes the whole picture at once.
    Raises:
        UserError: spandrel is not installed.
        WeightsError: the file is missing, broken, or of no network for colour pictures that spandrel knows.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu", tile: int = 400) -> None:
        try:
            import spandrel
        except ImportError as error:
            raise UserError("--bg_upsampler needs spandrel: pip install 'spandrel>=0.4'.") from error
        state = load_state(path)
        try:
            model = spandrel.ModelLoader(device=torch.device(device)).load_from_state_dict(state)
        except (spandrel.UnsupportedModelError, RuntimeError, KeyError, ValueError) as error:
            raise WeightsError(
                f"{path}: no network for enlarging that spandrel knows ({type(error).__name__})."
            ) from error
        if not isinstance(model, spandrel.ImageModelDescriptor) or (model.input_channels, model.output_channels) != (
            3,
            3,
        ):
            raise WeightsError(f"{path}: a network of another kind; expected colour picture in, colour picture out.")
        self.model = model.eval()
        self.device = torch.device(device)
        self.scale: int = model.scale
        self.tile = tile
        self.lock = threading.RLock()  # the memory of a device holds the tiles of one photo, not those of all writers

    def enlarge(self, image: Image) -> Image:
        """uint8 BGR (H, W, 3) -> (H*s, W*s, 3).

        Raises:
            ImageFileError: there is not enough memory for it.
        """
        try:
            with self.lock:
                return self._enlarged(image)
        except torch.OutOfMemoryError as error:
            seen = f"tiles of {self.tile} px" if self.tile else "a whole picture at once"
            raise ImageFileError(f"not enough memory to enlarge {seen}. Lower --bg_tile.") from error

    @torch.inference_mode()
    def _enlarged(self, image: Image) -> Image:
        height, width = image.shape[:2]
        step, s = self.tile or max(height, width), self.scale
        result = np.empty((height * s, width * s, 3), np.uint8)
        for top in range(0, height, step):
            for left in range(0, width, step):
                bottom, right = min(top + step, height), min(left + step, width)
                y0, x0 = max(top - MARGIN, 0), max(left - MARGIN, 0)
                seen = image[y0 : bottom + MARGIN, x0 : right + MARGIN]
                tensor = (img2tensor(seen)[None].to(self.device) + 1) / 2  # spandrel speaks RGB [0, 1]
                large = tensor2img(self.model(tensor)[0] * 2 - 1)
                part = large[(top - y0) * s : (bottom - y0) * s, (left - x0) * s : (right - x0) * s]
                result[top * s : bottom * s, left * s : right * s] = part
        return result

    def enlarge_to(self, image: Image, size: tuple[int, int]) -> Image:
        """Enlarged, then brought to `size` (H, W)."""
        large = self.enlarge(image)
        how = cv2.INTER_AREA if large.shape[0] > size[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(large, (size[1], size[0]), interpolation=how), np.uint8)
