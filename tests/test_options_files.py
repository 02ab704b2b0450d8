"""Every shipped option file parses, binds, builds, and names earlier runs that other shipped files write."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

import pytest
import torch

from basicsr.config import Options, parse_options, resolved
from basicsr.config.checks import missing_files
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

ROOT = Path(__file__).resolve().parent.parent
FILES_OF_RELEASE = ("codeformer.pth", "vqgan_code1024.pth", "vqgan_discriminator.pth")
# options/ablation/<data>.yml says which trainings are compared (test_ablation_plan.py), options/test/ what is judged
# (test_plan.py): no trainings
COMPARISONS = {path for path in (ROOT / "options" / "ablation").glob("*.yml") if not path.name.startswith("stage")}
FILES = sorted({*(ROOT / "options").rglob("*.yml")} - COMPARISONS - {*(ROOT / "options" / "test").glob("*.yml")})

for package in ("archs", "data", "losses", "metrics", "models"):
    importlib.import_module(f"basicsr.{package}")

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def options_of(path: Path) -> Options:
    return parse_options(path, check_files=False)


@cache
def shipped(path: Path) -> Options:
    """The options of a file that does not change; each is read once for all tests."""
    return options_of(path)


def test_the_three_stages_are_shipped_at_512_px_for_lfw_and_for_the_demo() -> None:
    stages = {
        (path.parent.name, MODEL_REGISTRY.get(shipped(path).model_type).__name__)
        for path in FILES
        if path.parent.name in ("options", "lfw", "demo")
    }
    models = ("VQGANModel", "IDCodeFormerModel", "IDCodeFormerJointModel")
    assert stages >= {(folder, model) for folder in ("options", "lfw", "demo") for model in models}


@every_file
def test_a_shipped_file_is_bound_and_its_resolved_form_means_the_same(path: Path, tmp_path: Path) -> None:
    options = shipped(path)
    (tmp_path / "resolved.yml").write_text(resolved(options), encoding="utf-8")
    assert options_of(tmp_path / "resolved.yml") == options


@every_file
def test_the_networks_of_a_shipped_file_can_be_built_and_share_the_vqgan(path: Path) -> None:
    options = shipped(path)
    specs = {name: getattr(options, name) for name in ("network_g", "network_d", "network_vqgan")}
    with torch.device("meta"):  # shapes alone: a 512 px network would need a gigabyte
        nets = {name: ARCH_REGISTRY.build(spec) for name, spec in specs.items() if spec is not None}
    if "network_vqgan" in nets:
        own = {key: value.shape for key, value in nets["network_g"].state_dict().items()}
        frozen = {key: value.shape for key, value in nets["network_vqgan"].state_dict().items()}
        assert frozen.items() <= own.items(), "network_g and network_vqgan differ in the VQGAN that they share"


@every_file
def test_weights_of_earlier_stages_come_from_runs_that_are_shipped_too_or_can_be_fetched(path: Path) -> None:
    missing = [message for key, message in missing_files(shipped(path)) if key[0] == "path"]
    for message in missing:
        fetched = [f"python scripts/download_pretrained_models.py {name}" for name in FILES_OF_RELEASE]
        made = "writes it: python basicsr/train.py -opt options/"
        assert any(way in message for way in (made, *fetched)), message


@every_file
def test_a_stage_fits_the_networks_that_the_stage_before_it_has_trained(path: Path) -> None:
    options = shipped(path)
    by_name = {shipped(other).name: shipped(other) for other in FILES}
    for ours, file in (("network_vqgan", "pretrain_network_vqgan"), ("network_d", "pretrain_network_d")):
        weights = getattr(options.path, file)
        if weights is None or not weights.startswith(options.path.experiments_root):
            continue  # weights of others, such as released ones
        writer = by_name[Path(weights).parts[-3]]
        theirs = "network_g" if ours == "network_vqgan" else "network_d"
        with torch.device("meta"):
            wanted = ARCH_REGISTRY.build(getattr(options, ours)).state_dict()
            written = ARCH_REGISTRY.build(getattr(writer, theirs)).state_dict()
        assert {key: value.shape for key, value in wanted.items()} == {k: v.shape for k, v in written.items()}


def test_the_phases_of_every_schedule_end_with_the_run_and_all_of_them_are_reached() -> None:
    checked = 0
    for path in FILES:
        train = shipped(path).train
        if train is not None and "schedule" in train.stage:
            ends = [phase["until"] for phase in train.stage["schedule"]]
            assert all(end < train.total_iter for end in ends[:-1]), path
            assert ends[-1] is None or ends[-1] == train.total_iter, path
            checked += 1
    assert checked >= 3


@every_file
def test_the_head_of_a_shipped_file_says_what_it_is_for(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_upstreams_own_keys_for_colours_and_strokes_reach_the_degradation(tmp_path: Path) -> None:
    path = tmp_path / "old.yml"

    def degradation(keys: str) -> dict[str, object]:
        base = ROOT / "options" / "upstream" / "stage2.yml"
        path.write_text(f"_base_: {base}\ndatasets: {{train: {{{keys}}}}}\n", encoding="utf-8")
        spec: dict[str, object] = options_of(path).datasets["train"].spec["degradation"]
        return spec

    colours = "color_jitter_prob: 0.3, color_jitter_shift: 20, color_jitter_pt_prob: 0.3, gray_prob: 0.01"
    colorization = shipped(ROOT / "options" / "upstream" / "colorization.yml").datasets["train"].spec["degradation"]
    assert degradation(f"{colours}, gen_inpaint_mask: false") == colorization
    off = "color_jitter_prob: ~, color_jitter_pt_prob: ~, gen_inpaint_mask: true"
    assert degradation(off) == {**degradation("use_hflip: true"), "gen_inpaint_mask": True}
