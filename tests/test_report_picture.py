"""The report as a browser without network draws it: nothing missing, nothing cut off on the right."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_report import IDS, LPIPS, NATURAL, make_result

from basicsr.evaluation.report import write_report

WIDTH, HEIGHT = 1200, 3000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser to draw the report with ({', '.join(BROWSERS)})")
    return found


@pytest.mark.slow
def test_a_browser_without_network_draws_every_section(browser: str, tmp_path: Path) -> None:
    report = write_report(make_result(tmp_path, 20, [IDS, NATURAL, LPIPS]), tmp_path / "out")
    picture = tmp_path / "report.png"
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={WIDTH},{HEIGHT}"]
    command += [f"--screenshot={picture}", report.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert picture.is_file(), done.stderr[-2000:]
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    edge = drawn[:, -8:].reshape(-1, 3)
    assert np.ptp(edge, axis=0).max() == 0, "something reaches the right edge: the page is cut off"
    # the curves of both runs in their colours (BGR of #0072B2 and #D55E00), and the gray test pictures
    for color in ((0xB2, 0x72, 0x00), (0x00, 0x5E, 0xD5), (128, 128, 128)):
        assert (np.abs(drawn.astype(int) - color).max(axis=2) <= 2).sum() > 100, f"nothing drawn in {color}"
