"""What to judge with, and which metrics are defined on a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from basicsr.metrics.fid import PixelRange
from basicsr.utils.errors import UserError

# What each metric needs of a set beside the restored pictures.
NEEDS: dict[str, frozenset[str]] = {
    "psnr": frozenset({"gt"}), "ssim": frozenset({"gt"}), "psnr_y": frozenset({"gt"}), "ssim_y": frozenset({"gt"}),
    "psnr_face": frozenset({"gt"}), "lpips": frozenset({"gt"}), "lpips_face": frozenset({"gt"}),
    "delta_e": frozenset({"gt"}), "landmarks": frozenset({"gt"}),
    "ids": frozenset({"gt"}), "ids_ref": frozenset({"ref"}), "ids_lq": frozenset({"lq"}),
    "ids_gallery": frozenset({"gallery"}), "ids_trained": frozenset({"gt"}), "niqe": frozenset(), "fid": frozenset(),
}  # fmt: skip
ASKED_ONLY = ("psnr_y", "ssim_y")  # not part of the default: the same question as psnr and ssim
WHAT_IS = {"gt": "ground truth", "ref": "references", "lq": "degraded pictures", "gallery": "gallery"}
EVERYTHING = frozenset(WHAT_IS)


@dataclass(frozen=True)
class JudgingOptions:
    """What to judge with.

    Args:
        recognizers: weights files of the judges; IDS is "not available" without one.
        recognizer_label: what kind of recognisers they are, for labels; None: what their files say.
        lpips_nets: alex, vgg, squeeze.
        lpips_backbones: one file per net; empty: looked for in weights/lpips/ and torch's hub folder.
        crop_border: pixels that PSNR and SSIM leave out on each side.
        trained_with: recognisers of the training (loss or tokens); a judge must not be among them. What they see stands
            beside the judges' figures: where it rises more, the training was fitted to them.
        allow_same_recognizer: judge all the same, and say so on the first line of the report.
        metrics: names of NEEDS; None: all that the set allows, but for the luma variants.
        detector: SCRFD file for the landmark distance.
        niqe_parameters: file with the Gaussian of good photographs.
        fid_network: TorchScript or ONNX file; `fid_statistics`: .npz files of reference sets; without any, the
            features of the ground truth are the reference. `fid_side` px and `fid_range`: what the network takes.
        calibration_pairs: CSV with columns a, b, same for the judges' thresholds; None: the people of the set.
    """

    recognizers: Sequence[Path] = ()
    recognizer_label: str | None = None
    lpips_nets: Sequence[str] = ("alex", "vgg")
    lpips_backbones: Sequence[Path] = ()
    crop_border: int = 0
    trained_with: Sequence[Path] = ()
    allow_same_recognizer: bool = False
    metrics: Sequence[str] | None = None
    detector: Path | None = None
    niqe_parameters: Path | None = None
    fid_network: Path | None = None
    fid_statistics: Sequence[Path] = ()
    fid_side: int = 299
    fid_range: PixelRange = "-1..1"
    calibration_pairs: Path | None = None


def legal_metrics(asked: Sequence[str] | None, available: frozenset[str]) -> list[str]:
    """The metrics to compute on a set that has `available` of gt, ref, lq, gallery.

    Raises:
        UserError: one that was asked for is unknown, or undefined on this set.
    """
    legal = [name for name, needs in NEEDS.items() if needs <= available]
    if asked is None:
        return [name for name in legal if name not in ASKED_ONLY]
    for name in asked:
        if name not in NEEDS:
            raise UserError(f"metric '{name}': expected some of {', '.join(NEEDS)}")
        if name not in legal:
            missing = ", ".join(WHAT_IS[part] for part in sorted(NEEDS[name] - available))
            raise UserError(
                f"metric '{name}': needs {missing}, and this set has none: the figure is undefined there. Legal here: "
                f"{', '.join(legal)}"
            )
    return [name for name in NEEDS if name in asked]
