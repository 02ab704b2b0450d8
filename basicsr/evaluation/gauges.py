"""Metrics as an evaluation uses them: what depends on the ground truth alone is computed once for all runs.

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from basicsr.evaluation.results import Figure, Kind
from basicsr.faces.align import Points
from basicsr.faces.detect import ScrfdDetector
from basicsr.metrics import landmarks as landmarks_metric
from basicsr.metrics import niqe as niqe_metric
from basicsr.metrics.base_metric import Metric
from basicsr.metrics.face_metric import FacePSNRMetric, face_lpips_protocol, face_masks
from basicsr.metrics.fid import FeatureNet, GaussianStatistics, ReferenceStatistics, frechet_distance
from basicsr.metrics.landmarks import find_landmarks, landmark_distance
from basicsr.metrics.lpips_metric import lpips_protocol
from basicsr.metrics.niqe import PristineModel, niqe
from basicsr.utils.img_util import Image
from basicsr.utils.lpips_net import LPIPSNet
from basicsr.utils.weights import sha256_of


class Gauge(Protocol):
    """Figures of batches against their ground truth; images are RGB [-1, 1] and hold 8-bit levels."""

    name: str  # in the table of speeds
    figures: list[Figure]

    def reference(self, gt: Tensor, masks: Tensor | None) -> Any:
        """What `measure` needs of (B, 3, H, W) ground truths; `masks`: (B, H, W) bool of the faces."""

    def measure(self, restored: Tensor, reference: Any) -> list[Tensor]:
        """(B,) values for each figure."""


class MetricGauge:
    """A metric of the registry."""

    def __init__(self, key: str, metric: Metric, digits: int, kind: Kind) -> None:
        self.metric = metric
        self.name = metric.label
        self.figures = [
            Figure(key, metric.label, metric.better, metric.protocol, digits, kind, value_range=metric.value_range)
        ]

    def reference(self, gt: Tensor, masks: Tensor | None) -> Any:
        return self.metric.reference(gt)

    def measure(self, restored: Tensor, reference: Any) -> list[Tensor]:
        return [self.metric.compare(restored, reference)]


class FaceFigures:
    """PSNR of the face region."""

    def __init__(self, with_masks: bool) -> None:
        self.metric = FacePSNRMetric(with_masks)
        metric = self.metric
        self.name = metric.label
        self.figures = [
            Figure("psnr_face", metric.label, "higher", metric.protocol, 2, "pixel", value_range=metric.value_range)
        ]

    def reference(self, gt: Tensor, masks: Tensor | None) -> Any:
        return self.metric.reference(gt, masks)

    def measure(self, restored: Tensor, reference: Any) -> list[Tensor]:
        return [self.metric.compare(restored, reference)]


class LPIPSGauge:
    """LPIPS of the picture and of the face region from the same features."""

    def __init__(self, name: str, net: LPIPSNet, whole: bool, face: bool, with_masks: bool) -> None:
        self.net = net.to(memory_format=torch.channels_last)  # pooling and convolution are twice as fast on a CPU
        self.name = f"LPIPS-{name}"
        self.whole = whole
        self.face = face
        note = " (float16 backbone)" if net.has_float16_weights else ""
        named = []
        if whole:
            named.append((f"lpips_{name}", f"LPIPS-{name}{note}", lpips_protocol(net)))
        if face:
            named.append((f"lpips_{name}_face", f"LPIPS-{name} (face){note}", face_lpips_protocol(with_masks)))
        weights = net.backbone_path.name
        self.figures = [
            Figure(key, label, "lower", protocol, 4, "perceptual", "", weights, net.backbone_sha256, "[0, about 1]")
            for key, label, protocol in named
        ]

    def reference(self, gt: Tensor, masks: Tensor | None) -> tuple[list[Tensor], Tensor]:
        with torch.autocast(gt.device.type, enabled=False):
            return self.net.features(gt), face_masks(gt, masks)[:, None].float()

    def measure(self, restored: Tensor, reference: tuple[list[Tensor], Tensor]) -> list[Tensor]:
        features, masks = reference
        with torch.autocast(restored.device.type, enabled=False):
            maps = self.net.maps(self.net.features(restored), features)
            return [self.net.pooled(maps)] * self.whole + [self.net.pooled(maps, masks)] * self.face


class FileGauge:
    """Figures of one picture after the other, on uint8 BGR: landmark distance, NIQE. Safe to be called by threads."""

    def __init__(
        self,
        detector: ScrfdDetector | None,
        detector_file: Path | None,
        pristine: PristineModel | None,
        pristine_file: Path | None,
    ) -> None:
        self.detector = detector
        self.pristine = pristine
        self.figures: list[Figure] = []
        if detector is not None and detector_file is not None:
            name, sha256 = detector_file.name, sha256_of(detector_file)
            self.figures += [
                Figure(
                    "landmarks", "Landmark distance (% of eye distance)", "lower", landmarks_metric.PROTOCOL, 2,
                    "landmarks", "", name, sha256, f"%, 0 to {landmarks_metric.LOST_FACE:g}",
                ),
                Figure(
                    "lost_face", "Face not found by the detector", "lower", "1 where the detector finds no face", 3,
                    "landmarks", "", name, sha256, "share, [0, 1]",
                ),
            ]  # fmt: skip
        if pristine is not None and pristine_file is not None:
            self.figures.append(
                Figure(
                    "niqe", "NIQE", "lower", niqe_metric.PROTOCOL, 2, "quality", "", pristine_file.name,
                    pristine.sha256, "0 to inf",
                )
            )  # fmt: skip

    def landmarks_of(self, gt: Image | None) -> Points | None:
        """Landmarks of the ground truth; None without a detector or a face."""
        return None if gt is None or self.detector is None else find_landmarks(gt, self.detector)

    def measure(self, restored: Image, gt_landmarks: Points | None) -> dict[str, float]:
        """Values by key.

        Raises:
            UserError: the picture is too small.
        """
        values: dict[str, float] = {}
        if self.detector is not None and gt_landmarks is not None:
            found = find_landmarks(restored, self.detector)
            values["landmarks"] = landmark_distance(found, gt_landmarks)
            values["lost_face"] = float(found is None)
        if self.pristine is not None:
            values["niqe"] = niqe(restored, self.pristine)
        return values


class FIDGauge:
    """Features of every run, and where wanted of the ground truth, as Gaussians."""

    def __init__(
        self, net: FeatureNet, file_name: str, references: list[ReferenceStatistics], against_gt: bool
    ) -> None:
        self.net = net
        self.file_name = file_name
        self.references = references
        self.against_gt = against_gt
        self.of_run: dict[str, GaussianStatistics] = {}
        self.of_gt = GaussianStatistics()

    def figures(self) -> list[Figure]:
        """One figure for each reference set."""
        sets = [(reference.name, f"statistics sha256 {reference.sha256}") for reference in self.references]
        sets += [("GT", "the ground truths of this set")] if self.against_gt else []
        return [
            Figure(
                f"fid_{name}", f"FID ({name})", "lower", f"against {what}; {self.net.protocol}", 2, "set", "",
                self.file_name, self.net.sha256, "0 to inf",
            )
            for name, what in sets
        ]  # fmt: skip

    def values(self, run: str) -> dict[str, float]:
        """FID of a run by key of the figure."""
        own = self.of_run[run]
        found = {f"fid_{r.name}": frechet_distance(own.mean, own.cov, r.mean, r.cov) for r in self.references}
        if self.against_gt:
            found["fid_GT"] = frechet_distance(own.mean, own.cov, self.of_gt.mean, self.of_gt.cov)
        return found
