import json
from pathlib import Path
from typing import Any

import pytest
import reference_nets  # type: ignore[import-not-found]  # it lies beside this file
import torch
from torch import Tensor

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.utils.errors import OptionError, WeightsError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import save_atomic

RELEASED = json.loads((Path(__file__).parent / "data" / "upstream_keys.json").read_text())["codeformer"]
TINY: dict[str, Any] = {
    "dim_embd": 16, "n_head": 4, "n_layers": 2, "codebook_size": 16, "latent_size": 64, "connect_list": ["16", "32"],
    "img_size": 32, "nf": 8, "ch_mult": [1, 1, 2], "emb_dim": 8,
}  # fmt: skip


def tiny(**changes: Any) -> Any:
    """32 px, 8 x 8 codes, 2 layers; codes and positions as if trained."""
    torch.manual_seed(0)
    net: Any = CodeFormer(**{**TINY, **changes})
    net.quantize.embedding.weight.data.normal_()
    net.position_emb.data.normal_(std=0.5)
    return net.eval()


def images(batch: int, size: int = 32) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


def test_state_dict_has_the_released_keys_shapes_and_order():
    with torch.device("meta"):
        net = CodeFormer()
    assert [[key, list(value.shape)] for key, value in net.state_dict().items()] == RELEASED["keys"]
    assert sum(p.numel() for p in net.parameters()) == RELEASED["num_parameters"] == 94_112_707
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == RELEASED["num_trainable"]


@torch.no_grad()
@pytest.mark.parametrize(("w", "adain"), [(0.0, False), (0.5, False), (1.3, True)])
def test_forward_equals_a_second_computation_from_the_key_names_alone(w, adain):
    # 1e-4: float32 against float64 through some twenty blocks; a wrong tap, order or eps is off by more than 1e-3
    net = tiny(
        img_size=16, nf=64, ch_mult=[1, 2], attn_resolutions=[8], connect_list=["8", "16"], codebook_size=32, emb_dim=16
    )
    lq = images(2, 16)
    restored, logits, lq_feat = reference_nets.codeformer(net.state_dict(), lq, w, adain, num_layers=2, num_heads=4)
    out = net(lq, w=w, adain=adain)
    torch.testing.assert_close(out.lq_feat.double(), lq_feat, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.logits.double(), logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.restored.double(), restored, atol=1e-4, rtol=0)


@torch.no_grad()
def test_w_zero_is_the_generator_without_cft_and_w_changes_the_image():
    net, lq = tiny(), images(1)
    plain = net(lq)
    assert torch.equal(plain.restored, net.decode_codes(plain.logits.argmax(2)))
    assert not torch.allclose(net(lq, w=0.5).restored, plain.restored, atol=1e-3)


@torch.no_grad()
def test_code_only_gives_the_same_codes_and_no_image():
    net, lq = tiny(), images(2)
    full, code_only = net(lq, w=1.0), net(lq, w=1.0, code_only=True)
    assert code_only.restored is None
    assert torch.equal(code_only.logits, full.logits)
    assert torch.equal(code_only.lq_feat, full.lq_feat)


@torch.no_grad()
def test_decode_first_decodes_the_first_samples_as_alone_and_gives_all_logits():
    net, lq = tiny(), images(3)
    full, part = net(lq, w=0.7, adain=True), net(lq, w=0.7, adain=True, decode_first=2)
    assert torch.equal(part.logits, full.logits)
    torch.testing.assert_close(part.restored, full.restored[:2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("code_grad", ["ste_softmax", "gumbel", "soft"])
def test_every_code_gradient_gives_the_hard_lookup_bit_for_bit_in_evaluation(code_grad):
    net, lq = tiny(), images(2)
    state = torch.get_rng_state()
    assert torch.equal(net(lq, w=0.5, code_grad=code_grad).restored, net(lq, w=0.5).restored)
    assert torch.equal(torch.get_rng_state(), state)


def test_straight_through_value_is_the_hard_lookup_bit_for_bit_in_training():
    net, lq = tiny().train(), images(2)
    assert torch.equal(net(lq, code_grad="ste_softmax").restored, net(lq, code_grad="none").restored)


def test_straight_through_gradient_is_the_one_of_the_softmax_expectation():
    net = tiny().train()
    logits: Any = torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weight = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    (net.look_up(logits, "ste_softmax", True) * weight).sum().backward()
    straight_through = logits.grad.clone()
    logits.grad.zero_()
    (net.look_up(logits, "soft", True) * weight).sum().backward()
    assert torch.equal(straight_through, logits.grad)
    probs = torch.softmax(logits, 2)
    value = weight.flatten(2).transpose(1, 2) @ net.quantize.embedding.weight.T  # (1, L, K): what each code would score
    expected = probs * (value - (probs * value).sum(2, keepdim=True))
    torch.testing.assert_close(logits.grad, expected, atol=1e-5, rtol=1e-4)


def test_soft_lookup_is_the_expectation_of_the_codes_in_training():
    net = tiny().train()
    logits = torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(2))
    expected = torch.zeros(64, 8)
    for index, probs in enumerate(torch.softmax(logits[0], 1)):
        for code, prob in enumerate(probs):
            expected[index] += prob * net.quantize.embedding.weight[code].detach()
    out = net.look_up(logits, "soft", True)
    torch.testing.assert_close(out.flatten(2)[0].T, expected, atol=1e-5, rtol=1e-4)


def test_gumbel_lookup_draws_codes_with_the_softmax_frequencies():
    net = tiny(codebook_size=4).train()
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(200, 64, 4)
    torch.manual_seed(0)
    rows = net.look_up(logits, "gumbel", True).permute(0, 2, 3, 1).reshape(-1, 8)
    drawn = torch.cdist(rows, net.quantize.embedding.weight.detach()).argmin(1)
    frequency = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(frequency, torch.softmax(logits[0, 0], 0), atol=0.015, rtol=0)  # 4 sigma of 12800 draws


@pytest.mark.parametrize("code_grad", ["ste_softmax", "gumbel", "soft"])
def test_image_loss_reaches_every_layer_of_the_transformer_and_the_encoder(code_grad):
    net = tiny().train()
    net(images(2), w=1.0, code_grad=code_grad).restored.square().mean().backward()
    for layer in net.ft_layers:
        assert has_gradient(layer.self_attn.in_proj_weight)
        assert has_gradient(layer.linear2.weight)
    for name in ("position_emb", "feat_emb.weight", "idx_pred_layer.1.weight", "encoder.blocks.0.weight"):
        assert has_gradient(net.get_parameter(name)), name


def test_without_code_gradient_an_image_loss_trains_the_cft_alone():
    net = tiny().train()
    net(images(2), w=1.0, code_grad="none").restored.square().mean().backward()
    trained = {name.split(".")[0] for name, p in net.named_parameters() if has_gradient(p)}
    assert trained == {"fuse_convs_dict"}


def test_encoder_gets_nothing_through_the_cft_skip():
    net = tiny().train()
    taps = net.encoder.forward_with_taps(images(1), net.connect_list)[1]
    fused = net.cft_at(taps, 1.0, None)["16"](taps["16"].detach())
    fused.sum().backward()
    assert not any(has_gradient(p) for p in net.encoder.parameters())
    assert has_gradient(net.get_parameter("fuse_convs_dict.16.shift.2.weight"))


def test_codebook_learns_from_the_image_only_with_detach_16_off():
    lq = images(1)
    for detach_16 in (True, False):
        for code_grad in ("none", "ste_softmax"):
            net = tiny(fix_modules=None).train()
            net(lq, detach_16=detach_16, code_grad=code_grad).restored.square().mean().backward()
            assert has_gradient(net.quantize.embedding.weight) == (not detach_16)


@pytest.mark.parametrize(
    ("fix_modules", "frozen"),
    [
        (None, set()),
        ([], set()),
        (["quantize", "generator"], {"quantize", "generator"}),
        (["transformer"], {"position_emb", "feat_emb", "ft_layers", "idx_pred_layer"}),
        (["ft_layers", "fuse_convs_dict"], {"ft_layers", "fuse_convs_dict"}),
    ],
)
def test_fix_modules_freezes_exactly_what_it_names(fix_modules, frozen):
    net = tiny(fix_modules=fix_modules)
    assert {name.split(".")[0] for name, p in net.named_parameters() if not p.requires_grad} == frozen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_size": 256}, r"latent_size: 256, .* 8 x 8 = 64 tokens"),
        ({"connect_list": ["64"]}, "connect_list: no feature of width '64'"),
        ({"fix_modules": ["quantise"]}, "fix_modules: no part 'quantise'. Did you mean 'quantize'"),
        ({"n_head": 3}, "n_head: 3 heads do not divide dim_embd 16"),
        ({"ch_mult": [1, 1, 2, 2], "latent_size": 16}, "16 codes, and at least 64"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(arguments, message):
    with pytest.raises(OptionError, match=message):
        tiny(**arguments)


def test_an_image_of_another_size_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\), this net restores \(B, 3, 32, 32\)"):
        tiny()(images(1, 64))


def test_vqgan_path_fills_the_vqgan_part_from_params_ema_and_must_fit(tmp_path):
    torch.manual_seed(5)
    vqgan = VQAutoEncoder(32, 8, [1, 1, 2], codebook_size=16, emb_dim=8)
    path = str(tmp_path / "vqgan.pth")
    save_atomic({"params_ema": vqgan.state_dict(), "params": {}}, path)
    net = CodeFormer(**TINY, vqgan_path=path)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in vqgan.state_dict().items())
    with pytest.raises(WeightsError, match=r"vqgan\.pth"):
        CodeFormer(**{**TINY, "codebook_size": 8}, vqgan_path=path)


def test_codeformer_is_registered_under_its_released_name_and_binds_yaml_lists():
    assert ARCH_REGISTRY.get("CodeFormer") is CodeFormer
    with torch.device("meta"):
        net = ARCH_REGISTRY.build({"type": "CodeFormer", "fix_modules": None, **TINY})
    assert net.latent_width == 8
