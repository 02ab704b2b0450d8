"""How a run over many pictures works: reading and writing beside the network, in bounds; stopped and killed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from restorer_toys import make_net, photo_arguments, photo_with

import inference_codeformer as tool
from basicsr.inference import FaceRestorer, RestoredFace, photo_files, pipeline
from basicsr.utils.img_util import imwrite
from basicsr.utils.picture import Picture, read_picture, write_picture

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0  # seconds until something that never happens is given up
NUM_PHOTOS, THREADS = 8, 2


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy parts and NUM_PHOTOS photos in album/."""
    folder = tmp_path_factory.mktemp("toy")
    make_net(folder)
    for i in range(NUM_PHOTOS):
        imwrite(folder / f"album/{i}.png", photo_with((1, 1), seed=i))
    return folder


class Watch:
    """Counts what reader, network and writer have begun or done, and lets each wait for the others."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.num_read = self.num_calls = 0
        self.overlaps: dict[str, list[bool]] = {"read": [], "write": []}
        self.most_ahead = 0

    def read(self, path: Path, **how: Any) -> Picture:
        picture = read_picture(path, **how)
        with self.changed:
            self.num_read += 1
            self.most_ahead = max(self.most_ahead, self.num_read - self.num_calls)
            self.changed.notify_all()
        return picture

    def network(self, restore: Callable[..., list[RestoredFace]]) -> Callable[..., list[RestoredFace]]:
        def call(*args: Any, **kwargs: Any) -> list[RestoredFace]:
            """Is not done with a photo before the next one is read."""
            with self.changed:
                self.num_calls += 1
                self.changed.notify_all()
                wanted = min(self.num_calls + 1, NUM_PHOTOS)
                self.overlaps["read"].append(self.changed.wait_for(lambda: self.num_read >= wanted, PATIENCE))
            return restore(*args, **kwargs)

        return call

    def write(self, path: Path, picture: Picture, quality: int) -> None:
        """Does not write a photo before the network has the next one."""
        if path.parent.name == "final_results":
            wanted = min(int(path.stem) + 2, NUM_PHOTOS)
            with self.changed:
                self.overlaps["write"].append(self.changed.wait_for(lambda: self.num_calls >= wanted, PATIENCE))
        write_picture(path, picture, quality)


def test_photos_are_read_ahead_and_written_behind_while_the_network_works(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    monkeypatch.setattr(pipeline, "read_picture", watch.read)
    monkeypatch.setattr(photo_files, "write_picture", watch.write)
    monkeypatch.setattr(FaceRestorer, "restore_batch", watch.network(FaceRestorer.restore_batch))
    arguments = ["-i", toy / "album", "-o", tmp_path, "--batch_size", "1", "--threads", THREADS]
    assert tool.main([*photo_arguments(toy), *map(str, arguments)]) == 0
    assert watch.overlaps == {"read": [True] * NUM_PHOTOS, "write": [True] * NUM_PHOTOS}
    assert watch.most_ahead <= THREADS + 1, "read ahead, but not the whole folder into memory"


def test_results_that_wait_for_a_slow_disk_are_bounded(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done, most = [0], [0], [0]
    lock = threading.Lock()

    def network(*args: Any, **kwargs: Any) -> list[RestoredFace]:
        with lock:
            begun[0] += 1
            most[0] = max(most[0], begun[0] - 1 - done[0])
        return restore(*args, **kwargs)

    def write(path: Path, picture: Picture, quality: int) -> None:
        write_picture(path, picture, quality)
        if path.parent.name == "final_results":
            time.sleep(0.2)
            with lock:
                done[0] += 1

    restore = FaceRestorer.restore_batch
    monkeypatch.setattr(pipeline, "WRITES_WAITING", 2)
    monkeypatch.setattr(photo_files, "write_picture", write)
    monkeypatch.setattr(FaceRestorer, "restore_batch", network)
    arguments = ["-i", toy / "album", "-o", tmp_path, "--batch_size", "1", "--threads", "1"]
    assert tool.main([*photo_arguments(toy), *map(str, arguments)]) == 0
    assert done == [NUM_PHOTOS]
    assert 1 <= most[0] <= 2


def started(toy: Path, out: Path, album: Path, *more: str) -> subprocess.Popen[str]:
    flags = [*photo_arguments(toy), "-i", str(album), "-o", str(out), "--batch_size", "1", "--threads", "1", *more]
    command = [sys.executable, str(ROOT / "inference_codeformer.py"), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # a test that is itself started in the background has SIGINT ignored, which is inherited
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def finals(out: Path) -> set[str]:
    return {path.name for path in (out / "final_results").glob("*.png")}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_that_is_ended_in_the_middle_goes_on_and_no_photo_is_lost_or_done_twice(
    toy: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    album, out, count = tmp_path / "album", tmp_path / "out", 60
    for i in range(count):
        imwrite(album / f"{i:03d}.png", photo_with((1, 1), seed=i))
    run = started(toy, out, album)
    while len(finals(out)) < 5 and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(number)
    said = run.communicate(timeout=PATIENCE)[1]
    before = finals(out)
    assert 5 <= len(before) < count, "it must have been ended in the middle"
    listed: set[str] = set()
    if number == signal.SIGKILL:
        assert run.returncode == -signal.SIGKILL
    else:
        assert run.returncode == 130, said
        assert "stopped; --resume goes on from there" in said
        assert "Traceback" not in said
        report = json.loads((out / "results.json").read_text())
        listed = {Path(face["final"]).name for face in report["faces"]}
        assert listed == before
        assert report["complete"] is False
    for path in (out / "final_results").iterdir():
        if path.suffix == ".png":
            read_picture(path)  # whole
    again: list[str] = []

    def noted(path: Path, **how: Any) -> Picture:
        again.append(path.name)
        return read_picture(path, **how)

    monkeypatch.setattr(pipeline, "read_picture", noted)
    assert tool.main([*photo_arguments(toy), "-i", str(album), "-o", str(out), "--resume"]) == 0
    names = [f"{i:03d}.png" for i in range(count)]
    assert sorted(again) == sorted(set(names) - listed), "what is listed is not done again, the rest once"
    report = json.loads((out / "results.json").read_text())
    assert sorted(Path(face["final"]).name for face in report["faces"]) == names
    assert finals(out) == set(names)
    assert report["complete"] is True
