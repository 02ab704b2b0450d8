"""Text files and output folders: a file on disk is always whole, and what cannot be written is one line."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from basicsr.utils.errors import UserError


def make_folder(folder: Path) -> None:
    """Make the output folder before hours of work, not after.

    Raises:
        UserError: it cannot be made or written.
    """
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename.

    Raises:
        UserError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed either
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
