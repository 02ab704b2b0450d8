"""Where pictures come from: single faces of the right size for the datasets, folders and archives for the data tools.

Pictures: uint8 BGR (S, S, 3).
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from basicsr.data.face_index import FaceIndex
from basicsr.data.lmdb_store import LmdbStore
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image, decode, imread, list_images


def read_face(path: Path, size: int, resize: bool, store: LmdbStore | None = None) -> Image:
    """A square picture of `size` px.

    Args:
        store: where the bytes of the file are; None: on the disk.
    Raises:
        ImageFileError: it has another size and `resize` is off; the text says the remedy.
    """
    image = imread(path) if store is None else decode(store.read_bytes(path), str(path))
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    if not resize or height != width:
        raise ImageFileError(
            f"{path}: {width}x{height} px, expected {size}x{size}. "
            + ("Crop it to a square first." if height != width else "Set `resize: true` on the dataset to resize it.")
        )
    return np.asarray(
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if height > size else cv2.INTER_CUBIC)
    )


def named_files(source: str, split: str | None) -> tuple[Sequence[Path], Sequence[str]]:
    """Pictures of an index CSV or below a folder, and their names: as the CSV has them, or relative to the folder."""
    if Path(source).suffix.lower() == ".csv":
        index = FaceIndex.read(source, split)
        return index.paths, index.names
    files = list_images(source)
    return files, [file.relative_to(source).as_posix() for file in files]


class FileSource:
    """Names of the files below a folder or in an archive, and their bytes. A context manager.

    Args:
        names: relative, with "/"; of an archive in the order they stand in it, which is the quick order to read.
        read_bytes: the bytes behind a name.
        archive: closed at the end.
    """

    def __init__(
        self, names: Sequence[str], read_bytes: Callable[[str], bytes], archive: tarfile.TarFile | None = None
    ) -> None:
        self.names = names
        self._read_bytes = read_bytes
        self._archive = archive

    def read(self, name: str) -> bytes:
        """Bytes of a file; ImageFileError where they cannot be had."""
        try:
            return self._read_bytes(name)
        except (OSError, EOFError, tarfile.TarError) as error:
            raise ImageFileError(f"{name}: cannot be read ({error}).") from error

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *error: object) -> None:
        if self._archive is not None:
            self._archive.close()


def open_source(path: Path) -> FileSource:
    """The files of a folder, sub-folders included, or of a tar archive, plain or compressed.

    Raises:
        ImageFileError: neither of them, or a broken archive.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return FileSource([file.relative_to(path).as_posix() for file in files], lambda n: (path / n).read_bytes())
    if not path.is_file():
        raise ImageFileError(f"{path}: no such folder or archive.")
    try:
        archive = tarfile.open(path)
        members = {member.name: member for member in archive if member.isfile()}
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]  # the others say what each kind of compression makes of it
        raise ImageFileError(f"{path}: no whole tar archive ({reason}). Copy or download it again.") from error

    def read_member(name: str) -> bytes:
        file = archive.extractfile(members[name])
        return file.read() if file is not None else b""

    return FileSource(list(members), read_member, archive)
