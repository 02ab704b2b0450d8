import math
from typing import Any

import pytest
import torch
from torch import Tensor

from basicsr.archs.vector_quantizer import GumbelQuantizer, VectorQuantizer


def latents(batch: int = 2, width: int = 4, side: int = 3) -> Tensor:
    return torch.randn(batch, width, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def quantizer() -> Any:
    torch.manual_seed(1)
    net = VectorQuantizer(codebook_size=7, emb_dim=4)
    net.embedding.weight.data.normal_()
    return net


def test_quantizer_picks_the_nearest_code_as_a_plain_loop_does(quantizer):
    z, codes = latents(), quantizer.embedding.weight.detach()
    out = quantizer(z)
    for b in range(2):
        for y in range(3):
            for x in range(3):
                distances = [float((z[b, :, y, x] - code).square().sum()) for code in codes]
                nearest = min(range(7), key=distances.__getitem__)
                assert int(out.stats["min_encoding_indices"][b * 9 + y * 3 + x, 0]) == nearest
                torch.testing.assert_close(out.quant_feat[b, :, y, x], codes[nearest])


def test_codebook_starts_uniform_within_one_over_its_size():
    weight = VectorQuantizer(50, 8).embedding.weight
    assert weight.abs().max() <= 1 / 50
    assert weight.abs().max() > 0.9 / 50


def test_gradient_goes_straight_through_to_the_encoder(quantizer):
    z: Any = latents().requires_grad_()
    weight = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    (quantizer(z).quant_feat * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    assert quantizer.embedding.weight.grad is None


def test_loss_puts_weight_one_on_the_commitment_term_and_beta_on_the_codebook_term(quantizer):
    z: Any = latents().requires_grad_()
    out = quantizer(z)
    difference = (out.quant_feat - z).detach()
    torch.testing.assert_close(out.codebook_loss, 1.25 * difference.square().mean())
    out.codebook_loss.backward()
    torch.testing.assert_close(z.grad, -2 * difference / z.numel())
    expected = torch.zeros_like(quantizer.embedding.weight)
    rows = difference.permute(0, 2, 3, 1).reshape(-1, 4)
    expected.index_add_(0, out.stats["min_encoding_indices"].flatten(), 0.25 * 2 * rows / z.numel())
    torch.testing.assert_close(quantizer.embedding.weight.grad, expected)


def test_statistics_are_the_released_ones(quantizer):
    z = latents()
    stats = quantizer(z).stats
    indices = stats["min_encoding_indices"].flatten()
    usage = torch.bincount(indices, minlength=7) / 18
    entropy = -sum(float(p) * math.log(float(p)) for p in usage if p > 0)
    assert float(stats["perplexity"]) == pytest.approx(math.exp(entropy), rel=1e-5)
    assert stats["min_encodings"].shape == (18, 7)
    assert torch.equal(stats["min_encodings"].argmax(1), indices)
    rows = z.permute(0, 2, 3, 1).reshape(-1, 4)
    expected = torch.cdist(rows, quantizer.embedding.weight).square().mean()
    torch.testing.assert_close(stats["mean_distance"], expected, atol=1e-5, rtol=1e-5)


def test_codebook_features_come_as_contiguous_grids_in_row_major_order(quantizer):
    indices = torch.arange(6)
    grid = quantizer.get_codebook_feat(indices, (1, 2, 3, 4))
    assert grid.is_contiguous()
    assert torch.equal(grid[0, :, 1, 2], quantizer.embedding.weight[5])
    assert torch.equal(quantizer.get_codebook_feat(indices[:, None]), quantizer.embedding.weight[:6])


def test_distances_stay_float32_under_autocast(quantizer):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quantizer.distances(latents().bfloat16()).dtype == torch.float32


def test_gumbel_mixes_codes_in_training_and_takes_whole_codes_in_evaluation():
    torch.manual_seed(0)
    net, z = GumbelQuantizer(5, 4), latents()
    distance = torch.cdist(net(z).quant_feat.permute(0, 2, 3, 1).reshape(-1, 4), net.embed.weight).min(1).values
    assert distance.max() > 0.01
    out = net.eval()(z)
    rows = out.quant_feat.permute(0, 2, 3, 1).reshape(-1, 4)
    torch.testing.assert_close(rows, net.embed.weight[out.stats["min_encoding_indices"].flatten()])
    assert out.stats["min_encoding_indices"].shape == (2, 3, 3)


def test_gumbel_loss_is_the_weighted_divergence_from_uniform_codes():
    torch.manual_seed(0)
    net, z = GumbelQuantizer(5, 4, kl_weight=0.1), latents()
    probs = torch.softmax(net.proj(z), 1).permute(0, 2, 3, 1).reshape(-1, 5)
    expected = 0.1 * sum(float(q) * math.log(float(q) * 5) for row in probs.detach() for q in row) / 18
    assert net(z).codebook_loss.item() == pytest.approx(expected, rel=1e-4)


def test_gumbel_code_indices_draw_no_noise():
    torch.manual_seed(0)
    net, z = GumbelQuantizer(5, 4), latents()
    state = torch.get_rng_state()
    assert torch.equal(net.code_indices(z), net.proj(z).argmax(1))
    assert torch.equal(torch.get_rng_state(), state)
