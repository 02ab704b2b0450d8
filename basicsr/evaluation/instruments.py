"""The metrics of an evaluation, with the conditions that stand beside every figure, and who may judge.

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from basicsr.evaluation.gauges import FaceFigures, FIDGauge, FileGauge, Gauge, LPIPSGauge, MetricGauge
from basicsr.evaluation.judges import Judge
from basicsr.evaluation.judging_options import EVERYTHING, NEEDS, JudgingOptions, legal_metrics
from basicsr.evaluation.results import Figure, Unavailable
from basicsr.faces.detect import ScrfdDetector
from basicsr.metrics.color_metric import ColorDifferenceMetric
from basicsr.metrics.fid import FeatureNet, ReferenceStatistics
from basicsr.metrics.niqe import read_pristine
from basicsr.metrics.psnr_ssim_metric import PSNRMetric, SSIMMetric
from basicsr.recognizers import find_recognizer
from basicsr.utils.errors import UserError
from basicsr.utils.lpips_net import BackboneMissingError, LPIPSBackbone, LPIPSNet
from basicsr.utils.weights import sha256_of

DETECT_SIDE = 320  # px: an aligned face fills the picture
HASH_SHOWN = 12  # hexadecimal digits of a sha256 in labels
KNOWN_NETS: dict[str, LPIPSBackbone] = {"alex": "alex", "vgg": "vgg", "squeeze": "squeeze"}


@dataclass
class Instruments:
    """Metrics that can be computed here, and those that cannot."""

    gauges: list[Gauge] = field(default_factory=list)  # against the ground truth, in batches
    file_gauge: FileGauge | None = None  # one picture after the other, by the threads that read
    fid: FIDGauge | None = None
    judges: list[Judge] = field(default_factory=list)
    identity_figures: list[tuple[Judge, Figure]] = field(default_factory=list)
    trained_with: list[Judge] = field(default_factory=list)  # of the training: for the overfit gap, never as judges
    trained_figures: list[Figure] = field(default_factory=list)
    unavailable: list[Unavailable] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    crop_border: int = 0
    with_masks: bool = False  # every picture comes with a mask of its face

    def figures(self) -> list[Figure]:
        """All figures of single pictures, in the order of the tables."""
        figures = [figure for gauge in self.gauges for figure in gauge.figures]
        figures += self.file_gauge.figures if self.file_gauge else []
        return figures + [figure for _, figure in self.identity_figures] + self.trained_figures


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


def build_instruments(
    options: JudgingOptions,
    guided_by: Mapping[str, str],
    available: frozenset[str] = EVERYTHING,
    with_masks: bool = False,
    device: torch.device | None = None,
) -> Instruments:
    """Load what judges.

    Args:
        guided_by: sha256 -> file of the recognisers that guided the restorations; none of them may judge.
        available: which of gt, ref, lq, gallery the set has.
        with_masks: every picture comes with a mask of its face.
    Raises:
        UserError: a file that was named is missing or broken, a metric is not legal here, or a judge is a recogniser of
            the training.
    """
    device = device or torch.device("cpu")
    if options.crop_border < 0:
        raise UserError(f"crop_border: got {options.crop_border}, expected 0 or more")
    names = legal_metrics(options.metrics, available)
    instruments = Instruments(crop_border=options.crop_border, with_masks=with_masks)
    border = options.crop_border
    for name, metric, digits in (
        ("psnr", PSNRMetric(border), 2), ("ssim", SSIMMetric(border), 4),
        ("psnr_y", PSNRMetric(border, test_y_channel=True), 2), ("ssim_y", SSIMMetric(border, test_y_channel=True), 4),
    ):  # fmt: skip
        if name in names:
            instruments.gauges.append(MetricGauge(name, metric, digits, "pixel"))
    if "psnr_face" in names:
        instruments.gauges.append(FaceFigures(with_masks))
    add_lpips(instruments, options, names, with_masks, device)
    if "delta_e" in names:
        instruments.gauges.append(MetricGauge("delta_e", ColorDifferenceMetric(), 2, "color"))
    add_file_gauge(instruments, options, names)
    add_fid(instruments, options, names, available, device)
    add_judges(instruments, options, names, guided_by, available, device)
    return instruments


def add_lpips(
    instruments: Instruments, options: JudgingOptions, names: Sequence[str], with_masks: bool, device: torch.device
) -> None:
    """One LPIPS per net; a net without its file is unavailable, a file that was named must be there."""
    if options.lpips_backbones and len(options.lpips_backbones) != len(options.lpips_nets):
        raise UserError(
            f"--lpips_backbone: got {len(options.lpips_backbones)} files for {len(options.lpips_nets)} nets "
            f"({', '.join(options.lpips_nets)}); give one per net, or none"
        )
    for name in options.lpips_nets:
        if name not in KNOWN_NETS:
            raise UserError(f"--lpips_net {name}: expected {', '.join(KNOWN_NETS)}")
    if not {"lpips", "lpips_face"} & set(names):
        return
    for i, name in enumerate(options.lpips_nets):
        backbone = options.lpips_backbones[i] if options.lpips_backbones else None
        if backbone is not None and not backbone.is_file():
            raise UserError(f"--lpips_backbone {backbone}: no such file")
        try:
            net = LPIPSNet(KNOWN_NETS[name], str(backbone) if backbone else None)
        except BackboneMissingError as error:
            reason = str(error).removeprefix(f"LPIPS-{name}: ")
            instruments.unavailable.append(Unavailable(f"LPIPS-{name}", reason))
            continue
        if net.has_float16_weights:
            instruments.labels.append(f"LPIPS-{name}: float16 backbone, not comparable with papers")
        instruments.gauges.append(LPIPSGauge(name, net.to(device), "lpips" in names, "lpips_face" in names, with_masks))


def add_file_gauge(instruments: Instruments, options: JudgingOptions, names: Sequence[str]) -> None:
    """Landmark distance and NIQE, where their files are given."""
    detector = pristine = None
    if "landmarks" in names and options.detector is not None:
        detector = ScrfdDetector(options.detector, max_side=DETECT_SIDE, num_threads=1)  # several threads read at once
    elif "landmarks" in (options.metrics or ()):
        instruments.unavailable.append(Unavailable("Landmark distance", "needs a face detector: --detector FILE"))
    if "niqe" in names and options.niqe_parameters is not None:
        pristine = read_pristine(options.niqe_parameters)
    elif "niqe" in (options.metrics or ()):
        reason = "needs the parameters of good photographs, .npz or .mat: --niqe_parameters FILE"
        instruments.unavailable.append(Unavailable("NIQE", reason))
    if detector is not None or pristine is not None:
        instruments.file_gauge = FileGauge(detector, options.detector, pristine, options.niqe_parameters)


def add_fid(
    instruments: Instruments,
    options: JudgingOptions,
    names: Sequence[str],
    available: frozenset[str],
    device: torch.device,
) -> None:
    """FID, where a feature network is given."""
    if "fid" not in names or options.fid_network is None:
        if "fid" in (options.metrics or ()):
            instruments.unavailable.append(Unavailable("FID", "needs a feature network: --fid_network FILE"))
        return
    references = [ReferenceStatistics.read(path) for path in options.fid_statistics]
    if not references and "gt" not in available:
        raise UserError("FID: this set has no ground truth, so a reference set is needed: --fid_statistics FILE.npz")
    net = FeatureNet(options.fid_network, options.fid_side, options.fid_range, device)
    instruments.fid = FIDGauge(net, options.fid_network.name, references, against_gt="gt" in available)


def recognizer_file(name: Path) -> Path:
    """The weights file of a recogniser, which may be named by its insightface pack.

    Raises:
        UserError: there is none.
    """
    path = find_recognizer(name)
    if path is None:
        raise UserError(f"{name}: no such recogniser file")
    return path


def add_judges(
    instruments: Instruments,
    options: JudgingOptions,
    names: Sequence[str],
    guided_by: Mapping[str, str],
    available: frozenset[str],
    device: torch.device,
) -> None:
    """The recognisers, after the check that none of them was trained against."""
    wanted = available & frozenset(part for name in names if name.startswith("ids") for part in NEEDS[name])
    if not wanted:
        return
    if not options.recognizers:
        reason = "needs the weights file of a recogniser that was not used in training: --recognizer FILE"
        instruments.unavailable.append(Unavailable("IDS", reason))
    named = {sha256_of(recognizer_file(path)): str(path) for path in options.trained_with}
    trained_with = {**guided_by, **named}
    for path in [recognizer_file(path) for path in options.recognizers]:
        judge = Judge(path, options.recognizer_label, device)
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
        instruments.identity_figures += [(judge, figure) for figure in judge.figures(wanted)]
    kinds = dict.fromkeys(judge.kind for judge in instruments.judges if judge.kind)
    instruments.labels.extend(f"IDS: {kind}" for kind in kinds)
    if "ids_trained" in names and instruments.judges:
        add_trained_with(instruments, options, device)


def add_trained_with(instruments: Instruments, options: JudgingOptions, device: torch.device) -> None:
    """What the recognisers of the training see, and how much more than the judges that is."""
    if not options.trained_with and "ids_trained" in (options.metrics or ()):
        reason = "needs the weights file of the recogniser of the training: --trained_with FILE"
        instruments.unavailable.append(Unavailable("Overfit gap", reason))
    judging = {judge.sha256 for judge in instruments.judges}
    for path in dict.fromkeys(recognizer_file(path) for path in options.trained_with):
        trained = Judge(path, options.recognizer_label, device)
        if trained.sha256 in judging:
            continue  # allowed to judge: its own figure is there, labelled as no evidence
        instruments.trained_with.append(trained)
        instruments.trained_figures.append(trained.trained_figure())
        instruments.trained_figures += [trained.gap_figure(judge) for judge in instruments.judges]
