"""Figures of picture files, kept on disk: what a run has computed, the next run and the next tool need not.

A cache is a folder with one sub-folder for each recipe (what was computed, and how). A picture is known by path, size
and time of change; a changed picture is computed again. Every part is a whole `.npz` file without Python objects,
written at least every few seconds, so that a killed run loses no more than that.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from basicsr.utils.errors import UserError
from basicsr.utils.text_util import make_folder, write_text

logger = logging.getLogger(__name__)

Columns = dict[str, NDArray[Any]]

FLUSH_SECONDS = 5.0
KEY_BYTES = 16
KEYS = "keys"  # column of the keys in a part


def file_key(path: Path) -> bytes | None:
    """What a picture is known by; None when it is not there, or not to be looked at."""
    try:
        state = path.stat()
        name = os.fspath(path.resolve())
    except OSError:
        return None
    text = f"{name}\0{state.st_size}\0{state.st_mtime_ns}".encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


class FeatureCache:
    """Rows of figures by key. A context manager; leaving it writes what is not yet on disk.

    Args:
        folder: of the cache; None keeps the figures in memory only.
        recipe: everything that the figures depend on besides the picture.
    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path | None, recipe: str) -> None:
        self.folder: Path | None = None
        self.columns: Columns = {}  # of what was on disk
        self.row_of: dict[bytes, int] = {}
        self._parts: list[Path] = []
        self._pending: list[tuple[list[bytes], Columns]] = []
        self._last_flush = time.monotonic()
        if folder is not None:
            self.folder = Path(folder) / hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()
            make_folder(self.folder)
            write_text(self.folder / "recipe.txt", recipe + "\n")
            self._load()

    def _load(self) -> None:
        """Read all parts. A broken one is named and left alone: its pictures are computed again."""
        loaded: list[Columns] = []
        for path in sorted(self.folder.glob("*.npz")) if self.folder else []:
            try:
                with np.load(path, allow_pickle=False) as part:
                    loaded.append({name: part[name] for name in part.files})
                keys = loaded[-1][KEYS]
                if keys.dtype != np.uint8 or any(len(column) != len(keys) for column in loaded[-1].values()):
                    raise ValueError("columns of different lengths")
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                logger.warning("%s: a broken part of the cache, computed again (%s). Remove it.", path, error)
                del loaded[len(self._parts) :]
                continue
            self._parts.append(path)
        if loaded:
            self.columns = {name: np.concatenate([part[name] for part in loaded]) for name in loaded[0]}
            self.row_of = {key.tobytes(): row for row, key in enumerate(self.columns.pop(KEYS))}

    def add(self, keys: Sequence[bytes | None], columns: Mapping[str, NDArray[Any]]) -> None:
        """Keep the rows of pictures that were just computed; written at the latest after FLUSH_SECONDS."""
        if self.folder is None:
            return
        known = [place for place, key in enumerate(keys) if key is not None]
        self._pending.append(
            ([key for key in keys if key is not None], {name: column[known] for name, column in columns.items()})
        )
        if time.monotonic() - self._last_flush >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on disk, as one part."""
        if self._pending and self.folder is not None:
            keys = [key for part, _ in self._pending for key in part]
            columns = {name: np.concatenate([part[name] for _, part in self._pending]) for name in self._pending[0][1]}
            self._parts.append(self._write(keys, columns))
            self._pending = []
        self._last_flush = time.monotonic()

    def _write(self, keys: Sequence[bytes], columns: Columns) -> Path:
        """A part, under a temporary name first; its own name is not that of any other process."""
        if self.folder is None:
            raise UserError("this cache has no folder to write to.")
        path = self.folder / f"{time.time_ns():020d}_{os.getpid()}.npz"
        data = io.BytesIO()
        packed = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        np.savez(data, **{KEYS: packed, **columns})  # type: ignore[arg-type]  # column names are ours
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_bytes(data.getbuffer())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):  # a full disk may not let it be removed either
                temporary.unlink()
            raise UserError(f"{path}: the cache cannot be written ({error.strerror}).") from error
        return path

    def _merge(self) -> None:
        """One part in place of many: a run of hours leaves thousands."""
        parts = self._parts
        self._parts = []
        self._load()
        if len(self._parts) < 2:
            return
        keys, rows = list(self.row_of), list(self.row_of.values())
        self._write(keys, {name: column[rows] for name, column in self.columns.items()})
        for path in {*parts, *self._parts}:
            path.unlink(missing_ok=True)

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.flush()
        if kind is None and len(self._parts) > 1:
            self._merge()
