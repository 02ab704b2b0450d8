from typing import Any

import pytest
import torch
import torch.nn.functional as F
from identity_toys import IDENTITY, TINY, codeformer, id_codeformer, images, references, swapped, take, trained, without
from torch import Tensor, nn

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityTokenMap
from basicsr.archs.identity_style import IdentityStyle
from basicsr.archs.kv_share import ReferencePhotos
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import load_into

every_inject = pytest.mark.parametrize("inject", ["cross_attn", "kv_share", "token_map"])


def identity_loss_stand_in(restored: Tensor, gt: Tensor) -> Tensor:
    """1 - cosine of a fixed random convolution's features, as a recogniser would give."""
    rng = torch.Generator().manual_seed(3)
    weight = torch.randn(8, 3, 8, 8, generator=rng)
    ours, wanted = (F.conv2d(x, weight, stride=4).tanh().flatten(1) for x in (restored, gt))
    return (1 - F.cosine_similarity(ours, wanted)).mean()


def gradients(net: Any, **arguments: Any) -> dict[str, float]:
    """Sum of |gradient| of the identity loss by parameter name; 0.0 where there is none."""
    restored = net.train()(images(2), references(), w=0.5, **arguments).restored
    identity_loss_stand_in(restored, images(2).flip(0)).backward()
    return {name: 0.0 if p.grad is None else float(p.grad.abs().sum()) for name, p in net.named_parameters()}


@every_inject
def test_a_codeformer_checkpoint_loads_with_new_keys_missing_and_nothing_else(inject):
    report = load_into(id_codeformer(inject=inject), codeformer().state_dict(), strict=False)
    assert report.extra == report.mismatched == []
    assert all(inject in key or key.startswith(("identity_encoder.", "style_dict.")) for key in report.missing)
    assert len(report.missing) > 0


def test_key_value_sharing_adds_one_scalar_for_each_layer():
    added = id_codeformer(inject="kv_share", style="none").state_dict().keys() - codeformer().state_dict().keys()
    assert added == {"ft_layers.0.kv_share.gate", "ft_layers.1.kv_share.gate"}


def test_the_released_size_keeps_all_515_keys_in_order_and_adds_its_own():
    with torch.device("meta"):
        released, ours = list(CodeFormer().state_dict()), list(IDCodeFormer().state_dict())
    assert len(released) == 515
    assert [key for key in ours if key in set(released)] == released


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"style": "adain"},
        {"style": "film"},
        {"style": "adain_mean"},
        {"style": "none"},
        {"style_grid": 4},
        {"inject": "kv_share"},
        {"inject": "token_map"},
    ],
)
@pytest.mark.parametrize(("w", "id_scale"), [(0.0, 1.0), (0.5, 1.0), (0.5, 2.5)])
def test_at_the_start_the_output_is_codeformers_bit_for_bit_with_references_given(changes, w, id_scale):
    base, out = (
        codeformer()(images(2), w=w),
        id_codeformer(**changes)(images(2), references(), w=w, id_scale=id_scale),
    )
    assert torch.equal(out.logits, base.logits)
    assert torch.equal(out.restored, base.restored)
    assert torch.equal(out.lq_feat, base.lq_feat)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_null_key": False},
        {"style": "film"},
        {"style_grid": 4},
        {"inject": "none"},
        {"inject": "kv_share"},
        {"inject": "token_map"},
    ],
)
@pytest.mark.parametrize("id_scale", [1.0, 3.0])
def test_a_sample_without_reference_is_codeformers_bit_for_bit_whatever_the_identity_weights(changes, id_scale):
    net, lq, identity = trained(id_codeformer(**changes)), images(2), without(references(), sample=0)
    base, mixed = codeformer()(lq, w=0.5), net(lq, identity, w=0.5, id_scale=id_scale)
    assert torch.equal(mixed.logits[0], base.logits[0])
    assert torch.equal(mixed.restored[0], base.restored[0])
    assert not torch.allclose(mixed.restored[1], base.restored[1], atol=1e-3)


@torch.no_grad()
@every_inject
def test_identity_none_is_codeformer_bit_for_bit(inject):
    out, base = trained(id_codeformer(inject=inject))(images(2), None, w=0.5), codeformer()(images(2), w=0.5)
    assert torch.equal(out.restored, base.restored)


@torch.no_grad()
@every_inject
def test_another_person_gives_other_codes_and_another_image(inject):
    net = trained(id_codeformer(inject=inject, style="none"))
    one, other = net(images(2), references(seed=0)), net(images(2), references(seed=5))
    assert not torch.allclose(one.logits, other.logits, atol=1e-3)
    assert not torch.allclose(one.restored, other.restored, atol=1e-3)


@torch.no_grad()
@every_inject
def test_any_number_of_references_has_no_order_and_copies_of_them_count_once(inject):
    net, lq = trained(id_codeformer(inject=inject)), images(2)
    for num_refs in range(1, 9):
        identity = references(num_refs=num_refs)
        out = net(lq, identity)
        assert torch.isfinite(out.logits).all()
        for order in (list(range(num_refs))[::-1], [*range(num_refs)] * 3):
            other = net(lq, take(identity, order))
            torch.testing.assert_close(other.logits, out.logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(other.restored, out.restored, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("inject", "steps"), [("cross_attn", 10), ("kv_share", 50), ("token_map", 10)])
def test_after_a_short_training_the_reference_decides_the_codes(inject, steps):
    """One degraded photo, two people: what is right follows from the reference alone."""
    net: Any = id_codeformer(inject=inject, style="none").train()
    lq, identity = images(1).expand(2, -1, -1, -1), references(num_refs=1)
    faces = F.interpolate(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)), size=32, mode="bilinear")
    identity = identity._replace(photos=ReferencePhotos(faces[:, None], identity.mask))
    wanted = torch.tensor([[3], [9]]).expand(2, 64)
    before = {id(p) for part in (net.encoder, net.quantize, net.generator) for p in part.parameters()}
    optimizer = torch.optim.Adam([p for p in net.parameters() if id(p) not in before], 3e-2)
    for _ in range(steps):
        loss = F.cross_entropy(net(lq, identity, code_only=True).logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        own, other = (net(lq, ref, code_only=True).logits.argmax(-1) for ref in (identity, swapped(identity)))
    assert (own == wanted).float().mean() > 0.9
    assert (other == wanted.flip(0)).float().mean() > 0.9


@torch.no_grad()
@every_inject
def test_guidance_extrapolates_from_the_blind_logits(inject):
    net, lq = trained(id_codeformer(inject=inject)), images(2)
    null, plain = net(lq, None).logits, net(lq, references()).logits
    assert torch.equal(net(lq, references(), id_scale=0.0).logits, null)
    torch.testing.assert_close(net(lq, references(), id_scale=2.0).logits, null + 2.0 * (plain - null))


@torch.no_grad()
@pytest.mark.parametrize(("id_scale", "passes"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_guidance_costs_one_encoder_pass_and_at_most_one_extra_transformer_pass(id_scale, passes):
    net, calls = trained(id_codeformer()), []
    net.encoder.blocks[0].register_forward_hook(lambda *_: calls.append("encoder"))
    net.ft_layers[0].register_forward_hook(lambda *_: calls.append("transformer"))
    net.identity_encoder.register_forward_hook(lambda *_: calls.append("tokens"))
    net(images(1), references(1), w=0.5, id_scale=id_scale)
    assert calls.count("encoder") == 1
    assert calls.count("transformer") == passes
    assert calls.count("tokens") == (id_scale != 0.0)


@torch.no_grad()
def test_style_works_without_cft_and_w_id_scales_its_part_of_the_feature():
    net, lq = trained(id_codeformer(inject="none")), images(2)
    plain = net(lq, references(), w=0.0, w_id=0.0).restored
    assert torch.equal(plain, codeformer()(lq).restored)
    assert not torch.allclose(net(lq, references(), w=0.0, w_id=1.0).restored, plain, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["adain", "film", "adain_mean"])
def test_style_is_gated_and_bounded_and_follows_its_formula_by_channel(mode):
    torch.manual_seed(0)
    style: Any = IdentityStyle(4, 6, mode)
    style.mlp[-1].weight.normal_(std=5.0)
    dec_feat, enc_feat = torch.randn(2, 4, 5, 5) * 3 + 1, torch.randn(2, 4, 5, 5)
    embed = F.normalize(torch.randn(2, 6), dim=-1)
    out = style(dec_feat, enc_feat, embed, torch.tensor([True, True]))
    gate = torch.sigmoid(style.gate_dec(dec_feat) + style.gate_enc(enc_feat))[:, 0]
    dgamma, dbeta = torch.tanh(style.mlp(embed * 6**0.5)).chunk(2, 1)
    for b in range(2):
        for c in range(4):
            feat = dec_feat[b, c]
            normalised = (feat - feat.mean()) / (feat.var(correction=0) + 1e-5).sqrt()
            by_mode = {"adain": normalised, "film": feat, "adain_mean": -feat.mean()}
            expected = gate[b] * (dgamma[b, c] * by_mode[mode] + dbeta[b, c])
            torch.testing.assert_close(out[b, c], expected, atol=1e-5, rtol=1e-4)
    assert gate.shape == (2, 5, 5)


@torch.no_grad()
def test_with_a_grid_the_style_follows_its_formula_place_by_place():
    torch.manual_seed(0)
    style: Any = IdentityStyle(4, 6, "adain", grid=3)
    style.mlp[-1].weight.normal_(std=5.0)
    dec_feat, enc_feat = torch.randn(2, 4, 9, 9) * 3 + 1, torch.randn(2, 4, 9, 9)
    embed, has_ref = F.normalize(torch.randn(2, 6), dim=-1), torch.tensor([True, False])
    out = style(dec_feat, enc_feat, embed, has_ref)
    gate = torch.sigmoid(style.gate_dec(dec_feat) + style.gate_enc(enc_feat))[:, 0]
    dgamma, dbeta = torch.tanh(style.mlp(embed * 6**0.5)).view(2, 2, 4, 3, 3).unbind(1)
    normalised = (dec_feat - dec_feat.mean((2, 3), True)) / (
        dec_feat.var((2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    for cell in range(3):  # the middle of a cell, where nothing is interpolated
        place = 3 * cell + 1
        told = dgamma[0, :, cell, cell] * normalised[0, :, place, place] + dbeta[0, :, cell, cell]
        torch.testing.assert_close(out[0, :, place, place], gate[0, place, place] * told, atol=1e-5, rtol=1e-4)
    assert torch.equal(out[1], torch.zeros_like(out[1])), "no reference, no style"


@torch.no_grad()
def test_a_token_map_is_linear_in_the_identity_and_tells_each_place_its_own():
    tokens = IdentityTokenMap(embed_dim=6, dim=5, grid=4, width=4)
    tokens.proj.weight.normal_()
    one, two = F.normalize(torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    known = torch.tensor([True])
    out = tokens(one, known)
    assert out.shape == (16, 1, 5)
    torch.testing.assert_close(tokens(one + 2 * two, known), out + 2 * tokens(two, known), atol=1e-5, rtol=1e-5)
    rows = F.normalize(out[:, 0], dim=-1)
    assert (rows @ rows.T - torch.eye(16)).max() < 0.999, "no two places are told the same"
    assert torch.equal(tokens(one, torch.tensor([False])), torch.zeros_like(out))


@torch.no_grad()
def test_a_coarser_token_map_is_interpolated_row_by_row_of_the_tokens():
    tokens = IdentityTokenMap(embed_dim=2, dim=1, grid=2, width=4)
    tokens.proj.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))  # 0 left, 1 right
    out = tokens(torch.tensor([[1.0, 0.0]]), torch.tensor([True]))[:, 0, 0].view(4, 4) / tokens.SCALE
    torch.testing.assert_close(out, torch.tensor([[0.0, 0.25, 0.75, 1.0]]).expand(4, 4))


def test_a_map_finer_than_what_it_is_laid_on_is_refused():
    with pytest.raises(OptionError, match=r"token_grid: 9, but there are 8 tokens in a row"):
        id_codeformer(inject="token_map", token_grid=9)
    with pytest.raises(OptionError, match=r"style_grid: 17, but style_list has features 16 px wide"):
        id_codeformer(style_grid=17)
    with pytest.raises(OptionError, match="style_grid"):
        id_codeformer(style_grid=0)


def test_at_the_exact_start_a_token_map_learns_and_without_a_reference_it_does_not():
    assert gradients(id_codeformer(inject="token_map"), code_grad="ste_softmax")["token_map.proj.weight"] > 0
    net: Any = id_codeformer(inject="token_map", style="none").train()
    net(images(2), without(without(references(), sample=0), sample=1), code_only=True).logits.square().mean().backward()
    assert net.token_map.proj.weight.grad.abs().sum() == 0


@torch.no_grad()
def test_style_list_names_the_scales_that_are_styled():
    net = trained(id_codeformer(style_list=["8"], inject="none"))
    assert list(net.style_dict) == ["8"]
    assert not torch.allclose(net(images(1), references(1)).restored, codeformer()(images(1)).restored, atol=1e-3)


def test_identity_gradient_reaches_every_layer_the_cross_attention_and_the_token_projector():
    grads = gradients(trained(id_codeformer(), std=0.05), code_grad="ste_softmax")
    for index in range(2):
        layer = f"ft_layers.{index}"
        for name in ("self_attn.in_proj_weight", "linear1.weight", "linear2.weight", "norm1.weight", "norm2.weight"):
            assert grads[f"{layer}.{name}"] > 0, name
        for name in ("q.weight", "k.weight", "v.weight", "proj_out.weight", "null_key", "norm.weight"):
            assert grads[f"{layer}.cross_attn.{name}"] > 0, name
    for name in ("vec_mlp.0.weight", "vec_mlp.2.weight", "map_resampler.queries", "map_resampler.map_emb.weight"):
        assert grads[f"identity_encoder.{name}"] > 0, name
    for size in ("16", "32"):
        for name in ("mlp.0.weight", "mlp.2.weight", "gate_dec.weight", "gate_enc.weight"):
            assert grads[f"style_dict.{size}.{name}"] > 0, name
    assert grads["encoder.blocks.0.weight"] > 0


def test_at_the_exact_start_only_the_output_projections_of_the_identity_parts_get_a_gradient():
    grads = gradients(id_codeformer(), code_grad="ste_softmax")
    added = {n: g for n, g in grads.items() if "cross_attn" in n or n.startswith(("identity_encoder", "style_dict"))}
    heads = {f"ft_layers.{index}.cross_attn.proj_out.weight" for index in range(2)}
    heads |= {f"style_dict.{size}.mlp.2.{kind}" for size in ("16", "32") for kind in ("weight", "bias")}
    assert {name for name, value in added.items() if value > 0} == heads


def test_without_code_gradient_the_transformer_its_identity_and_the_encoder_get_exactly_zero():
    grads = gradients(trained(id_codeformer(), std=0.05), code_grad="none")
    blind = ("position_emb", "feat_emb", "ft_layers", "idx_pred_layer", "identity_encoder", "encoder")
    assert all(value == 0.0 for name, value in grads.items() if name.startswith(blind))
    assert grads["style_dict.16.mlp.2.weight"] > 0


def literal() -> Any:
    """The idea taken literally: one key, and nothing to look away to."""
    return trained(id_codeformer(num_vec_tokens=1, num_map_tokens=0, use_null_key=False, style="none"))


def cross_attention_outputs(net: Any) -> list[Tensor]:
    """Cross-attention outputs (L, B, C) of every layer for one reference."""
    outputs: list[Tensor] = []
    for layer in net.ft_layers:
        layer.cross_attn.register_forward_hook(lambda _module, _inputs, out: outputs.append(out.detach()))
    net(images(2), references(num_refs=1), code_only=True)
    return outputs


def test_with_a_single_key_the_cross_attention_is_one_constant_for_all_positions():
    for out in cross_attention_outputs(literal()):
        torch.testing.assert_close(out, out[:1].expand_as(out), atol=1e-6, rtol=1e-5)
    assert all(out.std(0).max() > 1e-3 for out in cross_attention_outputs(trained(id_codeformer())))


def test_with_a_single_key_queries_and_keys_learn_nothing():
    net = literal()
    net(images(2), references(num_refs=1), code_only=True).logits.square().mean().backward()
    for layer in net.ft_layers:
        cross = layer.cross_attn
        assert cross.q.weight.grad.abs().max() < 1e-7 * cross.v.weight.grad.abs().max()
        assert cross.k.weight.grad.abs().max() < 1e-7 * cross.v.weight.grad.abs().max()


@torch.no_grad()
def test_decode_first_restores_the_first_samples_with_their_own_references():
    net, lq, identity = trained(id_codeformer()), images(3), references(3)
    full, part = net(lq, identity, w=0.5), net(lq, identity, w=0.5, decode_first=2)
    assert torch.equal(part.logits, full.logits)
    torch.testing.assert_close(part.restored, full.restored[:2], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_code_only_predicts_the_same_identity_codes_and_no_image():
    net = trained(id_codeformer())
    out = net(images(2), references(), code_only=True)
    assert out.restored is None
    assert torch.equal(out.logits, net(images(2), references(), w=0.5).logits)


def test_without_injection_and_style_no_parameter_is_added():
    assert list(id_codeformer(inject="none", style="none").state_dict()) == list(codeformer().state_dict())


def test_identity_parts_can_be_frozen_by_name():
    net = id_codeformer(fix_modules=["identity_encoder", "style_dict", "transformer"])
    trainable = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trainable == {"encoder", "quantize", "generator", "fuse_convs_dict"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"style_list": ["64"]}, "style_list: no feature of width '64'"),
        ({"inject": "kv"}, "inject: no way 'kv'"),
        ({"style": "adam"}, "style: no style 'adam'"),
        ({"num_vec_tokens": 0, "num_map_tokens": 0}, "makes no identity token"),
        ({"fix_modules": ["identity_encodr"]}, "Did you mean 'identity_encoder'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(arguments, message):
    with pytest.raises(OptionError, match=message):
        id_codeformer(**arguments)


def test_id_codeformer_is_registered_and_binds_yaml_lists():
    with torch.device("meta"):
        net: nn.Module = ARCH_REGISTRY.build({"type": "IDCodeFormer", **TINY, **IDENTITY, "style_list": ["16"]})
    assert isinstance(net, IDCodeFormer)


# --- The style path: what IA-CFT promises of every scale ---

FEATURE_SIZES = {"16": 16, "32": 32}


def features_of(net: Any, seed: int) -> dict[str, Tensor]:
    """Random features (2, Cf, width, width) by width, with a mean and a contrast of their own in each channel."""
    rng = torch.Generator().manual_seed(seed)
    features = {}
    for size, side in FEATURE_SIZES.items():
        channels = net.channels_at[size]
        level, contrast = torch.randn(2, 2, channels, 1, 1, generator=rng)
        features[size] = torch.randn(2, channels, side, side, generator=rng) * (1 + contrast.abs()) + 3 * level
    return features


@torch.no_grad()
@pytest.mark.parametrize("mode", ["adain", "film", "adain_mean"])
@pytest.mark.parametrize("w", [0.0, 0.5, 1.3])
def test_style_is_added_to_the_cft_in_proportion_to_w_id_whatever_w_is(mode, w):
    net, identity = trained(id_codeformer(style=mode)), references()
    dec, taps = features_of(net, 0), features_of(net, 1)
    cft = net.cft_at(taps, w, None)
    delta = {size: net.style_at(taps, {}, identity, 1.0, None)[size](dec[size]) - dec[size] for size in dec}
    for w_id in (0.5, 1.0, 2.0):
        fused = net.style_at(taps, cft, identity, w_id, None)
        for size, feature in dec.items():
            without_style = cft[size](feature) if w > 0 else feature
            # 1e-5: the difference of two float32 sums of size 10
            torch.testing.assert_close(
                fused[size](feature) - without_style, w_id * delta[size], atol=1e-5 * w_id, rtol=1e-5
            )
            assert delta[size].abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize(("mode", "limit_of"), [("adain", "normalised"), ("film", "feature"), ("adain_mean", "mean")])
def test_style_never_exceeds_one_unit_of_gain_and_one_of_offset_whatever_was_learned(mode, limit_of):
    net, identity = trained(id_codeformer(style=mode), std=100.0), references()
    dec, taps = features_of(net, 2), features_of(net, 3)
    for size, feature in dec.items():
        mean, std = feature.mean((2, 3), keepdim=True), feature.std((2, 3), correction=0, keepdim=True)
        scale = {"normalised": (feature - mean) / std, "feature": feature, "mean": mean}[limit_of].abs()
        delta = net.style_at(taps, {}, identity, 1.0, None)[size](feature) - feature
        assert (delta.abs() <= scale + 1 + 1e-4).all()
        assert delta.abs().max() > 0.5  # the limit is met, not avoided by a closed gate


@torch.no_grad()
@pytest.mark.parametrize("mode", ["adain", "film", "adain_mean"])
def test_style_of_a_flat_feature_and_of_a_huge_one_is_finite(mode):
    net, identity = trained(id_codeformer(style=mode)), references()
    taps = features_of(net, 4)
    for level in (0.0, 5.0, 1e6):
        feature = torch.full((2, net.channels_at["16"], 16, 16), level)
        assert torch.isfinite(net.style_at(taps, {}, identity, 1.0, None)["16"](feature)).all()


@torch.no_grad()
@pytest.mark.parametrize("mode", ["adain", "film", "adain_mean"])
@pytest.mark.parametrize("autocast", [True, False])
def test_style_in_bfloat16_is_off_by_rounding_alone_where_the_mean_is_20_sigma(mode, autocast):
    torch.manual_seed(0)
    style: Any = IdentityStyle(16, 32, mode)
    style.mlp[-1].weight.normal_(std=0.05)
    dec_feat, enc_feat = (20 + torch.randn(2, 16, 8, 8)).bfloat16(), torch.randn(2, 16, 8, 8).bfloat16()
    embed, has_ref = F.normalize(torch.randn(2, 32), dim=-1).bfloat16(), torch.tensor([True, True])
    exact = style(dec_feat.float(), enc_feat.float(), embed.float(), has_ref)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = (style if autocast else style.bfloat16())(dec_feat, enc_feat, embed, has_ref)
    assert found.dtype == torch.bfloat16
    # 2^-6: some roundings by 2^-9 one after the other; statistics in bfloat16 are off by 2^-4
    assert (found.float() - exact).norm() < 2**-6 * exact.norm()


@torch.no_grad()
def test_a_scale_that_is_not_listed_gets_the_cft_alone():
    net, lq = trained(id_codeformer(style_list=["32"], inject="none")), images(2)
    seen: dict[str, Tensor] = {}
    for size in ("16", "32"):
        net.fuse_convs_dict[size].register_forward_hook(
            lambda _module, inputs, out, size=size: seen.update({size: out})
        )
    styled = net(lq, references(), w=0.5).restored
    of_styled = dict(seen)
    plain = net(lq, references(), w=0.5, w_id=0.0).restored
    # nothing before the first styled scale differs: its CFT sees the same features and gives the same ones
    assert torch.equal(of_styled["16"], seen["16"])
    assert torch.equal(of_styled["32"], seen["32"])
    assert not torch.allclose(styled, plain, atol=1e-3)


CONSTANT = {"identity_source": "constant"}


@torch.no_grad()
def test_a_constant_identity_gives_the_same_output_whoever_the_references_show_and_without_any():
    net, lq = trained(id_codeformer(**CONSTANT)), images(2)
    out = net(lq, references(seed=0), w=0.5)
    for identity in (references(seed=5), swapped(references()), without(references(), sample=0), None):
        other = net(lq, identity, w=0.5)
        assert torch.equal(other.logits, out.logits)
        assert torch.equal(other.restored, out.restored)
    base = codeformer()(lq, w=0.5)
    assert not torch.allclose(out.logits, base.logits, atol=1e-3), "its modules do something"
    assert not torch.allclose(net(lq, None, w=0.5, w_id=0.0).restored, out.restored, atol=1e-3), "its style, too"


@torch.no_grad()
def test_a_constant_token_map_is_the_same_for_everybody():
    net, lq = trained(id_codeformer(**CONSTANT, inject="token_map", style="none")), images(2)
    out = net(lq, references(seed=0))
    assert torch.equal(net(lq, references(seed=5)).logits, out.logits)
    assert torch.equal(net(lq, None).logits, out.logits)
    assert not torch.allclose(out.logits, codeformer()(lq).logits, atol=1e-3)


@torch.no_grad()
def test_a_constant_identity_starts_as_codeformer_bit_for_bit():
    out, base = id_codeformer(**CONSTANT)(images(2), references(), w=0.5), codeformer()(images(2), w=0.5)
    assert torch.equal(out.restored, base.restored)
    assert torch.equal(out.logits, base.logits)


def test_tokens_and_style_vector_of_a_constant_identity_learn():
    grads = gradients(trained(id_codeformer(**CONSTANT), std=0.05), code_grad="ste_softmax")
    assert grads["constant_identity.tokens"] > 0
    assert grads["constant_identity.embed"] > 0


def test_a_constant_identity_has_the_modules_of_the_full_model_without_the_projector_of_references():
    ours, full = id_codeformer(**CONSTANT).state_dict(), id_codeformer().state_dict()
    assert {key for key in full if not key.startswith("identity_encoder.")} == ours.keys() - {
        "constant_identity.tokens",
        "constant_identity.embed",
    }
    assert ours["constant_identity.tokens"].shape == (5, 16), "as many tokens as one reference has"
    assert list(id_codeformer(**CONSTANT, inject="none", style="none").constant_identity.parameters()) == []


def test_a_constant_identity_has_no_photos_to_share_keys_with():
    with pytest.raises(OptionError, match=r"identity_source: constant.*kv_share"):
        id_codeformer(**CONSTANT, inject="kv_share")
