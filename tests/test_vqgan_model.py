"""Stage I: the temperature of Gumbel codes, the restart of codes that no rank uses, L_ids of the reconstruction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import SIZE, build, parse, stage_options

from basicsr.models.base_model import BaseModel


def stage_one(folder: Path, quantizer: str, **train: Any) -> tuple[BaseModel, Any]:
    """A toy stage I without a discriminator, and its network; a recogniser where it has the loss for it."""
    plain = stage_options(1, folder, gan_opt=None, optim_d=None, **train)
    plain["network_g"]["quantizer"], plain["network_d"] = quantizer, None
    if "identity_opt" in train:
        plain["network_identity"] = {"path": str(folder / "recognizer.safetensors")}
    stage = build(parse(plain, folder))
    return stage, stage.net_g


def test_gumbel_codes_grow_harder_with_the_iterations_down_to_a_sixteenth(tmp_path: Path) -> None:
    stage, net = stage_one(tmp_path, "gumbel")
    batch = {"gt": torch.rand(1, 3, SIZE, SIZE)}
    for current_iter, temperature in ((1, 1 - 1 / 160_000), (80_000, 0.5), (159_999, 1 / 16)):
        stage.generator_losses(batch, current_iter)
        assert net.quantize.temperature == pytest.approx(temperature)


def test_a_code_that_another_rank_uses_is_not_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, net = stage_one(tmp_path, "nearest", code_restart_every=1, code_restart_until=1)
    gt = torch.rand(1, 3, SIZE, SIZE)
    quantizer = net.quantize
    with torch.no_grad():
        quantizer.embedding.weight[2:] += 100.0  # so far away that nothing chooses them
        own = quantizer.codes_used(net.encoder(gt)) > 0
    assert not own[2:].any()
    elsewhere = 5
    row = quantizer.codebook[elsewhere].detach().view(1, 1, -1, 1, 1)
    monkeypatch.setattr(
        "basicsr.models.vqgan_model.all_gather_tensor",
        lambda latents: torch.cat([latents[None], row.expand(1, *latents.shape)]),  # the other rank has one code alone
    )
    before = quantizer.codebook.detach().clone()
    stage.before_iteration({"gt": gt}, 1)
    kept = torch.eq(quantizer.codebook, before).all(1)
    assert kept[elsewhere]
    assert not kept.all()
    own[elsewhere] = True
    assert torch.equal(kept, own)


def test_the_identity_loss_of_stage_one_is_that_of_its_reconstruction_and_trains_encoder_and_generator(
    tmp_path: Path,
) -> None:
    identity = {"loss_weight": 0.5, "every": 2, "batch_part": 0.5}
    stage, net = stage_one(tmp_path, "nearest", pixel_opt=None, codebook_weight=0.0, identity_opt=identity)
    gt = torch.rand(4, 3, SIZE, SIZE) * 2 - 1
    assert "l_g_id" not in stage.generator_losses({"gt": gt}, 1)[0]
    losses, restored = stage.generator_losses({"gt": gt}, 2)
    assert stage.identity is not None
    assert restored is not None
    cosine = (stage.identity(restored[:2]).embedding * stage.identity(gt[:2]).embedding).sum(1)
    assert losses["l_g_id"].item() == pytest.approx(0.5 * (1 - cosine).mean().item(), abs=1e-6)
    losses["l_g_id"].backward()
    for part in (net.encoder, net.generator):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
