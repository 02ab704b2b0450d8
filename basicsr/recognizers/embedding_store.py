"""Embeddings of many picture files, computed once: for clustering, the audit, a gallery of people.

A row is known by its picture (path, size, time of change), the recogniser's sha256 and how the face was cropped.

Shapes: N pictures; E embedding; H, W input of the recogniser; S side of an aligned face.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from basicsr.faces.align import ARCFACE_112, Points, scale_template
from basicsr.recognizers.adapter import Recognizer
from basicsr.recognizers.crop import crop_to_template
from basicsr.utils.errors import ImageFileError, WeightsError
from basicsr.utils.img_util import Image, img2tensor
from basicsr.utils.picture_features import picture_features

Floats = NDArray[np.float32]

__all__ = ["ARCFACE_FRAMING", "FFHQ_FRAMING", "FRAMINGS", "EmbeddedFiles", "Framing", "embed_files"]


class Framing(NamedTuple):
    """Where the face is in a picture.

    `locate` gives the five landmarks (5, 2) of basicsr/faces/align.py in px of a picture uint8 BGR (H, W, 3), or raises
    ImageFileError; None: the picture is a square face in FFHQ framing. `name` says how, for the cache: with a detector
    it must name the detector's file.
    """

    name: str
    locate: Callable[[Image], Points] | None = None


def _arcface_points(image: Image) -> Points:
    """Landmarks of a square picture that is an ArcFace template already, of any size."""
    height, width = image.shape[:2]
    if height != width:
        raise ImageFileError(f"face of {width}x{height} px: the ArcFace template is square.")
    return scale_template(ARCFACE_112, width / 112)


FFHQ_FRAMING = Framing("ffhq")
ARCFACE_FRAMING = Framing("arcface", _arcface_points)
FRAMINGS = {framing.name: framing for framing in (FFHQ_FRAMING, ARCFACE_FRAMING)}


class EmbeddedFiles(NamedTuple):
    """Identity of the face on each picture; rows of pictures that failed are zero."""

    vectors: Floats  # (N, E), unit length
    norms: Floats  # (N,), length before normalisation: low on faces that are hard to recognise
    ok: NDArray[np.bool_]  # (N,)
    failures: list[tuple[Path, str]]  # pictures without an embedding, and why


def embed_files(
    paths: Sequence[Path],
    recognizer: Recognizer,
    *,
    framing: Framing = FFHQ_FRAMING,
    cache: str | Path | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    threads: int = 4,
    desc: str = "embed",
) -> EmbeddedFiles:
    """Embed one face per picture. Pictures are decoded and cropped in threads while the network runs.

    Args:
        cache: folder of embeddings; a killed run goes on where it stopped. None: nothing is kept.
        desc: of the progress bar.
    Raises:
        ImageFileError: no picture at all could be used. Single ones are in `failures`.
        WeightsError: a cache for a recogniser that is no file: another one's embeddings could be taken for its own.
    """
    spec = recognizer.spec
    if cache is not None and not spec.sha256:
        raise WeightsError(f"recogniser {spec.layout}: not loaded from a file, so its embeddings cannot be kept.")
    recognizer = recognizer.to(device)

    def crop(image: Image) -> Tensor:
        """The recogniser's own input, (3, H, W) RGB [-1, 1]."""
        landmarks = None if framing.locate is None else torch.from_numpy(framing.locate(image))[None]
        picture = img2tensor(image)[None]
        return crop_to_template(picture, spec.input_size, spec.template_offset, spec.template, landmarks)[0]

    @torch.inference_mode()
    def embed(crops: list[Tensor]) -> dict[str, NDArray[np.float32]]:
        # channels last: a third faster on a CPU with convolutions of few channels
        batch = torch.stack(crops).to(device, memory_format=torch.channels_last)
        out = recognizer.embed_template(batch)
        vectors, norms = out.embedding.float().cpu().numpy(), out.norm.float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ImageFileError("the embedding is not finite. Look at the picture; or the weights are broken.")
        return {"vectors": vectors, "norms": norms}

    found = picture_features(
        paths, crop, embed, f"embedding, recogniser {spec.sha256}, framing {framing.name}",
        cache, batch_size, threads, desc,
    )  # fmt: skip
    return EmbeddedFiles(found.columns["vectors"], found.columns["norms"], found.ok, found.failures)
