"""A toy network that restores, a toy detector, and photos in which it finds faces. For the tests of inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detector_graphs import write_scrfd
from toy_run import CODEFORMER, IDENTITY, make_recognizer

from basicsr.utils.img_util import Image
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import save_atomic, sha256_of

PHOTO_SIZE = 128  # px; the toy detector must see photos at this size
CELL = 32  # px, a bright cell is the top left corner of a face


def make_net(folder: Path) -> Path:
    """folder/net.pth, an untrained network, beside folder/recognizer.safetensors and folder/scrfd.onnx."""
    recognizer = make_recognizer(folder / "recognizer.safetensors")
    write_scrfd(folder / "scrfd.onnx")
    torch.manual_seed(0)
    spec: dict[str, Any] = {"type": "IDCodeFormer", **CODEFORMER, **IDENTITY}
    params = ARCH_REGISTRY.build(spec).state_dict()
    spec["vqgan_path"] = str(folder / "has_moved.pth")
    identity = {"path": str(recognizer), "map_node": None, "sha256": sha256_of(recognizer)}
    save_atomic({"params": params, "network_g": spec, "network_identity": identity}, folder / "net.pth")
    return folder / "net.pth"


def make_codeformer(folder: Path) -> Path:
    """folder/codeformer.pth, a plain CodeFormer that is easy to guide; it names no recognizer."""
    torch.manual_seed(0)
    spec: dict[str, Any] = {"type": "CodeFormer", **CODEFORMER}
    net = ARCH_REGISTRY.build(spec)
    net.quantize.embedding.weight.data.normal_()
    net.idx_pred_layer[-1].weight.data.mul_(0.1)  # undecided between codes, so that guidance turns them at little KL
    save_atomic({"params": net.state_dict(), "network_g": spec}, folder / "codeformer.pth")
    return folder / "codeformer.pth"


def photo_with(*cells: tuple[int, int], seed: int = 0, size: int = PHOTO_SIZE) -> Image:
    """A dark photo with texture and a face whose top left corner is in each cell (column, row)."""
    image = np.random.default_rng(seed).integers(0, 60, (size, size, 3), np.uint8)
    for column, row in cells:
        image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = (250, 255, 230)
    return image


def photo_arguments(folder: Path) -> list[str]:
    """Flags for the toy weights and the toy detector."""
    parts = ["--device", "cpu", "--weights", folder / "net.pth", "--detector", folder / "scrfd.onnx"]
    return [str(part) for part in [*parts, "--detect_size", PHOTO_SIZE]]
