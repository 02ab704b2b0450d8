"""benchmarks/bench_memory.py: it takes the shipped files, and of their iterations the one that does most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basicsr.config import Options
from benchmarks import bench_memory


def options_of(size: int, stage: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr(
        bench_memory, "random_recognizer", lambda folder, embed_dim: folder / f"{embed_dim}.safetensors"
    )
    return bench_memory.options_of(size, stage, folder)


@pytest.mark.parametrize(("size", "stage"), [(64, 1), (64, 2), (64, 3), (256, 1)])
def test_the_shipped_files_are_taken_without_weights_of_anybody(
    size: int, stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(size, stage, tmp_path, monkeypatch)
    assert options.network_g["img_size"] == size
    assert (options.path.pretrain_network_g, options.path.pretrain_network_d) == (None, None)
    if stage > 1:
        assert options.path.pretrain_network_vqgan == str(tmp_path / "vqgan.pth")
        assert options.network_identity is not None
        assert options.network_identity.path == str(tmp_path / "128.safetensors")


def test_the_iteration_that_does_most_is_measured() -> None:
    class Stage:
        def describe(self, current_iter: int) -> str:
            words = "large, codes alone" if current_iter > 60 else "small, w 1.0"
            return (
                words + (", L_ids" if current_iter % 4 == 0 else "") + (", discriminator" if current_iter == 40 else "")
            )

    stage: Any = Stage()
    assert bench_memory.costly_iteration(stage, 100) == 40
