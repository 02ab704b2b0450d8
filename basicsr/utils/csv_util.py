"""CSV files with a header: read with one-line errors that name file and line, written whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from basicsr.utils.errors import UserError
from basicsr.utils.text_util import write_text


def read_rows(
    table: Path, required: Iterable[str] = (), one_of: Iterable[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV with a header, with their line numbers; cells are stripped, the mark that Excel puts first is too.

    Raises:
        UserError: no such file, no UTF-8, no rows, a NUL byte, a column is missing, or a row has more or fewer cells
            than the header.
    """
    try:
        with Path(table).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{table}: cannot be read as CSV ({error}). Save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read as CSV ({error})") from error
    missing = [column for column in required if column not in columns]
    one_of = list(one_of)
    if missing or (one_of and not set(one_of) & set(columns)):
        wanted = ", ".join(missing) or " or ".join(one_of)
        header = ", ".join(columns).replace("\0", "\\0") or "nothing"
        raise UserError(f"{table}:1: no column {wanted}; the header has: {header}")
    if not rows:
        raise UserError(f"{table}: no rows below the header")
    for line, row in rows:
        if None in row or None in row.values():
            raise UserError(f"{table}:{line}: the row does not have the {len(columns)} cells of the header")
        if any("\0" in cell for cell in row.values()):  # newer readers let it pass, and no path can hold it
            raise UserError(f"{table}:{line}: a NUL byte in the row; the file is broken or of another kind")
    return [(line, {column: cell.strip() for column, cell in row.items()}) for line, row in rows]


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """A CSV with the columns of the first row.

    Raises:
        UserError: it cannot be written.
    """
    columns = list(rows[0])
    write_table(path, columns, ([row.get(column, "") for column in columns] for row in rows))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV with this header and these rows, of which there may be none.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
