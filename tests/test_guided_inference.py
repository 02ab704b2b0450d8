"""Identity guidance in the tools: whom it guides, what it refuses, and what results.json says of it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from people_toys import toy_photo, toy_recognizer, write_people
from recognizer_graphs import write_insightface_graph
from restorer_toys import make_codeformer, make_net, photo_with

import inference_codeformer as tool
from basicsr.faces import load_detector
from basicsr.inference import FaceRestorer, batch, restorer
from basicsr.models.identity_guidance import GuidanceOptions, IdentityGuidance
from basicsr.utils.cli import run_main
from basicsr.utils.img_util import imread, imwrite

Tool = Callable[..., int]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with codeformer.pth, people.safetensors, net.pth and its recognizer, faces/p00/0.png .. p02/1.png."""
    folder = tmp_path_factory.mktemp("toy")
    make_net(folder)
    make_codeformer(folder)
    toy_recognizer(folder / "people.safetensors")
    write_people(folder / "faces", [2, 2, 2])
    return folder


@pytest.fixture
def restore(toy: Path, tmp_path: Path) -> Tool:
    """The command with CodeFormer weights and -o tmp_path/out; refs are aligned."""
    rest = ["--has_aligned", "--device", "cpu", "--weights", toy / "codeformer.pth", "-o", tmp_path / "out"]
    return lambda *arguments: tool.main([str(a) for a in [*rest, *arguments]])


@pytest.fixture(scope="module")
def codeformer(toy: Path) -> FaceRestorer:
    return FaceRestorer(toy / "codeformer.pth", recognizer=toy / "people.safetensors", device="cpu")


def entries(folder: Path) -> list[dict[str, Any]]:
    """The faces of results.json of a run into folder/out, by the name of the input."""
    faces = json.loads((folder / "out/results.json").read_text())["faces"]
    return sorted(faces, key=lambda face: str(face["input"]))


def test_codeformer_weights_with_a_recognizer_are_guided_and_the_results_say_how(
    toy: Path, restore: Tool, tmp_path: Path, codeformer: FaceRestorer
) -> None:
    face, ref = toy / "faces/p00/0.png", toy / "faces/p01/0.png"
    assert restore("-i", face, "--ref", ref, "--recognizer", toy / "people.safetensors") == 0
    (entry,) = entries(tmp_path)
    assert (entry["mode"], entry["refs"]) == ("ref", [str(ref)])
    expected = codeformer.restore(face, ref)
    plain = codeformer.restore(face, ref, guide=0)
    assert expected.guidance is not None
    assert entry["guidance"] == expected.guidance.report._asdict()
    assert set(entry["guidance"]) == {"steps", "similarity_before", "similarity_after", "kl", "stopped_at_margin"}
    assert entry["over_guided"] is False
    assert 1 <= entry["guidance"]["steps"] <= GuidanceOptions().steps
    assert entry["guidance"]["similarity_before"] == pytest.approx(plain.similarity_after, abs=1e-2)  # uint8
    assert entry["guidance"]["similarity_after"] > entry["guidance"]["similarity_before"]
    written = imread(tmp_path / "out/restored_faces/0.png")
    assert np.array_equal(written, expected.image)
    assert not np.array_equal(written, plain.image)
    assert (plain.mode, plain.guidance) == ("none", None)


def test_references_without_a_recognizer_are_one_warning_and_restore_as_before(
    toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture, codeformer: FaceRestorer
) -> None:
    face = toy / "faces/p00/0.png"
    assert restore("-i", face, "--ref", toy / "faces/p00/1.png") == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "--recognizer" in warning
    (entry,) = entries(tmp_path)
    assert (entry["mode"], entry["refs"]) == ("none", [])
    assert "guidance" not in entry
    assert np.array_equal(imread(tmp_path / "out/restored_faces/0.png"), codeformer.restore(face).image)


def test_guidance_that_is_asked_for_without_a_recognizer_is_exit_code_2_and_no_image(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["-i", toy / "faces/p00/0.png", "--ref", toy / "faces/p00/1.png", "--guide", "5", "--has_aligned"]
    paths = ["--weights", toy / "codeformer.pth", "-o", tmp_path / "out", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["inference_codeformer.py", *map(str, [*arguments, *paths])])
    with pytest.raises(SystemExit) as left:
        run_main(tool.main)
    assert left.value.code == 2
    assert not list(tmp_path.rglob("*.png"))


def test_of_a_gallery_those_who_are_matched_are_guided_and_nobody_else(
    toy: Path, restore: Tool, tmp_path: Path
) -> None:
    write_people(tmp_path / "family", [1, 1])
    for name, person in (("a", 0), ("b", 1), ("c", 17)):
        imwrite(tmp_path / f"album/{name}.png", toy_photo(person, 7, noise=8))
    more = ["--recognizer", toy / "people.safetensors", "--ref_dir", tmp_path / "family", "--match_threshold", 0.8]
    assert restore("-i", tmp_path / "album", *more, "--guide", 1) == 0
    assert [(face["person"], face["mode"], "guidance" in face) for face in entries(tmp_path)] == [
        ("p00", "ref", True), ("p01", "ref", True), (None, "none", False),
    ]  # fmt: skip


def test_weights_that_take_an_identity_are_guided_only_when_asked(toy: Path, restore: Tool, tmp_path: Path) -> None:
    face, ref = toy / "faces/p00/0.png", toy / "faces/p01/0.png"
    asked = ["-i", face, "--ref", ref, "--weights", toy / "net.pth"]
    assert restore(*asked) == 0
    assert "guidance" not in entries(tmp_path)[0]
    assert restore(*asked, "--guide", 2) == 0
    (entry,) = entries(tmp_path)
    assert entry["guidance"]["stopped_at_margin"], "to an untrained recognizer all faces are alike"
    assert entry["w_id"] == 1.0
    conditioned, endless = FaceRestorer(toy / "net.pth", device="cpu"), GuidanceOptions(steps=2, margin=1.0)
    guided, plain = conditioned.restore(face, ref, guide=endless), conditioned.restore(face, ref)
    assert plain.guidance is None
    assert guided.guidance is not None
    assert guided.guidance.report.steps == 2


@pytest.mark.parametrize("mode", ["self", "none"])
def test_modes_that_use_no_reference_are_not_guided(toy: Path, codeformer: FaceRestorer, mode: Any) -> None:
    conditioned = FaceRestorer(toy / "net.pth", device="cpu")
    for one in (codeformer, conditioned):
        face = one.restore(toy / "faces/p00/0.png", toy / "faces/p01/0.png", mode=mode, guide=2)
        assert face.guidance is None
        plain = one.restore(toy / "faces/p00/0.png", mode=mode, guide=0)
        assert np.array_equal(face.image, plain.image)


def test_rows_of_a_pairs_file_are_guided_by_their_own_references(
    toy: Path, restore: Tool, tmp_path: Path, codeformer: FaceRestorer
) -> None:
    face, other = toy / "faces/p00/0.png", toy / "faces/p01/0.png"
    refs = [toy / "faces/p02/0.png", toy / "faces/p02/1.png"]
    rows = ["lq,ref,restored", f"{face},{refs[0]};{refs[1]},a", f"{other},,b"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    assert restore("--pairs", tmp_path / "pairs.csv", "--recognizer", toy / "people.safetensors", "--guide", 3) == 0
    first, second = entries(tmp_path)
    report = codeformer.restore(face, refs, guide=3).guidance
    assert report is not None
    assert first["guidance"]["similarity_after"] == pytest.approx(report.report.similarity_after, abs=1e-4)
    assert "guidance" not in second


def test_a_recognizer_may_be_a_pack_and_resume_notices_another_one(
    toy: Path, restore: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pack = tmp_path / ".insightface/models/my_pack"
    pack.mkdir(parents=True)
    asked = ["-i", toy / "faces/p00/0.png", "--ref", toy / "faces/p01/0.png", "--guide", 1, "--resume"]
    settings = []
    for width in (128, 256):
        write_insightface_graph(pack / "w600k.onnx", embed_dim=width)
        assert restore(*asked, "--recognizer", "my_pack") == 0
        contents = json.loads((tmp_path / "out/results.json").read_text())
        assert contents["recognizer"]["path"] == str(pack / "w600k.onnx")
        assert "guidance" in contents["faces"][0]
        settings.append(contents["faces"][0]["settings"])
    assert settings[0] != settings[1]


def test_every_w_of_a_grid_is_guided(toy: Path, restore: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Counted(IdentityGuidance):
        def __call__(self, *arguments: Any, **inputs: Any) -> Any:
            seen.append(inputs["w"])
            return super().__call__(*arguments, **inputs)

    monkeypatch.setattr(restorer, "IdentityGuidance", Counted)
    asked = ["-i", toy / "faces/p00/0.png", "--ref", toy / "faces/p01/0.png", "--guide", 1]
    assert restore(*asked, "--recognizer", toy / "people.safetensors", "--grid", 0, 0.5, 1) == 0
    assert seen == [0.5, 0.0, 1.0]
    assert (tmp_path / "out/comparisons/0.png").is_file()


def test_faces_of_a_whole_photo_are_guided(toy: Path, codeformer: FaceRestorer) -> None:
    photo, detector = photo_with((0, 0), (2, 2)), load_detector(toy / "scrfd.onnx", max_side=128)
    faces = codeformer.restore_photo(photo, toy_photo(0, 0), detector=detector, guide=2).faces
    assert [face.restored.guidance is not None for face in faces] == [True, True]
    faces = codeformer.restore_photo(photo, toy_photo(0, 0), detector=detector, guide=0).faces
    assert [face.restored.guidance for face in faces] == [None, None]


def test_threads_that_share_a_restorer_guide_each_face_as_alone(toy: Path, codeformer: FaceRestorer) -> None:
    jobs = [(toy_photo(i, 5), toy_photo(i, 6)) for i in range(4)]

    def guided(job: tuple[Any, Any]) -> Any:
        return codeformer.restore(*job, guide=2).image

    alone = list(map(guided, jobs))
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(a, b) for a, b in zip(alone, pool.map(guided, jobs), strict=True))


def test_a_reference_of_someone_else_is_found_by_the_unguided_result(
    toy: Path, restore: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guided face is similar to any reference, so it must not count."""
    face, ref = toy / "faces/p00/0.png", toy / "faces/p01/0.png"
    asked = ["-i", face, "--ref", ref, "--recognizer", toy / "people.safetensors"]
    assert restore(*asked) == 0
    report = entries(tmp_path)[0]["guidance"]
    before = max(report["similarity_before"], entries(tmp_path)[0]["similarity_before"])
    assert report["similarity_after"] > before + 0.02
    assert restore(*asked, "--doubtful", before + 0.01) == 0
    assert entries(tmp_path)[0]["doubtful_references"] == [str(ref)]
    assert restore(*asked, "--doubtful", before - 0.01) == 0
    assert "doubtful_references" not in entries(tmp_path)[0]


def test_a_face_is_over_guided_where_it_has_moved_beyond_what_is_usual(codeformer: FaceRestorer) -> None:
    assert codeformer.is_over_guided(kl=0.1, similarity_after=0.95)
    assert not codeformer.is_over_guided(kl=0.0, similarity_after=0.95), "it was so without guidance"
    assert not codeformer.is_over_guided(kl=0.1, similarity_after=0.6)


def test_ctrl_c_in_the_midst_of_guidance_keeps_the_faces_that_are_done(
    toy: Path, restore: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    class Stopped(IdentityGuidance):
        def __call__(self, *arguments: Any, **inputs: Any) -> Any:
            calls[0] += 1
            if calls[0] == 4:
                raise KeyboardInterrupt
            return super().__call__(*arguments, **inputs)

    monkeypatch.setattr(restorer, "IdentityGuidance", Stopped)
    for person in range(6):
        imwrite(tmp_path / f"album/{person}.png", toy_photo(person, 5))
    asked = ["-i", tmp_path / "album", "--ref", toy / "faces/p01/0.png", "--recognizer", toy / "people.safetensors"]
    with pytest.raises(KeyboardInterrupt):
        restore(*asked, "--guide", 2, "--batch_size", 1)
    done = entries(tmp_path)
    assert 2 <= len(done) <= 3  # the third may wait for the disk
    assert all(face["guidance"]["steps"] > 0 and Path(face["restored"]).is_file() for face in done)
    monkeypatch.setattr(restorer, "IdentityGuidance", IdentityGuidance)
    assert restore(*asked, "--guide", 2, "--batch_size", 1, "--resume") == 0
    assert len(entries(tmp_path)) == 6


def test_the_bar_shows_the_seconds_of_a_guided_face_alone(codeformer: FaceRestorer) -> None:
    shown: list[str] = []

    class Bar:
        def set_postfix_str(self, text: str) -> None:
            shown.append(text)

    bar: Any = Bar()
    face = codeformer.restore(toy_photo(0, 0))
    batch.show_cost(bar, [face], 2.0)
    assert shown == []
    batch.show_cost(bar, [codeformer.restore(toy_photo(0, 0), toy_photo(1, 0), guide=1)], 2.0)
    assert shown == ["2.0 s/face"]
