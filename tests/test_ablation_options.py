"""The ablation rows: what differs between them is what their names say, and nothing else; on any base."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from basicsr.config import Options, parse_options
from basicsr.config.options import to_plain

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "options" / "ablation"
ROWS = ("a0", "a", "b", "c", "d", "a_c", "a_d", "c_one_token", "kv_share", "capacity", "maps")
BASES = {"512": ("stage2_id.yml", "stage3_id.yml"), "lfw": ("lfw/stage2.yml", "lfw/stage3.yml")}

for package in ("archs", "data", "losses", "metrics", "models"):
    importlib.import_module(f"basicsr.{package}")

every_stage = pytest.mark.parametrize("stage", [2, 3])
every_base = pytest.mark.parametrize("base", list(BASES))


def options_of(row: str, stage: int, base: str = "512") -> Options:
    """A row over the base that it names, or, by `_base_=`, over another one."""
    changes = [] if base == "512" else [f"_base_={ROOT / 'options' / BASES[base][stage - 2]}"]
    return parse_options(FOLDER / f"stage{stage}_{row}.yml", changes, check_files=False)


def differing(one: Any, other: Any, path: str = "") -> set[str]:
    """Dotted keys in which two nested mappings differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key for name in {*one, *other} for key in differing(one.get(name), other.get(name), f"{path}.{name}")}
    return set() if one == other else {path.removeprefix(".")}


def test_there_is_a_file_for_each_row_and_stage_of_at_most_15_lines_with_expectation_and_command() -> None:
    files = {path.name: path.read_text(encoding="utf-8").splitlines() for path in FOLDER.glob("stage*.yml")}
    assert set(files) == {f"stage{stage}_{row}.yml" for stage in (2, 3) for row in ROWS}
    for name, lines in files.items():
        assert len(lines) <= 15, name
        assert lines[1].startswith("# Expect: "), name
        assert lines[2].endswith(f"basicsr/train.py -opt options/ablation/{name}"), name


@every_stage
@every_base
@pytest.mark.parametrize("row", ROWS)
def test_a_row_differs_from_the_full_model_in_nets_and_losses_of_identity_alone(
    row: str, stage: int, base: str
) -> None:
    """Same data, seed, steps, optimisers, learning rates, schedules and validation in all rows."""
    found = differing(to_plain(options_of(row, stage, base)), to_plain(options_of("d", stage, base)))
    nets = {key for key in found if key.split(".")[0] in ("network_g", "network_identity")}
    assert found - nets <= {"name", "train.identity_opt", "train.code_grad", "path.pretrain_network_g"}
    # of network_g only the identity parts: CodeFormer's own arguments are those of D
    identity = {"type", "inject", "style", "num_vec_tokens", "num_map_tokens", "use_null_key", "identity_source"}
    identity |= {"token_grid", "style_grid"}
    own = {"id_embed_dim", "id_map_shape", "style_list"}  # of IDCodeFormer, which a CodeFormer does not have
    assert {key.split(".")[1] for key in nets if key.startswith("network_g.")} <= identity | own


@every_base
def test_rows_are_what_they_are_called(base: str) -> None:
    def facts(row: str) -> tuple[Any, ...]:
        options = options_of(row, 3, base)
        assert options.train is not None
        net = options.network_g
        parts = (net.get("inject", "none"), net.get("style", "none"), net.get("identity_source", "none"))
        return (net["type"], *parts, "identity_opt" in options.train.losses, options.train.stage["code_grad"])

    plain, full = "CodeFormer", "IDCodeFormer"
    assert facts("a0") == (plain, "none", "none", "none", False, "none")
    assert facts("a") == (plain, "none", "none", "none", False, "ste_softmax")
    assert facts("b") == (plain, "none", "none", "none", True, "ste_softmax")
    assert facts("c") == (full, "cross_attn", "none", "recognizer", True, "ste_softmax")
    assert facts("d") == (full, "cross_attn", "adain", "recognizer", True, "ste_softmax")
    assert facts("a_c") == (full, "cross_attn", "none", "recognizer", False, "ste_softmax")
    assert facts("a_d") == (full, "none", "adain", "recognizer", False, "ste_softmax")
    assert facts("kv_share") == (full, "kv_share", "none", "recognizer", True, "ste_softmax")
    assert facts("capacity") == (full, "cross_attn", "adain", "constant", True, "ste_softmax")
    assert facts("maps") == (full, "token_map", "adain", "recognizer", True, "ste_softmax")
    assert options_of("maps", 3, base).network_g["style_grid"] > 1
    one = options_of("c_one_token", 3, base).network_g
    assert (one["num_vec_tokens"], one["num_map_tokens"], one["use_null_key"], one["style"]) == (1, 0, False, "none")


@pytest.mark.parametrize("row", ROWS)
def test_stage_iii_of_a_row_starts_from_its_own_stage_ii(row: str) -> None:
    second, third = options_of(row, 2), options_of(row, 3)
    assert third.path.pretrain_network_g == f"experiments/{second.name}/models/net_g_latest.pth"
