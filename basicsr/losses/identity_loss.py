"""Identity loss: how far the restored face is from being recognised as the person of the ground truth.

ArcFace cosine (Deng et al. 2019) of a frozen recogniser, as face restoration uses it: 1 - cos(E(restored), E(gt)).
The recogniser may be shown a jittered view, so that the network cannot fit the recogniser's pixel grid in place of the
face.

Shapes: B samples; S side of the face.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.errors import OptionError
from basicsr.utils.registry import LOSS_REGISTRY
from basicsr.utils.seed import rng_for

JITTER_STREAM = 1013  # key of the random numbers of the views
# Shares of the side. With two MobileFaceNets on 63 photos of 5 people the cosine of a photo to its own view, moved and
# scaled to both limits, is .92 on average and never below .83; to other photos of the same person it is .71 and .73.
MAX_SHIFT = 0.02  # the crop to the recogniser's template is off by about as much: 1.8 px of 112 on average
MAX_MARGIN = 0.025  # added to each border, or cut from it: a face seen smaller or larger by 5 %


class FaceView(NamedTuple):
    """The square of a face that is shown instead of the whole, in its pixels; it may reach beyond the picture."""

    left: int
    top: int
    side: int
    flip: bool  # mirrored, left to right


def draw_view(rng: np.random.Generator, size: int) -> FaceView:
    """Mirrored or not, moved by up to MAX_SHIFT, with up to MAX_MARGIN more or less around it; shares of `size`."""
    max_shift, max_margin = round(MAX_SHIFT * size), round(MAX_MARGIN * size)
    flip = bool(rng.random() < 0.5)
    shift_x, shift_y = rng.integers(-max_shift, max_shift, 2, endpoint=True).tolist()
    margin = int(rng.integers(-max_margin, max_margin, endpoint=True))
    return FaceView(shift_x - margin, shift_y - margin, size + 2 * margin, flip)


def look_at(images: Tensor, view: FaceView) -> Tensor:
    """(B, C, S, S) -> (B, C, side, side), the pixels of the view as they are: only the recogniser resamples.

    It crops by fractions of the side, whatever that is, so a larger square is a smaller face. Beyond the picture lies 0
    (mid-gray); the crop to an ArcFace template ends well inside.
    """
    right, bottom = view.left + view.side, view.top + view.side
    height, width = images.shape[-2:]
    seen = F.pad(images, (-view.left, right - width, -view.top, bottom - height))  # negative: cut off
    return seen.flip(3) if view.flip else seen


@LOSS_REGISTRY.register()
class IdentityLoss(nn.Module):
    """Mean of 1 - cos, stopped where the person is already recognised.

    Args:
        network_identity: frozen recogniser, faces (B, 3, S, S) in [-1, 1] -> tuple with `embedding` (B, E), unit.
        loss_weight: factor on the loss.
        margin: samples with cos >= margin give no gradient (their value stays 1 - margin); None: all do.
        every: the loss is due at every n-th iteration, since decoding a picture for it is the cost.
        start_iter: and only after this iteration: before the codes have settled, their pictures say little of a person.
        batch_part: share of the batch that is decoded for it, in (0, 1].
        jitter: show the recogniser a view of both faces that is mirrored, moved and scaled at random, another in every
            iteration and one for all samples and ranks.
        jitter_seed: of these draws, which depend on it and on the iteration alone.
    Raises:
        OptionError: an argument is out of its range.
    """

    def __init__(
        self,
        network_identity: nn.Module,
        loss_weight: float = 0.1,
        margin: float | None = None,
        every: int = 1,
        batch_part: float = 1.0,
        jitter: bool = False,
        jitter_seed: int = 0,
        start_iter: int = 0,
    ) -> None:
        super().__init__()
        margin_fits = margin is None or -1 < margin <= 1
        if every < 1 or not 0 < batch_part <= 1 or not margin_fits or min(jitter_seed, start_iter) < 0:
            raise OptionError(
                f"IdentityLoss: every={every}, batch_part={batch_part}, margin={margin}, jitter_seed={jitter_seed}, "
                f"start_iter={start_iter}; expected every >= 1, 0 < batch_part <= 1, -1 < margin <= 1 (or ~), "
                "jitter_seed >= 0 and start_iter >= 0."
            )
        self.network_identity = network_identity
        self.loss_weight = loss_weight
        self.margin = margin
        self.every = every
        self.batch_part = batch_part
        self.jitter = jitter
        self.jitter_seed = jitter_seed
        self.start_iter = start_iter

    def is_due(self, current_iter: int) -> bool:
        """Whether this iteration computes the loss."""
        return current_iter > self.start_iter and current_iter % self.every == 0

    def num_samples(self, batch_size: int) -> int:
        """How many samples of a batch are decoded for the loss, at least one."""
        return max(1, math.ceil(self.batch_part * batch_size))

    def forward(self, restored: Tensor, gt: Tensor, current_iter: int) -> Tensor:
        """Weighted scalar; `gt` gets no gradient.

        Args:
            restored, gt: RGB [-1, 1] (B, 3, S, S), the same samples.
            current_iter: of the training, for the jitter.
        """
        if self.jitter:
            view = draw_view(rng_for(JITTER_STREAM, self.jitter_seed, current_iter), restored.shape[-1])
            restored, gt = look_at(restored, view), look_at(gt, view)
        with torch.no_grad():
            target = self.network_identity(gt).embedding
        cosine = (self.network_identity(restored).embedding * target).sum(1)  # (B, E) -> (B,)
        if self.margin is not None:
            cosine = torch.where(cosine < self.margin, cosine, cosine.new_tensor(self.margin))
        return self.loss_weight * (1 - cosine).mean()
