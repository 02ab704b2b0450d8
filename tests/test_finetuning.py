"""Starting from others' weights: the report of what fits, the released files in every stage, the look at the VQGAN."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import build, make_recognizer, parse, run, stage_options

from basicsr.config import parse_options
from basicsr.models.stage_builder import build_stage
from basicsr.models.start_check import mean_psnr
from basicsr.utils.dist_util import bare_net
from basicsr.utils.errors import WeightsError
from basicsr.utils.load_report import MAX_ROWS, compare, module_of
from basicsr.utils.weights import load_file, save_atomic

ROOT = Path(__file__).resolve().parent.parent
RELEASED = json.loads((Path(__file__).parent / "data" / "upstream_keys.json").read_text())


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=2), folder)
    return folder


def codeformer_file(toy: Path) -> Path:
    """A blind CodeFormer's weights, as released ones: a toy row A."""
    plain = stage_options(2, toy, total_iter=1, identity_opt=None) | {"name": "blind"}
    plain["network_g"] = {k: v for k, v in plain["network_g"].items() if not k.startswith(("id_", "num_"))}
    plain["network_g"]["type"] = "CodeFormer"
    del plain["network_identity"]
    return run(plain, toy).folder / "models" / "net_g_latest.pth"


def test_a_module_is_named_without_the_places_in_its_lists() -> None:
    assert module_of("ft_layers.0.cross_attn.q.weight") == "ft_layers.*.cross_attn"
    assert module_of("encoder.blocks.17.norm.bias") == "encoder.blocks"
    assert module_of("position_emb") == "position_emb"


def test_a_blind_codeformer_is_reported_by_module_and_loads_without_strict(
    toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = codeformer_file(toy)
    plain = stage_options(2, toy)
    plain["path"] |= {"pretrain_network_g": str(file), "strict_load_g": False}
    with caplog.at_level(logging.INFO):
        stage = build(parse(plain, toy))
    report = next(message for message in caplog.messages if message.startswith("network_g (IDCodeFormer)"))
    rows = [line.split() for line in report.splitlines()[2:]]
    assert ["ft_layers.*.cross_attn", "14"] in rows, "seven tensors in each of two layers"
    assert {row[0].split(".")[0] for row in rows} == {"ft_layers", "identity_encoder", "style_dict"}
    own, theirs = bare_net(stage.net_g).state_dict(), load_file(file)["params_ema"]
    assert all(torch.equal(own[key], value) for key, value in theirs.items())
    assert f"loaded {len(theirs)} of {len(own)} tensors" in caplog.text


def test_strict_loading_fails_with_the_same_report_and_the_way_out(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = stage_options(2, toy)
    plain["path"]["pretrain_network_g"] = str(codeformer_file(toy))
    with pytest.raises(WeightsError, match=r"pretrain_network_g: .*blind.*missing.*strict_load_g: false") as caught:
        build(parse(plain, toy))
    assert "\n" not in str(caught.value)
    assert "ft_layers.*.cross_attn" in caplog.text


def test_tensors_of_another_shape_are_told_with_both_shapes_and_a_long_report_fits_a_screen() -> None:
    net = torch.nn.ModuleDict({f"part{i}": torch.nn.Linear(2, 2) for i in range(40)})
    state = {**net.state_dict(), "part0.weight": torch.zeros(3, 2), "other.weight": torch.zeros(1)}
    table = compare(net, state).table()
    assert "[3, 2] in the file, [2, 2] in the network" in table
    table = compare(net, {}).table()
    assert len(table.splitlines()) == MAX_ROWS + 2
    assert table.endswith("... and 20 modules more")
    assert compare(net, net.state_dict()).fits


@pytest.mark.parametrize("key", ["params_d", "params", None])
def test_a_discriminator_loads_from_any_of_the_entries_that_it_is_published_under(toy: Path, key: str | None) -> None:
    state = load_file(toy / "experiments/toy1/models/net_d_latest.pth")["params"]
    state = {name: torch.full_like(value, 3) for name, value in state.items()}
    file = toy / f"d_{key}.pth"
    # a file may hold the generator under 'params' beside it
    other = {"params": {"encoder.weight": torch.zeros(1)}} if key == "params_d" else {}
    save_atomic({**other, key: state} if key else state, file)
    plain = stage_options(3, toy)
    plain["path"]["pretrain_network_d"] = str(file)
    stage = build(parse(plain, toy))
    assert stage.net_d is not None
    assert all((value == 3).all() for value in bare_net(stage.net_d).state_dict().values())


def released_file(path: Path, net: str, entry: str) -> Path:
    """A file with the names and shapes of a released one; each tensor is one number all over, which takes no room."""
    numbers = {name: 1e-3 * (1 + place % 89) for place, (name, _) in enumerate(sorted(RELEASED["codeformer"]["keys"]))}
    state = {
        name: torch.tensor(0) if not shape else torch.tensor(numbers.get(name, 0.5)).expand(shape)
        for name, shape in RELEASED[net]["keys"]
    }
    save_atomic({entry: state}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("stage_number", "net_g"), [(1, "vqgan"), (2, "codeformer"), (3, "codeformer")])
def test_released_files_load_into_each_stage_at_512_px(
    tmp_path: Path, stage_number: int, net_g: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        "vqgan": released_file(tmp_path / "vqgan_code1024.pth", "vqgan", "params_ema"),
        "codeformer": released_file(tmp_path / "codeformer.pth", "codeformer", "params_ema"),
        "discriminator": released_file(tmp_path / "vqgan_discriminator.pth", "discriminator", "params_d"),
    }
    changes = [f"path:pretrain_network_g={files[net_g]}", "train:perceptual_opt=~"]
    if stage_number != 2:
        changes.append(f"path:pretrain_network_d={files['discriminator']}")
    if stage_number > 1:
        recognizer = make_recognizer(tmp_path / "recognizer.safetensors")
        changes += [
            f"path:pretrain_network_vqgan={files['vqgan']}", "path:strict_load_g=false",
            f"network_identity:path={recognizer}", "network_g:id_embed_dim=16", "network_g:id_map_shape=[32, 1, 1]",
        ]  # fmt: skip
    if stage_number == 2:
        changes.remove("train:perceptual_opt=~")
    with caplog.at_level(logging.INFO):
        stage = build_stage(
            parse_options(ROOT / f"options/finetune/stage{stage_number}.yml", changes), torch.device("cpu")
        )
    own = bare_net(stage.net_g).state_dict()
    num_released = len(RELEASED[net_g]["keys"])
    assert f"network_g: loaded {num_released} of {len(own)} tensors" in caplog.text
    theirs: dict[str, Any] = load_file(files[net_g])["params_ema"]
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    assert (stage_number == 1) == ("differ" not in caplog.text), "only the identity parts are new"
    if stage_number != 2:
        assert "network_d: loaded 28 of 28 tensors" in caplog.text


def test_the_look_at_the_vqgan_tells_its_psnr_and_warns_of_an_untrained_one(
    toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(stage_options(2, toy, total_iter=1) | {"name": "looked"}, toy)
    assert "the frozen VQGAN reconstructs the first batch with" in caplog.text
    assert "Is path.pretrain_network_vqgan a finished stage I" in caplog.text


def test_mean_psnr_is_that_of_the_formula(rng: Any) -> None:
    image, gt = (torch.from_numpy(rng.uniform(-1, 1, (2, 3, 4, 4))).float() for _ in range(2))
    mse = (((image - gt) / 2) ** 2).mean((1, 2, 3)).double()
    assert mean_psnr(image, gt) == pytest.approx((-10 * mse.log10()).mean().item(), abs=1e-4)
    assert mean_psnr(gt, gt) > 100


def test_a_vqgan_that_reconstructs_is_not_warned_of(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    from basicsr.models.start_check import check_vqgan

    class Perfect(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return type("Out", (), {"restored": x + 0.01})

    with caplog.at_level(logging.INFO):
        check_vqgan(Perfect(), torch.rand(2, 3, 8, 8) * 2 - 1)  # type: ignore[arg-type]
    assert "46" in caplog.text
    assert "that is low" not in caplog.text
