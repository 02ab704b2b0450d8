"""From a folder of faces to an index of clusters."""

from __future__ import annotations

import csv
import json
import logging
from collections import defaultdict
from pathlib import Path

import cluster_identities
import pytest
from people_toys import toy_recognizer, write_index, write_people

from basicsr.data.face_index import FaceIndex
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread

PHOTOS = [4, 3, 2, 2, 2, 2, 1, 1]


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_recognizer(tmp_path_factory.mktemp("rec") / "rec.safetensors")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = write_people(tmp_path / "faces", PHOTOS)
    return write_index(tmp_path / "faces/index.csv", [(*row, "train") for row in rows])


def run(source: Path, out: Path, recognizer: Path, *options: str) -> int:
    command = ["--source", str(source), "--out", str(out), "--recognizer", str(recognizer), "--threshold", ".75"]
    return cluster_identities.main([*command, "--device", "cpu", "--max_diameter", ".6", *options])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_photos_of_a_person_get_one_cluster_and_a_cluster_one_split(source, tmp_path, recognizer):
    out = tmp_path / "out/people.csv"
    assert run(source, out, recognizer, "--val_people", ".25", "--test_people", ".25") == 0
    cluster_of, splits = defaultdict(set), defaultdict(set)
    for row in rows(out):
        cluster_of[row["name"]].add(row["identity"])
        splits[row["identity"]].add(row["split"])
    assert all(len(clusters) == 1 for clusters in cluster_of.values())
    assert len(set.union(*cluster_of.values())) == len(PHOTOS)
    assert sorted(split for (split,) in splits.values()) == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    assert cluster_of["p00"] == {"cluster_000000"}
    assert all(path.is_file() for path in FaceIndex.read(out).paths)  # the data sets read it, from where it stands


def test_a_folder_without_names_is_clustered_too(source, tmp_path, recognizer):
    assert run(source.parent, tmp_path / "people.csv", recognizer) == 0
    report = json.loads((tmp_path / "people_report.json").read_text())
    assert report["photos"] == sum(PHOTOS)
    assert "precision" not in report["sweep"][0]
    assert report["sizes"]["2"] == 4


def test_a_sweep_reports_agreement_with_the_names_at_every_threshold(source, tmp_path, recognizer, caplog):
    with caplog.at_level(logging.INFO):
        run(source, tmp_path / "people.csv", recognizer, "--sweep", ".01", ".99999", "--max_diameter", "2")
    low, middle, high = json.loads((tmp_path / "people_report.json").read_text())["sweep"]
    assert low["recall"] == 1.0
    assert low["precision"] < 0.5
    assert (middle["precision"], middle["recall"], middle["f1"]) == (1.0, 1.0, 1.0)
    assert high["recall"] == 0.0
    assert "pair precision" in caplog.text


def test_the_contact_sheet_shows_the_clusters(source, tmp_path, recognizer):
    run(source, tmp_path / "people.csv", recognizer)
    sheet = imread(tmp_path / "people_sheet.png")
    assert sheet.shape[1] == 1280
    assert sheet.std() > 20


def test_the_threshold_can_come_from_the_strangers(source, tmp_path, recognizer):
    command = ["--source", str(source), "--out", str(tmp_path / "p.csv"), "--recognizer", str(recognizer)]
    assert cluster_identities.main([*command, "--device", "cpu", "--far", ".05"]) == 0
    assert 0.05 < json.loads((tmp_path / "p_report.json").read_text())["threshold"] < 0.95


def test_unreadable_photos_are_left_out_and_counted(source, tmp_path, recognizer, caplog):
    (source.parent / "p00/0.png").write_bytes(b"no picture")
    assert run(source, tmp_path / "people.csv", recognizer) == 1
    assert len(rows(tmp_path / "people.csv")) == sum(PHOTOS) - 1
    assert "0.png" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "1.5"], "--threshold 1.5: expected 0 to 1"),
        (["--sweep", "0"], "--sweep 0"),
        (["--val_people", ".7", "--test_people", ".4"], "shares below 1"),
        (["--batch_size", "0"], "--batch_size 0"),
        (["--recognizer", "absent.onnx"], "absent.onnx"),
        (["--device", "nope"], "--device nope: no such device"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(source, tmp_path, recognizer, options, message):
    with pytest.raises(UserError, match=message):
        run(source, tmp_path / "people.csv", recognizer, *options)


def test_a_source_that_is_none_is_said_in_one_line(tmp_path, recognizer):
    with pytest.raises(UserError, match="no such index or folder"):
        run(tmp_path / "absent", tmp_path / "people.csv", recognizer)
    (tmp_path / "index.csv").write_text("identity,split\nx,train\n")
    with pytest.raises(UserError, match="no column path"):
        run(tmp_path / "index.csv", tmp_path / "people.csv", recognizer)
