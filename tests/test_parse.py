"""From file to Options: what is accepted, what is refused, and the one line that says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from config_toys import TOY_FILE, TOYS, toy_file
from recognizer_graphs import write_insightface_graph

from basicsr.config import Options, Registries, parse_options, resolved
from basicsr.config.checks import way_to_make
from basicsr.config.optim_options import AdamOptions, CosineOptions, MultiStepOptions
from basicsr.config.options import WandbOptions
from basicsr.utils.errors import OptionError


def parse(folder: Path, *force_yml: str, text: str = TOY_FILE, **keywords: Any) -> Options:
    """The toy file with changes."""
    return parse_options(toy_file(folder, text), force_yml, TOYS, **keywords)


def refusal(folder: Path, *force_yml: str, text: str = TOY_FILE, **keywords: Any) -> str:
    """The one line that refuses the toy file with these changes."""
    with pytest.raises(OptionError) as caught:
        parse(folder, *force_yml, text=text, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_misspelled_argument_of_a_loss_is_refused_with_its_place_and_the_right_name(tmp_path: Path) -> None:
    line = TOY_FILE.splitlines().index("    loss_weight: 2") + 1
    message = refusal(tmp_path, text=TOY_FILE.replace("    loss_weight: 2", "    loss_wieght: 2"))
    assert message == (
        "train.pixel_opt.loss_wieght: L1Loss takes no such argument. Did you mean 'loss_weight'? "
        f"({tmp_path / 'toy.yml'}:{line})"
    )


def test_an_error_in_a_key_of_a_base_names_the_base(tmp_path: Path) -> None:
    toy_file(tmp_path, TOY_FILE.replace("total_iter", "total_itr"), "base.yml")
    message = refusal(tmp_path, text="_base_: base.yml\nname: x\n")
    assert message.startswith("train.total_itr: ToyModel takes no such key. Did you mean 'total_iter'?")
    line = TOY_FILE.splitlines().index("  total_iter: 100") + 1
    assert message.endswith(f"({tmp_path / 'base.yml'}:{line})")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nmae=x", "nmae: no such option. Did you mean 'name'?"),
        ("name=a/b", "name: found 'a/b', expected str matching"),
        ("name=~", "name: '~' turns nothing off here"),
        ("model_type=ToyModle", "model_type: no model_type 'ToyModle'. Did you mean 'ToyModel'?"),
        ("model_type=~", "'model_type' is missing"),
        ("network_g:type=ToyNett", "network_g.type: no network 'ToyNett'. Did you mean 'ToyNet'?"),
        ("network_g={type: ~}", "network_g: 'type' is missing: which network?"),
        ("network_g:width=wide", "network_g.width: found 'wide', expected int"),
        ("network_g:width=~", "network_g.width: '~' turns nothing off here"),
        ("network_g=5", "network_g: found 5, expected a mapping"),
        ("network_g=~", "network_g: '~' turns nothing off here"),
        ("network_identity={}", "network_identity: 'path' is missing"),
        ("network_identity:paht=x", "network_identity.paht: no such key. Did you mean 'path'?"),
        ("datasets=~", "datasets: found ~, expected a mapping"),
        ("datasets:trian={}", "datasets.trian: a data set is called train"),
        ("datasets:train_b={type: ToyDataset, source: x}", "datasets.train_b: a run has one training set"),
        ("datasets:train:batch_size_per_gp=2", "Did you mean 'batch_size_per_gpu'?"),
        ("datasets:train:batch_size_per_gpu=0", "found 0, expected int >= 1"),
        (
            "datasets:train:degradation:blur_sgima=[1, 2]",
            "degradation.blur_sgima: no such key. Did you mean 'blur_sigma'?",
        ),
        ("datasets:train:degradation:blur_sigma=[2, 1]", "datasets.train: blur_sigma: falls, expected [low, high]. ("),
        ("datasets:val_lfw:type=~", "datasets.val_lfw: 'type' is missing"),
        ("train:total_iter=0", "train.total_iter: found 0, expected int >= 1"),
        ("train:total_iter=1.5", "train.total_iter: found 1.5, expected int"),
        ("train:total_iter='5'", "train.total_iter: found '5', expected int"),
        ("train:losses={}", "train.losses: ToyModel takes no such key"),
        ("train:code_grad=sotf", "train.code_grad: found 'sotf'"),
        ("train:pixl_opt={type: L1Loss}", "train.pixl_opt: ToyModel takes no such key. Did you mean 'pixel_opt'?"),
        ("train:pixel_opt:type=L2Loss", "train.pixel_opt.type: no loss 'L2Loss'. Did you mean 'L1Loss'?"),
        ("train:optim_g:type=Adma", "train.optim_g.type: found 'Adma'. Did you mean 'Adam'?"),
        ("train:optim_g:beta=1", "train.optim_g.beta: no such key. Did you mean 'betas'?"),
        ("train:optim_g:lr=fast", "train.optim_g.lr: found 'fast', expected float"),
        ("train:optim_g:betas=[0.9, ~]", "train.optim_g.betas[1]: found ~, expected float"),
        ("train:optim_g=!replace {type: Adam}", "train.optim_g: 'lr' is missing"),
        ("train:scheduler={type: CosineAnnealingRestartLR, periods: [5, 5]}", "each period needs one"),
        ("val:wd=1", "val.wd: validation of ToyModel takes no such key"),
        ("val:w=much", "val.w: found 'much', expected float"),
        ("val:metrics:psnr:crop=1", "val.metrics.psnr.crop: PSNRMetric takes no such argument"),
        ("logger:print_frq=1", "logger.print_frq: no such key. Did you mean 'print_freq'?"),
        ("path:pretrain_network_G=x", "path.pretrain_network_G: no such key. Did you mean 'pretrain_network_g'?"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(tmp_path: Path, change: str, message: str) -> None:
    assert message in refusal(tmp_path, change)


def test_the_place_of_a_fault_inside_a_list_is_its_own_line(tmp_path: Path) -> None:
    text = TOY_FILE.replace("  code_grad: none", "  phases:\n    - 1\n    - two")
    message = refusal(tmp_path, text=text)
    assert message.startswith("train.phases[1]: found")
    assert message.endswith(f"toy.yml:{text.splitlines().index('    - two') + 1})")


def test_leaves_carry_their_defaults_and_the_sections_are_typed(tmp_path: Path) -> None:
    options = parse(tmp_path)
    assert options.network_g == {"type": "ToyNet", "width": 16, "widths": ["32", "64"], "model_path": None}
    train, train_set = options.training()
    assert train.optim_g == AdamOptions(lr=1e-4, betas=(0.9, 0.99))
    assert train.scheduler == MultiStepOptions(milestones=(50, 75))
    assert train.losses == {"pixel_opt": {"type": "L1Loss", "loss_weight": 2}}
    assert train.stage == {"code_grad": "none", "phases": None}
    assert train_set.loader.batch_size_per_gpu == 4
    assert "batch_size_per_gpu" not in train_set.spec
    assert options.val is not None
    assert (options.val.val_freq, options.val.restore) == (50, {"w": 0.5})


def test_a_data_set_gets_the_seed_of_the_run_unless_it_states_its_own(tmp_path: Path) -> None:
    options = parse(tmp_path, "datasets:val_lfw:seed=3")
    assert [dataset.spec["seed"] for dataset in options.datasets.values()] == [7, 3]


def test_the_type_of_a_loss_may_be_left_out_where_only_one_makes_sense(tmp_path: Path) -> None:
    train, _ = parse(tmp_path, "train:code_opt:loss_weight=0.25").training()
    assert train.losses["code_opt"] == {"type": "CodeCrossEntropyLoss", "loss_weight": 0.25}


def test_what_is_set_to_null_is_off(tmp_path: Path) -> None:
    options = parse(tmp_path, "train:pixel_opt=~", "datasets:val_lfw=~", "val:metrics:psnr=~", "train:scheduler=~")
    assert options.training()[0].losses == {}
    assert options.training()[0].scheduler is None
    assert options.datasets_of("val") == []
    assert options.val is not None
    assert options.val.metrics == {}
    assert parse(tmp_path, "val=~").val is None


@pytest.mark.parametrize(
    ("change", "spec"),
    [
        ("network_g:type=ToyIDNet", {"type": "ToyIDNet", "width": 16, "style": "adain"}),
        ("network_g=!replace {type: ToyIDNet}", {"type": "ToyIDNet", "width": 8, "style": "adain"}),
    ],
)
def test_a_change_of_network_keeps_the_shared_keys_unless_it_replaces(
    tmp_path: Path, change: str, spec: dict[str, Any]
) -> None:
    text = TOY_FILE.replace("  width: 16", "  width: 16\n  widths: ['16']")
    assert parse(tmp_path, change, text=text).network_g == spec


def test_an_alias_of_the_same_class_is_no_change_of_type(tmp_path: Path) -> None:
    text = TOY_FILE.replace("type: ToyNet", "type: ToyIDNet\n  style: none")
    assert parse(tmp_path, "network_g:type=OldToyIDNet", text=text).network_g["style"] == "none"


def test_dropped_keys_are_logged_with_their_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = TOY_FILE.replace("    milestones", "    gamma: 0.5\n    milestones")
    with caplog.at_level(logging.INFO):
        options = parse(tmp_path, "train:scheduler={type: CosineAnnealingRestartLR, periods: [100]}", text=text)
    assert options.training()[0].scheduler == CosineOptions(periods=(100,))
    assert sum("CosineAnnealingRestartLR takes no such argument" in line for line in caplog.messages) == 2


def test_a_loss_that_needs_an_identity_network_is_refused_without_one(tmp_path: Path) -> None:
    assert "IdentityLoss needs 'network_identity: {path: ...}'" in refusal(tmp_path, "train:identity_opt={}")
    (tmp_path / "net").write_bytes(b"weights")
    options = parse(tmp_path, "train:identity_opt={}", f"network_identity:path={tmp_path / 'net'}")
    assert "network_identity" not in options.training()[0].losses["identity_opt"]


def test_a_discriminator_without_an_optimiser_is_refused(tmp_path: Path) -> None:
    assert "'optim_d' is missing" in refusal(tmp_path, "network_d={type: ToyNet}")


def test_a_stage_says_which_networks_and_weights_it_needs(tmp_path: Path) -> None:
    frozen = "model_type=ToyFrozenModel"
    assert "ToyFrozenModel needs 'network_vqgan'" in refusal(tmp_path, frozen)
    untrained = refusal(tmp_path, frozen, "network_vqgan={type: ToyNet}")
    assert "network_vqgan: ToyFrozenModel would start from untrained weights" in untrained
    assert "path.pretrain_network_vqgan" in untrained
    parse(tmp_path, frozen, "network_vqgan={type: ToyNet}", "path:pretrain_network_vqgan=x.pth", check_files=False)
    parse(tmp_path, frozen, "network_vqgan={type: ToyNet, model_path: x.pth}", check_files=False)


@pytest.mark.parametrize(
    "key", ["path:pretrain_network_g", "path:resume_state", "network_identity:path", "network_g:model_path"]
)
def test_weights_must_exist_before_anything_is_built(tmp_path: Path, key: str) -> None:
    assert f"{key.replace(':', '.')}: {tmp_path}/no.pth does not exist." in refusal(
        tmp_path, f"{key}={tmp_path}/no.pth"
    )
    (tmp_path / "yes.pth").write_bytes(b"")
    parse(tmp_path, f"{key}={tmp_path}/yes.pth")
    parse(tmp_path, f"{key}={tmp_path}/no.pth", check_files=False)


def test_missing_weights_of_a_shipped_run_name_the_command_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "options" / "lfw").mkdir(parents=True)
    (tmp_path / "options" / "lfw" / "stage1.yml").write_text("name: lfw_vqgan  # 64 px\nmodel_type: VQGANModel\n")
    monkeypatch.setattr("basicsr.config.checks.OPTIONS_FOLDER", tmp_path / "options")
    assert way_to_make("experiments/lfw_vqgan/models/net_g_latest.pth") == (
        " Stage I writes it: python basicsr/train.py -opt options/lfw/stage1.yml"
    )
    assert way_to_make("experiments/mine/models/net_g_5.pth") == " The training run 'mine' writes it."
    assert way_to_make("weights/arcface.onnx") == ""


def test_an_insightface_pack_is_named_by_its_name_and_may_not_judge_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    trains = "network_identity:path=buffalo_l"
    assert "network_identity.path: buffalo_l does not exist." in refusal(tmp_path, trains)
    (tmp_path / ".insightface" / "models" / "buffalo_l").mkdir(parents=True)
    file = write_insightface_graph(tmp_path / ".insightface" / "models" / "buffalo_l" / "w600k_r50.onnx")
    identity = parse(tmp_path, trains).network_identity
    assert identity is not None
    assert identity.path == "buffalo_l"
    metric = f"val:metrics:ids={{type: IdentityMetric, recognizer: {file}}}"
    assert "also trains (network_identity.path), so it cannot judge" in refusal(tmp_path, trains, metric)


def test_the_recogniser_that_trains_may_not_judge_even_as_a_copy(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"one")
    (tmp_path / "copy.onnx").write_bytes(b"one")
    (tmp_path / "b.onnx").write_bytes(b"two")
    trains = f"network_identity:path={tmp_path}/a.onnx"
    for judge in ("a.onnx", "copy.onnx"):
        metric = f"val:metrics:ids={{type: IdentityMetric, recognizer: {tmp_path}/{judge}}}"
        assert "also trains (network_identity.path), so it cannot judge" in refusal(tmp_path, trains, metric)
        assert parse(tmp_path, trains, metric, "allow_same_recognizer=true").allow_same_recognizer
    parse(tmp_path, trains, f"val:metrics:ids={{type: IdentityMetric, recognizer: {tmp_path}/b.onnx}}")


UPSTREAM = """\
num_gpu: 8
dist_params: {backend: nccl, port: 29413}
find_unused_parameters: true
datasets:
  train:
    type: ToyJointDataset
    name: FFHQ
    dataroot_gt: datasets/ffhq
    io_backend: {type: disk}
    in_size: 512
    mean: [0.5, 0.5, 0.5]
    use_corrupt: true
    blur_kernel_size: 21
    blur_sigma: [0.1, 10]
    noise_range: ~
    blur_sigma_large: [1, 15]
    prefetch_mode: cpu
    dataset_enlarge_ratio: 100
name: CodeFormer_stage3
model_type: OldToyModel
network_g: {type: ToyNet}
train:
  total_iter: !!float 150e3
  optim_g: {type: Adam, lr: !!float 5e-5, betas: [0.9, 0.99], weight_decay: 0}
  scheduler: {type: MultiStepRestartLR, milestones: [400000], gamma: 0.5}
  entropy_loss_weight: 0.25
  cross_entropy_loss: true
  use_adaptive_weight: true
  net_g_start_iter: 0
val:
  val_freq: !!float 5e10
  suffix: ~
  metrics: {psnr: {type: calculate_psnr, crop_border: 4, better: higher}}
logger:
  wandb: {project: ~, resume_id: ~}
"""


def test_the_keys_of_an_upstream_file_are_mapped_or_ignored(tmp_path: Path) -> None:
    options = parse(tmp_path, text=UPSTREAM)
    train, train_set = options.training()
    assert train_set.spec == {
        "type": "ToyJointDataset",
        "source": "datasets/ffhq",
        "gt_size": 512,
        "seed": 0,
        "degradation": {"blur_kernel_size": 21, "blur_sigma": [0.1, 10], "noise_range": None},
        "degradation_large": {"blur_kernel_size": 21, "blur_sigma": [1, 15]},
    }
    assert train.losses == {"code_opt": {"type": "CodeCrossEntropyLoss", "loss_weight": 0.25}}
    assert train.total_iter == 150_000
    assert train.scheduler == MultiStepOptions(milestones=(400_000,), gamma=0.5)
    assert options.val is not None
    assert options.val.metrics == {"psnr": {"type": "PSNRMetric", "crop_border": 4}}
    assert options.logger.wandb == WandbOptions(project=None)


def test_each_old_key_costs_exactly_one_warning_with_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        parse(tmp_path, text=UPSTREAM)
    places = [line.rpartition(":")[2] for line in caplog.messages]
    assert len(places) == len(set(places)) == 21
    assert f"num_gpu is ignored: torchrun --nproc_per_node decides. ({tmp_path / 'toy.yml'}:1)" in caplog.messages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("datasets:train:io_backend:type=lmdb", "datasets.train.io_backend: found {'type': 'lmdb'}"),
        ("datasets:train:mean=[0, 0, 0]", "datasets.train.mean: found [0, 0, 0], which cannot be had here"),
        ("train:net_g_start_iter=5", "train.net_g_start_iter: found 5"),
        ("train:code_opt:loss_weight=1", "train.entropy_loss_weight: is the old name of train.code_opt.loss_weight"),
    ],
)
def test_an_old_key_that_asks_for_what_is_not_there_is_refused(tmp_path: Path, change: str, message: str) -> None:
    assert message in refusal(tmp_path, change, text=UPSTREAM)


def test_a_data_set_without_corruption_has_no_degradation(tmp_path: Path) -> None:
    text = TOY_FILE.replace("    degradation:\n      blur_sigma: [1, 2]", "    use_corrupt: false")
    assert parse(tmp_path, text=text).training()[1].spec["degradation"] is None


@pytest.mark.parametrize("text", [TOY_FILE, UPSTREAM])
def test_the_resolved_options_parse_back_to_equal_options_without_a_warning(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = parse(tmp_path, "description='1e5'", "train:clip_grad_norm=1e-7", text=text)
    caplog.clear()
    assert parse(tmp_path, text=resolved(options)) == options
    assert caplog.messages == []


def test_a_file_that_trains_nothing_needs_neither_discriminator_nor_weights(tmp_path: Path) -> None:
    options = parse(tmp_path, "train=~", "datasets:train=~", "model_type=ToyFrozenModel")
    assert options.train is None


def test_registries_default_to_the_global_ones() -> None:
    assert Registries().loss.kind == "loss"
