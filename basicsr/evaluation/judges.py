"""Recognisers as judges: one embedding of each picture serves every identity figure; no picture is embedded twice.

Shapes: B batch; S side of the FFHQ-framed face; E embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from basicsr.evaluation.results import Figure, Kind
from basicsr.metrics.identity_metric import identity_protocol
from basicsr.recognizers.runtime_net import load_for_judging
from basicsr.utils.errors import ImageFileError

GENERATED_FACES = "generated faces"  # what the header of a recogniser trained on them says
GENERATED_LABEL = "generated-face recogniser"
GRAY_LAYOUT = "gray_resnet"  # arcface_resnet18.pth, whose angle is the "Deg." of GFPGAN, VQFR and OSDFace

Digest = bytes
Embedding = Tensor | str  # (E,), or the reason why there is none

# kind, label, direction, what is compared, what a set needs for it
IDENTITY_FIGURES: tuple[tuple[Kind, str, bool, str, frozenset[str]], ...] = (
    ("ids", "IDS", True, "restored against GT", frozenset({"gt"})),
    ("ids_ref", "IDS to reference", False, "restored against its reference, mean over references", frozenset({"ref"})),
    (
        "cos_ref_gt", "cos(ref, GT)", False,
        "reference against GT: what is natural for this person", frozenset({"ref", "gt"}),
    ),
    ("ids_lq", "IDS to LQ", False, "restored against the degraded picture: a floor, no merit", frozenset({"lq"})),
    ("cos_lq_gt", "IDS before", False, "degraded picture against GT, before restoration", frozenset({"lq", "gt"})),
    (
        "ids_gallery", "Gallery IDS", True,
        "restored against other photos of the person that no run was given, mean over photos", frozenset({"gallery"}),
    ),
    (
        "cos_lq_gallery", "Gallery IDS before", False,
        "degraded picture against the gallery, before restoration", frozenset({"lq", "gallery"}),
    ),
    (
        "cos_ref_gallery", "cos(ref, gallery)", False,
        "reference against the gallery: what is natural for this person", frozenset({"ref", "gallery"}),
    ),
)  # fmt: skip


class Judge:
    """A recogniser that judges identity.

    Args:
        path: weights file.
        label: what kind of recogniser it is, for every label; None: what the file says.
    """

    def __init__(self, path: Path, label: str | None, device: torch.device) -> None:
        self.path = path
        self.device = device
        self.recognizer = load_for_judging(path, device)
        self.protocol = identity_protocol(self.recognizer)
        self.name = path.stem
        self.key = re.sub(r"\W+", "_", self.name)
        trained_on = self.recognizer.facts.get("trained_on")
        self.kind = label or (GENERATED_LABEL if trained_on == GENERATED_FACES else None)
        self.sha256 = self.recognizer.spec.sha256

    @torch.inference_mode()
    def embed(self, images: Tensor) -> list[Embedding]:
        """(B, 3, S, S) RGB [-1, 1] that hold 8-bit levels -> B unit vectors (E,) on the CPU.

        A face that gives no embedding (a picture of one colour) costs its neighbours nothing.
        """
        try:
            return list(self.recognizer(images).embedding.cpu())
        except ImageFileError as error:
            if len(images) == 1:
                return [f"{self.name}: {error}"]
        return [self.embed(image[None])[0] for image in images]

    def figures(self, available: frozenset[str]) -> list[Figure]:
        """The figures that a set allows which has `available` (gt, ref, lq, gallery)."""
        found = [
            self.figure(kind, label, "higher" if higher else "neither", of, "[-1, 1]")
            for kind, label, higher, of, needs in IDENTITY_FIGURES
            if needs <= available
        ]
        if self.recognizer.spec.layout == GRAY_LAYOUT and "gt" in available:
            found.append(
                self.figure(
                    "degrees", "Deg. (gray 128, compatibility)", "lower",
                    "angle between restored and GT, arccos of the cosine; to set beside GFPGAN, VQFR, OSDFace only",
                    "degrees, 0 to 180",
                )
            )  # fmt: skip
        return found

    def trained_figure(self) -> Figure:
        """IDS by this recogniser of the training: it measures the optimisation and ranks nothing."""
        of = "restored against GT, by a recogniser of the training (loss or tokens): no evidence"
        return self.figure("ids_trained", "Trained with, no evidence: IDS", "neither", of, "[-1, 1]")

    def gap_figure(self, judge: Judge) -> Figure:
        """How much more this recogniser of the training sees than a judge."""
        label = f"Overfit gap: IDS ({self.name}, trained with) - IDS ({judge.name})"
        of = f"difference of the two cosines, to be compared with the gap of a baseline; judge: {judge.protocol}"
        figure = self.figure("gap", label, "neither", of, "[-2, 2]")
        return replace(figure, key=gap_key(self, judge), label=label, judge=judge.name)

    def figure(self, kind: Kind, label: str, better: str, of: str, value_range: str) -> Figure:
        """One figure of this judge."""
        inside = f"{self.name}, {self.kind}" if self.kind else self.name
        return Figure(
            key=f"{kind}_{self.key}",
            label=f"{label} ({inside})",
            better="higher" if better == "higher" else "lower" if better == "lower" else "neither",
            protocol=f"{of}; {self.protocol}",
            digits=1 if kind == "degrees" else 3,
            kind=kind,
            judge=self.name,
            weights_file=self.path.name,
            weights_sha256=self.sha256,
            value_range=value_range,
        )


def gap_key(trained: Judge, judge: Judge) -> str:
    """Key of the figure that `Judge.gap_figure` describes."""
    return f"gap_{trained.key}_{judge.key}"


class EmbeddingStore:
    """Embeddings by content of the picture: the ground truth of one pair is the reference of another."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges = judges
        self.found: dict[tuple[str, Digest], Embedding] = {}
        self.files: dict[Path, Digest | str] = {}  # content of a file, or why it cannot be read

    def add(self, digests: Sequence[Digest], images: Sequence[Tensor], device: torch.device) -> int:
        """Embed those pictures (3, S, S) of one size, uint8 RGB, whose content is new; returns how many were."""
        if not self.judges:
            return 0
        first = self.judges[0].name
        new = {
            digest: image for digest, image in zip(digests, images, strict=True) if (first, digest) not in self.found
        }
        if not new:
            return 0
        batch = to_range(torch.stack(list(new.values())).to(device))
        for judge in self.judges:
            for digest, embedding in zip(new, judge.embed(batch), strict=True):
                self.found[judge.name, digest] = embedding
        return len(new)

    def of(self, judge: Judge, digest: Digest) -> Embedding:
        """The embedding of a picture that was added."""
        return self.found[judge.name, digest]

    def of_file(self, judge: Judge, path: Path) -> Embedding:
        """The embedding of a file, or why there is none."""
        digest = self.files[path]
        return digest if isinstance(digest, str) else self.of(judge, digest)

    def of_files(self, judge: Judge, paths: Iterable[Path]) -> Tensor | None:
        """(R, E) of the files that gave one; None where none did."""
        kept = [found for path in paths if isinstance(found := self.of_file(judge, path), Tensor)]
        return torch.stack(kept) if kept else None


def to_range(images: Tensor) -> Tensor:
    """uint8 RGB, any shape -> float32 [-1, 1]."""
    return images.float().mul_(2 / 255).sub_(1)
