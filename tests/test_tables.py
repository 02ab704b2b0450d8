"""per_image.csv and metrics.json: complete, exact, valid."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Failure, Figure, Unavailable
from basicsr.evaluation.tables import metrics_dict, per_image_csv, write_tables
from basicsr.utils.errors import UserError
from basicsr.utils.text_util import make_folder


@pytest.fixture
def result() -> EvaluationResult:
    pairs = [
        EvaluationPair(name, Path(f"{name}.png"), {}, {}, None, person)
        for name, person in (("a", "ann"), ("b", "ann"), ("c", "bob, jr"))
    ]
    return EvaluationResult(
        title="t",
        note="w=0",
        runs=["x", "y"],
        pairs=pairs,
        figures=[
            Figure("psnr", "PSNR", "higher", "whole image", 2, kind="pixel"),
            Figure("ids_j", "IDS (j)", "higher", "cosine", 3, "ids", "j", "j.onnx", "0123456789abcdef"),
        ],
        values={
            "x": {"psnr": {"a": 0.1 + 0.2, "b": float("inf"), "c": 3.0}, "ids_j": {"a": 0.5, "b": 0.6, "c": 0.7}},
            "y": {"psnr": {"a": 1.0, "b": 2.0}, "ids_j": {"a": 0.5, "b": 0.5}},
        },
        unavailable=[Unavailable("LPIPS-alex", "needs a file")],
        failures=[Failure("c", "y", "cut off"), Failure("z", "y", "no ground truth")],
        warnings=[],
    )


def test_csv_has_a_row_per_picture_and_run_with_exact_values_and_reasons(result: EvaluationResult) -> None:
    rows = list(csv.DictReader(io.StringIO(per_image_csv(result))))
    assert len(rows) == 3 * 2 + 1
    assert float(rows[0]["psnr"]) == 0.1 + 0.2
    assert rows[5] == {"name": "c", "identity": "bob, jr", "run": "y", "psnr": "", "ids_j": "", "failure": "cut off"}
    assert (rows[6]["name"], rows[6]["failure"]) == ("z", "no ground truth")


def test_json_states_direction_interval_protocol_and_weights_of_every_figure(result: EvaluationResult) -> None:
    metrics = metrics_dict(result)
    assert len(metrics["figures"]) == 4
    entry = next(e for e in metrics["figures"] if (e["run"], e["key"]) == ("y", "ids_j"))
    assert (entry["n"], entry["mean"], entry["better"]) == (2, 0.5, "higher")
    assert (entry["weights_file"], entry["weights_sha256"]) == ("j.onnx", "0123456789abcdef")
    assert {"sd", "ci95", "percentiles", "protocol", "label"} <= entry.keys()
    assert metrics["unavailable"] == [{"label": "LPIPS-alex", "reason": "needs a file"}]
    assert "over people (1 identities" in metrics["interval"]


def test_written_json_is_valid_also_with_infinite_psnr(result: EvaluationResult, tmp_path: Path) -> None:
    _, path = write_tables(result, tmp_path / "out")

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    metrics = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    entry = next(e for e in metrics["figures"] if (e["run"], e["key"]) == ("x", "psnr"))
    assert (entry["mean"], entry["ci95"]) == ("inf", [None, None])


def test_a_folder_that_cannot_be_written_is_one_line(result: EvaluationResult, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_tables(result, tmp_path / "file")
    with pytest.raises(UserError, match="choose another output folder"):
        make_folder(tmp_path / "file")
