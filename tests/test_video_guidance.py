"""Identity guidance of a video: each track starts from its own latest face, and its identity flickers less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from people_toys import toy_photo, toy_recognizer
from restorer_toys import make_codeformer
from torch import Tensor
from video_toys import SIZE, ColourDetector, frame_of, packets_of, uneven_times, write_clip

from basicsr.inference import FaceRestorer, Job, ResultsFile, video_segment
from basicsr.inference import video as module
from basicsr.inference.photo import Painter
from basicsr.inference.run_settings import RunSettings
from basicsr.inference.video import VideoRun, VideoSettings
from basicsr.models.identity_guidance import GuidanceOptions
from basicsr.utils.img_util import imread, imwrite

pytest.importorskip("av", reason="PyAV is not installed: pip install 'av>=14.2'")

NUM_FRAMES = 6
GUIDE = GuidanceOptions(steps=3, kl=0.05, lr=2.0, margin=1.0, views=0)  # fixed views, and no face is done early


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> FaceRestorer:
    folder = tmp_path_factory.mktemp("weights")
    weights, recognizer = make_codeformer(folder), toy_recognizer(folder / "people.safetensors")
    return FaceRestorer(weights, recognizer=recognizer, device="cpu")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two people who pass each other, and ref.png beside it."""
    imwrite(tmp_path / "ref.png", toy_photo(1, 0))
    frames = [frame_of(i, (0, 1)) for i in range(NUM_FRAMES)]
    return write_clip(tmp_path / "clip.mp4", frames, uneven_times(NUM_FRAMES))


class Watch:
    """What the restorer was given and gave."""

    def __init__(self, restorer: FaceRestorer, is_cold: bool = False) -> None:
        self.real, self.is_cold = restorer.restore_batch, is_cold
        self.starts: list[list[Tensor | None]] = []
        self.offsets: list[list[Tensor]] = []
        self.images: list[list[Any]] = []

    def __call__(self, crops: Any, *arguments: Any, guide_from: Any = (), **knobs: Any) -> Any:
        faces: Any = self.real(crops, *arguments, guide_from=() if self.is_cold else guide_from, **knobs)
        self.starts.append(list(guide_from))
        self.offsets.append([face.guidance.offset for face in faces])
        self.images.append([face.image for face in faces])
        return faces


def run_clip(
    restorer: FaceRestorer, clip: Path, out: Path, guide: Any = GUIDE, batch_size: int = 2, **more: Any
) -> list[dict[str, Any]]:
    """Restore a clip, one frame of its two faces in a batch; the tracks of results.json."""
    job = Job(clip, (clip.parent / "ref.png",), out / "clip.mp4")
    settings = RunSettings(
        folder=out, mode=None, knobs={"w": 0.0, "guide": guide}, read_ref=imread, painter=Painter(),
        detector=ColourDetector(), batch_size=batch_size, fingerprints={job.output: "same"}, **more,
    )  # fmt: skip
    results = ResultsFile(out / "results.json", {"faces": [], "failures": []})
    results.describe_restorer(restorer)
    VideoRun(restorer, settings, VideoSettings(resume=True), results).restore(job)
    faces: list[dict[str, Any]] = json.loads((out / "results.json").read_text())["faces"]
    return faces


def test_each_track_starts_from_its_own_latest_face_and_cold_in_each_segment(
    restorer: FaceRestorer, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 3)
    watch = Watch(restorer)
    monkeypatch.setattr(restorer, "restore_batch", watch)
    run_clip(restorer, clip, tmp_path / "out")
    assert len(watch.starts) == NUM_FRAMES
    for frame, starts in enumerate(watch.starts):
        if frame % 3 == 0:
            assert starts == [None, None]
            continue
        for start, earlier in zip(starts, watch.offsets[frame - 1], strict=True):
            assert start is not None
            assert torch.equal(start, earlier)


def test_a_guided_run_that_was_killed_ends_with_the_same_video(
    restorer: FaceRestorer, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 3)
    undisturbed = run_clip(restorer, clip, tmp_path / "a")
    real, calls = restorer.restore_batch, [0]

    def restore_batch(*arguments: Any, **knobs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        return real(*arguments, **knobs)

    monkeypatch.setattr(restorer, "restore_batch", restore_batch)
    with pytest.raises(KeyboardInterrupt):
        run_clip(restorer, clip, tmp_path / "b")
    monkeypatch.setattr(restorer, "restore_batch", real)
    resumed = run_clip(restorer, clip, tmp_path / "b")
    assert packets_of(tmp_path / "b/clip.mp4", "video") == packets_of(tmp_path / "a/clip.mp4", "video")
    for one, other in zip(resumed, undisturbed, strict=True):
        assert one["guidance"] == pytest.approx(other["guidance"])


def test_a_start_ends_with_its_shot(
    restorer: FaceRestorer, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(restorer)
    monkeypatch.setattr(restorer, "restore_batch", watch)
    real: Any = video_segment.SegmentRun

    def cut_at_4(*arguments: Any) -> Any:
        return real(*arguments[:-1], [4])

    monkeypatch.setattr(module, "SegmentRun", cut_at_4)
    run_clip(restorer, clip, tmp_path / "out")
    assert [frame for frame, starts in enumerate(watch.starts) if starts == [None, None]] == [0, 4]


def test_the_identity_of_a_track_changes_less_from_frame_to_frame_with_a_start(
    restorer: FaceRestorer, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean cosine of neighbors and mean steps, in a clip of one noisy face."""
    noises = [np.random.default_rng(i).normal(0, 10, (*SIZE, 3)) for i in range(NUM_FRAMES)]
    frames = [np.clip(frame_of(i, (0,)) + noise, 0, 255).astype(np.uint8) for i, noise in enumerate(noises)]
    write_clip(clip, frames, uneven_times(NUM_FRAMES))
    guide = GuidanceOptions(steps=6, kl=0.1, margin=0.2, views=0)
    cosines, steps = {}, {}
    for start in ("cold", "warm"):
        watch = Watch(restorer, is_cold=start == "cold")
        with monkeypatch.context() as patched:
            patched.setattr(restorer, "restore_batch", watch)
            (track,) = run_clip(restorer, clip, tmp_path / start, guide=guide, batch_size=1)
        steps[start] = track["guidance"]["steps"]
        embeddings = restorer.embed([image for images in watch.images for image in images])  # (frames, E)
        cosines[start] = float((embeddings[1:] * embeddings[:-1]).sum(1).mean())
    assert cosines["warm"] > cosines["cold"]
    assert steps["warm"] < steps["cold"]


def test_a_start_that_is_at_the_margin_costs_no_step_and_is_kept(restorer: FaceRestorer) -> None:
    face, ref = toy_photo(0, 5), toy_photo(1, 0)
    (first,) = restorer.restore_batch([face], [ref], guide=GuidanceOptions(steps=5, margin=1.0))
    assert first.guidance is not None
    reached = first.guidance.report.similarity_after
    assert reached > first.guidance.report.similarity_before + 0.02
    easy = GuidanceOptions(steps=5, margin=reached - 0.01, views=0)
    (second,) = restorer.restore_batch([face], [ref], guide=easy, guide_from=[first.guidance.offset])
    assert second.guidance is not None
    assert (second.guidance.report.steps, second.guidance.report.stopped_at_margin) == (0, True)
    assert second.guidance.report.similarity_after == pytest.approx(reached, abs=1e-5)
    assert torch.equal(second.guidance.offset, first.guidance.offset)
    assert np.array_equal(second.image, first.image)


def test_the_results_of_a_track_are_the_means_over_its_frames(
    restorer: FaceRestorer, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 3)
    reports: list[list[Any]] = []
    real = restorer.restore_batch

    def restore_batch(*arguments: Any, **knobs: Any) -> Any:
        faces: Any = real(*arguments, **knobs)
        reports.append([face.guidance.report for face in faces])
        return faces

    monkeypatch.setattr(restorer, "restore_batch", restore_batch)
    tracks = run_clip(restorer, clip, tmp_path / "out", guide=3)
    for track, of_track in zip(tracks, zip(*reports, strict=True), strict=True):
        assert len(of_track) == NUM_FRAMES
        for key, value in track["guidance"].items():
            assert value == pytest.approx(sum(getattr(report, key) for report in of_track) / NUM_FRAMES)
        assert track["over_guided"] == (track["guidance"]["similarity_after"] > 0.7)  # 0.6 + 0.1
        assert track["mode"] == "ref"
    monkeypatch.setattr(restorer, "restore_batch", real)
    assert all("guidance" not in track for track in run_clip(restorer, clip, tmp_path / "plain", guide=0))


def test_a_track_is_of_someone_else_by_its_unguided_similarity(
    restorer: FaceRestorer, clip: Path, tmp_path: Path
) -> None:
    (track, *_) = run_clip(restorer, clip, tmp_path / "out")
    unguided = max(track["similarity_before"], track["guidance"]["similarity_before"])
    assert track["guidance"]["similarity_after"] > unguided + 0.02
    for doubtful in (unguided - 0.01, unguided + 0.01):
        (track, *_) = run_clip(restorer, clip, tmp_path / "out", doubtful=doubtful)
        assert ("doubtful_references" in track) == (doubtful > unguided)
