"""Finding a recogniser: by path, by the folder of a pack, by a pack's name; what is said where there is none."""

import logging
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from recognizer_graphs import write_insightface_graph

from basicsr.recognizers import find_recognizer, load_recognizer
from basicsr.utils.errors import WeightsError


def write_other_graph(path: Path, side: int, widths: tuple[int, ...]) -> None:
    """What else is in a pack: the detector has several outputs, landmarks and age one, of another input size."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])
    outputs = [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, [1, width]) for i, width in enumerate(widths)]
    nodes = [helper.make_node("ReduceMean", ["image"], [f"o{i}"], axes=[1, 2], keepdims=0) for i in range(len(widths))]
    graph = helper.make_graph(nodes, "other", [image], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(path))


def write_pack(folder: Path, recognizer: str = "w600k_r50.onnx") -> Path:
    folder.mkdir(parents=True)
    write_other_graph(folder / "1k3d68.onnx", 192, (3309,))
    write_other_graph(folder / "det_10g.onnx", 640, (1, 1, 1, 4, 4, 4, 10, 10, 10))
    write_other_graph(folder / "genderage.onnx", 96, (3,))
    return write_insightface_graph(folder / recognizer)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `~/.insightface/models`, with the working directory elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / ".insightface" / "models"


@pytest.mark.parametrize("nested", [False, True])
def test_name_of_a_pack_is_its_recogniser_also_where_the_zip_made_a_folder_more(
    models: Path, nested: bool, caplog: pytest.LogCaptureFixture
):
    file = write_pack(models / "antelopev2" / "antelopev2" if nested else models / "antelopev2", "glintr100.onnx")
    with caplog.at_level(logging.INFO):
        recognizer = load_recognizer("antelopev2")
    assert find_recognizer("antelopev2") == file
    assert recognizer.spec.layout == "insightface_onnx"
    assert "glintr100.onnx" in caplog.text


def test_folder_of_a_pack_and_a_path_with_a_tilde_are_found_too(models: Path):
    file = write_pack(models / "buffalo_l")
    assert find_recognizer(models / "buffalo_l") == file
    assert find_recognizer("~/.insightface/models/buffalo_l/w600k_r50.onnx") == file


def test_what_stands_in_the_working_directory_goes_before_the_pack(models: Path):
    write_pack(models / "buffalo_l")
    torch.save({}, "buffalo_l")
    assert find_recognizer("buffalo_l") == Path("buffalo_l")


def test_nothing_there_is_none_and_loading_says_where_it_looked(models: Path):
    assert find_recognizer("buffalo_l") is None
    with pytest.raises(WeightsError, match=r"^buffalo_l: no such weights file, and no such pack in ~/\.insightface"):
        load_recognizer("buffalo_l")
    with pytest.raises(WeightsError, match=r"^weights/x\.onnx: no such weights file\. docs/recognizers\.md"):
        load_recognizer("weights/x.onnx")


def test_a_folder_without_a_recogniser_or_with_two_asks_for_the_file(models: Path):
    folder = models / "buffalo_l"
    write_pack(folder).unlink()
    with pytest.raises(WeightsError, match=r"buffalo_l: 0 recognisers .*det_10g\.onnx.*Name the file"):
        load_recognizer("buffalo_l")
    for name in ("a.onnx", "b.onnx"):
        write_insightface_graph(folder / name)
    with pytest.raises(WeightsError, match=r"buffalo_l: 2 recognisers in this folder \(a\.onnx, b\.onnx\)"):
        load_recognizer(folder)


def test_a_damaged_file_of_a_pack_is_named(models: Path):
    file = write_pack(models / "buffalo_l")
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(WeightsError, match=r"w600k_r50\.onnx: cannot be read as ONNX"):
        load_recognizer("buffalo_l")
