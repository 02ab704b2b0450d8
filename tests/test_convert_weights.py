"""Weights as `.safetensors`: the file alone rebuilds its network, both ways, and a foreign header is one line."""

from __future__ import annotations

import json
from pathlib import Path

import convert_weights
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import tiny_photo
from restorer_toys import make_net
from toy_run import CODEFORMER, SIZE, VQGAN, build, parse, stage_options

from basicsr.inference import FaceRestorer
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import HEADER, load_file, load_state, read_header, save_atomic, sha256_of


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.pth and what was made of it: net.safetensors."""
    folder = tmp_path_factory.mktemp("toy")
    contents = load_file(make_net(folder))
    contents["params_ema"] = {name: value + 0.01 for name, value in contents["params"].items()}
    save_atomic(contents, folder / "net.pth")
    assert convert_weights.main([str(folder / "net.pth"), str(folder / "net.safetensors")]) == 0
    return folder


def test_there_and_back_again_gives_the_averaged_weights_and_the_specs(toy: Path, tmp_path: Path) -> None:
    convert_weights.main([str(toy / "net.safetensors"), str(tmp_path / "back.pth")])
    before, after = load_file(toy / "net.pth"), load_file(tmp_path / "back.pth")
    assert after["params_ema"].keys() == before["params_ema"].keys()
    assert all(torch.equal(after["params_ema"][name], value) for name, value in before["params_ema"].items())
    assert after["network_identity"] == before["network_identity"]
    assert after["network_g"].items() >= {**before["network_g"], "vqgan_path": None}.items()
    assert "params" not in after


def test_the_file_alone_restores_as_the_checkpoint_does(toy: Path, rng: np.random.Generator) -> None:
    face, ref = tiny_photo(rng), tiny_photo(rng)
    results = [
        FaceRestorer(toy / name, device="cpu").restore(face, [ref], w=0.5) for name in ("net.pth", "net.safetensors")
    ]
    assert np.array_equal(results[0].image, results[1].image)
    assert results[0].mode == results[1].mode == "ref"


def test_the_header_states_every_argument_and_equal_weights_are_equal_files(toy: Path, tmp_path: Path) -> None:
    about = read_header(toy / "net.safetensors")
    assert about is not None
    spec = about["network_g"]
    assert (spec["type"], spec["n_layers"], spec["use_null_key"]) == ("IDCodeFormer", CODEFORMER["n_layers"], True)
    convert_weights.main([str(toy / "net.pth"), str(tmp_path / "again.safetensors")])
    assert sha256_of(tmp_path / "again.safetensors") == sha256_of(toy / "net.safetensors")


def test_training_starts_from_it_as_from_the_checkpoint(toy: Path, tmp_path: Path) -> None:
    state = load_state(toy / "net.pth")
    parts = ARCH_REGISTRY.build({"type": "VQAutoEncoder", **VQGAN}).state_dict()
    save_atomic({"params": {name: state[name] for name in parts}}, tmp_path / "vqgan.pth")

    def start(name: str) -> dict[str, torch.Tensor]:
        plain = stage_options(2, tmp_path, total_iter=1)
        files = {"pretrain_network_g": str(toy / name), "pretrain_network_vqgan": str(tmp_path / "vqgan.pth")}
        plain["path"].update(files, param_key_g="params_ema")
        return build(parse(plain, tmp_path)).net_g.state_dict()

    one, other = start("net.pth"), start("net.safetensors")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(one["position_emb"], load_state(toy / "net.pth")["position_emb"])


def test_released_weights_without_a_spec_get_the_one_that_fits(tmp_path: Path) -> None:
    state = ARCH_REGISTRY.build({"type": "VQAutoEncoder", **VQGAN}).state_dict()
    save_atomic({"params": state, "network_g": {"type": "VQAutoEncoder", **VQGAN}}, tmp_path / "vqgan.pth")
    convert_weights.main([str(tmp_path / "vqgan.pth"), str(tmp_path / "vqgan.safetensors")])
    assert load_file(tmp_path / "vqgan.safetensors")["network_g"]["img_size"] == SIZE
    save_atomic({"params": state}, tmp_path / "bare.pth")
    with pytest.raises(WeightsError, match=r"bare\.pth: do not fit CodeFormer"):
        convert_weights.main([str(tmp_path / "bare.pth"), str(tmp_path / "bare.safetensors")])
    assert not (tmp_path / "bare.safetensors").exists()


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (None, r"no network_g.*convert_weights\.py"),
        ({"format": "pt", "arch": "SomeNet"}, r"no network_g.*convert_weights\.py"),
        ({HEADER: "{cut"}, r"header 'id_codeformer' is no JSON"),
        ({HEADER: "[1]"}, r"header 'id_codeformer' is a list"),
        ({HEADER: '{"network_g": {"type": "SomeNet"}}'}, r"network_g cannot be built.*no .*'SomeNet'"),
        ({HEADER: '{"network_g": {"type": "CodeFormer", "depth": 3}}'}, r"network_g cannot be built.*depth"),
        ({HEADER: '{"network_g": 3}'}, "network_g does not say which network"),
        ({HEADER: json.dumps({"network_g": {"type": "CodeFormer", **CODEFORMER}})}, "do not fit CodeFormer"),
    ],
)
def test_the_header_of_a_foreign_file_gives_one_line(header: dict[str, str] | None, line: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"layer.weight": torch.zeros(2, 2)}, path, header)
    with pytest.raises(WeightsError, match=line) as caught:
        FaceRestorer(path, device="cpu")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_names_that_make_no_sense_and_files_that_are_there_are_refused(toy: Path) -> None:
    for target, line in (("net.safetensors", "there already"), ("net.bin", "expected"), ("other.pth", "expected")):
        with pytest.raises(UserError, match=line):
            convert_weights.main([str(toy / "net.pth"), str(toy / target)])
    convert_weights.main([str(toy / "net.pth"), str(toy / "net.safetensors"), "--overwrite", "--param_key", "params"])
    kept = load_state(toy / "net.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in load_state(toy / "net.pth", "params").items())
    convert_weights.main([str(toy / "net.pth"), str(toy / "net.safetensors"), "--overwrite"])
