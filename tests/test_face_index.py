"""The index CSV: what is read, and that each fault is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from basicsr.data.face_index import FaceIndex, FaceRow
from basicsr.utils.errors import OptionError


def write(folder: Path, *lines: str) -> Path:
    file = folder / "index.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_rows_keep_order_paths_are_relative_to_the_csv_and_further_columns_are_attributes(tmp_path):
    file = write(
        tmp_path, "path,identity,split,yaw", "b/1.png,Ann,train,12.5", '"a, x.png",Bob,val,', "b/2.png,Ann,train,-3"
    )
    index = FaceIndex.read(file)
    assert index.rows[0] == FaceRow(tmp_path / "b/1.png", "Ann", "train", {"yaw": "12.5"})
    assert index.paths == [tmp_path / "b/1.png", tmp_path / "a, x.png", tmp_path / "b/2.png"]
    assert index.by_identity == {"Ann": [0, 2], "Bob": [1]}


def test_a_split_keeps_its_rows_alone(tmp_path):
    file = write(tmp_path, "path,identity,split", "1.png,Ann,train", "2.png,Bob,val", "3.png,Cy,val")
    index = FaceIndex.read(file, "val")
    assert [row.identity for row in index.rows] == ["Bob", "Cy"]
    assert index.by_identity == {"Bob": [0], "Cy": [1]}


def test_byte_order_mark_crlf_blank_lines_and_column_order_are_taken(tmp_path):
    file = tmp_path / "index.csv"
    file.write_bytes("\ufeffsplit, identity ,path\r\ntrain,Žofie,č.png\r\n\r\n".encode())
    assert FaceIndex.read(file).rows == [FaceRow(tmp_path / "č.png", "Žofie", "train", {})]


def test_pictures_without_an_identity_may_be_in_all_splits(tmp_path):
    file = write(tmp_path, "path,identity,split", "1.png,,train", "2.png,,test")
    assert len(FaceIndex.read(file)) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,identity", "1.png,Ann"], r"index.csv:1: the header lacks split"),
        (["path,identity,split,split", "1.png,Ann,train,train"], r"index.csv:1: a column stands twice"),
        (["path,identity,split", "1.png,Ann,train", "2.png,Ann"], r"index.csv:3: 2 fields, the header has 3"),
        (
            ["path,identity,split", "1.png,A,train", "2.png,A,train", "1.png,B,val"],
            r"index.csv:4: '1.png' stands in line 2",
        ),
        (["path,identity,split", "1.png,Ann,training"], r"index.csv:2: .*'training'.*one of"),
        (["path,identity,split", ",Ann,train"], r"index.csv:2: path ''"),
        (
            ["path,identity,split", "1.png,Ann,train", "2.png,Ann,test"],
            r"index.csv:3: 'Ann' is in split 'test' and in 'train'",
        ),
        (["path,identity,split"], r"index.csv: empty"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path, lines, message):
    with pytest.raises(OptionError, match=message):
        FaceIndex.read(write(tmp_path, *lines))


def test_a_split_without_rows_says_which_there_are(tmp_path):
    with pytest.raises(OptionError, match=r"no picture in split 'test'; there is train, val"):
        FaceIndex.read(write(tmp_path, "path,identity,split", "1.png,Ann,train", "2.png,Bob,val"), "test")


def test_a_missing_or_binary_file_is_one_line(tmp_path):
    with pytest.raises(OptionError, match="cannot be read"):
        FaceIndex.read(tmp_path / "absent.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(OptionError, match="cannot be read"):
        FaceIndex.read(tmp_path / "picture.csv")
