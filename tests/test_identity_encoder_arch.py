import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs.identity_encoder_arch import (
    IdentityCrossAttention,
    IdentityEncoder,
    IdentityFeatures,
    mean_embedding,
    sinusoidal_position,
)
from basicsr.utils.errors import OptionError


def references(batch: int = 2, num_refs: int = 3, seed: int = 0) -> IdentityFeatures:
    rng = torch.Generator().manual_seed(seed)
    return IdentityFeatures(
        F.normalize(torch.randn(batch, num_refs, 6, generator=rng), dim=-1),
        torch.randn(batch, num_refs, 5, 2, 3, generator=rng),
        torch.ones(batch, num_refs, dtype=torch.bool),
        torch.rand(batch, num_refs, generator=rng) * 0.9 + 0.1,
    )


def take(identity: IdentityFeatures, order: list[int]) -> IdentityFeatures:
    """The references `order`, for every sample."""
    embed, feature_map, mask, quality = (part[:, order] for part in identity[:4])
    return IdentityFeatures(embed, feature_map, mask, quality)


def encoder(num_vec_tokens: int = 2, num_map_tokens: int = 3) -> IdentityEncoder:
    torch.manual_seed(0)
    return IdentityEncoder(6, [5, 2, 3], 8, 2, num_vec_tokens, num_map_tokens)


def attention(use_null_key: bool = True) -> IdentityCrossAttention:
    """As if trained: no zero weights."""
    torch.manual_seed(1)
    net = IdentityCrossAttention(8, 2, use_null_key)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    return net


def attend(identity: IdentityFeatures, use_null_key: bool = True) -> Tensor:
    """What two samples' five image tokens (5, 2, 8) get."""
    tokens = torch.randn(5, identity.mask.shape[0], 8, generator=torch.Generator().manual_seed(2))
    return attention(use_null_key)(tokens, encoder()(identity))


@torch.no_grad()
def test_cross_attention_equals_a_loop_with_a_zero_valued_null_key_and_the_key_bias():
    net: Any = attention()
    tokens = encoder()(references())
    x = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(2))
    expected = torch.zeros(5, 2, 8)
    for b in range(2):
        k, v = net.k(tokens.tokens[b]), net.v(tokens.tokens[b])
        for position in range(5):
            q = net.q(net.norm(x[position, b]))
            mixed = torch.zeros(8)
            for head in (slice(0, 4), slice(4, 8)):
                weights = [math.exp(float(q[head] @ net.null_key[head]) / 2)]
                weights += [
                    math.exp(float(q[head] @ key[head]) / 2 + float(bias))
                    for key, bias in zip(k, tokens.key_bias[b], strict=True)
                ]
                for weight, value in zip(weights[1:], v, strict=True):  # the null key's value is zero
                    mixed[head] += weight / sum(weights) * value[head]
            expected[position, b] = net.proj_out(mixed)
    torch.testing.assert_close(net(x, tokens), expected, atol=1e-5, rtol=1e-4)


def test_cross_attention_adds_nothing_at_the_start():
    net = IdentityCrossAttention(8, 2, True)
    assert not net(torch.randn(5, 2, 8), encoder()(references())).any()


def test_key_bias_is_log_quality_minus_log_of_the_number_of_references():
    identity = references()
    identity.mask[0, 1] = False
    bias = encoder()(identity).key_bias.view(2, 3, 5)
    for b, num_valid in ((0, 2), (1, 3)):
        for r in range(3):
            expected = (
                math.log(float(identity.quality[b, r])) - math.log(num_valid) if identity.mask[b, r] else -math.inf
            )
            assert bias[b, r].tolist() == pytest.approx([expected] * 5)


@torch.no_grad()
def test_the_same_photo_three_times_counts_as_once():
    identity = references(num_refs=1)
    torch.testing.assert_close(attend(take(identity, [0, 0, 0])), attend(identity), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean_embedding(take(identity, [0, 0, 0])), mean_embedding(identity))


@torch.no_grad()
def test_references_have_no_order():
    identity = references()
    torch.testing.assert_close(attend(take(identity, [2, 0, 1])), attend(identity), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean_embedding(take(identity, [2, 0, 1])), mean_embedding(identity))


@torch.no_grad()
@pytest.mark.parametrize("garbage", [7.0, float("nan"), float("inf")])
def test_what_lies_in_a_masked_reference_changes_no_bit(garbage):
    identity, filled = references(), references()
    identity.mask[:, 1] = False
    filled.mask[:, 1] = False
    for part in (filled.embed, filled.feature_map, filled.quality):
        part[:, 1] = garbage
    assert torch.equal(attend(identity), attend(filled))
    assert torch.equal(mean_embedding(identity), mean_embedding(filled))


@torch.no_grad()
def test_a_masked_reference_is_as_good_as_none():
    identity = references()
    identity.mask[:, 1] = False
    torch.testing.assert_close(attend(identity), attend(take(identity, [0, 2])), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("use_null_key", [True, False])
def test_a_sample_without_reference_gets_exactly_zero_and_leaves_the_others_alone(use_null_key):
    identity = references()
    full = attend(identity, use_null_key)
    identity.mask[0] = False
    out = attend(identity, use_null_key)
    assert not out[:, 0].any()
    assert torch.equal(out[:, 1], full[:, 1])
    assert out[:, 1].any()


@pytest.mark.parametrize("use_null_key", [True, False])
def test_gradients_stay_finite_where_a_sample_has_no_reference(use_null_key):
    identity = references()
    identity.mask[0] = False
    net, enc = attention(use_null_key), encoder()
    net(torch.randn(5, 2, 8), enc(identity)).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in [*net.parameters(), *enc.parameters()] if p.grad is not None)


@torch.no_grad()
def test_a_reference_of_low_quality_gets_less_attention():
    identity = references(num_refs=2)
    other = attend(take(identity, [1]))
    identity.quality[:, 0] = 1.0
    far = (attend(identity) - other).norm()
    identity.quality[:, 0] = 1e-4
    assert (attend(identity) - other).norm() < 0.9 * far


def test_mean_embedding_is_the_quality_weighted_mean_of_unit_length():
    identity = references()
    identity.mask[0, 2] = False
    expected = identity.quality[0, 0] * identity.embed[0, 0] + identity.quality[0, 1] * identity.embed[0, 1]
    torch.testing.assert_close(mean_embedding(identity)[0], expected / expected.norm())
    identity.mask[1] = False
    assert not mean_embedding(identity)[1].any()


def test_position_encoding_differs_at_every_cell_and_has_constant_length():
    position = sinusoidal_position(8, 7, 7)
    assert position.shape == (49, 8)
    torch.testing.assert_close(position.square().sum(1), torch.full((49,), 4.0))
    assert (torch.cdist(position, position) + torch.eye(49)).min() > 0.1


@torch.no_grad()
def test_map_tokens_see_where_a_feature_lies():
    identity = references(num_refs=1)
    moved = identity._replace(feature_map=identity.feature_map.flip(-1))
    enc = encoder(num_vec_tokens=0)
    assert not torch.allclose(enc(identity).tokens, enc(moved).tokens, atol=1e-3)


def test_no_map_tokens_need_no_feature_map():
    identity = references()._replace(feature_map=torch.zeros(2, 3, 0, 0, 0))
    assert encoder(num_map_tokens=0)(identity).tokens.shape == (2, 6, 8)


def test_tokens_are_counted_per_reference():
    assert encoder()(references()).tokens.shape == (2, 3 * 5, 8)


def test_the_features_of_another_recogniser_are_refused_with_both_sizes():
    identity = references()._replace(embed=torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"\[4, 5, 2, 3\], this net was built for \[6, 5, 2, 3\]"):
        encoder()(identity)


def test_no_token_at_all_is_refused_by_name():
    with pytest.raises(OptionError, match="num_vec_tokens: 0 with num_map_tokens 0"):
        encoder(0, 0)
