"""The metrics of an evaluation, with the conditions that stand beside every figure; and who may judge.

Shapes: B batch; H, W pixels; E embedding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from basicsr.evaluation.results import Figure, Unavailable
from basicsr.metrics.base_metric import Metric, MetricUnavailable
from basicsr.metrics.color_metric import ColorDifferenceMetric
from basicsr.metrics.identity_metric import IdentityMetric
from basicsr.metrics.lpips_metric import LPIPSMetric
from basicsr.metrics.psnr_ssim_metric import PSNRMetric, SSIMMetric
from basicsr.recognizers import find_recognizer
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import quantize
from basicsr.utils.lpips_net import LPIPSBackbone
from basicsr.utils.weights import sha256_of

HASH_SHOWN = 12  # hexadecimal digits of a sha256 in labels
GENERATED_FACES = "generated faces"  # what the header of a recogniser trained on them says
GENERATED_LABEL = "generated-face recogniser"


@dataclass(frozen=True)
class JudgingOptions:
    """What to judge with.

    Args:
        recognizers: weights files of the judges; IDS is "not available" without one.
        recognizer_label: what kind of recognisers they are, for labels; None: what their files say.
        lpips_nets: alex, vgg, squeeze.
        lpips_backbones: one file per net; empty: looked for in weights/lpips/ and torch's hub folder.
        crop_border: pixels that PSNR and SSIM leave out on each side.
        trained_with: recognisers of the training (loss or tokens); a judge must not be among them.
        allow_same_recognizer: judge all the same, and say so on the first line of the report.
    """

    recognizers: Sequence[Path] = ()
    recognizer_label: str | None = None
    lpips_nets: Sequence[str] = ("alex", "vgg")
    lpips_backbones: Sequence[Path] = ()
    crop_border: int = 0
    trained_with: Sequence[Path] = ()
    allow_same_recognizer: bool = False


class Judge:
    """A recogniser that judges identity: one embedding per picture serves all its figures."""

    def __init__(self, path: Path, label: str | None) -> None:
        self.path = path
        self.metric = IdentityMetric(str(path))
        self.name = path.stem
        kind = GENERATED_LABEL if self.metric.recognizer.facts.get("trained_on") == GENERATED_FACES else None
        self.kind = label or kind
        self.sha256 = self.metric.sha256

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) RGB [-1, 1], rounded to 8 bit -> (B, E) unit vectors."""
        self.metric.to(images.device)
        return self.metric.recognizer(quantize(images)).embedding

    def figures(self, with_refs: bool) -> list[Figure]:
        """IDS to the ground truth; with references also IDS to them, next to what is natural for the person."""
        inside = f"{self.name}, {self.kind}" if self.kind else self.name
        key = re.sub(r"\W+", "_", self.name)

        def figure(kind: str, label: str, better: str, of: str) -> Figure:
            return Figure(
                key=f"{kind}_{key}",
                label=f"{label} ({inside})",
                better="higher" if better == "higher" else "neither",
                protocol=f"{of}; {self.metric.protocol}",
                digits=3,
                kind="ids" if kind == "ids" else "ids_ref" if kind == "ids_ref" else "cos_ref_gt",
                judge=self.name,
                weights_file=self.path.name,
                weights_sha256=self.sha256,
            )

        own = [figure("ids", "IDS", "higher", "restored against GT")]
        if not with_refs:
            return own
        return [
            *own,
            figure("ids_ref", "IDS to reference", "neither", "restored against its reference, mean over references"),
            figure("cos_ref_gt", "cos(ref, GT)", "neither", "reference against GT: what is natural for this person"),
        ]


@dataclass
class Instruments:
    """Metrics that can be computed here, and those that cannot."""

    metrics: list[tuple[Figure, Metric]] = field(default_factory=list)
    judges: list[Judge] = field(default_factory=list)
    unavailable: list[Unavailable] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    crop_border: int = 0

    def figures(self, with_refs: bool) -> list[Figure]:
        """All figures, in the order of the tables."""
        figures = [figure for figure, _ in self.metrics]
        return figures + [figure for judge in self.judges for figure in judge.figures(with_refs)]


def recognizers_of_runs(folders: Iterable[Path]) -> dict[str, str]:
    """sha256 -> file of the recognisers that guided restorations: inference_codeformer.py leaves a results.json.

    It lies beside the folder of pictures, or in it. Folders of other methods have none.

    Raises:
        UserError: a results.json cannot be read.
    """
    found: dict[str, str] = {}
    for path in (place / "results.json" for folder in folders for place in (folder, folder.resolve().parent)):
        if not path.is_file():
            continue
        try:
            recognizer = json.loads(path.read_text(encoding="utf-8")).get("recognizer")
            if recognizer is not None:
                found[recognizer["sha256"]] = f"{recognizer['path']}, says {path}"
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error}). Remove it, or restore the pictures again.") from error
    return found


def build_instruments(options: JudgingOptions, guided_by: Mapping[str, str]) -> Instruments:
    """Load what judges.

    Args:
        guided_by: sha256 -> file of the recognisers that guided the restorations; none of them may judge.
    Raises:
        UserError: a file that was named is missing or broken, or a judge is a recogniser of the training.
    """
    instruments = Instruments(crop_border=options.crop_border)
    if options.crop_border < 0:
        raise UserError(f"crop_border: got {options.crop_border}, expected 0 or more")
    for metric, key, digits in (
        (PSNRMetric(options.crop_border), "psnr", 2),
        (SSIMMetric(options.crop_border), "ssim", 4),
    ):
        figure = Figure(key, metric.label, metric.better, metric.protocol, digits, kind="pixel")
        instruments.metrics.append((figure, metric))
    add_lpips(instruments, options)
    color = ColorDifferenceMetric()
    figure = Figure("delta_e", color.label, color.better, color.protocol, digits=2, kind="color")
    instruments.metrics.append((figure, color))
    add_judges(instruments, options, guided_by)
    return instruments


def add_lpips(instruments: Instruments, options: JudgingOptions) -> None:
    """One LPIPS per net; a net without its file is unavailable, a file that was named must be there."""
    if options.lpips_backbones and len(options.lpips_backbones) != len(options.lpips_nets):
        raise UserError(
            f"--lpips_backbone: got {len(options.lpips_backbones)} files for {len(options.lpips_nets)} nets "
            f"({', '.join(options.lpips_nets)}); give one per net, or none"
        )
    for i, net in enumerate(checked_nets(options.lpips_nets)):
        backbone = options.lpips_backbones[i] if options.lpips_backbones else None
        if backbone is not None and not backbone.is_file():
            raise UserError(f"--lpips_backbone {backbone}: no such file")
        try:
            metric = LPIPSMetric(net, str(backbone) if backbone else None)
        except MetricUnavailable as error:
            reason = str(error).removeprefix(f"LPIPS-{net}: ")
            instruments.unavailable.append(Unavailable(f"LPIPS-{net}", reason))
            continue
        figure = Figure(
            key=f"lpips_{net}",
            label=metric.label,
            better=metric.better,
            protocol=metric.protocol,
            digits=4,
            kind="perceptual",
            weights_file=metric.net.backbone_path.name,
            weights_sha256=metric.net.backbone_sha256,
        )
        instruments.metrics.append((figure, metric))


def checked_nets(names: Sequence[str]) -> list[LPIPSBackbone]:
    """The names, if all are known.

    Raises:
        UserError: one is not.
    """
    known: dict[str, LPIPSBackbone] = {"alex": "alex", "vgg": "vgg", "squeeze": "squeeze"}
    for name in names:
        if name not in known:
            raise UserError(f"--lpips_net {name}: expected {', '.join(known)}")
    return [known[name] for name in names]


def recognizer_file(name: Path) -> Path:
    """The weights file of a recogniser, which may be named by its insightface pack.

    Raises:
        UserError: there is none.
    """
    path = find_recognizer(name)
    if path is None:
        raise UserError(f"{name}: no such recogniser file")
    return path


def add_judges(instruments: Instruments, options: JudgingOptions, guided_by: Mapping[str, str]) -> None:
    """The recognisers, after the check that none of them was trained against."""
    if not options.recognizers:
        instruments.unavailable.append(
            Unavailable(
                "IDS", "needs the weights file of a recogniser that was not used in training: --recognizer FILE"
            )
        )
    named = {sha256_of(recognizer_file(path)): str(path) for path in options.trained_with}
    trained_with = {**guided_by, **named}
    for path in [recognizer_file(path) for path in options.recognizers]:
        judge = Judge(path, options.recognizer_label)
        if any(other.name == judge.name for other in instruments.judges):
            raise UserError(f"--recognizer {path}: two judges have the file name {judge.name}; rename one of them")
        if judge.sha256 in trained_with:
            if not options.allow_same_recognizer:
                raise UserError(
                    f"--recognizer {path}: is the recogniser of the training ({trained_with[judge.sha256]}, sha256 "
                    f"{judge.sha256[:HASH_SHOWN]}), so IDS would measure the optimisation. Give another judge, or "
                    "--allow_same_recognizer: the report then says so on its first line"
                )
            instruments.labels.append(f"IDS ({judge.name}) is judged by the recogniser of the training: not evidence")
        instruments.judges.append(judge)
    kinds = dict.fromkeys(judge.kind for judge in instruments.judges if judge.kind)
    instruments.labels.extend(f"IDS: {kind}" for kind in kinds)
