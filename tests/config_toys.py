"""A toy world for the tests of basicsr/config: registries of its own, and a file that fits them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from basicsr.config import Registries
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import Registry

TOYS = Registries(
    Registry("network"), Registry("dataset"), Registry("model_type"), Registry("loss"), Registry("metric")
)


@dataclass(frozen=True)
class ToyRanges:
    """Ranges.

    Args:
        blur_sigma: px.
    """

    blur_sigma: tuple[float, float] = (1, 15)
    blur_kernel_size: int = 41
    noise_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise OptionError("blur_sigma: falls, expected [low, high].")


@TOYS.dataset.register(aliases=["ToyJointDataset"])
class ToyDataset:
    """Faces of a folder."""

    def __init__(
        self,
        source: str,
        gt_size: int = 512,
        degradation: ToyRanges | None = ToyRanges(),
        degradation_large: ToyRanges | None = None,
        seed: int = 0,
    ) -> None: ...


@TOYS.arch.register()
class ToyNet:
    """A net."""

    def __init__(
        self, width: int = 8, widths: tuple[str, ...] = ("32", "64"), model_path: str | None = None
    ) -> None: ...


@TOYS.arch.register(aliases=["OldToyIDNet"])
class ToyIDNet:
    """A net that knows the person."""

    def __init__(self, width: int = 8, style: Literal["adain", "none"] = "adain") -> None: ...


@TOYS.loss.register()
class L1Loss:
    """|a - b|."""

    def __init__(self, loss_weight: float = 1.0) -> None: ...


@TOYS.loss.register()
class CodeCrossEntropyLoss:
    """Cross-entropy."""

    def __init__(self, loss_weight: float = 0.5) -> None: ...


@TOYS.loss.register()
class IdentityLoss:
    """1 - cos."""

    def __init__(self, network_identity: Any, loss_weight: float = 0.1, margin: float | None = None) -> None: ...


@TOYS.metric.register()
class PSNRMetric:
    """PSNR."""

    def __init__(self, crop_border: int = 0) -> None: ...


@TOYS.metric.register()
class IdentityMetric:
    """IDS."""

    def __init__(self, recognizer: str) -> None: ...


@TOYS.model.register(aliases=["OldToyModel"])
class ToyModel:
    """A stage.

    Args:
        code_grad: how a gradient passes.
    """

    REQUIRED_NETWORKS: ClassVar[frozenset[str]] = frozenset({"network_g"})
    REQUIRED_WEIGHTS: ClassVar[frozenset[str]] = frozenset()
    ALLOWED_LOSSES: ClassVar[frozenset[str]] = frozenset({"pixel_opt", "identity_opt", "code_opt"})

    def __init__(
        self,
        networks: Any,
        losses: Any,
        *,
        code_grad: Literal["none", "soft"] = "soft",
        phases: list[int] | None = None,
    ) -> None: ...

    def restore(self, batch: Any, net: Any, *, w: float = 0.0) -> Any:
        """Restored.

        Args:
            w: fidelity weight.
        """


@TOYS.model.register()
class ToyFrozenModel(ToyModel):
    """A stage that needs the weights of an earlier one."""

    REQUIRED_NETWORKS = frozenset({"network_g", "network_vqgan"})
    REQUIRED_WEIGHTS = frozenset({"network_vqgan"})


TOY_FILE = """\
name: toy
model_type: ToyModel
manual_seed: 7
datasets:
  train:
    type: ToyDataset
    source: faces
    batch_size_per_gpu: 4
    degradation:
      blur_sigma: [1, 2]
  val_lfw:
    type: ToyDataset
    source: lfw
network_g:
  type: ToyNet
  width: 16
train:
  total_iter: 100
  optim_g:
    type: Adam
    lr: 1e-4
    betas: [0.9, 0.99]
  scheduler:
    type: MultiStepLR
    milestones: [50, 75]
  pixel_opt:
    type: L1Loss
    loss_weight: 2
  code_grad: none
val:
  val_freq: 5e1
  w: 0.5
  metrics:
    psnr:
      type: PSNRMetric
logger:
  print_freq: 10
"""


def toy_file(folder: Path, text: str = TOY_FILE, name: str = "toy.yml") -> Path:
    """An option file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
