"""The index CSV: what is read, and that each fault is named with its line."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from basicsr.data import face_index
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
    assert list(index.paths) == [tmp_path / "b/1.png", tmp_path / "a, x.png", tmp_path / "b/2.png"]
    assert index.by_identity == {"Ann": [0, 2], "Bob": [1]}


def test_a_split_keeps_its_rows_alone(tmp_path):
    file = write(tmp_path, "path,identity,split", "1.png,Ann,train", "2.png,Bob,val", "3.png,Cy,val")
    index = FaceIndex.read(file, "val")
    assert [row.identity for row in index.rows] == ["Bob", "Cy"]
    assert index.by_identity == {"Bob": [0], "Cy": [1]}


def test_byte_order_mark_crlf_blank_lines_and_column_order_are_taken(tmp_path):
    file = tmp_path / "index.csv"
    file.write_bytes("\ufeffsplit, identity ,path\r\ntrain,Žofie,č.png\r\n\r\n".encode())
    assert list(FaceIndex.read(file).rows) == [FaceRow(tmp_path / "č.png", "Žofie", "train", {})]


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
        ([], r"index.csv:1: the header lacks path, identity, split"),
        (["path,identity,split", "1\0.png,Ann,train"], r"(index.csv:2: path '1.{1,2}0.png'|NUL)"),
        (
            ["path,identity,split,yaw", "1.png,A,train,3", "", "2.png,A,train,left"],
            r"index.csv:4: yaw 'left', expected a",
        ),
        (
            ["path,identity,split,yaw", "1.png,A,train,nan"],
            r"index.csv:2: yaw 'nan', expected a number from -180 to 180",
        ),
        (["path,identity,split,pitch", "1.png,A,train,-181"], r"index.csv:2: pitch '-181'"),
        (["path,identity,split,hat", "1.png,A,train,0", "2.png,A,train,.5"], r"index.csv:3: hat '.5', expected 0 or 1"),
        (["path,identity,split,attr_young", "1.png,A,train,-1"], r"index.csv:2: attr_young '-1', expected 0 or 1"),
        (["path,identity,split,group", '1.png,A,train,"a', 'b"', "1.png,A,train,c"], r"index.csv:4: '1.png' .* line 3"),
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


def test_a_fault_behind_many_rows_is_found_at_its_line_and_others_like_it_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(face_index, "CHUNK", 3)
    rows = [f"{number}.png,{number // 2},train" for number in range(20)]
    rows[17] = "4.png,8,train"
    rows[18] = "5.png,9,train"
    with pytest.raises(OptionError, match=r"index.csv:19: '4.png' stands in line 6 already \(1 more rows like it\)"):
        FaceIndex.read(write(tmp_path, "path,identity,split", *rows))
    rows[17:19] = ["17.png,8,val", "18.png,3,test"]
    with pytest.raises(OptionError, match=r"index.csv:19: '8' is in split 'val' and in 'train'.*1 more"):
        FaceIndex.read(write(tmp_path, "path,identity,split", *rows))


def test_paths_with_equal_hashes_are_no_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(face_index, "hash", lambda name: len(name), raising=False)
    file = write(tmp_path, "path,identity,split", "1.png,A,train", "2.png,A,train", "30.png,A,train", "4.png,B,val")
    assert [path.name for path in FaceIndex.read(file).paths] == ["1.png", "2.png", "30.png", "4.png"]


def test_numbers_are_columns_with_nan_where_a_cell_is_empty(tmp_path):
    file = write(
        tmp_path, "path,identity,split,yaw,hat,note", "1.png,A,train,-3.50,1,x", "2.png,B,val,,0,", "3.png,A,train,0,,y"
    )
    index = FaceIndex.read(file, "train")
    np.testing.assert_array_equal(index.numbers("yaw"), np.array([-3.5, 0], np.float32))
    np.testing.assert_array_equal(index.numbers("hat"), np.array([1, np.nan], np.float32))
    assert [row.attributes for row in index.rows] == [
        {"yaw": "-3.5", "hat": "1", "note": "x"},
        {"yaw": "0", "hat": "", "note": "y"},
    ]
    with pytest.raises(OptionError, match="text in column 'note'"):
        index.numbers("note")
    with pytest.raises(OptionError, match="no column 'pitch'"):
        index.numbers("pitch")


def test_a_column_that_looks_misspelt_is_named_and_others_are_carried_in_silence(tmp_path, caplog):
    FaceIndex.read(write(tmp_path, "path,identity,split,eyeglases,shoe_size", "1.png,A,train,1,44"))
    assert [record.message.split(": ", 1)[1] for record in caplog.records] == [
        "column 'eyeglases' is carried as text; did you mean 'eyeglasses'?"
    ]


def test_rows_are_a_sequence_with_slices_and_ends(tmp_path):
    index = FaceIndex.read(write(tmp_path, "path,identity,split", *(f"{n}.png,A,train" for n in range(4))))
    assert [row.path.name for row in index.rows[1:3]] == ["1.png", "2.png"]
    assert index.paths[-1].name == "3.png"
    with pytest.raises(IndexError):
        index.rows[4]


def test_an_index_survives_the_way_to_a_worker_process(tmp_path):
    index = FaceIndex.read(write(tmp_path, "path,identity,split,yaw", "1.png,A,train,2", "2.png,B,train,"))
    other = pickle.loads(pickle.dumps(index))
    assert list(other.rows) == list(index.rows)
    assert other.by_identity == {"A": [0], "B": [1]}
