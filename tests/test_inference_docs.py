"""The example of docs/inference.md runs as it stands, with toy files of the names that it uses."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from restorer_toys import make_net, photo_with

from basicsr.utils.img_util import imwrite

PAGE = Path(__file__).resolve().parent.parent / "docs/inference.md"
WEIGHTS = "experiments/id_codeformer_stage3/models/net_g_latest.pth"


def test_the_example_for_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (example,) = [block for block in blocks if "FaceRestorer" in block]
    make_net(tmp_path)
    for name in re.findall(r'"(\w+\.jpg)"', example):
        imwrite(tmp_path / name, photo_with((1, 1), size=128, seed=len(name)))
    (tmp_path / WEIGHTS).parent.mkdir(parents=True)
    (tmp_path / "net.pth").rename(tmp_path / WEIGHTS)
    (tmp_path / "scrfd.onnx").rename(tmp_path / "scrfd_2.5g_bnkps.onnx")
    monkeypatch.chdir(tmp_path)
    # the toy detector knows faces at the size of its photos alone
    example = example.replace('.onnx")', '.onnx", max_side=128)')
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["photo"].image.shape == (256, 256, 3)
    assert [len(photo.faces) for photo in names["photos"]] == [1, 1]
    (face,) = names["photo"].faces
    assert face.restored.mode == "ref"
    assert face.person is None
    assert -1 <= face.similarity_after <= 1
    assert str(face.box) in capsys.readouterr().out
