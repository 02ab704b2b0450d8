"""Blur kernels: Gaussian, its generalisations, and motion. Equations: Liu et al. 2020 for the generalised and plateau
families, Azzalini and Dalla Valle 1996 for the skewed one; all are divided by their sum.

v = (x, y) on the centred grid; Sigma = R diag(sigma_x^2, sigma_y^2) R^T with the rotation R; q = v^T Sigma^-1 v.
Shapes: K kernel size, odd; R rank of the kernel (1 when it is separable).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Family = Literal["gaussian", "generalized", "plateau", "skew"]
FloatImage = NDArray[Any]  # float32; the stubs of NumPy and OpenCV disagree on the precision of their results

# Bound on the change of a pixel in [0, 1] when a kernel is cut to rank R: a fortieth of a gray level. On photos ~1e-6.
RANK_TOLERANCE = 1e-4
STEPS_PER_PIXEL = 8  # at which a motion is sampled


@dataclass(frozen=True)
class BlurKernel:
    """What is common to all kinds: a size, weights with sum 1, and their cheap form."""

    size: int  # K, px

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"{self}: expected an odd size")

    def parameters(self) -> dict[str, str]:
        """Kind and numbers, for a table."""
        raise NotImplementedError(f"{type(self).__name__} lacks its names")

    def line(self) -> NDArray[np.float64] | None:
        """(K,) with `outer(line, line)` equal to `weights()`, where there is such a line."""
        return None

    def weights(self) -> NDArray[np.float64]:
        """(K, K), rows are y, sum 1."""
        density = self._density()
        return np.asarray(density / density.sum())

    def _density(self) -> NDArray[np.float64]:
        """(K, K), of any sum."""
        raise NotImplementedError(f"{type(self).__name__} lacks its equation")

    def factors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Columns and rows, both (R, K), whose outer products add up to `weights()`, up to RANK_TOLERANCE."""
        line = self.line()
        if line is not None:
            return line[None], line[None]
        # Cross approximation with full pivoting (Bebendorf 2000): about the rank of an SVD, and no BLAS, whose own
        # threads wait for each other when every worker of a loader has some.
        rest = self.weights()
        columns, rows = [], []
        while np.abs(rest).sum() > RANK_TOLERANCE:  # the change of a pixel in [0, 1] is at most this
            y, x = np.unravel_index(np.abs(rest).argmax(), rest.shape)
            columns.append(rest[:, x].copy())
            rows.append(rest[y] / rest[y, x])
            rest -= np.outer(columns[-1], rows[-1])
        return np.array(columns), np.array(rows)

    def _axis(self) -> NDArray[np.float64]:
        return np.arange(self.size, dtype=np.float64) - self.size // 2


@dataclass(frozen=True)
class GaussianKernel(BlurKernel):
    """The density of a normal distribution, or one of its relatives.

    gaussian: exp(-q / 2). generalized: exp(-q^beta / 2); a beta below 1 gives a peak with wide tails, one above a box.
    plateau: 1 / (1 + q^beta), flat in the middle. skew: exp(-q / 2) Phi(skew . z), z = the coordinates along R's axes
    in sigmas, moved so that its mean is the middle.
    """

    sigma_x: float  # px, before the rotation
    sigma_y: float
    angle: float = 0.0  # radians, of R
    family: Family = "gaussian"
    beta: float = 1.0
    skew: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0 or min(self.sigma_x, self.sigma_y, self.beta) <= 0:
            raise ValueError(f"{self}: expected an odd size, and sigmas and beta above 0")

    @property
    def is_isotropic(self) -> bool:
        return self.sigma_x == self.sigma_y

    def parameters(self) -> dict[str, str]:
        """See BlurKernel."""
        kind = "iso" if self.is_isotropic else "aniso"
        if self.family != "gaussian":
            kind = "skew" if self.family == "skew" else f"{self.family}_{kind}"
        shown = {"kernel": kind, "kernel_size": str(self.size), "sigma_x": f"{self.sigma_x:.2f}"}
        if not self.is_isotropic:
            shown |= {"sigma_y": f"{self.sigma_y:.2f}", "angle": f"{np.rad2deg(self.angle):.0f}"}
        if self.family == "skew":
            shown["skew"] = " ".join(f"{value:.2f}" for value in self.skew)
        elif self.family != "gaussian":
            shown["beta"] = f"{self.beta:.2f}"
        return shown

    def line(self) -> NDArray[np.float64] | None:
        """See BlurKernel."""
        if not self.is_isotropic or self.family != "gaussian":
            return None
        line = np.exp(-0.5 * (self._axis() / self.sigma_x) ** 2)
        return np.asarray(line / line.sum())

    def _density(self) -> NDArray[np.float64]:
        axis = self._axis()
        x, y = np.meshgrid(axis, axis)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along, across = (cos * x + sin * y) / self.sigma_x, (cos * y - sin * x) / self.sigma_y
        if self.family == "skew":
            slant = np.asarray(self.skew)
            mean = np.sqrt(2 / np.pi) * slant / np.sqrt(1 + slant @ slant)
            along, across = along + mean[0], across + mean[1]
            return np.asarray(np.exp(-0.5 * (along**2 + across**2)) * ndtr(slant[0] * along + slant[1] * across))
        q = along**2 + across**2
        if self.family == "plateau":
            return np.asarray(1 / (1 + q**self.beta))
        return np.asarray(np.exp(-0.5 * (q if self.family == "gaussian" else q**self.beta)))


@dataclass(frozen=True)
class MotionKernel(BlurKernel):
    """A point that moves evenly along a straight line while the shutter is open, shared out bilinearly."""

    length: float  # px, of the line; what the kernel's size cannot hold is cut off at both ends
    angle: float = 0.0  # radians; from x towards y, which points down

    def parameters(self) -> dict[str, str]:
        """See BlurKernel."""
        angle = f"{np.rad2deg(self.angle):.0f}"
        return {"kernel": "motion", "kernel_size": str(self.size), "length": f"{self.length:.2f}", "angle": angle}

    def _density(self) -> NDArray[np.float64]:
        length = min(self.length, self.size - 1)
        count = max(1, int(STEPS_PER_PIXEL * length))
        steps = length * ((np.arange(count) + 0.5) / count - 0.5)
        x, y = steps * np.cos(self.angle) + self.size // 2, steps * np.sin(self.angle) + self.size // 2
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        part_x, part_y = x - left, y - top
        density = np.zeros((self.size + 1, self.size + 1))  # the neighbour of the last pixel has part 0
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = np.abs(1 - down - part_y) * np.abs(1 - right - part_x)
            np.add.at(density, (top + down, left + right), share)
        return density[:-1, :-1]
