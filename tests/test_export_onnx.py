"""Restorers as ONNX files: ONNX Runtime restores as torch does; what differs or cannot be exported is one line."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path

import export_onnx
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import tiny_photo
from restorer_toys import make_net
from toy_run import CODEFORMER, SIZE

from basicsr.inference import FaceRestorer, onnx_export
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import img2tensor, tensor2img
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import load_file, save_atomic

needs_onnxscript = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="onnxscript is not installed: pip install 'onnxscript>=0.2'"
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with networks: id.pth, sharing.pth (kv_share) and maps.pth know people; plain.pth is a CodeFormer."""
    folder = tmp_path_factory.mktemp("toy")
    contents = load_file(make_net(folder))
    generator = torch.Generator().manual_seed(0)
    for name, value in contents["params"].items():
        if "cross_attn" in name or "style_dict" in name:
            value.normal_(0, 0.5, generator=generator)
    save_atomic(contents, folder / "id.pth")
    torch.manual_seed(0)
    sharing = {**contents["network_g"], "vqgan_path": None, "inject": "kv_share"}
    state = ARCH_REGISTRY.build(sharing).state_dict()
    for name, value in state.items():
        if "kv_share" in name:
            value.fill_(0.8)
    save_atomic({**contents, "params": state, "network_g": sharing}, folder / "sharing.pth")
    maps = {**contents["network_g"], "vqgan_path": None, "inject": "token_map", "token_grid": 2, "style_grid": 2}
    state = ARCH_REGISTRY.build(maps).state_dict()
    for name, value in state.items():
        if "token_map" in name or "style_dict" in name:
            value.normal_(0, 0.5, generator=generator)
    save_atomic({**contents, "params": state, "network_g": maps}, folder / "maps.pth")
    plain = {"type": "CodeFormer", **CODEFORMER}
    save_atomic({"params": ARCH_REGISTRY.build(plain).state_dict(), "network_g": plain}, folder / "plain.pth")
    return folder


def exported(toy: Path, out: Path, name: str, *flags: str) -> onnxruntime.InferenceSession:
    """The file of an export, opened."""
    assert export_onnx.main(["--weights", str(toy / name), "--out", str(out), *flags]) == 0
    return onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])


@needs_onnxscript
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_the_whole_path_restores_as_the_restorer_does_with_and_without_references(
    batch: int, toy: Path, tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        session = exported(toy, tmp_path / "whole.onnx", "id.pth", "-w", "0.7", "--id_scale", "1.5")
    assert {record.name.partition(".")[0] for record in caplog.records} <= {"basicsr", "export_onnx"}, (
        "ours alone speak"
    )
    faces = [tiny_photo(rng, SIZE, SIZE) for _ in range(batch)]
    refs = [[tiny_photo(rng, SIZE, SIZE) for _ in range(2)] if i != 1 else [] for i in range(batch)]
    mask = np.array([[bool(given)] * 2 for given in refs])
    pictures = np.zeros((batch, 2, 3, SIZE, SIZE), np.float32)
    for i, given in enumerate(refs):
        for j, ref in enumerate(given):
            pictures[i, j] = img2tensor(ref)
    lq = torch.stack([img2tensor(face) for face in faces]).numpy()
    (found,) = session.run(None, {"lq": lq, "refs": pictures, "ref_mask": mask})
    restorer = FaceRestorer(toy / "id.pth", device="cpu")
    expected = restorer.restore_batch(faces, refs, w=0.7, id_scale=1.5)
    for picture, wanted in zip(found, expected, strict=True):
        assert np.abs(tensor2img(torch.from_numpy(picture)).astype(int) - wanted.image).max() <= 1


@needs_onnxscript
@pytest.mark.slow
def test_knobs_that_are_inputs_act_and_the_file_says_what_it_is(
    toy: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    out = tmp_path / "restorer.onnx"
    session = exported(toy, out, "id.pth", "--part", "restorer", "--inputs", "w", "w_id", "id_scale")
    inputs = {value.name: value.shape for value in session.get_inputs()}
    assert list(inputs) == ["lq", "id_embed", "id_map", "ref_mask", "id_quality", "w", "w_id", "id_scale"]
    assert inputs["id_embed"] == ["batch", "refs", 16]
    face, ref = tiny_photo(rng, SIZE, SIZE), tiny_photo(rng, SIZE, SIZE)
    restorer = FaceRestorer(toy / "id.pth", device="cpu")
    known = dict(zip(("id_embed", "id_map", "ref_mask", "id_quality"), restorer.encode_references([ref]), strict=False))
    fixed = {"lq": img2tensor(face)[None].numpy(), **{name: np.asarray(value) for name, value in known.items()}}
    for w, w_id, id_scale in ((0.0, 1.0, 1.0), (1.0, 0.4, 0.5)):
        knobs = {"w": w, "w_id": w_id, "id_scale": id_scale}
        (found,) = session.run(None, fixed | {name: np.array(value, np.float32) for name, value in knobs.items()})
        wanted = restorer.restore(face, [ref], w=w, w_id=w_id, id_scale=id_scale).image.astype(int)
        assert np.abs(tensor2img(torch.from_numpy(found[0])).astype(int) - wanted).max() <= 1
    model = onnx.load(out)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [int(about["opset"])]
    assert about["arch"] == "IDCodeFormer"
    assert json.loads(about["arguments"])["n_layers"] == CODEFORMER["n_layers"]
    assert json.loads(about["knobs"]) == {"w": "input", "w_id": "input", "id_scale": "input"}
    assert about["weights_sha256"] == restorer.weights_file.sha256


@needs_onnxscript
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part", "inputs"),
    [
        ("plain.pth", "whole", ["lq"]),
        ("sharing.pth", "whole", ["lq", "refs", "ref_mask"]),
        ("maps.pth", "whole", ["lq", "refs", "ref_mask"]),
        ("maps.pth", "restorer", ["lq", "id_embed", "id_map", "ref_mask", "id_quality"]),
    ],
)
def test_codeformer_shared_photos_and_identity_maps_are_exported(
    name: str, part: str, inputs: list[str], toy: Path, tmp_path: Path
) -> None:
    session = exported(toy, tmp_path / "net.onnx", name, "--part", part)
    assert [value.name for value in session.get_inputs()] == inputs


@needs_onnxscript
@pytest.mark.slow
def test_a_file_that_differs_is_not_kept(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "_expected", lambda _restorer, _export, sample: sample.lq)
    with pytest.raises(UserError, match="not kept, ONNX Runtime differs from torch"):
        export_onnx.main(["--weights", str(toy / "plain.pth"), "--out", str(tmp_path / "out" / "net.onnx")])
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_is_one_line(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, out = ["--weights", str(toy / "id.pth")], ["--out", str(tmp_path / "net.onnx")]
    for flags, line in (
        ([*net, "--out", "net.pth"], r"ends in \.onnx"),
        ([*net, *out, "--opset", "9"], "expected 18"),
        ([*net, *out, "-w", "-1"], "w is -1"),
        (["--weights", str(toy / "none.pth"), *out], "no such weights file"),
        (["--weights", str(toy / "sharing.pth"), *out, "--part", "restorer"], "Export --part whole"),
    ):
        with pytest.raises(UserError, match=line):
            export_onnx.main(flags)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="pip install 'onnxscript"):
        export_onnx.main([*net, *out])
    assert list(tmp_path.iterdir()) == []
