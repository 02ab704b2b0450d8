"""docs/extending.md: its examples, as they stand, are files that the program finds, checks and trains with."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy_run import make_faces

from basicsr.config import parse_options

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MAX_ROW_LINES = 15


def examples() -> dict[str, str]:
    """The fenced blocks of the page, by the file that the line before them names."""
    return dict(re.findall(r"`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)```", PAGE, flags=re.DOTALL))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the program with the files of the page in their places."""
    for folder in ("basicsr", "options", "scripts", "weights/demo"):  # stage I of the demo names a recognizer
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in examples().items():
        assert not (tmp_path / name).exists(), f"{name} is there already: no example of something new"
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_page_has_an_example_of_each_kind_and_rows_are_short() -> None:
    names = list(examples())
    for ending in ("_loss.py", "_arch.py", "_dataset.py", "stage1.yml", "stage2_film.yml"):
        assert any(name.endswith(ending) for name in names), ending
    lines = {name: len(text.splitlines()) for name, text in examples().items() if name.endswith(".yml")}
    assert all(count <= MAX_ROW_LINES for count in lines.values()), lines


def test_the_row_differs_from_its_base_in_what_it_says(checkout: Path) -> None:
    for package in ("archs", "data", "losses", "metrics", "models"):
        importlib.import_module(f"basicsr.{package}")
    row = parse_options(checkout / "options/ablation/stage2_film.yml", check_files=False)
    base = parse_options(ROOT / "options/stage2_id.yml", check_files=False)
    assert row.network_g == {**base.network_g, "style": "film"}
    assert (row.datasets, row.train) == (base.datasets, base.train)


@pytest.mark.slow
def test_a_run_trains_with_the_dataset_network_and_loss_of_the_page(checkout: Path) -> None:
    make_faces(checkout / "demo_out" / "faces", size=64)
    (checkout / "demo_out" / "faces" / "index.csv").rename(checkout / "demo_out" / "index.csv")
    command = [
        sys.executable, "basicsr/train.py", "-opt", "options/noisy_stage1.yml", "--fast-forward", "--force_yml",
        "datasets:train:source=demo_out/faces", "datasets:train:num_worker_per_gpu=0",
        "datasets:train:batch_size_per_gpu=2", "train:net_d_start_iter=500",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "iteration 501 (pictures, L_ids, discriminator" in done.stderr
    assert "l_d_real" in done.stderr
    misspelt = [*command[:-1], "train:pixel_opt:edge_prat=1"]
    done = subprocess.run(misspelt, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "EdgeLoss takes no such argument. Did you mean 'edge_part'?" in done.stderr
