"""Downloads against a server on this machine: whole, cut, changed, corrupt, absent. No outside network."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import download_pretrained_models as script
import numpy as np
import pytest

from basicsr.utils import download_util
from basicsr.utils.download_util import ChecksumError, DownloadError, RemoteFile, UnreachableError, fetch

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class FileServer:
    """A web server with one file, ranges and faults."""

    body: bytes = BODY
    tag: str | None = '"v1"'
    cut_after: list[int] = field(default_factory=list)  # bytes sent before the connection drops, per request
    requests: list[str | None] = field(default_factory=list)  # the Range header of each request
    port: int = 0

    def url(self, name: str = "net.pth") -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append(wanted)
        if not handler.path.endswith("net.pth"):
            handler.send_error(404)
            return
        start = 0
        same_file = handler.headers.get("If-Range") == self.tag
        if wanted and same_file:
            start = int(re.findall(r"\d+", wanted)[0])
            if start >= len(self.body):
                handler.send_error(416)
                return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.tag:
            handler.send_header("ETag", self.tag)
        handler.send_header("Content-Length", str(len(self.body) - start))
        handler.end_headers()
        sent = self.body[start:]
        if self.cut_after:
            sent = sent[: self.cut_after.pop(0)]
        handler.wfile.write(sent)


@pytest.fixture
def server() -> Iterator[FileServer]:
    state = FileServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def remote(server: FileServer) -> Callable[[str | None], RemoteFile]:
    def named(sha256: str | None) -> RemoteFile:
        return RemoteFile(server.url(), "CodeFormer/net.pth", sha256)

    return named


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if ".part" in path.name or ".tmp" in path.name)


def test_a_download_holds_the_bytes_and_its_checksum_is_recorded(tmp_path, remote):
    path = fetch(remote(None), tmp_path)
    assert path == tmp_path / "CodeFormer" / "net.pth"
    assert path.read_bytes() == BODY
    assert json.loads((tmp_path / "checksums.json").read_text()) == {"CodeFormer/net.pth": SHA256}
    assert leftovers(tmp_path) == []


def test_a_file_that_is_there_is_verified_and_not_fetched_again(tmp_path, server, remote):
    fetch(remote(None), tmp_path)
    fetch(remote(None), tmp_path)
    assert len(server.requests) == 1


def test_a_cut_connection_goes_on_where_it_stopped(tmp_path, server, remote):
    server.cut_after = [100_000, 50_000]
    assert fetch(remote(SHA256), tmp_path).read_bytes() == BODY
    assert server.requests == [None, "bytes=100000-", "bytes=150000-"]


def test_after_the_last_attempt_the_part_stays_and_the_next_run_resumes(tmp_path, server, remote):
    server.cut_after = [1000] * download_util.ATTEMPTS
    with pytest.raises(DownloadError, match="cut after 3000 bytes") as caught:
        fetch(remote(None), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "CodeFormer" / "net.pth").exists()
    assert fetch(remote(None), tmp_path).read_bytes() == BODY
    assert server.requests[-1] == "bytes=3000-"


def test_a_remote_file_that_changed_meanwhile_is_fetched_whole(tmp_path, server, remote):
    server.cut_after = [1000] * download_util.ATTEMPTS
    with pytest.raises(DownloadError):
        fetch(remote(None), tmp_path)
    server.tag, server.body = '"v2"', BODY[::-1]
    assert fetch(remote(None), tmp_path).read_bytes() == BODY[::-1]


def test_without_a_tag_two_halves_are_never_joined(tmp_path, server, remote):
    server.tag, server.cut_after = None, [1000]
    assert fetch(remote(None), tmp_path).read_bytes() == BODY
    assert server.requests == [None, None]


def test_a_part_longer_than_the_remote_file_is_dropped(tmp_path, server, remote):
    part = tmp_path / "CodeFormer" / "net.pth.part"
    part.parent.mkdir()
    part.write_bytes(BODY + b"more")
    part.with_name("net.pth.part.tag").write_text('"v1"')
    assert fetch(remote(None), tmp_path).read_bytes() == BODY


def test_a_corrupt_download_is_refused_and_removed(tmp_path, server, remote):
    server.body = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(ChecksumError, match="expected " + SHA256[:12]) as caught:
        fetch(remote(SHA256), tmp_path)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_that_went_bad_on_disk_is_noticed_and_left_for_the_person_to_remove(tmp_path, remote):
    path = fetch(remote(None), tmp_path)
    path.write_bytes(BODY[:1000])
    with pytest.raises(ChecksumError, match=r"recorded in .*checksums\.json"):
        fetch(remote(None), tmp_path)
    assert path.exists()


def test_a_file_put_there_by_hand_is_recorded_without_a_connection(tmp_path):
    path = tmp_path / "CodeFormer" / "net.pth"
    path.parent.mkdir()
    path.write_bytes(BODY)
    fetch(RemoteFile("http://127.0.0.1:9/net.pth", "CodeFormer/net.pth"), tmp_path)
    assert json.loads((tmp_path / "checksums.json").read_text()) == {"CodeFormer/net.pth": SHA256}


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_offline_one_line_names_the_address_and_the_place(tmp_path):
    url = f"http://127.0.0.1:{unused_port()}/net.pth"
    with pytest.raises(UnreachableError) as caught:
        fetch(RemoteFile(url, "CodeFormer/net.pth"), tmp_path)
    text = str(caught.value)
    assert url in text
    assert str(tmp_path / "CodeFormer" / "net.pth") in text
    assert "\n" not in text


def test_a_file_the_server_does_not_have_is_named_with_its_answer(tmp_path, server):
    with pytest.raises(DownloadError, match="404"):
        fetch(RemoteFile(server.url("other.bin"), "x/other.bin"), tmp_path)


def test_a_broken_checksum_file_is_an_error_with_a_way_out(tmp_path, remote):
    (tmp_path / "checksums.json").write_text("{")
    with pytest.raises(DownloadError, match="Remove it"):
        fetch(remote(None), tmp_path)


def test_the_script_offline_leaves_with_2_and_one_line_per_file(tmp_path, capsys):
    base = f"http://127.0.0.1:{unused_port()}"
    assert script.main(["facelib", "--weights_dir", str(tmp_path), "--base_url", base]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["error", "error"]
    assert f"{base}/parsing_parsenet.pth" in errors[1]
    assert str(tmp_path / "facelib" / "parsing_parsenet.pth") in errors[1]


def test_the_script_fetches_a_file_that_is_named(tmp_path, server):
    known = script.remote_files(base_url=server.url("")).values()
    assert {remote.url.rpartition("/")[0] for remote in known} == {server.url("")[:-1]}
    assert script.download([RemoteFile(server.url(), "facelib/net.pth")], tmp_path) == 0
    assert (tmp_path / "facelib" / "net.pth").read_bytes() == BODY


def test_the_sets_hold_the_files_of_the_release_and_all_is_their_union():
    assert script.chosen_names(["CodeFormer"]) == ["codeformer.pth"]
    assert len(script.chosen_names(["CodeFormer_train"])) == 4
    assert set(script.chosen_names(["all"])) == {name for names in script.SETS.values() for name in names}
    assert script.remote_files()["codeformer.pth"].name == "CodeFormer/codeformer.pth"


def test_a_misspelt_set_gets_a_suggestion():
    with pytest.raises(Exception, match="Did you mean 'facelib'"):
        script.chosen_names(["facelb"])
