"""IResNet: arcface_torch's key names, sizes from arguments."""

import pytest
import reference_recognizers as reference
import torch

from basicsr.recognizers.iresnet import IResNet, iresnet_for


def test_default_net_has_the_keys_and_shapes_of_arcface_torch_r50():
    with torch.device("meta"):
        net = IResNet()
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert shapes["prelu.weight"] == (64,)
    assert shapes["layer3.13.bn3.running_mean"] == (256,)
    assert shapes["layer4.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert shapes["layer4.0.downsample.1.bias"] == (512,)
    assert shapes["bn2.weight"] == (512,)
    assert shapes["fc.weight"] == (512, 25088)
    assert shapes["features.running_var"] == (512,)
    blocks = {name.rsplit(".", 2)[0] for name in shapes if name.startswith("layer") and ".conv1." in name}
    assert len(blocks) == 3 + 4 + 14 + 3
    assert {name.split(".")[2] for name in shapes if name.startswith("layer2.0.")} == {
        "bn1", "conv1", "bn2", "prelu", "conv2", "bn3", "downsample",
    }  # fmt: skip
    assert not any(name.startswith("layer2.1.downsample") for name in shapes)


def test_gain_of_the_last_norm_stays_one_as_published():
    net = IResNet((1, 1, 1, 1), 4, (32, 32), 8)
    assert not net.features.weight.requires_grad
    assert (net.features.weight == 1).all()


@pytest.mark.parametrize("size", [(112, 112), (48, 48), (56, 40)])
def test_map_and_embedding_have_the_sizes_that_the_arguments_promise(size: tuple[int, int]):
    net = IResNet((1, 1, 1, 1), 4, size, 8).eval()
    embedding, feature_map = net(torch.randn(2, 3, *size))
    assert embedding.shape == (2, 8)
    assert feature_map.shape[1:] == net.map_shape
    assert net.map_shape[0] == 32


def test_embedding_is_a_linear_function_of_the_map():
    net = IResNet((1, 1, 1, 1), 4, (32, 32), 8).eval()
    embedding, feature_map = net(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(net.features(net.fc(feature_map.flatten(1))), embedding)


def test_network_equals_the_computation_from_its_key_names():
    net = IResNet((1, 2, 1, 1), 4, (32, 32), 8)
    reference.randomize(net)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    expected = reference.iresnet(net.state_dict(), images)
    assert expected.std() > 0.1
    torch.testing.assert_close(net.double()(images.double())[0], expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("depths", [(2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 14, 3), (3, 13, 30, 3)])
def test_published_depths_are_read_off_the_key_names(depths: tuple[int, ...]):
    with torch.device("meta"):
        net = IResNet(depths)
        again = iresnet_for(net.state_dict())
    assert again.arguments == net.arguments
