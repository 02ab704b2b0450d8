"""LPIPS from local files alone: the one file that wraps the `lpips` package. Paper: Zhang et al. 2018.

The package carries the linear layers; the backbone (AlexNet, VGG16, SqueezeNet 1.1; torchvision's files) has to be on
disk, because nothing here downloads. Shapes: B batch; H, W pixels; C_k channels, h_k, w_k size of the k-th feature.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_state, sha256_of

logger = logging.getLogger(__name__)

LPIPSBackbone = Literal["alex", "vgg", "squeeze"]

BACKBONE_FILES: dict[str, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
BACKBONE_FOLDER = Path("weights") / "lpips"
DOWNLOAD_FROM = "https://download.pytorch.org/models"
MIN_NORM_SQUARED = 1e-30  # below it a feature vector counts as zero and gets no gradient
UNIT_EPS = 1e-10  # of the paper's code


class BackboneMissingError(WeightsError):
    """The backbone file of an LPIPS net is not on this machine: `<what file, where it belongs>`."""


class LPIPSNet(nn.Module):
    """Perceptual distance d(x, y) = sum over layers of the spatial mean of lin_k((unit(f_k(x)) - unit(f_k(y)))^2).

    Frozen and always in eval (in train mode the package's linear layers drop features out); gradients flow to images.

    Args:
        net: backbone, part of the name of every figure made with it.
        backbone: weights file, torchvision's key names; None looks for the known file name (see `find_backbone`).
    Attributes:
        backbone_path, backbone_sha256: the file in use.
        has_float16_weights: it was rounded to half precision.
    Raises:
        BackboneMissingError: no such file.
        WeightsError: the file cannot be read or is of another network.
    """

    scaling_layer: nn.Module
    net: nn.Module
    lins: nn.ModuleList

    def __init__(self, net: LPIPSBackbone = "vgg", backbone: str | Path | None = None) -> None:
        super().__init__()
        self.backbone_path = find_backbone(net, backbone)
        self.backbone_sha256 = sha256_of(self.backbone_path)
        model = random_lpips(net)
        state = load_state(self.backbone_path)
        load_backbone(model.net, state, net, str(self.backbone_path))
        self.has_float16_weights = is_float16(state)
        self.scaling_layer = model.scaling_layer
        self.net = model.net
        self.lins = model.lins
        self.requires_grad_(False)
        self.eval()
        logger.info("LPIPS-%s: backbone %s", net, self.backbone_path)

    def train(self, mode: bool = True) -> LPIPSNet:
        """Stays in eval whatever the surrounding network is told."""
        return super().train(False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W) RGB [-1, 1] twice -> (B,) distances."""
        return self.pooled(self.maps(self.features(pred), self.features(target)))

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB [-1, 1] -> unit vectors (B, C_k, h_k, w_k) of every layer."""
        return [unit_length(features) for features in self.net(self.scaling_layer(images))]

    def maps(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
        """Where two pictures differ, by layer (B, 1, h_k, w_k), of what `features` gives."""
        return [lin((x - y).square()) for lin, x, y in zip(self.lins, one, other, strict=True)]

    @staticmethod
    def pooled(maps: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Distance (B,): sum over layers of the mean of each map (B, 1, h_k, w_k).

        Args:
            mask: (B, 1, H, W) in [0, 1]: the mean is weighted with its share in each cell; None: all alike.
        """
        distance = maps[0].new_zeros(len(maps[0]))
        for layer in maps:
            if mask is None:
                distance = distance + layer.mean(dim=(1, 2, 3))  # (B, 1, h_k, w_k) -> (B,)
            else:
                weights = F.adaptive_avg_pool2d(
                    mask, (layer.shape[-2], layer.shape[-1])
                )  # (B, 1, H, W) -> (B, 1, h_k, w_k)
                distance = distance + (layer * weights).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))
        return distance


def unit_length(features: Tensor) -> Tensor:
    """(B, C_k, h_k, w_k) -> the same, each pixel's vector at length 1; a zero vector stays zero.

    The clamp is why this is not the package's own function: sqrt has an infinite slope at 0, and one dead pixel (all
    ReLUs off) would make every gradient NaN.
    """
    norm = features.square().sum(dim=1, keepdim=True).clamp_min(MIN_NORM_SQUARED).sqrt()  # (B, 1, h_k, w_k)
    return features / (norm + UNIT_EPS)


def is_float16(state: Mapping[str, Tensor]) -> bool:
    """Whether all kernels are halves, or were before they were widened: then figures differ from those of papers."""
    weights = [tensor for tensor in state.values() if tensor.is_floating_point() and tensor.ndim > 1]
    return bool(weights) and all(torch.equal(tensor.half().to(tensor.dtype), tensor) for tensor in weights)


def find_backbone(net: str, backbone: str | Path | None = None) -> Path:
    """The file named by `backbone`, else the known one in weights/lpips/ (here, in the repository) or torch's hub.

    Raises:
        BackboneMissingError: it is in none of these places.
    """
    if net not in BACKBONE_FILES:
        raise ValueError(f"net: got {net!r}, expected one of {', '.join(BACKBONE_FILES)}")
    if backbone is not None:
        path = Path(backbone).expanduser()
        if not path.is_file():
            raise BackboneMissingError(f"LPIPS-{net}: needs {path}, which is not there")
        return path
    name = BACKBONE_FILES[net]
    repository = Path(__file__).resolve().parents[2]
    folders = (BACKBONE_FOLDER, repository / BACKBONE_FOLDER, Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise BackboneMissingError(
        f"LPIPS-{net}: needs {name} in {BACKBONE_FOLDER.as_posix()}/ or {folders[-1]} (from {DOWNLOAD_FROM}/{name})"
    )


def random_lpips(net: LPIPSBackbone) -> Any:
    """The package's model: its own linear layers over an untrained backbone."""
    import lpips

    # fork_rng: the random backbone is thrown away, so it must not move the generator that training draws from
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def load_backbone(slices: nn.Module, state: Mapping[str, Tensor], net: str, where: str) -> None:
    """Copy `features.<n>.*` of a torchvision state into the package's `slice<k>.<n>.*`, in place.

    Raises:
        WeightsError: a layer is missing or of another shape.
    """
    own = slices.state_dict()
    renamed: dict[str, Tensor] = {}
    for key, tensor in own.items():
        source = "features." + key.split(".", 1)[1]
        found = state.get(source)
        if found is None or found.shape != tensor.shape:
            shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
            raise WeightsError(
                f"{where}: not the backbone of LPIPS-{net}: {source} is {shape}, expected {tuple(tensor.shape)}. "
                f"The file is {BACKBONE_FILES[net]} ({DOWNLOAD_FROM}/{BACKBONE_FILES[net]})"
            )
        renamed[key] = found
    slices.load_state_dict(renamed)
