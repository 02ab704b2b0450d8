"""The command that restores: names of results, what results.json says however a run ends, refusals in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from _steps import all_restored
from restorer_toys import make_net
from toy_run import SIZE

import inference_codeformer as tool
from basicsr.inference import FaceRestorer, Request, ResultsFile, find_jobs, photo_files, results_file
from basicsr.inference.values import KnobOptions
from basicsr.utils.errors import ImageFileError, UserError, WeightsError
from basicsr.utils.img_util import imread, imwrite
from basicsr.utils.picture import Picture, write_picture
from basicsr.utils.weights import load_file, save_atomic, sha256_of

Tool = Callable[..., int]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces/0.png .. 3.png, an untrained network and its recogniser."""
    folder = tmp_path_factory.mktemp("toy")
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        imwrite(folder / "faces" / f"{i}.png", pixels)
    make_net(folder)
    return folder


@pytest.fixture
def restore(toy: Path, tmp_path: Path) -> Tool:
    """The command with the toy weights and -o tmp_path/out."""
    rest = ["--has_aligned", "--device", "cpu", "--weights", toy / "net.pth", "-o", tmp_path / "out"]
    return lambda *arguments: tool.main([str(a) for a in [*rest, *arguments]])  # what is given last counts


def results(folder: Path) -> dict[str, Any]:
    """results.json of a run into folder/out."""
    contents: dict[str, Any] = json.loads((folder / "out/results.json").read_text())
    return contents


def table(folder: Path, *lines: str) -> Path:
    """folder/pairs.csv."""
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


def names_of(folder: Path) -> list[str]:
    """The pictures of a run into folder/out."""
    root = folder / "out/restored_faces"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def outputs(*paths: str) -> list[str]:
    """What find_jobs calls the results of these inputs."""
    return [job.output.as_posix() for job in find_jobs([Request(Path(path), ()) for path in paths], Path("out"), None)]


def test_results_are_called_by_the_stem_and_keep_their_folders_only_where_stems_meet() -> None:
    assert outputs("x/a/1.png", "x/b/2.png") == ["out/1.png", "out/2.png"]
    assert outputs("x/a/1.png", "x/b/1.png", "x/b/2.png") == ["out/a/1.png", "out/b/1.png", "out/2.png"]
    assert outputs("x/1.png", "x/1.jpg") == ["out/1.png.png", "out/1.jpg.png"]


def test_rows_of_one_file_name_give_a_picture_each(toy: Path, restore: Tool, tmp_path: Path) -> None:
    for folder, face in (("a", "0"), ("b", "1")):
        imwrite(tmp_path / folder / "001.png", imread(toy / f"faces/{face}.png"))
    assert restore("--pairs", table(tmp_path, "lq,ref", "a/001.png,", "b/001.png,")) == 0
    assert names_of(tmp_path) == ["a/001.png", "b/001.png"]


def test_the_column_restored_names_results_and_two_of_one_name_are_refused(
    toy: Path, restore: Tool, tmp_path: Path
) -> None:
    lq, ref, other = (toy / f"faces/{i}.png" for i in range(3))
    with pytest.raises(UserError, match=r"pairs.csv:3: .*would both be written to .*0\.png.*column restored"):
        restore("--pairs", table(tmp_path, "lq,ref", f"{lq},{ref}", f"{lq},{other}"))
    assert not (tmp_path / "out").exists()
    assert restore("--pairs", table(tmp_path, "lq,ref,restored", f"{lq},{ref},x.png", f"{lq},{other},y")) == 0
    assert names_of(tmp_path) == ["x.png", "y.png"]
    with pytest.raises(UserError, match=r"expected a file name"):
        restore("--pairs", table(tmp_path, "lq,ref,restored", f"{lq},{ref},../x.png"))


@pytest.mark.parametrize(
    ("lines", "more", "says"),
    [
        (["lq,ref", "{face}"], [], "pairs.csv:2: the row does not have the 2 cells"),
        (["lq,ref", ",{face}"], [], "pairs.csv:2: lq is empty"),
        (["lq,ref", "{face},"], ["--mode", "ref"], "pairs.csv:2: ref is empty"),
        (["lq,ref", "{face},"], ["--ref", "{face}"], "--ref beside --pairs"),
    ],
)
def test_a_broken_pairs_file_is_one_line(
    toy: Path, restore: Tool, tmp_path: Path, lines: list[str], more: list[str], says: str
) -> None:
    lines, more = ([text.replace("{face}", str(toy / "faces/0.png")) for text in texts] for texts in (lines, more))
    with pytest.raises(UserError, match=says) as caught:
        restore("--pairs", table(tmp_path, *lines), *more)
    assert "\n" not in str(caught.value)


def test_results_say_what_was_used_and_by_which_files(toy: Path, restore: Tool, tmp_path: Path) -> None:
    faces = toy / "faces"
    assert restore("-i", faces / "0.png", "--ref", faces / "1.png") == 0
    report = results(tmp_path)
    for key, name in (("weights", "net.pth"), ("recognizer", "recognizer.safetensors")):
        assert report[key] == {"path": str(toy / name), "sha256": sha256_of(toy / name)}
    face = report["faces"][0]
    assert (face["mode"], face["refs"], face["adain"]) == ("ref", [str(faces / "1.png")], False)
    assert (face["w"], face["w_id"], face["id_scale"]) == (0.5, 1.0, 1.0)
    assert restore("-i", faces / "0.png", "--ref", faces / "1.png", "--mode", "none") == 0
    face = results(tmp_path)["faces"][0]
    assert (face["mode"], face["refs"], face["w_id"], face["id_scale"]) == ("none", [], None, None)
    assert face["compared_with"] == [str(faces / "1.png")]


def test_a_second_run_adds_to_the_results_and_replaces_what_it_restores_again(
    toy: Path, restore: Tool, tmp_path: Path
) -> None:
    for name, w in (("0", "0.5"), ("1", "0.5"), ("0", "0.7")):
        restore("-i", toy / f"faces/{name}.png", "-w", w)
    faces = results(tmp_path)["faces"]
    assert {Path(face["restored"]).name: face["w"] for face in faces} == {"0.png": 0.7, "1.png": 0.5}
    (tmp_path / "out/results.json").write_text('{"faces"')
    with pytest.raises(UserError, match=r"results\.json: cannot be read .*Move it away"):
        restore("-i", toy / "faces/0.png")


@pytest.mark.parametrize("end", [KeyboardInterrupt(), ImageFileError("x.png: cannot be written (No space left).")])
def test_a_run_that_is_cut_off_leaves_the_results_of_what_it_has_restored(
    toy: Path, restore: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    def write_all_but_one(path: Path, picture: Picture, quality: int) -> None:
        if path.name == "2.png":
            raise end
        write_picture(path, picture, quality)

    monkeypatch.setattr(photo_files, "write_picture", write_all_but_one)
    with pytest.raises(type(end)):
        restore("-i", toy / "faces")
    report = results(tmp_path)
    assert sorted(Path(face["restored"]).name for face in report["faces"]) == names_of(tmp_path)
    assert {"0.png", "1.png"} <= set(names_of(tmp_path))
    assert report["complete"] is False


def test_results_are_written_less_often_where_writing_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, slowness, written = [0.0], [0.0], []

    def write_slowly(path: Path, text: str) -> None:
        now[0] += slowness[0]
        written.append(now[0])

    monkeypatch.setattr(results_file.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(results_file, "write_text", write_slowly)
    for slowness[0], pause in ((0.01, 5.0), (2.0, 40.0)):
        written.clear()
        results = ResultsFile(tmp_path / "r.json", {"faces": [], "failures": []})
        results.write()
        for seconds, count in ((pause - 0.1, 1), (0.2, 2)):
            now[0] += seconds
            results.write_when_due()
            assert len(written) == count


def test_nothing_restored_is_exit_code_2_and_each_failure_is_written(toy: Path, restore: Tool, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    assert restore("-i", tmp_path) == 2
    failures = results(tmp_path)["failures"]
    assert [Path(failure["input"]).name for failure in failures] == ["a.png", "b.png"]
    imwrite(tmp_path / "a.png", imread(toy / "faces/0.png"))
    assert restore("-i", tmp_path) == 1
    assert [Path(failure["input"]).name for failure in results(tmp_path)["failures"]] == ["b.png"]


def test_a_missing_reference_stops_before_the_weights_are_read(toy: Path, restore: Tool) -> None:
    with pytest.raises(ImageFileError, match=r"nobody\.png: cannot be read"):
        restore("-i", toy / "faces", "--ref", "nobody.png", "--weights", "nowhere.pth")


def test_an_aligned_reference_of_one_colour_is_no_face(toy: Path, restore: Tool, tmp_path: Path) -> None:
    imwrite(tmp_path / "in/plain.png", np.full((SIZE, SIZE, 3), (40, 120, 200), np.uint8))
    with pytest.raises(ImageFileError, match=r"plain\.png: one colour, no face"):
        restore("-i", toy / "faces", "--ref", tmp_path / "in/plain.png")


def test_a_picture_that_is_not_square_is_named_and_the_rest_goes_on(toy: Path, restore: Tool, tmp_path: Path) -> None:
    imwrite(tmp_path / "in/wide.png", np.zeros((SIZE, 2 * SIZE, 3), np.uint8))
    imwrite(tmp_path / "in/face.png", imread(toy / "faces/0.png"))
    assert restore("-i", tmp_path / "in") == 1
    assert names_of(tmp_path) == ["face.png"]
    assert "64x32 px, expected a square" in results(tmp_path)["failures"][0]["error"]
    with pytest.raises(ImageFileError, match="expected a square"):
        restore("-i", toy / "faces", "--ref", tmp_path / "in/wide.png")
    with pytest.raises(ImageFileError, match="expected a square"):
        FaceRestorer(toy / "net.pth", device="cpu").restore(imread(tmp_path / "in/wide.png"))


@pytest.mark.parametrize(
    ("flag", "knob", "value"),
    [("-w", "w", "nan"), ("-w", "w", "inf"), ("-w", "w", "-1"), ("--w_id", "w_id", "nan"), ("--w_id", "w_id", "-0.1"),
     ("--id_scale", "id_scale", "nan"), ("--id_scale", "id_scale", "inf")],
)  # fmt: skip
def test_a_knob_that_gives_no_picture_is_refused(toy: Path, restore: Tool, flag: str, knob: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^{knob} is {value}"):
        restore("-i", toy / "faces", f"{flag}={value}")
    restorer, asked = FaceRestorer(toy / "net.pth", device="cpu"), cast(KnobOptions, {knob: float(value)})
    with pytest.raises(UserError, match=f"^{knob} is {value}"):
        restorer.restore(toy / "faces/0.png", (), **asked)


def test_a_network_that_answers_nan_is_an_error_and_no_picture(toy: Path, tmp_path: Path) -> None:
    restorer = FaceRestorer(toy / "net.pth", device="cpu")
    for parameter in restorer.net.generator.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        restorer.restore(toy / "faces/0.png")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network_g": "IDCodeFormer"}, "found a str"),
        ({"network_g": {"img_size": 32}}, "found none"),
        ({"network_g": {"type": "Nonsense"}}, "no network 'Nonsense'"),
        ({"network_g": {"type": "CodeFormer", "img_sice": 32}}, "img_sice"),
        ({"network_identity": "r50"}, "its network_identity is a str"),
        ({"network_identity": {"path": "moved.onnx"}}, r"moved\.onnx: no such recogniser.*--recognizer FILE"),
    ],
)
def test_weights_that_say_nonsense_about_themselves_are_named(
    toy: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    save_atomic(load_file(toy / "net.pth") | change, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=says) as caught:
        FaceRestorer(tmp_path / "odd.pth", device="cpu")
    assert "odd.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_output_folder_that_is_a_file_is_one_line(toy: Path, restore: Tool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot be written"):
        restore("-i", toy / "faces", "-o", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_chain_of_steps_restores_again_what_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert not all_restored(path)
    for contents, done in (('{"complete": false}', False), ('{"complete": true}', True)):
        path.write_text(contents)
        assert all_restored(path) is done
