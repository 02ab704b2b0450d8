"""A small clip through the whole path: frames, times and sound kept, one identity a track, the same after a kill."""

from __future__ import annotations

import json
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from restorer_toys import make_net, photo_arguments, photo_with
from video_toys import (
    TIME_BASE,
    ColourDetector,
    frame_of,
    packets_of,
    place_of,
    uneven_times,
    write_clip,
)

import inference_codeformer as tool
from basicsr.inference import FaceRestorer, Job, ResultsFile, video_scan, video_segment
from basicsr.inference import video as module
from basicsr.inference.photo import Painter
from basicsr.inference.run_settings import RunSettings
from basicsr.inference.video import VideoRun, VideoSettings, video_output
from basicsr.inference.video_file import Frame, read_frames, video_facts
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, imread, imwrite

pytest.importorskip("av", reason="PyAV is not installed: pip install 'av>=14.2'")

NUM_FRAMES = 14
KNOBS = {"w": 0.5, "w_id": 1.0, "id_scale": 1.0, "adain": None}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy network and clip.mp4, in which two people pass each other."""
    folder = tmp_path_factory.mktemp("toy")
    make_net(folder)
    frames = [frame_of(i, (0, 1)) for i in range(NUM_FRAMES)]
    write_clip(folder / "clip.mp4", frames, uneven_times(NUM_FRAMES))
    return folder


@pytest.fixture(scope="module")
def restorer(toy: Path) -> FaceRestorer:
    return FaceRestorer(toy / "net.pth", device="cpu")


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT", 4)


def run_clip(restorer: FaceRestorer, clip: Path, out: Path, detector: Any = None, **more: Any) -> dict[str, Any]:
    """Restore a clip; what results.json says of it."""
    job = Job(clip, (), video_output(clip, out, None))
    settings = RunSettings(
        folder=out,
        mode=None,
        knobs=KNOBS,
        read_ref=imread,
        painter=Painter(),
        detector=detector or ColourDetector(),
        batch_size=3,
        fingerprints={job.output: "same"},
    )
    results = ResultsFile(out / "results.json", {"faces": [], "failures": []})
    results.describe_restorer(restorer)
    VideoRun(restorer, settings, VideoSettings(**more), results).restore(job)
    contents: dict[str, Any] = json.loads((out / "results.json").read_text())
    return contents


@pytest.mark.usefixtures("short_segments")
def test_frames_times_and_sound_are_those_of_the_source(toy: Path, restorer: FaceRestorer, tmp_path: Path) -> None:
    clip, out = toy / "clip.mp4", tmp_path / "clip.mp4"
    run_clip(restorer, clip, tmp_path)
    source, result = list(read_frames(clip)), list(read_frames(out))
    assert [frame.pts for frame in result] == [frame.pts for frame in source] == uneven_times(NUM_FRAMES)
    assert video_facts(out).time_base == TIME_BASE
    assert packets_of(out, "audio") == packets_of(clip, "audio")
    assert len(packets_of(out, "audio")) > 10
    corner = (slice(-12, None), slice(0, 40))  # no face comes here
    assert all(
        np.abs(a.image[corner].astype(int) - b.image[corner]).mean() < 4 for a, b in zip(source, result, strict=True)
    )
    left, top = place_of(0, 7)
    face = (slice(top + 10, top + 30), slice(left + 10, left + 30))
    assert np.abs(source[7].image[face].astype(int) - result[7].image[face]).mean() > 10, "the face is restored"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clip.mp4", "cropped_faces", "restored_faces", "results.json",
    ]  # fmt: skip


@pytest.mark.usefixtures("short_segments")
def test_each_person_is_one_track_over_all_frames(toy: Path, restorer: FaceRestorer, tmp_path: Path) -> None:
    contents = run_clip(restorer, toy / "clip.mp4", tmp_path)
    assert contents["failures"] == []
    assert [(face["track"], face["num_frames"], face["frames"]) for face in contents["faces"]] == [
        (0, NUM_FRAMES, [0, NUM_FRAMES - 1]),
        (1, NUM_FRAMES, [0, NUM_FRAMES - 1]),
    ]
    for number, face in enumerate(contents["faces"]):
        assert face["restored"] == str(tmp_path / f"restored_faces/clip_{number:02d}.png")
        assert Path(face["restored"]).is_file()
        left, top = place_of(number, face["best_frame"])
        assert np.abs(np.array(face["box"][:2]) - (left, top)).max() <= 2


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("where", ["look", "restore"])
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_video(
    toy: Path, restorer: FaceRestorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    undisturbed = run_clip(restorer, toy / "clip.mp4", tmp_path / "a")
    calls = {"look": 0, "restore": 0}

    class Killed(ColourDetector):
        def detect(self, image: Any) -> Any:
            calls["look"] += 1
            if where == "look" and calls["look"] == 9:
                raise KeyboardInterrupt
            return super().detect(image)

    real = restorer.restore_batch

    def restore_batch(*arguments: Any, **knobs: Any) -> Any:
        calls["restore"] += 1
        if where == "restore" and calls["restore"] == 8:
            raise KeyboardInterrupt
        return real(*arguments, **knobs)

    monkeypatch.setattr(restorer, "restore_batch", restore_batch)
    with pytest.raises(KeyboardInterrupt):
        run_clip(restorer, toy / "clip.mp4", tmp_path / "b", Killed())
    assert not (tmp_path / "b/clip.mp4").exists()
    monkeypatch.setattr(restorer, "restore_batch", real)
    detector = ColourDetector()
    resumed = run_clip(restorer, toy / "clip.mp4", tmp_path / "b", detector, resume=True)
    if where == "restore":
        assert detector.num_calls == 0, "the faces were known"
        assert calls["restore"] == 8
    else:
        assert 0 < detector.num_calls < NUM_FRAMES
    assert packets_of(tmp_path / "b/clip.mp4", "video") == packets_of(tmp_path / "a/clip.mp4", "video")
    for one, other in zip(resumed["faces"], undisturbed["faces"], strict=True):
        for key in set(one) - {"restored", "final", "seconds"}:
            assert one[key] == other[key], key


class Alive:
    """Counts the pictures that are in memory at the same time."""

    def __init__(self) -> None:
        self.now = self.most = self.seen = 0
        self._lock = threading.RLock()

    def watch(self, image: Image) -> Image:
        with self._lock:
            self.now, self.seen = self.now + 1, self.seen + 1
            self.most = max(self.most, self.now)
        weakref.finalize(image, self._gone)
        return image

    def _gone(self) -> None:
        with self._lock:
            self.now -= 1


@pytest.mark.usefixtures("short_segments")
def test_so_many_frames_are_in_memory_however_long_the_video_is(
    restorer: FaceRestorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = {}
    for count in (20, 60):
        read, painted = Alive(), Alive()

        def watched(path: Path, first: int = 0, read: Alive = read) -> Iterator[Frame]:
            for frame in read_frames(path, first):
                read.watch(frame.image)
                yield frame
                del frame

        monkeypatch.setattr(video_scan, "read_frames", watched)
        monkeypatch.setattr(module, "read_frames", watched)
        monkeypatch.setattr(video_segment, "even", lambda image, painted=painted: painted.watch(image.copy()))
        frames = [frame_of(i % 14, (0, 1)) for i in range(count)]
        clip = write_clip(tmp_path / f"{count}.mp4", frames, [1000 * i for i in range(count)], sound=None)
        run_clip(restorer, clip, tmp_path / "out")
        assert (read.seen, painted.seen) == (2 * count, count), "each frame is read twice and painted once"
        most[count] = read.most
        assert painted.most == 1
    # those that two threads prepare, wait for a batch of three, and wait to be painted and encoded
    assert max(most.values()) <= 4 + 3 + video_segment.FRAMES_WAITING + 2
    assert most[60] <= most[20] + 2, "threads are not in step"


def test_a_video_without_a_face_and_one_that_is_broken_are_a_line_each(
    toy: Path, restorer: FaceRestorer, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "empty.mp4", [frame_of(i, ()) for i in range(4)], uneven_times(4))
    contents = run_clip(restorer, clip, tmp_path / "out")
    assert contents["faces"] == []
    assert "no face found in 4 frames" in contents["failures"][0]["error"]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((toy / "clip.mp4").read_bytes()[:3000])
    with pytest.raises(UserError, match=r"broken.mp4: cannot be read as a video"):
        video_output(broken, tmp_path, None)


def test_a_face_that_cannot_be_restored_is_counted_and_stays(
    toy: Path, restorer: FaceRestorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, alone = restorer.restore_batch, [0]

    def restore_batch(crops: Any, *arguments: Any, **knobs: Any) -> Any:
        alone[0] += len(crops) == 1
        if len(crops) > 1 or alone[0] == 1:
            raise ImageFileError("not this one")
        return real(crops, *arguments, **knobs)

    monkeypatch.setattr(restorer, "restore_batch", restore_batch)
    contents = run_clip(restorer, toy / "clip.mp4", tmp_path)
    assert sum(face["num_frames"] for face in contents["faces"]) == 2 * NUM_FRAMES - 1
    (failure,) = contents["failures"]
    assert "1 of 14 faces could not be restored" in failure["error"]
    assert "not this one" in failure["error"]
    assert len(list(read_frames(tmp_path / "clip.mp4"))) == NUM_FRAMES


def test_the_frame_rate_is_another_when_asked_and_the_sound_goes_where_it_fits(
    toy: Path, restorer: FaceRestorer, tmp_path: Path
) -> None:
    run_clip(restorer, toy / "clip.mp4", tmp_path, fps=25.0)
    times = [frame.pts * video_facts(tmp_path / "clip.mp4").time_base for frame in read_frames(tmp_path / "clip.mp4")]
    assert [float(later - sooner) for sooner, later in pairwise(times)] == [0.04] * (NUM_FRAMES - 1)
    frames = [frame_of(i, (0,)) for i in range(3)]
    assert video_output(write_clip(tmp_path / "a.mov", frames, [0, 1000, 2000], "aac"), tmp_path, "x").name == "a_x.mp4"
    pcm = write_clip(tmp_path / "b.mov", frames, [0, 10000, 20000], "pcm_s16le")
    assert video_output(pcm, tmp_path, None).name == "b.mkv"
    run_clip(restorer, pcm, tmp_path)
    assert packets_of(tmp_path / "b.mkv", "audio") == packets_of(pcm, "audio")


def test_the_command_restores_a_clip_with_the_people_of_a_gallery(toy: Path, tmp_path: Path) -> None:
    frames = [photo_with((1, 1), seed=i) for i in range(3)] + [photo_with((1, 1), (3, 3), seed=i) for i in range(3)]
    clip = write_clip(tmp_path / "people.mp4", frames, [1000 * i for i in range(6)])
    imwrite(tmp_path / "people/ann/a.png", photo_with((1, 1), seed=2))
    arguments = [*photo_arguments(toy), "-i", clip, "--ref_dir", tmp_path / "people", "-o", tmp_path / "out"]
    code = tool.main([str(a) for a in [*arguments, "-s", "1", "--match_threshold", "0.5"]])
    contents = json.loads((tmp_path / "out/results.json").read_text())
    assert code == 0
    assert contents["complete"] is True
    assert contents["faces"][0]["num_frames"] == 6
    assert "ann" in [face["person"] for face in contents["faces"]]
    assert len(list(read_frames(tmp_path / "out/people.mp4"))) == 6
    again: Callable[..., int] = tool.main
    assert again([str(a) for a in [*arguments, "-s", "1", "--match_threshold", "0.5", "--resume"]]) == 0


def test_without_the_package_for_videos_the_line_says_how_to_get_it(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'av>=14.2'"):
        tool.main([*photo_arguments(toy), "-i", str(toy / "clip.mp4")])
