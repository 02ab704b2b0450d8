"""A video whose restoration is killed (SIGKILL) while it looks and while it restores ends as one left alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from restorer_toys import make_net, photo_arguments, photo_with
from video_toys import packets_of, write_clip

from basicsr.inference.video import SEGMENT
from basicsr.inference.video_file import read_frames

pytest.importorskip("av", reason="PyAV is not installed: pip install 'av>=14.2'")

ROOT = Path(__file__).resolve().parent.parent
NUM_FRAMES = 2 * SEGMENT + 30


def kill_when(command: list[str], ready: Callable[[], bool]) -> None:
    """Start a command and kill it as soon as `ready`."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not ready():
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def faces_in(folder: Path) -> list[dict[str, Any]]:
    faces = json.loads((folder / "results.json").read_text())["faces"]
    return [{key: face[key] for key in set(face) - {"restored", "final", "seconds"}} for face in faces]


@pytest.mark.slow
def test_a_video_that_is_killed_twice_ends_with_the_frames_the_sound_and_the_figures_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    make_net(tmp_path)
    frames = [photo_with((1, 1), *([(3, 3)] if i % 50 else []), seed=i % 7) for i in range(NUM_FRAMES)]
    clip = write_clip(tmp_path / "clip.mp4", frames, [1001 * i for i in range(NUM_FRAMES)])
    arguments = [*photo_arguments(tmp_path), "-i", str(clip), "-s", "1", "--resume", "-o"]
    program = [sys.executable, "inference_codeformer.py", *arguments]  # a process each: threads that sum alike
    subprocess.run([*program, str(tmp_path / "whole")], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)

    out = tmp_path / "killed"
    parts, journal = out / ".clip.parts", out / ".clip.parts/faces.jsonl"
    command = [*program, str(out)]
    kill_when(command, lambda: journal.is_file() and journal.read_bytes().count(b"\n") > NUM_FRAMES // 4)
    assert journal.read_bytes().count(b"\n") < NUM_FRAMES
    kill_when(command, (parts / "000000.mkv").exists)
    assert not (parts / "000002.mkv").exists()
    assert not (out / "clip.mp4").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "segments were done by an earlier run" in done.stderr

    for kind in ("video", "audio"):
        assert packets_of(out / "clip.mp4", kind) == packets_of(tmp_path / "whole/clip.mp4", kind), kind
    assert packets_of(out / "clip.mp4", "audio") == packets_of(clip, "audio")
    shown = [(frame.pts, frame.image.shape) for frame in read_frames(out / "clip.mp4")]
    assert shown == [(1001 * i, (128, 128, 3)) for i in range(NUM_FRAMES)]
    assert faces_in(out) == faces_in(tmp_path / "whole")
    assert sorted(path.name for path in out.iterdir()) == [
        "clip.mp4", "cropped_faces", "restored_faces", "results.json",
    ]  # fmt: skip
