from typing import Any

import pytest
import torch
import torch.nn.functional as F
from identity_toys import codeformer, id_codeformer, images, photos_of, references, trained, without
from torch import Tensor, nn

from basicsr.archs.kv_share import KeyValueShare, ReferencePhotos, SharedKeys, project_keys


def sharing(**changes: Any) -> Any:
    return trained(id_codeformer(inject="kv_share", **changes))


def attention() -> nn.MultiheadAttention:
    torch.manual_seed(1)
    attn = nn.MultiheadAttention(8, 2)
    for parameter in attn.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attn


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_sharing_equals_self_attention_over_the_tokens_of_image_and_references_by_its_gate():
    attn, h, position, ref = attention(), draw(5, 1, 8, seed=2), draw(5, 1, 8, seed=3), draw(5, 1, 8, seed=4)
    attended = attn(h + position, h + position, h)[0]
    # torch's own attention over the joined tokens; a mask of log .3 on the reference's keys is its bias
    everything, places = torch.cat([h, ref]), torch.cat([position, position])
    mask = torch.zeros(5, 10)
    mask[:, 5:] = torch.tensor(0.3).log()
    joint = attn(h + position, everything + places, everything, attn_mask=mask)[0]
    keys, values = project_keys(attn, ref, position)
    shared = SharedKeys(keys, values, torch.full((1, 5), 0.3).log(), torch.tensor([True]))
    share = KeyValueShare()
    for gate in (0.0, 0.5, -2.0):
        share.gate.fill_(gate)
        expected = torch.tensor(gate).tanh() * (joint - attended)
        change = share.gated(share(attn, h, position, shared) - attended, shared)
        torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_layer_sees_the_reference_at_its_own_depth():
    """The keys of layer n are made of what the layers before n have made of the reference, alone and blind."""
    net, identity = sharing(), references(batch=1, num_refs=1)
    cache, blind = net.reference_cache(photos_of(identity)), codeformer()
    tokens = blind.to_tokens(blind.encoder(photos_of(identity).images[0]))
    position = blind.position_emb.unsqueeze(1)
    for number, layer in enumerate(blind.ft_layers):
        keys, values = project_keys(layer.self_attn, layer.norm1(tokens), position)
        assert torch.equal(cache.keys[number][0], keys)
        assert torch.equal(cache.values[number][0], values)
        tokens = layer(tokens, position)


@torch.no_grad()
def test_references_read_once_give_the_same_codes_as_their_photos():
    net, identity = sharing(), without(references(), sample=1, place=0)
    kept = identity._replace(photos=net.reference_cache(photos_of(identity)))
    assert torch.equal(net(images(2), kept).logits, net(images(2), identity).logits)


@torch.no_grad()
@pytest.mark.parametrize(("id_scale", "passes"), [(0.0, 1), (1.0, 1), (2.0, 2)])
@pytest.mark.parametrize("cached", [True, False])
def test_guidance_costs_one_extra_pass_and_references_that_were_read_cost_none(id_scale, passes, cached):
    net, calls, identity = sharing(), [], references(1)
    if cached:
        identity = identity._replace(photos=net.reference_cache(photos_of(identity)))
    net.encoder.blocks[0].register_forward_hook(lambda *_: calls.append("encoder"))
    net.ft_layers[0].register_forward_hook(lambda *_: calls.append("transformer"))
    net(images(1), identity, w=0.5, id_scale=id_scale)
    reads = 0 if cached or id_scale == 0 else 1  # all references in one pass
    assert calls.count("encoder") == 1 + reads
    assert calls.count("transformer") == passes + reads


@torch.no_grad()
@pytest.mark.parametrize("garbage", [7.0, float("nan"), float("inf")])
def test_what_lies_in_a_masked_photo_changes_no_bit(garbage):
    net, identity = sharing(style="none"), without(references(), sample=0, place=1)
    filled = photos_of(identity).images.clone()
    filled[0, 1] = garbage
    other = identity._replace(photos=photos_of(identity)._replace(images=filled))
    assert torch.equal(net(images(2), other).logits, net(images(2), identity).logits)


@torch.no_grad()
@pytest.mark.parametrize("quality", [1.0, 0.2])
def test_the_degraded_photo_as_its_own_reference_changes_nothing(quality):
    """The same keys once more, at any weight, leave every weighted mean as it is: so mode self hands over no photo."""
    net, lq = sharing(style="none"), images(2)
    identity = references(num_refs=1)._replace(quality=torch.full((2, 1), quality))
    own = identity._replace(photos=ReferencePhotos(lq[:, None], identity.mask))
    torch.testing.assert_close(net(lq, own).logits, net(lq, None).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(net(lq, identity).logits, net(lq, None).logits, atol=1e-3)


@torch.no_grad()
def test_a_photo_of_low_quality_moves_the_codes_less():
    net, lq, identity = sharing(style="none"), images(2), references(num_refs=1)
    null = net(lq, None).logits
    moved = [
        (net(lq, identity._replace(quality=torch.full((2, 1), quality))).logits - null).norm().item()
        for quality in (1.0, 0.3, 0.01)
    ]
    assert moved[0] > moved[1] > moved[2]


def test_references_teach_the_projections_and_the_gate_but_not_the_encoder():
    net, identity = sharing(style="none").train(), references()
    lq_feat = net.encoder(images(2)).detach()
    net.predict_codes(lq_feat, net.conditions(identity, len(lq_feat))).square().mean().backward()
    assert all(parameter.grad is None for parameter in net.encoder.parameters())
    cache = net.reference_cache(photos_of(identity))
    assert all(
        keys.requires_grad and values.requires_grad for keys, values in zip(cache.keys, cache.values, strict=True)
    )
    assert all(layer.kv_share.gate.grad.abs() > 0 for layer in net.ft_layers)


def test_under_autocast_the_pass_without_graph_takes_no_gradient_from_the_image_path():
    """Autocast keeps one cast of each weight: one kept from under no_grad would cut the image path off."""
    net = sharing(style="none").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(images(2), references(), code_only=True).logits
    logits.float().square().mean().backward()
    parts = [*net.ft_layers.parameters(), *net.encoder.parameters(), *net.feat_emb.parameters()]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parts)


def test_at_the_exact_start_every_gate_learns():
    net = id_codeformer(inject="kv_share", style="none").train()
    logits = net(images(2), references(), code_only=True).logits
    F.cross_entropy(logits.flatten(0, 1), torch.zeros(128, dtype=torch.int64)).backward()
    assert all(layer.kv_share.gate.grad.abs() > 0 for layer in net.ft_layers)


def test_photos_that_are_not_there_or_do_not_fit_are_refused():
    net, identity = sharing(), references()
    with pytest.raises(ValueError, match="kv_share reads the reference photos"):
        net(images(2), identity._replace(photos=None))
    small = ReferencePhotos(photos_of(identity).images[..., :16, :16], identity.mask)
    with pytest.raises(ValueError, match=r"identity\.photos: shape \(4, 3, 16, 16\), this net restores"):
        net(images(2), identity._replace(photos=small))
