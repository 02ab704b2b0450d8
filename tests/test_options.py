"""The structs of the options: frozen, documented, and written back to YAML without loss."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path

import msgspec
import pytest
from config_toys import TOYS, toy_file

from basicsr.config import parse_options
from basicsr.config.options import IdentitySpec, Options, phase_of, plain_value, to_plain
from basicsr.config.schema import structs_in
from basicsr.recognizers import load_recognizer
from basicsr.utils.errors import OptionError


def structs_below(struct: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """A struct and all those that its fields hold."""
    hints = typing.get_type_hints(struct).values()
    return [struct, *(below for hint in hints for inner in structs_in(hint) for below in structs_below(inner))]


def test_every_option_of_the_trunk_has_a_line_of_documentation() -> None:
    undocumented = [
        f"{struct.__name__}.{name}"
        for struct in structs_below(Options)
        for name, hint in typing.get_type_hints(struct, include_extras=True).items()
        if not any(getattr(meta, "description", None) for meta in typing.get_args(hint)[1:])
    ]
    assert undocumented == []


def test_every_section_is_frozen() -> None:
    assert all(struct.__struct_config__.frozen for struct in structs_below(Options))


def test_options_cannot_be_changed(tmp_path: Path) -> None:
    options = parse_options(toy_file(tmp_path), registries=TOYS)
    with pytest.raises(AttributeError):
        options.name = "other"  # type: ignore[misc]


def test_the_keys_of_network_identity_are_the_arguments_of_load_recognizer_and_the_file_of_the_student() -> None:
    signature = inspect.signature(load_recognizer)
    assert (*signature.parameters, "self_path") == IdentitySpec.__struct_fields__


@pytest.mark.parametrize(("key", "phase"), [("train", "train"), ("val", "val"), ("val_a_b", "val"), ("test_x", "test")])
def test_the_key_of_a_data_set_begins_with_its_phase(key: str, phase: str) -> None:
    assert phase_of(key) == phase


@pytest.mark.parametrize("key", ["training", "valid", "trian", ""])
def test_any_other_key_is_no_data_set(key: str) -> None:
    with pytest.raises(OptionError, match="a data set is called"):
        phase_of(key)


def test_plain_values_have_lists_for_tuples_and_mappings_for_structs() -> None:
    assert plain_value({"a": (1, (2.5, None)), "b": IdentitySpec(path="x")}) == {
        "a": [1, [2.5, None]],
        "b": {"path": "x", "map_node": None, "typical_norm": None, "same_person_cosine": None, "self_path": None},
    }


@pytest.mark.parametrize(("value", "fits"), [(-1, False), (-0.5, True), (0, True), (1, True), (1.01, False)])
def test_a_same_person_cosine_is_above_minus_one_and_at_most_one(tmp_path: Path, value: float, fits: bool) -> None:
    override = [f"network_identity={{path: x, same_person_cosine: {value}}}"]
    if fits:
        identity = parse_options(toy_file(tmp_path), override, TOYS, check_files=False).network_identity
        assert identity is not None
        assert identity.same_person_cosine == value
    else:
        with pytest.raises(OptionError, match=r"^network_identity\.same_person_cosine"):
            parse_options(toy_file(tmp_path), override, TOYS, check_files=False)


def test_the_plain_form_is_flat_as_the_file_is(tmp_path: Path) -> None:
    plain = to_plain(parse_options(toy_file(tmp_path), registries=TOYS))
    assert plain["train"]["pixel_opt"] == {"type": "L1Loss", "loss_weight": 2}
    assert plain["train"]["code_grad"] == "none"
    assert plain["val"]["w"] == 0.5
    assert plain["datasets"]["train"]["batch_size_per_gpu"] == 4
    assert plain["datasets"]["train"]["source"] == "faces"


def test_the_training_section_is_asked_for_by_name(tmp_path: Path) -> None:
    options = parse_options(toy_file(tmp_path), registries=TOYS)
    assert options.training()[0].total_iter == 100
    assert options.training()[1].key == "train"
    with pytest.raises(OptionError, match=r"datasets\.train"):
        parse_options(toy_file(tmp_path), ["datasets:train=~"], TOYS).training()
    with pytest.raises(OptionError, match="train: 'toy' has no such section"):
        parse_options(toy_file(tmp_path), ["train=~"], TOYS).training()
