"""The demo: its summary is computed from embeddings, and its shipped weights are whole, small, and load."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import run_demo
import torch
from run_demo import NAMES_OF_RUNS, WEIGHTS, Naming, check_sums, name_faces, summary_of

from basicsr.inference import FaceRestorer
from basicsr.recognizers import load_recognizer
from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_state, read_header, sha256_of


def at_angles(*degrees: float) -> np.ndarray:
    """Unit embeddings (N, 2)."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_face_is_named_by_its_nearest_reference_and_ids_is_the_cosine_to_its_ground_truth() -> None:
    candidates = at_angles(0, 90, 180)
    faces, truth = at_angles(10, 50, 170), at_angles(10, 80, 130)
    found = name_faces(faces, truth, candidates, np.array([0, 0, 2]))
    assert found.is_right.tolist() == [True, False, True]  # 50 degrees is nearer to 90 than to 0
    np.testing.assert_allclose(found.ids, np.cos(np.radians([0, 30, 40])), atol=1e-6)  # float32 embeddings


def test_the_summary_has_the_shares_the_means_and_the_sum_of_the_seconds() -> None:
    found = {run: Naming(np.arange(4) < number, np.full(4, number / 10)) for number, run in enumerate(NAMES_OF_RUNS)}
    summary = summary_of(found, 3, {"faces": 1.5, "report": 2.0})
    assert summary["matching"] == {
        "candidates": 3, "none": 0.0, "ref": 0.25, "guided": 0.5, "wrong": 0.75, "ground_truth": 1.0,
    }  # fmt: skip
    assert summary["ids"] == pytest.approx({"none": 0, "ref": 0.1, "guided": 0.2, "wrong": 0.3, "ground_truth": 0.4})
    assert summary["seconds"] == {"faces": 1.5, "report": 2.0, "total": 3.5}


def test_every_shipped_file_is_listed_with_its_checksum() -> None:
    assert sorted(check_sums(WEIGHTS)) == sorted(WEIGHTS.glob("*.safetensors"))


def test_damaged_and_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(WEIGHTS, folder)
    check_sums(folder)
    damaged = bytearray((folder / "judge.safetensors").read_bytes())
    damaged[-1] ^= 1
    (folder / "judge.safetensors").write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"judge\.safetensors"):
        check_sums(folder)
    (folder / "judge.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"judge\.safetensors"):
        check_sums(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(WeightsError, match="SHA256SUMS"):
        check_sums(folder)


def test_the_shipped_weights_load_and_name_the_shipped_recognizer() -> None:
    for stage in (2, 3):
        path = WEIGHTS / f"stage{stage}.safetensors"
        restorer = FaceRestorer(path, recognizer=WEIGHTS / "train.safetensors", device="cpu")
        assert restorer.size == run_demo.SIZE
        assert all(weight.dtype == torch.float32 for weight in restorer.net.state_dict().values())
        header = read_header(path)
        assert header is not None
        assert header["network_identity"]["sha256"] == sha256_of(WEIGHTS / "train.safetensors")
    judge = load_recognizer(WEIGHTS / "judge.safetensors")
    assert judge.spec.layout != load_recognizer(WEIGHTS / "train.safetensors").spec.layout


def test_the_three_stages_share_one_codebook_and_one_generator() -> None:
    states = [load_state(WEIGHTS / f"stage{stage}.safetensors") for stage in (1, 2, 3)]
    shared = [name for name in states[0] if name.startswith(("quantize.", "generator."))]
    assert len(shared) > 10
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in shared)
