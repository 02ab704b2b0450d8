import pytest
import torch
from torch import Tensor

from basicsr.archs.blocks import (
    AttnBlock,
    Downsample,
    Normalize,
    ResBlock,
    Upsample,
    adaptive_instance_norm,
    num_groups,
)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [64, 128, 256, 512, 1024])
def test_every_released_width_is_normalised_in_32_groups(channels):
    assert num_groups(channels) == 32


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (6, 1), (8, 2), (14, 2), (16, 4), (32, 8), (48, 12)])
def test_narrow_toys_get_groups_of_at_least_four_channels_that_divide_the_width(channels, groups):
    assert num_groups(channels) == groups
    assert channels % groups == 0


def test_normalisation_uses_the_released_eps():
    x = torch.full((1, 4, 2, 2), 1e-3)
    x[..., 0] = -1e-3
    # variance 1e-6 in the one group, plus eps 1e-6: every value becomes +-1 / sqrt(2)
    torch.testing.assert_close(Normalize(4)(x).abs(), torch.full((1, 4, 2, 2), 0.5**0.5))


def test_resblock_adds_the_raw_input_through_conv_out_only_where_the_width_changes():
    x = images(2, 8, 5, 5)
    same, wider = ResBlock(8, 8), ResBlock(8, 16)
    for net in (same, wider):
        for parameter in net.conv2.parameters():
            torch.nn.init.zeros_(parameter)
    assert torch.equal(same(x), x)
    assert wider.conv_out is not None
    assert torch.equal(wider(x), wider.conv_out(x))


def test_resblock_leaves_its_input_untouched_and_passes_gradients():
    x = images(1, 8, 4, 4).requires_grad_()
    before = x.detach().clone()
    ResBlock(8, 8)(x).square().sum().backward()
    assert torch.equal(x, before)
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_attention_equals_a_loop_over_positions():
    x, net = images(1, 8, 3, 3), AttnBlock(8).double()
    x = x.double()
    h = net.norm(x)
    q, k, v = (conv(h).flatten(2)[0] for conv in (net.q, net.k, net.v))  # (C, HW)
    mixed = torch.zeros_like(v)
    for i in range(9):
        scores = torch.stack([q[:, i] @ k[:, j] / 8**0.5 for j in range(9)])
        mixed[:, i] = v @ (scores.exp() / scores.exp().sum())
    torch.testing.assert_close(net(x), x + net.proj_out(mixed.view(1, 8, 3, 3)))


def test_downsampling_pads_with_zeros_on_the_right_and_at_the_bottom_only():
    net = Downsample(1)
    for parameter in net.conv.parameters():
        torch.nn.init.zeros_(parameter)
    x = images(1, 1, 4, 4)
    net.conv.weight.data[0, 0, 0, 0] = 1.0  # looks at the window's first pixel: no padding on the left or at the top
    assert torch.equal(net(x), x[:, :, ::2, ::2])
    net.conv.weight.data.zero_()[0, 0, 2, 2] = 1.0  # looks at the window's last pixel: padding only there
    expected = torch.zeros(1, 1, 2, 2)
    expected[0, 0, 0, 0] = x[0, 0, 2, 2]
    assert torch.equal(net(x), expected)


def test_upsampling_repeats_every_pixel_before_the_convolution():
    net, x = Upsample(2), images(1, 2, 3, 3)
    assert torch.equal(net(x), net.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3)))


def test_adain_gives_content_the_mean_and_standard_deviation_of_style():
    content, style = images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1) * 5 + 2
    out = adaptive_instance_norm(content, style)
    torch.testing.assert_close(out.mean((2, 3)), style.mean((2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.std((2, 3)), style.std((2, 3)), atol=1e-3, rtol=1e-3)  # eps inside the root
