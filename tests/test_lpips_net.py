"""LPIPS from local files: parity with the package, frozen, safe gradients, and a clear word when a file is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from basicsr.utils.errors import WeightsError
from basicsr.utils.lpips_net import BACKBONE_FILES, BackboneMissingError, LPIPSNet, find_backbone, random_lpips


def write_backbone(model: Any, path: Path) -> Path:
    """Save the package's random backbone under torchvision's key names."""
    state = {f"features.{key.split('.', 1)[1]}": value for key, value in model.net.state_dict().items()}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def package_model() -> Any:
    torch.manual_seed(0)
    with torch.random.fork_rng():
        return random_lpips("squeeze").eval()


@pytest.fixture(scope="module")
def backbone(package_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(package_model, tmp_path_factory.mktemp("lpips") / "squeeze.pth")


@pytest.fixture(scope="module")
def net(backbone: Path) -> LPIPSNet:
    return LPIPSNet("squeeze", backbone)


def test_distance_equals_the_package_s_own_forward(net: LPIPSNet, package_model: Any) -> None:
    x, y = (torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (1, 2))
    # 1e-6: the same float32 sums, in another order over the layers
    assert torch.allclose(net(x, y), package_model(x, y).flatten(), rtol=1e-5, atol=1e-6)


def test_distance_of_equal_images_is_zero_and_its_gradient_reaches_the_image(net: LPIPSNet) -> None:
    x = (torch.rand(1, 3, 48, 48) * 2 - 1).requires_grad_()
    assert net(x, x.detach()).item() == 0.0
    net(x, torch.zeros_like(x)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_gradient_stays_finite_where_all_features_of_a_pixel_are_zero(backbone: Path) -> None:
    net = LPIPSNet("squeeze", backbone)
    first: Any = next(module for module in net.net.modules() if isinstance(module, torch.nn.Conv2d))
    first.weight.zero_()
    first.bias.fill_(-1.0)  # every ReLU of the first layer is off
    x = torch.rand(1, 3, 48, 48, requires_grad=True)
    net(x, torch.zeros(1, 3, 48, 48)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_net_is_frozen_and_stays_in_eval_after_train(net: LPIPSNet) -> None:
    assert not any(p.requires_grad for p in net.parameters())
    assert not any(module.training for module in net.train().modules())


def test_building_the_net_draws_nothing_from_the_global_generator(backbone: Path) -> None:
    before = torch.get_rng_state()
    LPIPSNet("squeeze", backbone)
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_backbone_names_the_file_and_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("basicsr.utils.lpips_net.BACKBONE_FOLDER", tmp_path / "weights" / "lpips")
    with pytest.raises(BackboneMissingError, match=rf"LPIPS-alex: needs {BACKBONE_FILES['alex']} in .*weights/lpips"):
        LPIPSNet("alex")
    with pytest.raises(BackboneMissingError, match=r"nowhere\.pth"):
        LPIPSNet("vgg", tmp_path / "nowhere.pth")


def test_known_file_name_is_found_in_torch_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("basicsr.utils.lpips_net.BACKBONE_FOLDER", tmp_path / "weights")
    file = tmp_path / "checkpoints" / BACKBONE_FILES["squeeze"]
    file.parent.mkdir()
    file.touch()
    assert find_backbone("squeeze") == file


def test_backbone_of_another_network_is_refused_with_the_layer(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alex.pth")
    with pytest.raises(WeightsError, match=r"not the backbone of LPIPS-squeeze: features\.0\.weight"):
        LPIPSNet("squeeze", tmp_path / "alex.pth")


def test_real_squeezenet_reproduces_the_documented_figure_of_torchmetrics(test_data: Path) -> None:
    net = LPIPSNet("squeeze", test_data / "lpips" / "squeezenet1_1_features.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)  # the seed of the example in torchmetrics' functional LPIPS, which prints 0.1008
        x, y = torch.rand(10, 3, 100, 100) * 2 - 1, torch.rand(10, 3, 100, 100) * 2 - 1
    assert net(x, y).mean().item() == pytest.approx(0.1008, abs=1e-4)  # the file is from float16
