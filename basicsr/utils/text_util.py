"""Text and JSON files, output folders: a file on disk is always whole, and what cannot be written is one line."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

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


def is_utf8(name: str) -> bool:
    """Whether a file's name can stand in a table: on Linux it may hold any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """A file's name as it can be printed and written: bytes that are no UTF-8 as \\udcXX."""
    return name.encode(errors="backslashreplace").decode()


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
    except (OSError, UnicodeEncodeError) as error:
        with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed either
            temporary.unlink()
        reason = error.strerror if isinstance(error, OSError) else "a name in it is not UTF-8; rename that file"
        raise UserError(f"{path}: cannot be written ({reason})") from error


def write_json(path: Path, value: Any) -> None:
    """Write plain values as indented JSON; see `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")
