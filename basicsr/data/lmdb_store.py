"""Pictures in one LMDB file instead of many small files: for disks on which opening a file is what takes the time.

Keys are the names of the pictures relative to the folder of their index (or their folder), values the files' own bytes:
nothing is decoded or compressed again. scripts/make_lmdb.py writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from basicsr.utils.errors import ImageFileError, OptionError

SUMMARY_KEY = b"__summary__"  # written last: a file without it was cut off
PAGE = 4096  # bytes; LMDB stores what is large in whole pages
REMEDY = "Write it: python scripts/make_lmdb.py --source INDEX_OR_FOLDER --out"


# LMDB lets a process open a file once, and forbids an open one to go through a fork: all stores share what is open
# here, and before a fork (of a loader's workers) all of it is closed. The next read opens it again, on either side.
_open_environments: dict[str, Any] = {}


def close_all() -> None:
    """Close every file that is open for reading."""
    while _open_environments:
        _open_environments.popitem()[1].close()


if hasattr(os, "register_at_fork"):  # there is none on Windows, nor a fork
    os.register_at_fork(before=close_all)


class LmdbStore:
    """Reads pictures by name, in any process.

    Args:
        path: folder that scripts/make_lmdb.py wrote.
        source: index or folder whose pictures they are.
    Raises:
        OptionError: no such file, or one that is not complete.
    """

    def __init__(self, path: str | Path, source: str | Path) -> None:
        self.path, self.root = Path(path), root_of(source)
        if not self.path.is_dir():
            raise OptionError(f"lmdb: {path}: no such folder. {REMEDY} {path}")
        summary = self._get(SUMMARY_KEY)
        if summary is None:
            raise OptionError(f"lmdb: {path}: not complete. The same make_lmdb.py command goes on where it stopped.")
        self.num_pictures = int(json.loads(summary)["num_pictures"])

    def read_bytes(self, file: Path) -> bytes:
        """What stands in that file of the index.

        Raises:
            ImageFileError: it is not in there.
        """
        data = self._get(key_of(file, self.root))
        if data is None:
            raise ImageFileError(
                f"{file}: not in {self.path}, which holds {self.num_pictures} pictures. {REMEDY} {self.path}"
            )
        return data

    def _get(self, key: bytes) -> bytes | None:
        name = str(self.path.resolve())
        if name not in _open_environments:
            _open_environments[name] = open_environment(self.path, readonly=True, lock=False)
        with _open_environments[name].begin() as transaction:
            data: bytes | None = transaction.get(key)
        return data


def root_of(source: str | Path) -> Path:
    """Folder to which the names are relative: that of an index, or the folder itself."""
    source = Path(source)
    return source.parent if source.suffix.lower() == ".csv" else source


def key_of(file: Path, root: Path) -> bytes:
    """The name under which a file is kept: relative to `root`, or whole where it lies elsewhere."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix().encode()


def open_environment(path: Path, **options: Any) -> Any:
    """An LMDB environment.

    Raises:
        OptionError: the package is missing, or the file cannot be opened.
    """
    try:
        import lmdb
    except ImportError as error:
        raise OptionError("lmdb: the package is not installed: pip install lmdb") from error
    try:
        return lmdb.open(str(path), readahead=False, meminit=False, max_readers=1024, **options)
    except lmdb.Error as error:
        raise OptionError(f"lmdb: {path}: cannot be opened ({error}).") from error


def missing_files(environment: Any, files: Iterable[Path], root: Path) -> list[Path]:
    """Files whose names are not in there yet."""
    with environment.begin() as transaction, transaction.cursor() as cursor:
        return [file for file in files if not cursor.set_key(key_of(file, root))]


def write_files(environment: Any, items: Iterable[tuple[Path, bytes]], root: Path) -> None:
    """All or none of them: a kill leaves whole pictures."""
    with environment.begin(write=True) as transaction:
        for file, data in items:
            transaction.put(key_of(file, root), data)


def write_summary(environment: Any) -> int:
    """Mark it complete; the number of its pictures."""
    with environment.begin(write=True) as transaction:
        transaction.delete(SUMMARY_KEY)
        num_pictures = int(transaction.stat()["entries"])
        transaction.put(SUMMARY_KEY, json.dumps({"num_pictures": num_pictures}).encode())
    return num_pictures
