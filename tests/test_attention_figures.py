import math

import pytest
import torch
from identity_toys import id_codeformer, images, references, trained, without
from torch import Tensor

from basicsr.archs.attention_figures import FIGURES, attention_figures, identity_attention
from basicsr.archs.blocks import Attention


def attention(logits: Tensor, v: Tensor, num_away: int = 0) -> Attention:
    """One head with these logits (Q, N) and values v (N, d)."""
    num_queries, num_keys = logits.shape
    # a query of one channel that is one-hot in the channels of the keys; sqrt(d) undoes the scale of the product
    q = torch.eye(num_queries)[None, None] * num_queries**0.5
    return Attention(q, logits.T[None, None], v[None, None], torch.zeros(1, 1, 1, num_keys), num_away)


def figures(found: Attention) -> dict[str, float]:
    return {name: value.item() for name, value in attention_figures(found).items()}


def test_uniform_attention_has_entropy_1_and_gives_a_constant():
    found = figures(attention(torch.zeros(6, 5), torch.randn(5, 4)))
    assert found["id_attn_entropy"] == pytest.approx(1.0, abs=1e-6)
    assert found["id_attn_spatial_var"] == 0.0


def test_attention_to_one_key_each_has_entropy_0():
    found = figures(attention(1e3 * torch.eye(4), torch.eye(4)))
    assert found["id_attn_entropy"] == pytest.approx(0.0, abs=1e-6)
    # the mean of four unit vectors has a square of 1/4, each of them one of 1
    assert found["id_attn_spatial_var"] == pytest.approx(0.75)


def test_figures_follow_a_loop():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 2
    v = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    entropies, away, given = [], [], []
    for row in logits.tolist():
        total = sum(math.exp(logit) for logit in row)
        weights = [math.exp(logit) / total for logit in row]
        entropies.append(-sum(weight * math.log(weight) for weight in weights) / math.log(5))
        away.append(weights[0] + weights[1])
        given.append([sum(weights[i] * v[i, c].item() for i in range(2, 5)) for c in range(2)])
    means = [sum(column) / 3 for column in zip(*given, strict=True)]
    variance = sum((x - mean) ** 2 for row in given for x, mean in zip(row, means, strict=True))
    found = figures(attention(logits, v, num_away=2))
    assert found["id_attn_entropy"] == pytest.approx(sum(entropies) / 3, rel=1e-4)
    assert found["id_attn_null"] == pytest.approx(sum(away) / 3, rel=1e-4)
    assert found["id_attn_spatial_var"] == pytest.approx(variance / sum(x * x for row in given for x in row), rel=1e-4)


def test_a_key_that_is_masked_is_not_counted():
    found = attention(torch.zeros(4, 3), torch.randn(3, 2))
    found.bias[..., 2] = -math.inf
    assert figures(found)["id_attn_entropy"] == pytest.approx(1.0, abs=1e-6)


def test_attention_to_nothing_is_null():
    found = figures(attention(torch.tensor([[50.0, 0.0]] * 3), torch.randn(2, 2), num_away=1))
    assert found["id_attn_null"] == pytest.approx(1.0)


def test_one_token_without_a_null_key_has_a_spatial_variance_of_exactly_zero_and_the_default_has_not():
    literal = trained(id_codeformer(num_vec_tokens=1, num_map_tokens=0, use_null_key=False))
    found = identity_attention(literal, images(2), references(num_refs=1))
    assert found["id_attn_spatial_var"].tolist() == [0.0, 0.0]
    assert found["id_attn_entropy"].tolist() == [1.0, 1.0]
    assert found["id_attn_null"].tolist() == [0.0, 0.0]
    found = identity_attention(trained(id_codeformer()), images(2), references(num_refs=1))
    assert found["id_attn_spatial_var"].min() > 1e-4
    assert found["id_attn_null"].min() > 0


@pytest.mark.parametrize("inject", ["cross_attn", "kv_share"])
def test_a_sample_without_reference_has_no_figures_and_changes_no_other(inject):
    net = trained(id_codeformer(inject=inject))
    both, one = (identity_attention(net, images(2), ref) for ref in (references(), without(references(), sample=0)))
    for name in FIGURES:
        assert one[name].shape == (1,)
        torch.testing.assert_close(one[name], both[name][1:], atol=1e-5, rtol=1e-4)
    empty = identity_attention(net, images(1), without(references(batch=1), sample=0))
    assert empty.keys() == both.keys()
    assert all(len(value) == 0 for value in empty.values())


def test_shared_keys_split_the_weight_between_image_and_reference_and_say_how_far_the_gates_are_open():
    net, identity = trained(id_codeformer(inject="kv_share")), references(num_refs=1)
    found = [
        identity_attention(net, images(2), identity._replace(quality=torch.full((2, 1), quality)))
        for quality in (1.0, 1e-3)
    ]
    assert (found[0]["id_attn_null"] < found[1]["id_attn_null"]).all()
    assert found[1]["id_attn_null"].min() > 0.99
    assert found[0]["id_gate"].tolist() == pytest.approx([math.tanh(0.8)] * 2)


def test_looking_leaves_the_network_as_it_was():
    net, identity = trained(id_codeformer()), references()
    before = net(images(2), identity).logits
    identity_attention(net, images(2), identity)
    assert torch.equal(net(images(2), identity).logits, before)
    assert all(not layer.cross_attn._forward_hooks for layer in net.ft_layers)


def test_without_injection_there_is_nothing_to_look_at():
    assert all(len(v) == 0 for v in identity_attention(id_codeformer(inject="none"), images(1), references(1)).values())
