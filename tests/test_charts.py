"""Charts: the numbers that are drawn, and logs that are broken."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from basicsr.evaluation.charts import curves_svg, distribution_svg, ecdf_points, read_curves, running_mean
from basicsr.utils.errors import UserError


def test_ecdf_is_the_share_of_values_at_or_below() -> None:
    values = np.array([0.4, 0.1, 0.4, 0.9])
    x, share = ecdf_points(values)
    for at in (0.1, 0.4, 0.9):
        assert share[np.searchsorted(x, at, side="right") - 1] == np.mean(values <= at)
    assert share[0] == 0.0


def test_running_mean_equals_a_loop_over_the_window() -> None:
    values = np.sin(np.arange(200.0))
    expected = [values[max(0, i - 4) : i + 5].mean() for i in range(200)]
    smooth = running_mean(values)
    assert smooth is not None
    assert np.allclose(smooth, expected, atol=1e-12)
    assert running_mean(values[:99]) is None


def test_curves_hold_every_loss_at_its_iteration(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"iter": 10, "l_g_pix": 0.5, "lr": 1e-4}\n{"iter": 20, "l_g_pix": 0.25, "l_d_real": 1}\n')
    curves = read_curves(log)
    assert list(curves) == ["l_g_pix", "l_d_real"]
    assert [axis.tolist() for axis in curves["l_g_pix"]] == [[10.0, 20.0], [0.5, 0.25]]
    assert [axis.tolist() for axis in curves["l_d_real"]] == [[20.0], [1.0]]


def test_a_cut_off_last_line_is_left_out_and_a_broken_one_before_it_is_named(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"iter": 10, "l_g_pix": 0.5}\n{"iter": 20, "l_g_')
    assert read_curves(log)["l_g_pix"][0].tolist() == [10.0]
    log.write_text('{"iter": 10, "l_g_\n{"iter": 20, "l_g_pix": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:1"):
        read_curves(log)


@pytest.mark.parametrize("text", ["", '{"iter": 1, "psnr": 2.0}\n'])
def test_a_log_without_losses_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(UserError, match="no losses"):
        read_curves(tmp_path / "log.jsonl")


def test_charts_are_well_formed_svg_that_names_every_run(tmp_path: Path) -> None:
    values = {"first run": np.array([0.1, 0.5]), "second <run>": np.array([0.3, 0.3])}
    svg = distribution_svg("IDS (judge)", values, np.array([0.6, 0.7]))
    text = "".join(ElementTree.fromstring(svg).itertext())
    for name in (*values, "cos(ref, GT)", "IDS (judge)"):
        assert name in text
    assert "http://" not in svg.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_the_same_data_gives_the_same_drawing() -> None:
    curves = {f"l_{i}": (np.arange(5.0), np.arange(5.0) * i) for i in range(5)}
    assert curves_svg("stage", curves) == curves_svg("stage", curves)
