"""Fetch weights files: under a temporary name, resumable, checked by SHA-256.

A file that nobody published a checksum for is trusted the first time it arrives whole; its checksum is then recorded
in checksums.json and holds for every later look at the file. An interrupted transfer leaves `<name>.part` and
`<name>.part.tag`; the tag (ETag or date of the remote file) makes sure that the two halves are of one file.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from basicsr.utils.errors import UserError
from basicsr.utils.weights import sha256_of

logger = logging.getLogger(__name__)

BLOCK_SIZE = 1 << 18  # bytes
ATTEMPTS = 3  # times a cut connection is taken up again before the person is asked to
TIMEOUT = 30.0  # seconds without a byte
CHECKSUM_FILE = "checksums.json"
RANGE_NOT_SATISFIABLE = 416
PARTIAL_CONTENT = 206


class DownloadError(UserError):
    """A file did not arrive; the text says where to fetch it by hand and where it goes."""


class UnreachableError(DownloadError):
    """The host does not answer at all, so that trying the next file is idle."""


class ChecksumError(DownloadError):
    """A file is not the one that was expected."""


class CutError(Exception):
    """The connection ended before the file did. Internal: the transfer is taken up again."""


@dataclass(frozen=True)
class RemoteFile:
    """One weights file: where it is, what it is called below the weights folder, and its checksum if published."""

    url: str
    name: str  # relative to the weights folder, with '/': CodeFormer/codeformer.pth
    sha256: str | None = None


def by_hand(remote: RemoteFile, weights_dir: Path) -> str:
    """The way out of every failure here."""
    return f"fetch {remote.url} by hand and put it at {weights_dir / remote.name}"


def fetch(remote: RemoteFile, weights_dir: str | Path = "weights") -> Path:
    """Path of the file, downloaded if it is not there, verified either way.

    Raises:
        ChecksumError: the file, fetched or found, is not the one with the known checksum.
        UnreachableError: no connection.
        DownloadError: the server refuses, or the disk does.
    """
    weights_dir = Path(weights_dir)
    path = weights_dir / remote.name
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            _transfer_with_retries(remote, part, weights_dir)
            _verify(part, remote, weights_dir, fresh=True)
            os.replace(part, path)
            _tag_of(part).unlink(missing_ok=True)
        return _verify(path, remote, weights_dir, fresh=False)
    except OSError as error:
        raise DownloadError(f"{path}: cannot be written ({error.strerror or error}).") from error


def read_checksums(weights_dir: str | Path) -> dict[str, str]:
    """File name below `weights_dir` -> SHA-256, as recorded by earlier downloads."""
    path = Path(weights_dir) / CHECKSUM_FILE
    if not path.exists():
        return {}
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DownloadError(f"{path}: no valid JSON ({error}). Remove it to record the checksums anew.") from error
    if not isinstance(recorded, dict):
        raise DownloadError(f"{path}: expected an object of file names and SHA-256. Remove it to record them anew.")
    return {str(name): str(digest) for name, digest in recorded.items()}


def _record_checksum(weights_dir: Path, name: str, sha256: str) -> None:
    path = weights_dir / CHECKSUM_FILE
    recorded = {**read_checksums(weights_dir), name: sha256}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _verify(path: Path, remote: RemoteFile, weights_dir: Path, fresh: bool) -> Path:
    """Compare with the published, else the recorded checksum; record the first one seen.

    Args:
        fresh: `path` is a transfer that just ended: a wrong one is removed, as going on with it is idle.
    """
    found = sha256_of(path)
    recorded = read_checksums(weights_dir).get(remote.name)
    expected = remote.sha256 or recorded
    if expected is not None and found != expected.lower():
        if fresh:
            path.unlink()
            _tag_of(path).unlink(missing_ok=True)
        origin = "published" if remote.sha256 else f"recorded in {weights_dir / CHECKSUM_FILE}"
        way_out = "The download was removed; try again" if fresh else "Remove the file and download it again"
        raise ChecksumError(
            f"{path}: SHA-256 {found[:12]}..., expected {expected[:12]}... ({origin}). {way_out}, or "
            f"{by_hand(remote, weights_dir)}."
        )
    if not fresh and recorded != found:
        _record_checksum(weights_dir, remote.name, found)
        if remote.sha256 is None:
            logger.info("%s: no published checksum; trusted now and recorded: sha256 %s", remote.name, found)
    return path


def _transfer_with_retries(remote: RemoteFile, part: Path, weights_dir: Path) -> None:
    """Transfer, taking a cut connection up again as long as bytes arrive."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer(remote, part)
        except HTTPError as error:
            raise DownloadError(
                f"{remote.name}: the server answers {error.code} {error.reason}; {by_hand(remote, weights_dir)}."
            ) from error
        except URLError as error:
            raise UnreachableError(
                f"{remote.name}: no connection ({error.reason}); {by_hand(remote, weights_dir)}."
            ) from error
        except (CutError, HTTPException, TimeoutError, ConnectionError) as error:
            arrived = part.stat().st_size if part.exists() else 0
            if attempt == ATTEMPTS:
                raise DownloadError(
                    f"{remote.name}: the connection was cut after {arrived} bytes ({error}). Run the same command "
                    f"again to go on from there, or {by_hand(remote, weights_dir)}."
                ) from error
            logger.warning("%s: connection cut after %d bytes, going on from there", remote.name, arrived)


def _tag_of(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _resume_headers(part: Path) -> dict[str, str]:
    """Ask for the rest, on the condition that the remote file is still the one of the first half."""
    tag_path = _tag_of(part)
    if not part.exists() or part.stat().st_size == 0 or not tag_path.exists():
        return {}
    return {"Range": f"bytes={part.stat().st_size}-", "If-Range": tag_path.read_text(encoding="utf-8")}


def _write_tag(response: HTTPResponse, part: Path) -> None:
    tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
    if tag and not tag.startswith("W/"):  # a weak tag does not promise equal bytes
        _tag_of(part).write_text(tag, encoding="utf-8")
    else:
        _tag_of(part).unlink(missing_ok=True)


@contextmanager
def _open(url: str, headers: dict[str, str]) -> Iterator[HTTPResponse]:
    request = Request(url, headers={"User-Agent": "id-codeformer", "Accept-Encoding": "identity", **headers})
    with urlopen(request, timeout=TIMEOUT) as response:
        yield response


def _transfer(remote: RemoteFile, part: Path) -> None:
    """One connection: append what comes to `part`, then compare its size with what the server announced."""
    headers = _resume_headers(part)
    try:
        with _open(remote.url, headers) as response:
            partial = bool(headers) and response.status == PARTIAL_CONTENT
            resumed = partial and _range_start(response) == part.stat().st_size
            if partial and not resumed:
                raise CutError("the server sent another part than was asked for")
            if headers and not resumed:
                logger.info("%s: the server sends the whole file again", remote.name)
            _write_body(response, part, append=resumed, desc=Path(remote.name).name)
    except HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or not headers:
            raise
        part.unlink()  # longer than the remote file: of another one
        raise CutError("the first half was of another file") from error


def _range_start(response: HTTPResponse) -> int | None:
    """First byte of a partial answer: 'Content-Range: bytes 100-199/200' -> 100."""
    span = (response.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
    return int(span) if span.isdigit() else None


def _write_body(response: HTTPResponse, part: Path, append: bool, desc: str) -> None:
    """Stream the answer to disk with a progress bar.

    Raises:
        CutError: fewer bytes came than the server announced.
    """
    start = part.stat().st_size if append else 0
    announced = response.headers.get("Content-Length")
    total = start + int(announced) if announced else None
    with (
        part.open("ab" if append else "wb") as file,
        tqdm(total=total, initial=start, desc=desc, unit="B", unit_scale=True, dynamic_ncols=True) as bar,
    ):
        if not append:  # only now is the old half gone: a new tag beside it would join two files
            _write_tag(response, part)
        while block := response.read(BLOCK_SIZE):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and part.stat().st_size < total:
        raise CutError(f"{part.stat().st_size} of {total} bytes")
