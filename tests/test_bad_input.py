"""What people really feed in: each odd file is restored, each broken one gets its line, and none harms the others."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from bad_input import BAD, BAD_REFERENCES, BAD_WEIGHTS, GOOD, write_all
from restorer_toys import make_net, photo_arguments

import inference_codeformer as tool
from basicsr.utils.errors import UserError


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.pth, scrfd.onnx, good.png, and the corpus in corpus/."""
    folder = tmp_path_factory.mktemp("toy")
    make_net(folder)
    files = {name: make() for name, make in GOOD.items()} | {name: make() for name, (make, _) in BAD.items()}
    write_all(folder / "corpus", files)
    write_all(folder, {"good.png": files["plain.png"]})
    write_all(folder / "refs", {name: make() for name, (make, _) in BAD_REFERENCES.items()})
    write_all(folder / "weights", {name: make() for name, (make, _) in BAD_WEIGHTS.items()})
    return folder


def restore(toy: Path, out: Path, *arguments: object) -> int:
    return tool.main([*photo_arguments(toy), "-o", str(out), "-s", "1", *(str(a) for a in arguments)])


def test_the_corpus_is_large_enough() -> None:
    assert len(GOOD) + len(BAD) + len(BAD_REFERENCES) + len(BAD_WEIGHTS) >= 40


def test_a_batch_restores_every_good_file_and_names_every_bad_one(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    assert restore(toy, tmp_path, "-i", toy / "corpus") == 1
    report = json.loads((tmp_path / "results.json").read_text())
    assert {Path(face["input"]).name for face in report["faces"]} == set(GOOD)
    assert sum(Path(face["input"]).name == "many_faces.png" for face in report["faces"]) == 4
    assert all(Path(face["final"]).is_file() and Path(face["restored"]).is_file() for face in report["faces"])
    errors = {Path(failure["input"]).name: failure["error"] for failure in report["failures"]}
    assert set(errors) == set(BAD)
    for name, (_, says) in BAD.items():
        assert re.search(says, errors[name]), (name, errors[name])
        assert name in errors[name]
        assert "\n" not in errors[name]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(BAD)
    assert report["complete"] is False


@pytest.mark.parametrize("name", ["empty.png", "half.jpg", "bomb.png", "black.png", "text.png"])
def test_a_bad_file_alone_is_exit_code_2(toy: Path, tmp_path: Path, name: str) -> None:
    assert restore(toy, tmp_path, "-i", toy / "corpus" / name) == 2


@pytest.mark.parametrize("name", BAD_REFERENCES)
def test_a_reference_that_cannot_be_used_stops_the_run_with_a_way_out(toy: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=BAD_REFERENCES[name][1]) as caught:
        restore(toy, tmp_path, "-i", toy / "good.png", "--ref", toy / "refs" / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_cannot_be_used_stop_the_run(toy: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=BAD_WEIGHTS[name][1]) as caught:
        restore(toy, tmp_path, "-i", toy / "good.png", "--weights", toy / "weights" / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
