"""Weights files: read safely, matched by name with a report, written so that no partial file is ever seen.

A checkpoint of a network is `{'params': state dict, 'params_ema': state dict}` (BasicSR's layout), as `.pth` or, with
one state dict, `.safetensors`, whose header then says what else a `.pth` carries: the network's type and arguments, and
its recogniser. Nothing here runs code from a file: `torch.load` gets `weights_only=True`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from basicsr.utils.errors import WeightsError
from basicsr.utils.load_report import LISTED_KEYS, LoadReport, compare

# what the readers raise on bytes that are no weights: an unpickler on random bytes fails in any of these ways
UNREADABLE = (
    SafetensorError, RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile,
    IndexError, KeyError, TypeError, AttributeError, struct.error,
)  # fmt: skip


HEADER = "id_codeformer"  # the one entry of a header: several are written in no fixed order


def load_file(path: str | Path) -> dict[str, Any]:
    """The contents of a `.pth` or `.safetensors` file on the CPU.

    A `.safetensors` with a header of `save_safetensors` gives `{'params': state dict}` and what the header says, as the
    `.pth` would; any other one gives its tensors.

    Raises:
        WeightsError: the file is missing, cut off, no weights file, or holds more than tensors and plain types.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file.")
    try:
        if path.suffix == ".safetensors":
            about = read_header(path)
            state = dict(safetensors.torch.load_file(path))
            return state if about is None else {"params": state, **about}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what cannot be read is said below, once
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_unpickling_reason(path, error)) from error
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path}: cannot be read as weights, the file is cut off or of another kind ({reason})."
        ) from error
    if not isinstance(contents, dict):
        raise WeightsError(f"{path}: holds a {type(contents).__name__}, expected a dict of tensors.")
    return contents


def read_header(path: str | Path) -> dict[str, Any] | None:
    """What `save_safetensors` was told of the tensors; None in a file of another program.

    Raises:
        WeightsError: the header has our name and says nothing that can be read.
        SafetensorError: no such file.
    """
    with safetensors.safe_open(path, "pt") as opened:
        text = (opened.metadata() or {}).get(HEADER)
    if text is None:
        return None
    try:
        about = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path}: its header '{HEADER}' is no JSON ({error}). Convert the weights again.") from error
    if not isinstance(about, dict):
        raise WeightsError(f"{path}: its header '{HEADER}' is a {type(about).__name__}. Convert the weights again.")
    return about


def _unpickling_reason(path: Path, error: pickle.UnpicklingError) -> str:
    """One line for a file that the safe unpickler refused."""
    text = str(error)
    if "GLOBAL" in text or "Unsupported class" in text or _names_objects(path):
        return (
            f"{path}: refused, the file carries Python objects, not only tensors, and loading it could run code. "
            "Export the plain state dict (or .safetensors) where you trust the file."
        )
    return f"{path}: cannot be read as weights, the file is cut off or of another kind."


def _names_objects(path: Path) -> bool:
    """Whether a plain pickle asks for classes or functions. Its opcodes are listed; nothing of it is run.

    The safe unpickler stops at the first opcode of a newer protocol, before it sees what the file carries.
    """
    with path.open("rb") as file, contextlib.suppress(ValueError):  # a cut off file: what stood before the cut counts
        return any(opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") for opcode, _, _ in pickletools.genops(file))
    return False


def load_state(path: str | Path, param_key: str = "params_ema") -> dict[str, Tensor]:
    """State dict of a weights file: its `param_key`, else its 'params' or 'state_dict', else the file if it is plain.

    A discriminator's stands under 'params_d' or, alone in its file, under 'params' (param_key: params_d).

    A leading 'module.' (left by DataParallel) is dropped from the names.
    """
    contents = load_file(path)
    for key in (param_key, "params", "state_dict"):
        if isinstance(contents.get(key), Mapping):
            contents = dict(contents[key])
            break
    tensors = {name.removeprefix("module."): value for name, value in contents.items() if isinstance(value, Tensor)}
    if not tensors:
        found = ", ".join(list(contents)[:LISTED_KEYS])
        raise WeightsError(
            f"{path}: no '{param_key}', 'params' or 'state_dict' and no tensors in it (found: {found or 'nothing'})."
        )
    return tensors


def load_into(net: nn.Module, state: Mapping[str, Tensor], strict: bool = True, where: str = "") -> LoadReport:
    """Copy `state` into `net` by name.

    Args:
        strict: every name and shape must match; otherwise what does not match is left as it is and reported.
        where: file name, for the error.
    Raises:
        WeightsError: `strict` and something does not match.
    """
    report = compare(net, state)
    if strict and not report.fits:
        raise WeightsError(f"{where or 'weights'}: do not fit {type(net).__name__}: {report}.")
    left_out = {*report.extra, *report.mismatched}
    net.load_state_dict({name: value for name, value in state.items() if name not in left_out}, strict=False)
    return report


def save_atomic(contents: dict[str, Any], path: str | Path) -> None:
    """`torch.save` under a temporary name, synced, then renamed: a kill at any instant leaves the last whole file."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, torch would keep the temporary name in the file
            torch.save(contents, file)

    _write_whole(Path(path), write)


def save_safetensors(state: Mapping[str, Tensor], about: Mapping[str, Any], path: str | Path) -> None:
    """Write one state dict as `.safetensors`, as whole as `save_atomic` does. Equal contents are equal files.

    Args:
        about: plain values for the header: network_g (type and arguments), network_identity; see `load_file`.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    header = {HEADER: json.dumps(dict(about), sort_keys=True)}
    _write_whole(Path(path), lambda temporary: safetensors.torch.save_file(tensors, temporary, header))


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file under a temporary name, sync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
        with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed either
            temporary.unlink()
        raise WeightsError(
            f"{path}: the checkpoint could not be written ({error}). The last one is untouched."
        ) from error
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}).") from error


def _sha256(file: Any) -> str:
    """What `hashlib.file_digest` does, for Python 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
