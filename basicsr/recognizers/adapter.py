"""Frozen recognisers behind one interface; the layout of a weights file is found from the file alone (layouts.py).

Shapes: B batch; S side of an FFHQ-framed face; H, W input of the recogniser; E embedding; C, h, w feature map.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.recognizers.crop import crop_to_template
from basicsr.recognizers.iresnet import IResNet
from basicsr.recognizers.layouts import LAYOUTS, OWN_NETS, RecognizerSpec, WeightsFile
from basicsr.recognizers.mobilefacenet import MobileFaceNet
from basicsr.recognizers.onnx_net import read_graph
from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_state, sha256_of

__all__ = ["Recognizer", "RecognizerOutput", "RecognizerSpec", "load_recognizer", "save_recognizer"]

logger = logging.getLogger(__name__)

Facts = Mapping[str, str | int | float]

LUMA = (0.299, 0.587, 0.114)  # BT.601, what OpenCV's gray is


class RecognizerOutput(NamedTuple):
    """Identity of a batch of faces."""

    embedding: Tensor  # (B, E), unit length
    norm: Tensor  # (B,), length before normalisation: low on faces that are hard to recognise
    feature_map: Tensor  # (B, C, h, w)


class Recognizer(nn.Module):
    """A frozen recognition network with its crop, colour order and range. Gradients flow to the picture.

    Args:
        net: normalised input (B, 3 or 1, H, W) -> (raw embedding (B, E), map (B, C, h, w)).
        facts: what else the file says (verification accuracy, what it was trained on).
    """

    def __init__(self, net: nn.Module, spec: RecognizerSpec, facts: Facts | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.facts = dict(facts or {})
        self.net = net
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Recognizer:
        """Stays in evaluation: batch statistics would make an embedding depend on its neighbours."""
        super().train(False)
        return self

    def forward(self, images: Tensor) -> RecognizerOutput:
        """FFHQ-framed faces (B, 3, S, S), RGB [-1, 1], any S. Computes in float32, also under autocast."""
        with torch.autocast(images.device.type, enabled=False):
            return self.embed_template(
                crop_to_template(images.float(), self.spec.input_size, self.spec.template_offset)
            )

    def embed_template(self, images: Tensor) -> RecognizerOutput:
        """Faces already in this recogniser's own template (B, 3, H, W), RGB [-1, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = (images.float() + 1) * 127.5
            if self.spec.color_order == "bgr":
                pixels = pixels.flip(1)
            elif self.spec.color_order == "gray":
                pixels = (pixels * pixels.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
            raw, feature_map = self.net((pixels - self.mean) / self.std)
            return RecognizerOutput(F.normalize(raw, dim=1), raw.norm(dim=1), feature_map)


def load_recognizer(path: str | Path, *, map_node: str | None = None) -> Recognizer:
    """Build the recogniser that a file holds.

    Args:
        map_node: ONNX only, name of the tensor to take as feature map; the last one with a spatial extent by default.
    Raises:
        WeightsError: the file is missing, broken, or of no known layout.
    """
    file = _open(Path(path))
    layout = next((layout for layout in LAYOUTS if layout.matches(file)), None)
    if layout is None:
        known = "; ".join(f"{layout.name} ({layout.describes})" for layout in LAYOUTS)
        raise WeightsError(f"{path}: no recogniser of a known layout. Known are: {known}.")
    if map_node is not None and file.graph is None:
        raise WeightsError(f"{path}: map_node '{map_node}' is for ONNX files; the map of '{layout.name}' is fixed.")
    net, spec = layout.build(file, layout, map_node)
    spec = dataclasses.replace(spec, sha256=sha256_of(path))
    logger.info("recogniser %s: layout %s, %d-d, sha256 %.12s", path, spec.layout, spec.embed_dim, spec.sha256)
    return Recognizer(net, spec, file.facts)


def save_recognizer(
    net: IResNet | MobileFaceNet, path: str | Path, spec: RecognizerSpec, facts: Facts | None = None
) -> None:
    """Write one of our own networks as `.safetensors`; the header says how to build it again.

    Args:
        facts: what else to keep with the weights (accuracy, seed, what it was trained on).
    """
    path = Path(path)
    layout = next(name for name, kind in OWN_NETS.items() if type(net) is kind)
    header = {
        "layout": layout,
        "arguments": json.dumps(net.arguments),
        "spec": json.dumps(dataclasses.asdict(dataclasses.replace(spec, layout=layout, sha256=""))),
        "facts": json.dumps(dict(facts or {})),
    }
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(state, temporary, header)
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise WeightsError(f"{path}: the recogniser could not be written ({error}).") from error


def _open(path: Path) -> WeightsFile:
    """Read a file of either kind, without running anything from it."""
    if path.suffix == ".onnx":
        return WeightsFile(path, read_graph(path), {}, {}, {})
    state = load_state(path, "state_dict_backbone")  # where arcface_torch's training checkpoints keep the backbone
    if path.suffix != ".safetensors":
        return WeightsFile(path, None, state, {}, {})
    with safetensors.safe_open(path, "pt") as opened:
        header = opened.metadata() or {}
    try:
        facts = json.loads(header.get("facts", "{}"))
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: the header of this recogniser is broken ({error}). Train it again.") from error
    return WeightsFile(path, None, state, header, facts)
