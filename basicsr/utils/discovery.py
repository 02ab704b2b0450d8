"""Import the modules of a package that register classes. The only place that does so."""

from __future__ import annotations

import importlib
import pkgutil


def import_modules(package: str, suffix: str) -> None:
    """Import every `<package>/*_<suffix>.py` once, in sorted order, so that its `@REGISTRY.register()` lines run."""
    paths = importlib.import_module(package).__path__
    for module in sorted(pkgutil.iter_modules(paths), key=lambda m: m.name):
        if module.name.endswith(f"_{suffix}"):
            importlib.import_module(f"{package}.{module.name}")
