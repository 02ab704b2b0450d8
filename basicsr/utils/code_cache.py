"""The codes that a stage-I VQGAN gives the ground truths, kept in a file: stages II and III need not encode them again.

One `.safetensors` file: `codes` (N, 2, L) uint16, [:, 0] of the pictures as they are and [:, 1] mirrored; `names`, the
UTF-8 bytes of the N file names, each ended by a zero byte; and the header, which says whose codes they are.
scripts/make_code_cache.py writes it. N: files; L = h*w tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from basicsr.utils.errors import OptionError

FORMAT = "code cache 1"
MAX_CODES = 1 << 16  # codebook rows that uint16 can number
NUM_NAMED = 3  # of the files that are missing

Codes = NDArray[np.uint16]


class CacheHeader(NamedTuple):
    """Whose codes a file holds."""

    vqgan_sha256: str  # of the weights file
    param_key: str  # entry of it
    gt_size: int  # px
    files_sha256: str  # see `digest_of`


def digest_of(names: Iterable[str]) -> str:
    """SHA-256 of a list of file names, in its order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


def write_cache(path: Path, header: CacheHeader, names: Sequence[str], codes: Codes) -> None:
    """Write under a temporary name, sync, rename.

    Raises:
        OptionError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    blob = np.frombuffer(b"".join(name.encode() + b"\0" for name in names), np.uint8)
    # one entry: safetensors writes several in no fixed order, and equal caches shall be equal files
    metadata = {FORMAT: json.dumps(header._asdict())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"codes": np.ascontiguousarray(codes), "names": blob}, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed either
            temporary.unlink()
        raise OptionError(f"{path}: the code cache cannot be written ({error}).") from error


class CodeCache:
    """A cache that is read a row at a time; a copy in a worker process opens the file for itself.

    Args:
        path: of the file.
    Raises:
        OptionError: it is missing, cut off, or no code cache.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._codes: Any = None
        if not self.path.is_file():
            raise OptionError(f"{path}: no such code cache. Make it: python scripts/make_code_cache.py -opt FILE.yml")
        try:
            with safe_open(self.path, framework="np") as file:
                metadata = file.metadata() or {}
                if FORMAT not in metadata:
                    raise OptionError(f"{path}: no code cache, it holds something else.")
                self.header = CacheHeader(**json.loads(metadata[FORMAT]))
                codes: Any = file.get_slice("codes")
                self.shape: tuple[int, ...] = tuple(codes.get_shape())
                blob = file.get_tensor("names").tobytes()
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise OptionError(f"{path}: no whole code cache ({error}). Make it again.") from error
        self.names = blob.decode().split("\0")[:-1]
        if len(self.shape) != 3 or self.shape[:2] != (len(self.names), 2):
            raise OptionError(f"{path}: codes of shape {self.shape} for {len(self.names)} files. Make it again.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_codes": None}

    def rows_of(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Rows of the files; -1 for one that the cache lacks."""
        row_of = {name: row for row, name in enumerate(self.names)}
        return np.array([row_of.get(name, -1) for name in names], np.int64)

    def codes(self, row: int, mirrored: bool) -> Tensor:
        """Codes (L,) int64 of a picture."""
        if self._codes is None:
            self._codes = safe_open(self.path, framework="np").get_slice("codes")  # type: ignore[no-untyped-call]
        return torch.from_numpy(self._codes[row, int(mirrored)].astype(np.int64))

    def all_codes(self) -> Codes:
        """Codes (N, 2, L) of all pictures."""
        with safe_open(self.path, framework="np") as file:
            codes: Codes = file.get_tensor("codes")
        return codes


class CachedCodes:
    """The codes of the files of a data set, in its order.

    Args:
        path: of the cache.
        names: of the data set's files, as its index or folder names them.
        gt_size: px.
    Raises:
        OptionError: the cache lacks files of the data set, or is of another size.
    """

    def __init__(self, path: str, names: Iterable[str], gt_size: int) -> None:
        self.cache = CodeCache(path)
        if self.cache.header.gt_size != gt_size:
            raise OptionError(
                f"code_cache: {path} has codes of {self.cache.header.gt_size} px pictures, gt_size is {gt_size}. "
                "Make one for this size."
            )
        names = list(names)
        self.rows = self.cache.rows_of(names)
        missing = [names[place] for place in np.flatnonzero(self.rows < 0)]
        if missing:
            more = ", ..." if len(missing) > NUM_NAMED else ""
            raise OptionError(
                f"code_cache: {path} lacks {len(missing)} of {len(names)} files of this data set "
                f"({', '.join(missing[:NUM_NAMED])}{more}). scripts/make_code_cache.py adds what is missing."
            )

    def codes(self, place: int, mirrored: bool) -> Tensor:
        """Codes (L,) int64 of the data set's file `place`."""
        return self.cache.codes(int(self.rows[place]), mirrored)
