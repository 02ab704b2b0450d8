"""Code losses: values and gradients against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from basicsr.losses.code_loss import CodeCrossEntropyLoss, CodeFeatureLoss


def test_code_cross_entropy_equals_a_loop_over_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    code_idx = torch.randint(0, 7, (2, 5), generator=generator)
    total = 0.0
    for row, indices in zip(logits.tolist(), code_idx.tolist(), strict=True):
        for token, index in zip(row, indices, strict=True):
            total += math.log(sum(math.exp(value) for value in token)) - token[index]
    assert CodeCrossEntropyLoss(0.5)(logits, code_idx).item() == pytest.approx(0.5 * total / 10, rel=1e-12)


def test_code_cross_entropy_of_uniform_logits_is_log_of_the_codebook_size() -> None:
    loss = CodeCrossEntropyLoss(1.0)(torch.zeros(1, 4, 1024), torch.arange(4)[None])
    assert loss.item() == pytest.approx(math.log(1024), rel=1e-6)


def test_code_feature_loss_moves_the_lq_features_and_never_the_codes() -> None:
    lq_feat = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    gt_feat = torch.tensor([[[[0.0, 4.0]]]], requires_grad=True)
    loss = CodeFeatureLoss(3.0)(lq_feat, gt_feat)
    loss.backward()
    assert loss.item() == pytest.approx(3.0 * (1 + 4) / 2)
    assert lq_feat.grad is not None
    assert lq_feat.grad.tolist() == [[[[3.0, -6.0]]]]  # 3 * 2 (lq - gt) / 2
    assert gt_feat.grad is None


def test_code_losses_of_half_precision_outputs_are_computed_in_float32_under_autocast() -> None:
    logits, code_idx = torch.randn(2, 16, 1024).bfloat16(), torch.randint(0, 1024, (2, 16))
    lq_feat, gt_feat = torch.randn(2, 8, 4, 4).bfloat16(), torch.randn(2, 8, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code, feat = CodeCrossEntropyLoss()(logits, code_idx), CodeFeatureLoss()(lq_feat, gt_feat)
    assert torch.equal(code, CodeCrossEntropyLoss()(logits.float(), code_idx))
    assert torch.equal(feat, CodeFeatureLoss()(lq_feat.float(), gt_feat))
