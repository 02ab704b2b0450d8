"""The known defects of the released training code, each by its number, with the tests that hold it off here.

HELD_BY points to the tests where they stand; what no other file tests is tested below. An entry of NO_PART_OF_US says
why there is nothing to test: the part that had the defect does not exist here.
"""

from __future__ import annotations

import ast
import math
import os
from pathlib import Path

import pytest
import torch
from toy_run import build, parse, run, stage_options

from basicsr.engine.trainer import Trainer

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

HELD_BY = {
    # training
    "D1 codes of a VQGAN that nobody trained": (
        "test_models.py::test_stage_ii_refuses_to_start_without_stage_i_weights",
        "test_models.py::test_codes_of_another_codebook_are_refused",
    ),
    "D2 the script for codes of the ground truth fails": (
        "test_make_code_cache.py::test_cached_codes_and_features_are_those_of_the_vqgan_bit_for_bit_in_both_flips",
    ),
    "D3 stage III crashes at w = 0 with the GAN": (
        "test_models.py::test_stage_iii_with_the_gan_is_legal_at_any_w",
        "test_schedule.py::test_the_shipped_stage_iii_does_what_upstreams_table_says",
    ),
    "D4 stage III asks for a discriminator that stage II does not write": (
        "test_options_files.py::test_weights_of_earlier_stages_come_from_runs_that_are_shipped_too_or_can_be_fetched",
    ),
    "D5 a resume puts the average into the trained network": (
        "test_checkpoint.py::test_training_goes_on_with_the_trained_weights_not_with_the_average",
    ),
    "D6 random state, place in the epoch and workers are not resumed": (
        "test_trainer.py::test_two_iterations_stop_resume_and_two_more_equal_four_bit_for_bit",
        "test_interrupts.py::test_a_resume_in_the_middle_of_an_epoch_does_not_depend_on_the_workers",
        "test_kill.py::test_twenty_kills_at_random_instants_leave_the_weights_of_a_straight_run_bit_for_bit",
        "test_faults.py::test_a_signal_to_one_rank_stops_both_and_the_resumed_run_equals_the_straight_one",
    ),
    "D7 .module without a wrapper": (
        "test_house.py::test_distributed_wrappers_are_opened_in_one_file",
        "test_models.py::test_a_few_steps_on_one_batch_lower_its_loss",
    ),
    "D8 image losses reach neither encoder nor transformer": (
        "test_codeformer_arch.py::test_image_loss_reaches_every_layer_of_the_transformer_and_the_encoder",
    ),
    "D9 fix_modules before the modules exist": (
        "test_codeformer_arch.py::test_fix_modules_freezes_exactly_what_it_names",
    ),
    "D10 a loss that is not configured is a NameError": (
        "test_upstream_defects.py::test_each_stage_trains_without_any_one_of_its_losses",
    ),
    "D11 a discriminator that is not there is trained": (
        "test_upstream_defects.py::test_each_stage_trains_without_any_one_of_its_losses",
        "test_parse.py::test_a_discriminator_without_an_optimiser_is_refused",
    ),
    "D12 validation fails in every stage, on one rank alone": (
        "test_validator.py::test_the_figure_is_the_mean_over_the_set_with_the_averaged_weights",
        "test_upstream_defects.py::test_every_stage_validates",
    ),
    "D13 the discriminator's BatchNorm sees each GPU by itself": (
        "test_sync_batch_norm.py::test_two_ranks_normalise_as_batch_norm_does_with_the_whole_batch",
    ),
    "D14 boxes are mirrored in place": ("test_augment.py::test_flip_is_its_own_inverse_and_a_copy",),
    "D15 the suffix of a name is taken for four letters": (
        "test_paired_image_dataset.py::test_files_of_one_name_belong_together_whatever_their_suffix",
        "test_lmdb_store.py::test_a_sample_from_lmdb_is_that_of_the_files",
    ),
    "D16 file lists without an order, an order without the seed": (
        "test_ffhq_blind_dataset.py::test_a_folder_is_read_sorted_with_its_sub_folders_and_pictures_alone",
        "test_sampler.py::test_the_order_depends_on_the_seed",
    ),
    "D17 pictures of another size fail late or are squashed": (
        "test_ffhq_blind_dataset.py::test_another_size_is_refused_with_the_remedy_or_resized",
        "test_ffhq_blind_dataset.py::test_a_picture_that_is_not_square_is_never_squashed",
    ),
    "D18 an error of a worker is swallowed and the run waits for ever": (
        "test_ffhq_blind_dataset.py::test_a_broken_picture_is_named_also_from_a_worker",
        "test_interrupts.py::test_a_worker_that_hangs_is_an_error_within_the_time_out_and_what_is_done_is_saved",
        "test_interrupts.py::test_a_worker_that_dies_is_an_error_and_what_is_done_is_saved",
        "test_faults.py::test_a_file_that_never_answers_ends_the_run_within_its_limit",
    ),
    "D19 the cosine schedule ends in a TypeError": (
        "test_optim.py::test_cosine_starts_at_the_base_rate_and_stays_at_its_floor_past_the_end",
    ),
    "D20 a device sync for every loss of every step; no precision, clipping, accumulation, guard": (
        "test_run_log.py::test_adding_a_figure_does_not_read_the_device",
        "test_gradient_steps.py::test_parts_of_a_batch_equal_the_whole_one",
        "test_gradient_steps.py::test_losses_in_half_precision_stay_near_those_in_float32",
        "test_gradient_steps.py::test_each_network_is_clipped_by_its_own_norm",
        "test_trainer.py::test_a_loss_that_is_not_finite_stops_the_run_by_name_iteration_and_sample",
    ),
    "D21 LPIPS gathers gradients for ever": (
        "test_perceptual_loss.py::test_gradient_reaches_the_restored_image_and_no_weight",
    ),
    "D22 the average leaves out buffers": ("test_ema.py::test_parameters_and_buffers_follow_the_recurrence",),
    "D23 the schedule of stage III is code": (
        "test_schedule.py::test_phases_by_share_end_where_the_same_phases_by_iteration_end_and_both_kinds_mix",
        "test_options_files.py::test_the_phases_of_every_schedule_end_with_the_run_and_all_of_them_are_reached",
    ),
    # environment
    "E1 train.py finds the package only where it is installed": (
        "test_packaging.py::test_a_script_runs_from_any_folder_without_an_installation",
        "test_packaging.py::test_importing_the_package_imports_nothing_heavy",
    ),
    "E2 an installed basicsr hides this one": (
        "test_packaging.py::test_a_foreign_basicsr_stops_a_script_and_both_paths_are_named",
        "test_packaging.py::test_the_distribution_is_not_called_basicsr",
    ),
    "E3 the version comes from code that is run while building": (
        "test_packaging.py::test_a_version_is_known_with_and_without_an_installation",
        "test_house.py::test_no_code_is_run_from_text_or_from_a_pickle",
    ),
    "E4 imports that newer libraries dropped": (
        "test_upstream_defects.py::test_no_module_that_newer_libraries_dropped_is_imported",
    ),
    "E5 pickles and unsafe YAML": (
        "test_house.py::test_torch_load_takes_weights_only",
        "test_house.py::test_yaml_is_read_with_a_safe_loader",
        "test_weights.py::test_a_checkpoint_that_carries_code_is_refused_and_its_code_does_not_run",
    ),
    "E6 CUDA is taken for granted; --local-rank is not understood": (
        "test_launch.py::test_the_old_launchers_local_rank_counts_where_torchrun_has_set_none",
        "test_launch.py::test_nccl_without_a_gpu_is_refused",
    ),
    "E7 downloads while importing or building": (
        "test_download_util.py::test_offline_one_line_names_the_address_and_the_place",
        "test_download_util.py::test_a_corrupt_download_is_refused_and_removed",
    ),
    "E9 the version of torch is read by a pattern": (
        "test_upstream_defects.py::test_no_version_of_a_library_is_taken_apart",
    ),
    "E10 folders in the working directory, names cut at '/', a time left of -1 day": (
        "test_upstream_defects.py::test_a_run_writes_nothing_outside_of_its_folder",
        "test_run_log.py::test_the_clock_tells_images_waiting_and_the_time_left",
    ),
    "E11 requirements without bounds": ("test_packaging.py::test_requirements_have_a_lower_bound_and_no_pin",),
}

NO_PART_OF_US = {
    "E8 a video tool that runs pip and eval": "no module restores videos; test_house.py refuses eval anywhere",
}


def test_every_defect_is_listed_once() -> None:
    numbers = [title.split()[0] for title in (*HELD_BY, *NO_PART_OF_US)]
    assert sorted(numbers) == sorted([f"D{n}" for n in range(1, 24)] + [f"E{n}" for n in range(1, 12)])


@pytest.mark.parametrize("title", HELD_BY)
def test_the_tests_that_hold_a_defect_off_exist(title: str) -> None:
    for place in HELD_BY[title]:
        file, name = place.split("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy data and the weights of a toy stage I."""
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=1), folder)
    return folder


LOSSES = {1: ["pixel_opt", "gan_opt"], 2: ["code_opt", "feat_opt", "identity_opt"]}
LOSSES[3] = [*LOSSES[1], *LOSSES[2]]


@pytest.mark.parametrize(("stage", "loss"), [(stage, loss) for stage, losses in LOSSES.items() for loss in losses])
def test_each_stage_trains_without_any_one_of_its_losses(toy: Path, stage: int, loss: str) -> None:
    plain = stage_options(stage, toy, total_iter=2, **{loss: None}) | {"name": f"without_{loss}{stage}"}
    if loss == "gan_opt":
        plain["network_d"], plain["train"]["optim_d"] = None, None
    trainer = run(plain, toy)
    assert trainer.state.current_iter == 2
    assert all(torch.isfinite(p).all() for p in trainer.stage.net_g.parameters())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_validates(toy: Path, stage: int) -> None:
    plain = stage_options(stage, toy, total_iter=1) | {"name": f"validated{stage}"}
    plain["datasets"]["val"] = {**plain["datasets"]["train"], "split": "val"}
    plain["val"] = {"val_freq": 1, "metrics": {"psnr": {"type": "PSNRMetric"}}}
    options = parse(plain, toy)
    trainer = Trainer(options, build(options), toy / "experiments" / f"validated{stage}")
    assert trainer.run() == 0
    assert math.isfinite(trainer.state.best["val/psnr"])


def source_files() -> list[Path]:
    return sorted([*(ROOT / "basicsr").rglob("*.py"), *(ROOT / "scripts").rglob("*.py"), *ROOT.glob("*.py")])


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_module_that_newer_libraries_dropped_is_imported() -> None:
    dropped = {"distutils", "scipy.ndimage.interpolation", "torchvision.transforms.functional_tensor", "pkg_resources"}
    for path in source_files():
        assert not {name for name in imports_of(path) for gone in dropped if f"{name}.".startswith(f"{gone}.")}, path
        assert not {"pretrained=True", "Image.ANTIALIAS"} & set(path.read_text(encoding="utf-8").split()), path


def test_no_version_of_a_library_is_taken_apart() -> None:
    for path in source_files():
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        written_down = {id(value) for node in nodes if isinstance(node, ast.Dict) for value in node.values}
        written_down |= {id(node.value) for node in nodes if isinstance(node, ast.FormattedValue)}
        versions = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "__version__"]
        assert all(id(node) in written_down for node in versions), path


def test_a_run_writes_nothing_outside_of_its_folder(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = {path for path in toy.rglob("*") if "own" not in path.parts}
    run(stage_options(3, toy, total_iter=1) | {"name": "own"}, toy)
    assert os.listdir() == []
    after = {path for path in toy.rglob("*") if "own" not in path.parts}
    assert after - before == {toy / "own.yml"}
