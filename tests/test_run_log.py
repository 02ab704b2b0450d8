"""Figures between two lines of the log: means of the losses, and the clock."""

from __future__ import annotations

import time

import pytest
import torch

from basicsr.engine.run_log import MeanFigures, Speed, figure_line, speed_line


def test_a_mean_is_over_the_iterations_that_had_the_figure() -> None:
    means = MeanFigures()
    for number in range(4):
        means.add({"l_g_pix": torch.tensor(float(number))} | ({"l_g_id": torch.tensor(8.0)} if number == 1 else {}))
    assert means.take() == {"l_g_id": 8.0, "l_g_pix": 1.5}
    assert means.take() == {}


def test_adding_a_figure_does_not_read_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: torch.Tensor) -> None:
        raise AssertionError("read")

    means = MeanFigures()
    for reader in ("item", "tolist", "cpu", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, reader, refuse)
    for _ in range(3):
        means.add({"l_g_pix": torch.ones(())})
    monkeypatch.undo()
    assert means.take() == {"l_g_pix": 1.0}


def test_sums_go_through_a_checkpoint() -> None:
    straight, stopped, resumed = MeanFigures(), MeanFigures(), MeanFigures()
    values = [{"l_g_pix": torch.tensor(value)} for value in (0.1, 0.7, 0.4)]
    for value in values:
        straight.add(value)
    stopped.add(values[0])
    resumed.load(stopped.state(), torch.device("cpu"))
    for value in values[1:]:
        resumed.add(value)
    assert resumed.take() == straight.take()


def test_the_clock_tells_images_waiting_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    speed = Speed(total_iter=30, images_per_iter=8)
    for _ in range(10):
        with speed.waiting():
            now[0] += 0.5
        now[0] += 1.5
        speed.count()
    with speed.apart():
        now[0] += 1000  # a validation is no part of an iteration
    figures = speed.take(10, torch.device("cpu"))
    assert figures.pop("peak_memory_gib") > 0.01
    assert figures == pytest.approx({"images_per_s": 4.0, "s_per_iter": 2.0, "data_share": 0.25, "eta_s": 40.0})
    line = speed_line({**figures, "peak_memory_gib": 1.5, "eta_s": 90_061.2})
    assert line == ("4.0 images/s, 2.000 s/iter, 25 % waiting for data, left 1 day, 1:01:01, peak memory 1.50 GiB")


def test_a_line_has_rates_as_powers_and_losses_as_numbers() -> None:
    assert figure_line("run", 7, {"l_g_pix": 0.01234, "lr_g": 1e-4}) == "run  iter 7  l_g_pix 0.0123  lr_g 1.000e-04"
