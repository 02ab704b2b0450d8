"""Stage I: the temperature of Gumbel codes, and the restart of codes that no rank uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import SIZE, build, parse, stage_options

from basicsr.models.base_model import BaseModel


def stage_one(folder: Path, quantizer: str, **train: int) -> tuple[BaseModel, Any]:
    """A toy stage I without a discriminator, and its network."""
    plain = stage_options(1, folder, gan_opt=None, optim_d=None, **train)
    plain["network_g"]["quantizer"], plain["network_d"] = quantizer, None
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
        own = quantizer.codes_used(net.encoder(gt)) > 0
    assert not own.all()
    elsewhere = int((~own).nonzero()[0])
    other_rank = torch.zeros(len(own))
    other_rank[elsewhere] = 1.0
    monkeypatch.setattr("basicsr.models.vqgan_model.all_reduce_mean", lambda used: (used + other_rank) / 2)
    before = quantizer.codebook.detach().clone()
    stage.generator_losses({"gt": gt}, 1)
    kept = torch.eq(quantizer.codebook, before).all(1)
    assert kept[elsewhere]
    assert torch.equal(kept, own | (other_rank > 0))
