"""The gray ResNet-18: published key names, sizes from the file, parity with a second computation."""

import reference_recognizers as reference
import torch

from basicsr.recognizers.gray_resnet import GrayResNet, gray_resnet_for, is_gray_resnet


def tiny_net() -> GrayResNet:
    net = GrayResNet((1, 2, 1, 1), 4, (32, 32), 8)
    reference.randomize(net)
    return net


def test_network_equals_the_computation_from_its_key_names():
    net = tiny_net()
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    expected = reference.gray_resnet(net.state_dict(), images)
    assert expected.std() > 0.1
    torch.testing.assert_close(net.double()(images.double())[0], expected, atol=1e-8, rtol=1e-8)


def test_default_net_has_the_keys_and_size_of_the_published_file():
    with torch.device("meta"):
        net = GrayResNet()
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert len(shapes) == 181
    assert sum(parameter.numel() for parameter in net.parameters()) == 25_627_081
    assert shapes["conv1.weight"] == (64, 1, 3, 3)
    assert shapes["prelu.weight"] == shapes["layer3.1.prelu.weight"] == (1,)
    assert shapes["layer2.0.conv1.weight"] == (64, 64, 3, 3)
    assert shapes["layer2.0.bn1.weight"] == (64,)
    assert shapes["layer2.0.conv2.weight"] == (128, 64, 3, 3)
    assert shapes["layer4.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert shapes["layer4.0.downsample.1.running_var"] == (512,)
    assert shapes["bn4.weight"] == (512,)
    assert shapes["fc5.weight"] == (512, 32768)
    assert not any(name.startswith("layer1.0.downsample") for name in shapes)
    assert net.map_shape == (512, 8, 8)


def test_sizes_follow_from_the_state_dict():
    net = tiny_net()
    again = gray_resnet_for(net.state_dict())
    assert is_gray_resnet(net.state_dict())
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in net.state_dict().items()
    }
    assert (again.input_size, again.map_shape, again.embed_dim) == ((32, 32), (32, 2, 2), 8)


def test_gradient_to_the_picture_is_the_finite_difference():
    net = tiny_net().double().requires_grad_(False)
    images = torch.rand(1, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: net(x)[0], images, fast_mode=True)
