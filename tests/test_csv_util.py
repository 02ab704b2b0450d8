"""CSV files: what Excel and cut-off writers do to them is read or named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from basicsr.utils.csv_util import read_rows, write_rows
from basicsr.utils.errors import UserError


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"lq,ref\na.png\n", "t.csv:2: the row does not have the 2 cells"),
        (b"lq,ref\na.png,b.png,c.png\n", "t.csv:2: the row does not have the 2 cells"),
        (b"lq,ref\n\xff\xfe.png,b.png\n", "Save it as UTF-8"),
        (b"lq,ref\na.png,b\0.png\n", "NUL"),
        (b"lq\na.png\n", "t.csv:1: no column ref"),
        (b"lq,ref\n", "no rows"),
    ],
)
def test_a_broken_table_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_rows(tmp_path / "t.csv", required=("lq", "ref"))
    assert "\n" not in str(caught.value)


def test_the_mark_that_excel_puts_first_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbflq,ref\r\na.png, b.png \r\n")
    assert read_rows(tmp_path / "t.csv", required=("lq",)) == [(2, {"lq": "a.png", "ref": "b.png"})]


def test_written_rows_are_read_back_and_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    rows = [{"lq": 'a "b", c.png', "ref": ""}, {"lq": "ä.png", "ref": "x"}]
    write_rows(tmp_path / "new" / "t.csv", rows)
    assert [row for _, row in read_rows(tmp_path / "new" / "t.csv")] == rows
    with pytest.raises(UserError, match="cannot be written"):
        write_rows(tmp_path / "new" / "t.csv" / "t.csv", rows)
