"""The benchmark of the recogniser's share: its arithmetic, and one tiny run that times what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bench_identity


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "vqgan": {"nf": 4, "codebook_size": 8, "emb_dim": 8},
        "transformer": {"dim_embd": 16, "n_head": 2, "n_layers": 1},
        "recognizer": {"layers": (1, 1, 1, 1), "width": 4, "embed_dim": 8},
        "ndf": 4,
    }
    monkeypatch.setattr(bench_identity, "SIZES", sizes)
    monkeypatch.delenv("IDCF_TEST_DATA", raising=False)


def test_a_share_is_what_the_recogniser_takes_of_the_step_that_has_it() -> None:
    median = {
        "step without L_ids": 10.0,
        "tokens, big": 2.0,
        "L_ids, big": 2.0,
        "tokens, small": 1.0,
        "L_ids, small": 1.0,
    }
    # 8 s of the step are not the recogniser's
    assert bench_identity.shares(median, ["big", "small"]) == {"big": 4 / 12, "small": 2 / 10}


def test_the_two_steps_differ_by_l_ids_alone(tiny: None) -> None:
    torch.manual_seed(0)
    recognizer = bench_identity.recognizers()["iresnet-50"]
    batch = bench_identity.random_batch(32, 2, torch.device("cpu"))
    step = bench_identity.make_step(bench_identity.build_stage(32, recognizer), batch)
    without, with_l_ids = step(1), step(bench_identity.EVERY)
    assert {"l_g_pix", "l_g_gan", "l_g_code", "l_g_feat"} == set(without)
    assert set(with_l_ids) - set(without) == {"l_g_id"}


def test_a_run_writes_a_median_for_every_arm_and_a_share(tiny: None, tmp_path: Path, capsys) -> None:
    threads = torch.get_num_threads()
    arguments = ["--size", "32", "--repeats", "1", "--threads", str(threads), "--out", str(tmp_path / "out.json")]
    assert bench_identity.main(arguments) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["benchmark"] == "identity"
    arms = {"step without L_ids", "step with L_ids", "tokens, iresnet-50", "L_ids, iresnet-50"}
    assert set(report["median_seconds"]) == arms
    assert 0 < report["share_of_step"]["iresnet-50"] < 1
    assert "MobileFaceNet: not measured" in capsys.readouterr().out
