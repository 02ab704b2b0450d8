"""What all tests share: one torch thread per worker, the folder of real test data, tiny pictures, the gpu marker.

Fixtures and helpers for several files stand here; a helper of one test file stays in that file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# several workers share the cores, and a toy net is not faster on many threads
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else torch.get_num_threads()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--min-passed",
        type=int,
        default=0,
        help="fail when fewer tests pass: a run that skips everything proves nothing",
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(THREADS)  # before any test file is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    no_cuda = pytest.mark.skip(reason="no CUDA device here; run `make gpu-check` on a machine with one")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(no_cuda)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    wanted = int(config.getoption("--min-passed"))
    if hasattr(config, "workerinput") or exitstatus != pytest.ExitCode.OK or wanted == 0:
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    passed = len(reporter.stats.get("passed", []))
    if passed < wanted:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        reporter.write_line(f"only {passed} tests passed, at least {wanted} must (--min-passed)", red=True)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real faces and recogniser weights; the test skips where there is none."""
    named = os.environ.get("IDCF_TEST_DATA")
    if not named:
        pytest.skip("real test data: set IDCF_TEST_DATA to its folder (LFW, reference sets, recognisers)")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"real test data: IDCF_TEST_DATA names no folder ({folder})")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, fresh for each test."""
    return np.random.default_rng(20240229)


@pytest.fixture(autouse=True)
def torch_state_is_the_same() -> Iterator[None]:
    """Fixed torch seed for each test, so that the order of tests does not matter; default dtype and grad mode kept.

    So is the number of threads, which some programs and fixtures set: sums are rounded by it.
    """
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    yield
    assert torch.get_default_dtype() == torch.float32, "a test changed the default dtype"
    assert torch.is_grad_enabled(), "a test switched gradients off and left it so"


def drawn_people(
    rng: np.random.Generator, num_people: int, spread: float, num_photos: int = 2, width: int = 24
) -> dict[str, list[np.ndarray]]:
    """Unit embeddings (width,) float32 of the photos of people: a normal centre, `spread` times normal noise around."""
    people = {}
    for person in range(num_people):
        center = rng.normal(size=width)
        photos = [center + spread * rng.normal(size=width) for _ in range(num_photos)]
        people[str(person)] = [(p / np.linalg.norm(p)).astype(np.float32) for p in photos]
    return people


def tiny_photo(rng: np.random.Generator, height: int = 32, width: int = 32) -> np.ndarray:
    """A smooth picture with some texture, uint8 BGR (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    phase = rng.uniform(0, 2 * np.pi, (3, 1, 1))
    waves = np.sin(2 * np.pi * (rng.uniform(0.5, 2, (3, 1, 1)) * x + rng.uniform(0.5, 2, (3, 1, 1)) * y) + phase)
    noisy = 127.5 + 90 * waves + rng.normal(0, 8, (3, height, width))
    return np.clip(noisy, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)


@pytest.fixture
def photo(rng: np.random.Generator) -> np.ndarray:
    """One tiny uint8 BGR picture."""
    return tiny_photo(rng)


@pytest.fixture
def photo_folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with four 32 px PNG files, 0.png to 3.png."""
    import cv2

    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        assert cv2.imwrite(str(folder / f"{number}.png"), tiny_photo(rng))
    return folder
