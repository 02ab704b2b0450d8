import json
from pathlib import Path

import torch

from basicsr.archs.discriminator_arch import VQGANDiscriminator
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import save_atomic

RELEASED = json.loads((Path(__file__).parent / "data" / "upstream_keys.json").read_text())["discriminator"]


def test_state_dict_has_the_released_keys_shapes_and_order():
    with torch.device("meta"):
        net = VQGANDiscriminator()
    assert [[key, list(value.shape)] for key, value in net.state_dict().items()] == RELEASED["keys"]
    assert sum(p.numel() for p in net.parameters()) == RELEASED["num_parameters"] == 6_960_961


def test_512_px_give_30_by_30_patches_of_one_logit():
    assert VQGANDiscriminator(ndf=1)(torch.zeros(2, 3, 512, 512)).shape == (2, 1, 30, 30)


def test_widths_double_up_to_eight_times_the_first():
    net = VQGANDiscriminator(ndf=4, n_layers=5)
    widths = [layer.out_channels for layer in net.main if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [4, 8, 16, 32, 32, 32, 1]


def test_weights_are_read_from_params_d_before_params(tmp_path):
    torch.manual_seed(0)
    first, second = VQGANDiscriminator(ndf=4, n_layers=2), VQGANDiscriminator(ndf=4, n_layers=2)
    save_atomic({"params": first.state_dict(), "params_d": second.state_dict()}, tmp_path / "net_d.pth")
    loaded = VQGANDiscriminator(ndf=4, n_layers=2, model_path=str(tmp_path / "net_d.pth"))
    assert torch.equal(loaded.get_parameter("main.0.weight"), second.get_parameter("main.0.weight"))


def test_discriminator_is_registered_under_its_released_name():
    assert ARCH_REGISTRY.get("VQGANDiscriminator") is VQGANDiscriminator


def test_with_group_norm_each_sample_is_judged_by_itself():
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 32)
    by_group, by_batch = VQGANDiscriminator(ndf=8, n_layers=2, norm="group"), VQGANDiscriminator(ndf=8, n_layers=2)
    torch.testing.assert_close(by_group(images)[:1], by_group(images[:1]))
    assert not torch.allclose(by_batch(images)[:1], by_batch(images[:1]), atol=1e-3)
    assert not any("running" in key for key in by_group.state_dict())
