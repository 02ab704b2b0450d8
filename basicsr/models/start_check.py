"""What stages II and III look at before their first step: is the frozen VQGAN one whose codes are worth learning?

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.utils.dist_util import all_reduce_mean

logger = logging.getLogger(__name__)

MIN_GAIN = 3.0  # dB above a face of one colour: half its squared error


@torch.no_grad()
def check_vqgan(vqgan: VQAutoEncoder, gt: Tensor) -> None:
    """Log how well it reconstructs gt (B, 3, H, W); warn where that is hardly better than one colour for each face."""
    restored = vqgan(gt).restored.clamp(-1, 1)
    own, flat = (mean_psnr(image, gt) for image in (restored, gt.mean((2, 3), keepdim=True)))
    message = "the frozen VQGAN reconstructs the first batch with %.1f dB; one colour for each face reaches %.1f dB"
    logger.info(message, own, flat)
    if own < flat + MIN_GAIN:
        logger.warning(
            "that is low: the codes of such a VQGAN teach little. Is path.pretrain_network_vqgan a finished stage I, "
            "trained on faces of this framing and size?"
        )


def mean_psnr(image: Tensor, gt: Tensor) -> float:
    """Mean PSNR in dB over the samples of all ranks; gt (B, 3, H, W) in [-1, 1], `image` may broadcast to it."""
    squared = (image - gt).square().mean((1, 2, 3)).clamp_min(1e-10)  # (B,); 106 dB at most
    return all_reduce_mean((10 * (4 / squared).log10()).mean()).item()
