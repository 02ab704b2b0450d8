"""LPIPS as a loss: a weighted mean of the net's distances, with or without upstream's double normalisation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from basicsr.losses.perceptual_loss import LPIPSLoss
from basicsr.utils.errors import UserError
from basicsr.utils.lpips_net import random_lpips


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("lpips") / "squeeze.pth"
    state = random_lpips("squeeze").net.state_dict()
    torch.save({f"features.{key.split('.', 1)[1]}": value for key, value in state.items()}, path)
    return str(path)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pred = (torch.rand(2, 3, 40, 40, generator=generator) * 2 - 1).requires_grad_()
    return pred, torch.rand(2, 3, 40, 40, generator=generator) * 2 - 1


def test_loss_is_the_weighted_mean_of_the_distances(backbone: str, images) -> None:
    loss = LPIPSLoss(0.5, net="squeeze", backbone=backbone)
    assert loss(*images).item() == pytest.approx(0.5 * loss.lpips(*images).mean().item(), rel=1e-6)


def test_upstream_scaling_feeds_imagenet_normalised_images_to_lpips(backbone: str, images) -> None:
    loss = LPIPSLoss(net="squeeze", backbone=backbone, upstream_scaling=True)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    scaled = [((image + 1) / 2 - mean) / std for image in images]
    assert loss(*images).item() == pytest.approx(loss.lpips(*scaled).mean().item(), rel=1e-5)


def test_gradient_reaches_the_restored_image_and_no_weight(backbone: str, images) -> None:
    loss = LPIPSLoss(net="squeeze", backbone=backbone)
    loss(*images).backward()
    assert images[0].grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())


def test_missing_backbone_is_one_line_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"LPIPS-vgg: needs .*absent\.pth"):
        LPIPSLoss(backbone=str(tmp_path / "absent.pth"))
