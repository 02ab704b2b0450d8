"""Imported first by every script: puts the repository root first on sys.path, and refuses another `basicsr`.

Standard library only. PyPI's BasicSR has the same package name; with both installed, which one a worker process or a
third party imports depends on the order of sys.path, and the error would come hours later.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def put_root_first() -> None:
    """Make `import basicsr` find this repository's package, whatever the working folder is."""
    root = str(ROOT)
    sys.path[:] = [root, *(entry for entry in sys.path if entry != root)]


def foreign_basicsr() -> Path | None:
    """Folder of an installed distribution called `basicsr`, or None."""
    try:
        installed = metadata.distribution("basicsr")
    except metadata.PackageNotFoundError:
        return None
    return Path(str(installed.locate_file("basicsr")))


def refuse_foreign_basicsr() -> None:
    """Leave with exit code 2 and one line when another `basicsr` is installed in this environment."""
    foreign = foreign_basicsr()
    if foreign is None:
        return
    sys.stderr.write(
        f"error: two packages are called basicsr: {ROOT / 'basicsr'} (this one) and {foreign} (installed). "
        f"Remove the installed one: {sys.executable} -m pip uninstall basicsr\n"
    )
    sys.exit(2)


put_root_first()
refuse_foreign_basicsr()
