import json
from pathlib import Path
from typing import Any

import pytest
import reference_nets  # type: ignore[import-not-found]  # it lies beside this file
import torch

from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import save_atomic

RELEASED = json.loads((Path(__file__).parent / "data" / "upstream_keys.json").read_text())["vqgan"]
RELEASED_CH_MULT = [1, 2, 2, 4, 4, 8]


def tiny(**changes: Any) -> Any:
    """32 px, 8 x 8 codes."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "img_size": 32,
        "nf": 8,
        "ch_mult": [1, 2, 2],
        "codebook_size": 16,
        "emb_dim": 8,
        **changes,
    }
    return VQAutoEncoder(**arguments).eval()


def images(batch: int, size: int) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_state_dict_has_the_released_keys_shapes_and_order():
    with torch.device("meta"):
        net = VQAutoEncoder(512, 64, RELEASED_CH_MULT)
    assert [[key, list(value.shape)] for key, value in net.state_dict().items()] == RELEASED["keys"]
    assert sum(p.numel() for p in net.parameters()) == RELEASED["num_parameters"] == 63_740_099


def test_cft_taps_of_the_released_size_are_the_released_block_indices():
    with torch.device("meta"):
        net = VQAutoEncoder(512, 64, RELEASED_CH_MULT)
    assert net.encoder.taps == {"512": 2, "256": 5, "128": 8, "64": 11, "32": 14, "16": 18}
    assert net.generator.taps == {"512": 21, "256": 18, "128": 15, "64": 12, "32": 9, "16": 6}
    assert net.channels_at == {"512": 64, "256": 128, "128": 128, "64": 256, "32": 256, "16": 512}


@torch.no_grad()
def test_forward_equals_a_second_computation_from_the_key_names_alone():
    # 1e-4: float32 against float64 through a dozen blocks; a wrong eps, pad or activation is off by more than 1e-3
    net: Any = VQAutoEncoder(16, 64, [1, 2], attn_resolutions=[8], codebook_size=32, emb_dim=16).eval()
    net.quantize.embedding.weight.normal_(generator=torch.Generator().manual_seed(2))
    x = images(2, 16)
    restored, loss, code_idx = reference_nets.autoencoder(net.state_dict(), x)
    out = net(x)
    torch.testing.assert_close(out.restored.double(), restored, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.codebook_loss.double(), loss, atol=1e-4, rtol=0)
    assert torch.equal(out.quant_stats["min_encoding_indices"].view(2, 64), code_idx)


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
def test_codes_encode_and_decode_by_row_major_index(quantizer):
    net, x = tiny(quantizer=quantizer), images(2, 32)
    code_idx, quant_feat = net.encode_codes(x)
    assert code_idx.shape == (2, 64)
    assert code_idx.dtype == torch.int64
    assert torch.equal(quant_feat[1, :, 3, 5], net.quantize.codebook[code_idx[1, 3 * 8 + 5]])
    assert torch.equal(net.decode_codes(code_idx), net.generator(quant_feat))


def test_encoding_to_codes_holds_no_graph():
    code_idx, quant_feat = tiny().encode_codes(images(1, 32).requires_grad_())
    assert not code_idx.requires_grad
    assert not quant_feat.requires_grad


@pytest.mark.parametrize(
    ("img_size", "ch_mult", "latent_width"),
    [(64, [1, 2, 2, 4], 8), (128, [1, 2, 2, 4], 16), (256, [1, 1, 1, 2, 2], 16)],
)
def test_other_sizes_follow_from_the_arguments(img_size, ch_mult, latent_width):
    with torch.device("meta"):
        net = VQAutoEncoder(img_size, 16, ch_mult, attn_resolutions=[latent_width], emb_dim=8)
        x = torch.empty(1, 3, img_size, img_size)
        assert net.encoder(x).shape == (1, 8, latent_width, latent_width)
        assert net.generator(net.encoder(x)).shape == x.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": 32, "ch_mult": [1, 2, 2, 2]}, "16 codes, and at least 64"),
        ({"img_size": 50, "ch_mult": [1, 2, 2]}, "cannot be halved 2 times"),
        ({"ch_mult": []}, "ch_mult"),
        ({"attn_resolutions": [12]}, "no feature of width 12"),
        ({"quantizer": "nearst"}, "no quantizer 'nearst'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(arguments, message):
    with pytest.raises(OptionError, match=message):
        tiny(**arguments)


def test_last_layer_is_the_weight_of_the_generators_last_convolution():
    net = tiny()
    assert net.last_layer is dict(net.named_parameters())["generator.blocks.15.weight"]
    assert net.last_layer.shape[0] == 3


def test_codebook_loss_and_reconstruction_train_encoder_codebook_and_generator():
    net = tiny().train()
    out = net(images(1, 32))
    (out.restored.square().mean() + out.codebook_loss).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # a bias before a normalisation or a softmax over keys moves nothing, or too little to see
    assert [name for name in without if not name.endswith(("conv1.bias", "k.bias"))] == []


def test_model_path_reads_params_ema_before_params(tmp_path):
    net, other = tiny(), tiny()
    other.last_layer.data.fill_(3.0)
    save_atomic({"params": net.state_dict(), "params_ema": other.state_dict()}, tmp_path / "net_g.pth")
    assert tiny(model_path=str(tmp_path / "net_g.pth")).last_layer.mean().item() == 3.0


def test_autoencoder_is_registered_under_its_released_name():
    assert ARCH_REGISTRY.get("VQAutoEncoder") is VQAutoEncoder
