"""GroupNorm with the channels innermost: the plain formula, its gradients, its layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs.blocks import Normalize, ResBlock
from basicsr.archs.group_norm import ChannelsLastGroupNorm, combine, group_moments, is_channels_last


def features(batch: int, channels: int, size: int) -> Tensor:
    """Channels-last features far from zero, where sums in float32 lose digits."""
    return (torch.randn(batch, channels, size, size) * 3 + 50).contiguous(memory_format=torch.channels_last)


def test_moments_of_a_large_feature_are_as_exact_as_float32_inputs_allow() -> None:
    x = features(1, 64, 256)
    groups = x.double().reshape(1, 32, -1)
    mean, variance = group_moments(x, 32)
    torch.testing.assert_close(mean, groups.mean(2), rtol=1e-7, atol=0)
    torch.testing.assert_close(variance, groups.var(2, correction=0), rtol=1e-5, atol=0)


def test_a_large_feature_is_normalised_better_than_by_torch() -> None:
    x, norm = features(2, 64, 128), Normalize(64)
    torch.nn.init.normal_(norm.weight)
    exact = F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double(), 1e-6)
    torchs = F.group_norm(x, 32, norm.weight, norm.bias, 1e-6)
    error = (norm(x) - exact).abs().max()
    assert error < 2e-5  # float32: values of 50 carry 4e-6
    assert error < (torchs - exact).abs().max()


def test_gradients_are_those_of_finite_differences() -> None:
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    apply = ChannelsLastGroupNorm.apply
    assert torch.autograd.gradcheck(lambda *inputs: apply(*inputs, 4, 1e-6, False), (x, weight, bias))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 2.0**-8)])
@pytest.mark.parametrize("size", [5, 192])  # one strip of the combination, and several with a shorter last one
def test_gradients_of_a_large_feature_are_as_exact_as_its_type_allows(
    dtype: torch.dtype, rounding: float, size: int
) -> None:
    x, gradient = features(2, 64, size).to(dtype), torch.randn(2, 64, size, size + 1)[..., :-1].to(dtype)
    norm = Normalize(64)
    torch.nn.init.normal_(norm.weight)
    inputs = [x.requires_grad_(), norm.weight, norm.bias]
    out = norm(x)
    assert out.grad_fn is not None
    assert out.grad_fn.name() == "ChannelsLastGroupNormBackward"
    found = torch.autograd.grad(out, inputs, gradient)
    doubles = [value.detach().double().requires_grad_() for value in inputs]
    exact = torch.autograd.grad(F.group_norm(doubles[0], 32, doubles[1], doubles[2], 1e-6), doubles, gradient.double())
    # that of the weight contains the saved mean of about 50; that of the bias contains none
    for_weight = 4e-3 if dtype == torch.bfloat16 else 1e-5
    for value, wanted, share in zip(found, exact, (rounding, for_weight, 1e-6), strict=True):
        assert value.dtype in (dtype, torch.float32)
        assert (value - wanted).abs().max() <= share * wanted.abs().max()


def test_one_gradient_can_be_kept_for_a_graph_and_a_second_one_is_refused() -> None:
    x, norm = features(1, 64, 4).requires_grad_(), Normalize(64)
    (gradient,) = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)
    assert gradient.isfinite().all()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("height", [8, 64])
def test_the_formula_that_a_compiler_gets_is_that_of_the_strips(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient, x = features(2, 64, height).bfloat16(), features(2, 64, height).bfloat16()
    a, b, c = torch.randn(3, 2, 64)
    strips = combine(gradient, x, a, b, c)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(combine(gradient, x, a, b, c), strips, rtol=2**-7, atol=1e-3)


def test_the_layout_is_kept() -> None:
    assert is_channels_last(Normalize(64)(features(2, 64, 8)))


@pytest.mark.parametrize("grad", [False, True])
def test_memory_is_reused_only_where_no_backward_needs_it(grad: bool) -> None:
    x, norm = features(1, 64, 8), Normalize(64)
    before = x.clone(memory_format=torch.preserve_format)
    with torch.set_grad_enabled(grad):
        out = norm(x, reuse=True)
    assert (out.data_ptr() == x.data_ptr()) != grad
    assert torch.equal(x, before) == grad
    torch.testing.assert_close(out, norm(before), rtol=0, atol=0)


def test_a_block_gives_the_same_in_both_layouts_forward_and_backward() -> None:
    block = ResBlock(32, 64)
    plain = torch.randn(2, 32, 16, 16, requires_grad=True)
    last = plain.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    out, out_last = block(plain), block(last)
    torch.testing.assert_close(out_last, out, rtol=1e-5, atol=1e-5)  # other order of sums
    (gradient,) = torch.autograd.grad(out.square().sum(), plain)
    (gradient_last,) = torch.autograd.grad(out_last.square().sum(), last)
    torch.testing.assert_close(gradient_last, gradient, rtol=1e-4, atol=1e-4)
