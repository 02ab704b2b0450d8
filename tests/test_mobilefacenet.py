"""MobileFaceNet: sizes of the paper, and of small ones."""

import pytest
import torch

from basicsr.recognizers.mobilefacenet import Bottleneck, MobileFaceNet


def test_default_net_has_the_size_of_the_paper():
    with torch.device("meta"):
        net = MobileFaceNet()
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == pytest.approx(0.99e6, rel=0.03)  # the paper's .99 million
    assert net.map_shape == (512, 7, 7)


@pytest.mark.parametrize("size", [(112, 96), (48, 48), (56, 56)])
def test_map_and_embedding_have_the_sizes_that_the_arguments_promise(size: tuple[int, int]):
    net = MobileFaceNet((1, 1, 1), 0.25, size, 16).eval()
    embedding, feature_map = net(torch.randn(2, 3, *size))
    assert embedding.shape == (2, 16)
    assert feature_map.shape[1:] == net.map_shape
    assert net.map_shape[0] == 128


def test_embedding_weighs_places_of_the_map_and_not_only_their_mean():
    net = MobileFaceNet((0, 0, 0), 0.25, (32, 32), 8).eval()
    _, feature_map = net(torch.randn(1, 3, 32, 32))
    swapped = feature_map.flip(3)
    first, second = (net.embed(net.global_depthwise(m)) for m in (feature_map, swapped))
    assert (first - second).norm() > 0.1 * first.norm()


def test_bottleneck_keeps_its_input_only_where_shapes_agree():
    assert Bottleneck(8, 8, 1, 2).has_shortcut
    assert not Bottleneck(8, 8, 2, 2).has_shortcut
    assert not Bottleneck(8, 16, 1, 2).has_shortcut
