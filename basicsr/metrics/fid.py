"""FID, the distance between the features of restored faces and those of a reference set. Paper: Heusel et al. 2017.

Not a figure of one image, and biased by the number of images: compare only sets of equal size. The feature network is
given as a file (TorchScript or ONNX), because a value holds for one network, one set of weights and one resizing alone.

Shapes: B batch; H, W pixels; D features; N images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.weights import sha256_of

Floats = NDArray[np.float64]
PixelRange = Literal["-1..1", "0..1", "0..255"]
RANGES: dict[PixelRange, tuple[float, float]] = {"-1..1": (1.0, 0.0), "0..1": (0.5, 0.5), "0..255": (127.5, 127.5)}
DEFAULT_SIDE = 299  # px, Inception's input
MIN_IMAGES = 2


@dataclass
class GaussianStatistics:
    """Mean and covariance of features, added up batch by batch in float64; two of them can be merged (ranks)."""

    n: int = 0
    total: Floats = field(default_factory=lambda: np.zeros(0))  # (D,)
    outer: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # (D, D) sum of x x^T

    def add(self, features: Floats) -> None:
        """(B, D)."""
        features = np.asarray(features, np.float64)
        self.merge(GaussianStatistics(len(features), features.sum(0), features.T @ features))

    def merge(self, other: GaussianStatistics) -> None:
        """As if the features of `other` had been added here."""
        if other.n == 0:
            return
        if self.n == 0:
            self.n, self.total, self.outer = other.n, other.total.copy(), other.outer.copy()
            return
        self.n += other.n
        self.total = self.total + other.total
        self.outer = self.outer + other.outer

    @property
    def mean(self) -> Floats:
        """(D,)."""
        return self.total / self.n

    @property
    def cov(self) -> Floats:
        """(D, D), N - 1 in the denominator.

        Raises:
            UserError: fewer than two images.
        """
        if self.n < MIN_IMAGES:
            raise UserError(f"FID: {self.n} images; at least {MIN_IMAGES} are needed (thousands for a stable value)")
        return np.asarray((self.outer - self.n * np.outer(self.mean, self.mean)) / (self.n - 1), np.float64)


def frechet_distance(mean: Floats, cov: Floats, other_mean: Floats, other_cov: Floats) -> float:
    """|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)) of two Gaussians, (D,) and (D, D).

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which are those of S1 S2:
    symmetric, so they stay real, and faster than the root of the matrix itself.
    """
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # (D, D); rounding may leave an eigenvalue just below 0
    product = root @ other_cov @ root
    trace_of_root = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    return float(((mean - other_mean) ** 2).sum() + np.trace(cov) + np.trace(other_cov) - 2 * trace_of_root)


@dataclass(frozen=True)
class ReferenceStatistics:
    """Mean and covariance of a reference set, as a file says."""

    name: str
    mean: Floats
    cov: Floats
    sha256: str

    @classmethod
    def read(cls, path: Path) -> ReferenceStatistics:
        """From an .npz with `mu` and `sigma` (pytorch-fid) or `mean` and `cov`.

        Raises:
            UserError: missing, unreadable, or of other shapes.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                names = [pair for pair in (("mu", "sigma"), ("mean", "cov")) if set(pair) <= set(file.files)]
                if not names:
                    raise UserError(f"{path}: holds {', '.join(file.files)}; expected mu and sigma, or mean and cov")
                mean, cov = (np.asarray(file[name], np.float64) for name in names[0])
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read as FID statistics ({error})") from error
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or not np.isfinite(cov).all():
            raise UserError(f"{path}: mean {mean.shape}, covariance {cov.shape}; expected (D,) and finite (D, D)")
        return cls(path.stem, mean, cov, sha256_of(path))


class FeatureNet:
    """A network from pictures to features, as a file holds it. TorchScript runs the code in its file: trust its source.

    Args:
        path: TorchScript, picture (B, 3, S, S) -> features; or ONNX with one input and features as first output.
        side: S, px; pictures of another size are resized, antialiased bilinear.
        pixel_range: what the network takes.
    Raises:
        WeightsError: missing, or not to be loaded.
    """

    def __init__(
        self,
        path: Path,
        side: int = DEFAULT_SIDE,
        pixel_range: PixelRange = "-1..1",
        device: str | torch.device = "cpu",
    ) -> None:
        if not path.is_file():
            raise WeightsError(f"{path}: no such feature network; give a TorchScript (.pt) or ONNX file")
        self.sha256 = sha256_of(path)
        self.side = side
        self.scale, self.shift = RANGES[pixel_range]
        self.protocol = f"{path.name}, {side} px antialiased bilinear, RGB {pixel_range}"
        self._run = onnx_runner(path) if path.suffix == ".onnx" else script_runner(path, torch.device(device))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Floats:
        """(B, 3, H, W) RGB [-1, 1] -> (B, D)."""
        if images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, size=(self.side, self.side), mode="bilinear", antialias=True)
        features = self._run(images * self.scale + self.shift)
        return features.reshape(len(features), -1)


def script_runner(path: Path, device: torch.device) -> Callable[[Tensor], Floats]:
    """Features of a TorchScript file."""
    try:
        net = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path}: cannot be loaded as TorchScript ({reason})") from error
    return lambda images: np.asarray(net(images.to(device)).double().cpu().numpy(), np.float64)


def onnx_runner(path: Path) -> Callable[[Tensor], Floats]:
    """Features of an ONNX graph."""
    from basicsr.recognizers.runtime_net import open_session

    session = open_session(path)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Floats:
        return np.asarray(session.run(None, {name: images.float().cpu().numpy()})[0], np.float64)

    return run
