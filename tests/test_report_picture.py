"""The report with everything in it as a browser without network draws it: nothing fetched, missing or cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import Browser, find_browser
from conftest import drawn_people

from basicsr.data.generated_faces import person_at, photo_at, render
from basicsr.evaluation.analysis import analyse
from basicsr.evaluation.calibration import calibrate_people
from basicsr.evaluation.charts import Curves
from basicsr.evaluation.report import write_report
from basicsr.evaluation.results import (
    Calibration,
    EvaluationPair,
    EvaluationResult,
    Failure,
    Figure,
    GroupCalibration,
    Unavailable,
)
from basicsr.utils.img_util import imwrite
from basicsr.utils.seed import rng_for

WIDTH = 1200
RUNS = ("none", "ref w=0", "ref w=0.5", "ref w=1", "wrong")
NUM_PEOPLE, PHOTOS = 12, 3
SECTIONS = (
    "problems", "figures", "distribution", "judges", "comparison", "checks", "slices", "scatter", "sweep", "pictures",
    "slice_pictures", "curves", "protocol",
)  # fmt: skip
FIGURES = (
    Figure("psnr", "PSNR", "higher", "whole image", 2, "pixel", value_range="dB"),
    Figure("lpips_vgg", "LPIPS-vgg", "lower", "whole image", 4, "perceptual"),
    Figure("ids_j", "IDS (j)", "higher", "cosine", 3, "ids", "j", "j.onnx", "0123456789abcdef" * 4),
    Figure("miss_j", "Not recognised at FAR 1e-3 (j)", "lower", "1 where the cosine is low", 3, "miss", "j"),
    Figure("ids_ref_j", "IDS to reference (j)", "neither", "cosine", 3, "ids_ref", "j"),
    Figure("cos_ref_gt_j", "cos(ref, GT) (j)", "neither", "cosine", 3, "cos_ref_gt", "j"),
    Figure("cos_lq_gt_j", "IDS before (j)", "neither", "cosine", 3, "cos_lq_gt", "j"),
    Figure("ids_trained_t", "Trained with, no evidence: IDS (t)", "neither", "cosine", 3, "ids_trained", "t"),
    Figure("gap_t_j", "Overfit gap: IDS (t, trained with) - IDS (j)", "neither", "difference", 3, "gap", "j"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium to draw the report with")
    with Browser(found, tmp_path_factory.mktemp("profile"), width=WIDTH) as page:
        yield page


def make_pairs(folder: Path, runs: tuple[str, ...]) -> list[EvaluationPair]:
    """Generated faces; a restored one is a blurred one."""
    pairs = []
    for i in range(NUM_PEOPLE * PHOTOS):
        person, photo = divmod(i, PHOTOS)
        files = {what: folder / f"{what}_{i:02d}.png" for what in ("gt", "ref", "lq", "run", "other")}
        gt, ref = (render(person_at(0, person), photo_at(0, person, photo + k), 64) for k in (0, 1))
        other = render(person_at(0, person + 1), photo_at(0, person + 1, 0), 64)
        blurred = {"lq": 4.0, "run": 1.2}
        pictures = {"gt": gt, "ref": ref, "other": other}
        pictures |= {what: np.asarray(cv2.GaussianBlur(gt, (0, 0), s), np.uint8) for what, s in blurred.items()}
        for what, picture in pictures.items():
            imwrite(files[what], picture)
        refs: dict[str, tuple[Path, ...]] = {run: (files["other" if run == "wrong" else "ref"],) for run in runs}
        attributes = {"yaw": str(4 * i - 70), "eyeglasses": str(i % 2)}
        restored = dict.fromkeys(runs, files["run"])
        pairs.append(
            EvaluationPair(f"p{i:02d}", files["gt"], restored, refs, files["lq"], f"id{person}", attributes=attributes)
        )
    return pairs


def make_values(pairs: list[EvaluationPair], runs: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
    """Plausible numbers: references help, wrong ones harm, w trades identity against distance."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    for number, run in enumerate(runs):
        rng = rng_for(1)  # the same faces are hard for every run
        w = float(run.split("w=")[1]) if "w=" in run else 0.5
        ids = 0.35 + 0.2 * ("ref" in run) - 0.15 * (run == "wrong") + 0.05 * w + 0.08 * rng.normal(size=len(pairs))
        ids += 0.02 * rng_for(2, number).normal(size=len(pairs))
        columns = {
            "psnr": 24 - w + 0.5 * rng.normal(size=len(pairs)),
            "lpips_vgg": 0.30 - 0.04 * w + 0.03 * rng.normal(size=len(pairs)),
            "ids_j": ids,
            "miss_j": (ids <= 0.33).astype(float),
            "ids_ref_j": ids - 0.05,
            "cos_ref_gt_j": 0.6 + 0.1 * rng.normal(size=len(pairs)) - 0.55 * (run == "wrong"),
            "cos_lq_gt_j": 0.2 + 0.1 * rng.normal(size=len(pairs)),
            "ids_trained_t": ids + 0.08 * ("ref" in run),
            "gap_t_j": np.full(len(pairs), 0.08 * ("ref" in run)) + 0.01 * rng.normal(size=len(pairs)),
        }
        values[run] = {
            key: dict(zip([pair.name for pair in pairs], column.tolist(), strict=True))
            for key, column in columns.items()
        }
    return values


def calibration() -> Calibration:
    found = calibrate_people("j", drawn_people(rng_for(3), 30, spread=0.8, width=32))
    assert isinstance(found, Calibration)
    return found


def full_report(folder: Path, runs: tuple[str, ...] = RUNS) -> Path:
    """A report with every section."""
    pairs = make_pairs(folder, runs)
    groups = [GroupCalibration("eyeglasses", value, calibration()) for value in ("0", "1")]
    result = EvaluationResult(
        "Face restoration: evaluation", "w as named, AdaIN off", list(runs), pairs, list(FIGURES),
        make_values(pairs, runs), [Unavailable("NIQE", "needs the parameters of good photographs")],
        [Failure("p99", "wrong", "restored: no picture of this name")], [], ["IDS: generated-face recogniser"],
        calibrations=[calibration()], group_calibrations=groups,
    )  # fmt: skip
    iterations = np.arange(0.0, 300.0, 2)
    curves: dict[str, Curves] = {"stage II": {"l_g_code": (iterations, np.exp(-iterations / 90))}}
    analysis = analyse(result, baseline="none", num_resamples=1000)
    return write_report(result, folder / "out", curves, analysis)


def drawn_page(browser: Browser, report: Path, picture: Path) -> np.ndarray:
    browser.requests.clear()
    browser.open(report.as_uri())
    browser.wait("document.readyState === 'complete'")
    browser.screenshot(picture)
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    return drawn


@pytest.mark.slow
def test_a_browser_draws_every_section_and_fetches_nothing(browser: Browser, tmp_path: Path) -> None:
    drawn = drawn_page(browser, full_report(tmp_path), tmp_path / "report.png")
    assert [request for request in browser.requests if not request.startswith(("file://", "data:"))] == []
    heights = {name: browser.run(f"document.getElementById('{name}')?.offsetHeight ?? 0") for name in SECTIONS}
    assert min(heights.values()) > 60, heights
    broken = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
    assert (browser.run("document.images.length") > 60, browser.run(broken)) == (True, 0)
    charts = "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect()).map(r => r.width * r.height)"
    areas = browser.run(charts)
    assert len(areas) == 5, "distribution, scatter, two of the sweep, curves"
    assert min(areas) > 50_000
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth"), "the page is wider than the window"
    assert browser.run("document.querySelectorAll('nav a').length") == 11
    links = "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))"
    assert browser.run(links)
    edge = drawn[:, -8:].reshape(-1, 3)
    assert np.ptp(edge, axis=0).max() == 0, "something reaches the right edge: the page is cut off"
    for color in ((0xB2, 0x72, 0x00), (0x00, 0x5E, 0xD5)):  # the curves of two runs, BGR of #0072B2 and #D55E00
        assert (np.abs(drawn.astype(int) - color).max(axis=2) <= 2).sum() > 100, f"nothing drawn in {color}"


@pytest.mark.slow
def test_many_runs_stay_readable(browser: Browser, tmp_path: Path) -> None:
    runs = ("none", *(f"{row} {mode}" for row in "ABCD" for mode in ("ref", "self", "oracle")), "wrong")
    drawn_page(browser, full_report(tmp_path, runs), tmp_path / "report.png")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth"), "the page is wider than the window"
    rows = browser.run("document.querySelectorAll('#figures tbody tr').length")
    assert rows == len(runs) + 2, "a row for each run, n, and what is not available"
    smallest = browser.run("Math.min(...[...document.images].map(i => i.getBoundingClientRect().width))")
    assert smallest > 90, "thumbnails that show a face"
