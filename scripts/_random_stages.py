"""The three stages with random weights and random pictures, for what measures or compares a training step.

Time, memory and rounding do not depend on what the networks know. No perceptual loss, whose backbone is not shipped:
with it a step of stages I and III is longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import _root  # noqa: F401  a foreign basicsr is named and refused
import torch
from torch import nn

from basicsr.archs.discriminator_arch import VQGANDiscriminator
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.config.optim_options import AdamOptions
from basicsr.config.options import TrainOptions
from basicsr.engine.gradient_steps import GradientSteps
from basicsr.losses.code_loss import CodeCrossEntropyLoss, CodeFeatureLoss
from basicsr.losses.gan_loss import GANLoss
from basicsr.losses.identity_loss import IdentityLoss
from basicsr.losses.pixel_loss import L1Loss
from basicsr.models.base_model import BaseModel, Batch, Networks
from basicsr.models.id_codeformer_joint_model import IDCodeFormerJointModel
from basicsr.models.id_codeformer_model import IDCodeFormerModel
from basicsr.models.schedule import Phase
from basicsr.models.speed import set_device_switches, speed_up
from basicsr.models.vqgan_model import VQGANModel
from basicsr.recognizers import Recognizer, RecognizerSpec
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.errors import OptionError
from basicsr.utils.weights import load_into

CH_MULT = (1, 2, 2, 4, 4, 8)  # from the smallest feature width kept to the latent grid of 16
FULL: dict[str, Any] = {
    "vqgan": {"nf": 64, "codebook_size": 1024, "emb_dim": 256},
    "transformer": {"dim_embd": 512, "n_head": 8, "n_layers": 9},
    "recognizer": {"layers": (3, 4, 14, 3), "width": 64, "embed_dim": 512},  # arcface_torch's r50
    "ndf": 64,
}
TOY: dict[str, Any] = {
    "vqgan": {"nf": 16, "codebook_size": 32, "emb_dim": 16},
    "transformer": {"dim_embd": 32, "n_head": 2, "n_layers": 2},
    "recognizer": {"layers": (1, 1, 1, 1), "width": 8, "embed_dim": 32},
    "ndf": 8,
}
NUM_REFS = 2  # the shipped options draw 1 to 4, and 30 % of the samples go without


def build_steps(stage: int, size: int, device: torch.device, toy: bool = False, **train: Any) -> GradientSteps:
    """Stage 1, 2 or 3 at `size` px, ready for `iterate`; the same weights in every call.

    Args:
        toy: narrow networks, for a dry run.
        train: options of `train:`, such as precision.
    Raises:
        OptionError: a size that no network here has. Below 512 px the largest levels and their CFT are left out.
    """
    adam = AdamOptions(lr=5e-5, betas=(0.9, 0.99))
    options = TrainOptions(**{"total_iter": 1_000, "optim_g": adam, "optim_d": adam, "ema_decay": 0.997, **train})
    set_device_switches(options)
    torch.manual_seed(0)
    networks, losses = _parts(stage, size, TOY if toy else FULL)
    speed_up(networks, options)
    return GradientSteps(_stage(stage, networks, losses, device), options)


def _parts(stage: int, size: int, sizes: Mapping[str, Any]) -> tuple[Networks, dict[str, nn.Module]]:
    """Networks and losses of a stage."""
    pictures: dict[str, nn.Module] = {"pixel": L1Loss(), "gan": GANLoss()}
    if stage == 1:
        return random_networks(1, size, sizes), pictures
    recognizer = random_recognizer(**sizes["recognizer"])
    networks = random_networks(stage, size, sizes, recognizer)
    losses: dict[str, nn.Module] = {
        "code": CodeCrossEntropyLoss(),
        "feat": CodeFeatureLoss(),
        "identity": IdentityLoss(recognizer, every=4, batch_part=0.5),
    }
    return networks, losses if stage == 2 else losses | pictures


def random_networks(stage: int, size: int, sizes: Mapping[str, Any], recognizer: Recognizer | None = None) -> Networks:
    """Networks of a stage; with the `recognizer`, which stages 2 and 3 need.

    Args:
        sizes: widths and depths, as FULL.
    Raises:
        OptionError: see build_steps.
    """
    num_levels = (size // 16).bit_length()
    if size != 16 * 2 ** (num_levels - 1) or not 2 <= num_levels <= len(CH_MULT):
        raise OptionError(f"--size: {size}, expected one of 32, 64, 128, 256, 512")
    common = {"img_size": size, "ch_mult": CH_MULT[-num_levels:], **sizes["vqgan"]}
    vqgan = VQAutoEncoder(**common)
    net_d = None if stage == 2 else VQGANDiscriminator(ndf=sizes["ndf"], n_layers=min(4, num_levels - 1))
    if stage == 1 or recognizer is None:
        return Networks(vqgan, net_d)
    net_g = IDCodeFormer(
        connect_list=[str(width) for width in (32, 64, 128, 256) if width <= size],
        id_embed_dim=recognizer.spec.embed_dim,
        id_map_shape=recognizer.spec.map_shape,
        **common,
        **sizes["transformer"],
    )
    load_into(net_g, vqgan.state_dict(), strict=False)
    return Networks(net_g, net_d, vqgan, recognizer)


def random_recognizer(layers: tuple[int, int, int, int], width: int, embed_dim: int) -> Recognizer:
    """Recogniser in the shape of arcface_torch's, untrained: the time does not depend on the weights."""
    net = IResNet(layers, width=width, embed_dim=embed_dim)
    middle = (127.5, 127.5, 127.5)
    return Recognizer(
        net,
        RecognizerSpec("iresnet", (112, 112), "rgb", middle, middle, (0.0, 0.0), embed_dim, net.map_shape, None, ""),
    )


def _stage(stage: int, networks: Networks, losses: dict[str, nn.Module], device: torch.device) -> BaseModel:
    if stage == 1:
        return VQGANModel(networks, losses, device, net_d_start_iter=0)
    if stage == 2:
        return IDCodeFormerModel(networks, losses, device)
    return IDCodeFormerJointModel(
        networks, losses, device, 1_000, schedule=[Phase(w=1.0)], net_d_start_iter=0, disc_weight=0.1
    )


def random_batch(size: int, num_images: int, device: torch.device, seed: int = 0) -> Batch:
    """Smooth random pictures, LQ a blurred GT; every sample uses its references."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_images * (NUM_REFS + 1), 3, 8, 8, generator=rng) * 2 - 1
    pictures = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)
    gt, refs = pictures[:num_images], pictures[num_images:].unflatten(0, (num_images, NUM_REFS))
    batch: Batch = {
        "gt": gt,
        "lq": nn.functional.avg_pool2d(gt, 5, 1, 2),
        "refs": refs,
        "ref_mask": torch.ones(num_images, NUM_REFS, dtype=torch.bool),
        "identity_draw": torch.full((num_images,), 0.9),
    }
    on_device = {key: value.to(device) for key, value in batch.items()}
    return {**on_device, "gt_path": [f"random {number}" for number in range(num_images)]}
