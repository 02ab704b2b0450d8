"""The fixed test set: what it cannot make it names, and a padding is never a reference."""

from __future__ import annotations

from pathlib import Path

import make_test_set
import pytest
from toy_run import SIZE, make_faces

from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread, imwrite


def make(index: Path, out: Path, *more: str) -> int:
    """The script, on the split train."""
    return make_test_set.main(
        ["--index", str(index), "--split", "train", "--size", str(SIZE), "--out", str(out), *more]
    )


def test_a_photo_without_a_usable_reference_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_faces(tmp_path / "faces", num_people=4, num_photos=2)
    imwrite(tmp_path / "faces/0_1.png", imread(tmp_path / "faces/0_0.png"))  # the first person has one photo, twice
    assert make(index, tmp_path / "set") == 0
    rows = [row for _, row in read_rows(tmp_path / "set/pairs.csv")]
    assert {row["identity"] for row in rows} == {"p1", "p2"}
    assert sorted(path.name for path in (tmp_path / "set/ref").iterdir()) == [row["restored"] for row in rows]
    assert len(read_rows(tmp_path / "set/pairs_wrong.csv")) == len(rows) == 4
    assert "2 of 6 samples left out" in caplog.text


@pytest.mark.parametrize(("flag", "value"), [("--num_images", "0"), ("--num_images", "-3"), ("--seed", "-1")])
def test_a_number_below_its_minimum_is_refused(tmp_path: Path, flag: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{flag} is {value}, expected at least"):
        make(tmp_path / "index.csv", tmp_path / "set", f"{flag}={value}")


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make(make_faces(tmp_path / "faces"), tmp_path / "file")


def test_a_real_set_has_no_ground_truth_and_its_gallery_is_a_third_photo(tmp_path: Path) -> None:
    index = make_faces(tmp_path / "faces", num_people=4, num_photos=3)
    assert make(index, tmp_path / "set", "--strength", "real", "--gallery") == 0
    rows = [row for _, row in read_rows(tmp_path / "set/pairs.csv")]
    assert rows
    assert all("gt" not in row for row in rows)
    assert not (tmp_path / "set/gt").exists()
    for row in rows:
        own = [imread(tmp_path / "set" / row[column]).tobytes() for column in ("lq", "ref", "gallery")]
        photos = {imread(path).tobytes() for path in (tmp_path / "faces").glob("*.png")}
        assert len(set(own)) == 3
        assert set(own) <= photos


def test_strengths_take_turns_and_stand_in_the_table_beside_what_the_index_says(tmp_path: Path) -> None:
    index = make_faces(tmp_path / "faces", num_people=4, num_photos=2)
    lines = index.read_text().splitlines()
    index.write_text("\n".join([lines[0] + ",yaw", *(f"{line},{i}" for i, line in enumerate(lines[1:]))]) + "\n")
    assert make(index, tmp_path / "set", "--strength", "small", "extreme") == 0
    rows = [row for _, row in read_rows(tmp_path / "set/pairs.csv")]
    assert [row["degradation"] for row in rows] == ["small", "extreme"] * (len(rows) // 2)
    assert len({row["yaw"] for row in rows}) == len(rows)
    with pytest.raises(UserError, match="not both"):
        make(index, tmp_path / "other", "--strength", "small", "real")
