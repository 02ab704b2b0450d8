"""Frozen recognisers behind one interface; the layout of a weights file is found from the file alone (layouts.py).

Shapes: B batch; S side of an FFHQ-framed face; H, W input of the recogniser; E embedding; C, h, w feature map.
"""

from __future__ import annotations

import contextlib
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
from basicsr.recognizers.layouts import LAYOUTS, OWN_NETS, RecognizerSpec
from basicsr.recognizers.mobilefacenet import MobileFaceNet
from basicsr.recognizers.weights_file import open_weights
from basicsr.utils.errors import ImageFileError, WeightsError
from basicsr.utils.weights import sha256_of

__all__ = ["Recognizer", "RecognizerOutput", "RecognizerSpec", "load_recognizer", "save_recognizer"]

logger = logging.getLogger(__name__)

Facts = Mapping[str, str | int | float]

LUMA = (0.299, 0.587, 0.114)  # BT.601, what OpenCV's gray is
MIN_NORM = 1e-6  # embeddings of faces are 1 to 30 long
BLANK_STD = 0.1  # of 255: a picture of one colour, after the rounding of a crop


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

    def forward(self, images: Tensor, landmarks: Tensor | None = None) -> RecognizerOutput:
        """Identity of one face per picture. Computes in float32, also under autocast and for other float types.

        Args:
            images: RGB [-1, 1]; FFHQ-framed faces (B, 3, S, S), any S, or with landmarks pictures of any size.
            landmarks: (B, 5, 2) px, see `crop_to_template`.
        Raises:
            ImageFileError: no crop can be made, or a face gives no embedding.
        """
        spec = self.spec
        with torch.autocast(images.device.type, enabled=False):
            return self.embed_template(
                crop_to_template(images.float(), spec.input_size, spec.template_offset, spec.template, landmarks)
            )

    def embed_template(self, images: Tensor) -> RecognizerOutput:
        """Faces already in this recogniser's own template (B, 3, H, W), RGB [-1, 1].

        Raises:
            ImageFileError: an embedding has no length, so that it points at nobody.
        """
        with torch.autocast(images.device.type, enabled=False):
            out = self.describe(images.float())
            _refuse_no_length(out.norm, images.float(), self.spec.layout)
            return out

    def describe(self, images: Tensor) -> RecognizerOutput:
        """What `embed_template` returns, unchecked and without a look at autocast: a graph can be traced through it."""
        pixels = (images + 1) * 127.5
        if self.spec.color_order == "bgr":
            pixels = pixels.flip(1)
        elif self.spec.color_order == "gray":
            pixels = (pixels * pixels.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        raw, feature_map = self.net((pixels - self.mean) / self.std)
        return RecognizerOutput(F.normalize(raw, dim=1), raw.norm(dim=1), feature_map)


def _refuse_no_length(norm: Tensor, images: Tensor, layout: str) -> None:
    """Stop at an embedding of length zero: scaled to unit length it would be no one, with a gradient without bounds.

    NaN passes: the training loop stops at it and says in which loss, at which iteration and for which file.
    """
    lost = norm < MIN_NORM
    if not lost.any():
        return
    blank = images.flatten(1).std(dim=1) * 127.5 < BLANK_STD
    places = ", ".join(f"{i}{' (one colour)' if blank[i] else ''}" for i in lost.nonzero()[:, 0].tolist())
    raise ImageFileError(
        f"recogniser {layout}: no embedding (length below {MIN_NORM:g}) for face {places} of {len(norm)}, counted from "
        "0. Look at these pictures, or mask them as references; if it happens to every face, the weights are broken."
    )


def load_recognizer(
    path: str | Path,
    *,
    map_node: str | None = None,
    typical_norm: float | None = None,
    same_person_cosine: float | None = None,
) -> Recognizer:
    """Build the recogniser that a file holds.

    Args:
        path: a weights file; or the folder or the name of an insightface pack, see `find_recognizer`.
        map_node: ONNX only, name of the tensor to take as feature map; the last one with a spatial extent by default.
        typical_norm: mean norm of its embeddings on clean faces, above 0 (scripts/measure_recognizer.py); None: what is
            known of these weights, if anything.
        same_person_cosine: mean cosine of two clean photos of one person, in (-1, 1] (the same script); None: as above.
    Raises:
        WeightsError: the file is missing, broken, or of no known layout.
    """
    file = open_weights(path)
    layout = next((layout for layout in LAYOUTS if layout.matches(file)), None)
    if layout is None:
        known = "; ".join(f"{layout.name} ({layout.describes})" for layout in LAYOUTS)
        raise WeightsError(f"{file.path}: no recogniser of a known layout, but {file}. Known are: {known}.")
    if map_node is not None and file.graph is None:
        raise WeightsError(
            f"{file.path}: map_node '{map_node}' is for ONNX files; the map of '{layout.name}' is fixed."
        )
    net, spec = layout.build(file, layout, map_node)
    broken = next((name for name, value in net.state_dict().items() if value.isnan().any()), None)
    if broken is not None:
        raise WeightsError(f"{file.path}: NaN in '{broken}'. These weights are broken, get them again.")
    spec = dataclasses.replace(
        spec,
        sha256=sha256_of(file.path),
        typical_norm=typical_norm or spec.typical_norm,
        same_person_cosine=spec.same_person_cosine if same_person_cosine is None else same_person_cosine,
    )
    logger.info(
        "recogniser %s: layout %s, %dx%d px %s, %d-d, sha256 %.12s",
        file.path, spec.layout, *spec.input_size, spec.color_order, spec.embed_dim, spec.sha256,
    )  # fmt: skip
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
        with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed either
            temporary.unlink()
        raise WeightsError(f"{path}: the recogniser could not be written ({error}).") from error
