"""The option loader: YAML 1.2 scalars, places of keys, `_base_`, `--force_yml`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from basicsr.config.yaml_loader import KeyPath, load_tree, parse_override
from basicsr.utils.errors import OptionError


def write(folder: Path, name: str, text: str) -> Path:
    """An option file in `folder`; the first line of `text` is line 1."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, *force_yml: str) -> Any:
    """The plain values of an option file with this text."""
    return load_tree(write(folder, "x.yml", text), force_yml).root.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2.5E-3", -2.5e-3),
        (".5", 0.5),
        ("5.", 5.0),
        ("1.0", 1.0),
        ("5e3", 5000),
        ("!!float 5e4", 50000),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("+7", 7),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("on", "on"),
        ("No", "No"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("1e", "1e"),
        ("'1e-4'", "1e-4"),
        ("~", None),
        ("", None),
        ("null", None),
    ],
)
def test_a_scalar_is_read_by_the_yaml_1_2_core_schema(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, f"key: {text}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_whole_number_with_an_exponent_is_an_integer(tmp_path: Path) -> None:
    assert type(read(tmp_path, "a: 1e5\n")["a"]) is int
    assert type(read(tmp_path, "a: 1e300\n")["a"]) is float  # beyond 2**53 a float is not exact


def test_not_a_number_is_read_as_such(tmp_path: Path) -> None:
    assert math.isnan(read(tmp_path, "a: .nan\n")["a"])


@pytest.mark.parametrize(
    ("path", "line"),
    [(("a",), 2), (("a", "b"), 3), (("a", "c"), 4), (("a", "c", 1), 6), (("a", "c", 1, "d"), 6), (("a", "gone"), 2)],
)
def test_every_key_knows_its_line(tmp_path: Path, path: KeyPath, line: int) -> None:
    file = write(tmp_path, "x.yml", "# why\na:\n  b: 1\n  c:\n    - 5\n    - {d: 1}\n")
    origin = load_tree(file).origin(path)
    assert (origin.file, origin.line) == (str(file), line)


def test_a_key_that_stands_twice_is_an_error_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"x\.yml:3: the key 'lr' stands twice, first in .*x\.yml:2"):
        read(tmp_path, "a:\n  lr: 1\n  lr: 2\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\n", r"x\.yml:2: not valid YAML"),
        ("a: 1\n\tb: 2\n", r"x\.yml:2: not valid YAML"),
        ("", "its top level is no mapping"),
        ("- 1\n", "its top level is no mapping"),
        ("1: a\n", "a key must be text"),
        ("? [a, b]\n: 1\n", "a key must be text"),
        ("a: !!python/object/apply:os.getcwd []\n", r"x\.yml:1: the tag .* is not allowed"),
        ("a: !!int x\n", "'x' is no int"),
        ("a: &x {b: *x}\n", "an anchor that contains itself"),
        ("a: 1\n--- \nb: 2\n", "not valid YAML"),
    ],
)
def test_what_is_no_option_file_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_its_neighbours_and_who_asked_for_it(tmp_path: Path) -> None:
    write(tmp_path, "stage2.yml", "_base_: stage1.yml\n")
    with pytest.raises(OptionError, match=r"stage1\.yml: no such option file \(.*stage2\.yml names it") as caught:
        load_tree(tmp_path / "stage2.yml")
    assert "stage2.yml" in str(caught.value).partition("There:")[2]


def test_a_base_is_merged_below_mapping_by_mapping_and_lists_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, "base.yml", "a: {b: 1, c: [1, 2]}\nd: 1\ne: {f: 1}\n")
    over = "_base_: base.yml\na: {b: 2, c: [3]}\ne: ~\n"
    assert read(tmp_path, over) == {"a": {"b": 2, "c": [3]}, "d": 1, "e": None}


def test_of_several_bases_the_later_goes_over_the_earlier(tmp_path: Path) -> None:
    write(tmp_path, "one.yml", "a: 1\nb: 1\nc: 1\n")
    write(tmp_path, "two.yml", "b: 2\nc: 2\n")
    assert read(tmp_path, "_base_: [one.yml, two.yml]\nc: 3\n") == {"a": 1, "b": 2, "c": 3}


def test_a_key_from_a_base_keeps_the_file_and_line_of_the_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yml", "a:\n  b: 1\n  c: 2\n")
    file = write(tmp_path, "sub/x.yml", "_base_: ../base.yml\na:\n  c: 3\n")
    tree = load_tree(file)
    assert str(tree.origin(("a", "b"))) == f"{tmp_path / 'base.yml'}:2"
    assert str(tree.origin(("a", "c"))) == f"{file}:3"


def test_bases_that_go_round_are_an_error_that_shows_the_round(tmp_path: Path) -> None:
    write(tmp_path, "a.yml", "_base_: b.yml\n")
    write(tmp_path, "b.yml", "_base_: a.yml\n")
    with pytest.raises(OptionError, match=r"goes round: .*a\.yml -> .*b\.yml -> .*a\.yml"):
        load_tree(tmp_path / "a.yml")


def test_replace_takes_nothing_from_the_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yml", "a: {b: 1, c: {d: 1}}\n")
    assert read(tmp_path, "_base_: base.yml\na: {c: !replace {e: 2}}\n") == {"a": {"b": 1, "c": {"e": 2}}}


def test_a_change_of_type_keeps_only_what_the_new_type_takes_and_records_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "base.yml", "net:\n  type: A\n  width: 1\n  depth: 2\n")
    file = write(tmp_path, "x.yml", "_base_: base.yml\nnet: {type: B, heads: 3}\n")
    tree = load_tree(file, (), lambda path, old, new: {"width"} if (path, old, new) == (("net",), "A", "B") else None)
    assert tree.root.plain() == {"net": {"type": "B", "width": 1, "heads": 3}}
    assert [str(dropped) for dropped in tree.dropped] == [
        f"net.depth ({tmp_path / 'base.yml'}:4): dropped, B takes no such argument"
    ]


def test_force_yml_sets_a_yaml_value_at_a_path_over_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, "a: {b: {c: 1, d: 2}}\n", "a:b:c=1e-4", "a:e=[1, yes, ~]", "f:g=x=y")
    assert found == {"a": {"b": {"c": 1e-4, "d": 2}, "e": [1, "yes", None]}, "f": {"g": "x=y"}}


def test_force_yml_text_that_looks_like_code_stays_text(tmp_path: Path) -> None:
    assert read(tmp_path, "a: 1\n", "a=__import__('os').getcwd()")["a"] == "__import__('os').getcwd()"


def test_an_error_in_a_forced_key_names_the_command_line(tmp_path: Path) -> None:
    tree = load_tree(write(tmp_path, "x.yml", "a: {b: 1}\n"), ["a:b=2"])
    assert str(tree.error(("a", "b"), "is odd.")) == "a.b: is odd. (--force_yml a:b=2)"


@pytest.mark.parametrize("text", ["a:b", "=1", "a::b=1"])
def test_force_yml_without_a_key_or_value_says_how_to_write_it(text: str) -> None:
    with pytest.raises(OptionError, match="write key:key=value"):
        parse_override(text)


def test_a_change_of_base_puts_a_files_own_keys_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "one.yml").write_text("name: one\ntrain: {total_iter: 1, lr: 1}\n")
    (tmp_path / "big" / "two.yml").write_text("name: two\ntrain: {total_iter: 2}\n")
    row = tmp_path / "row.yml"
    row.write_text("_base_: one.yml\ntrain: {lr: 9}\n")
    plain = load_tree(row).root.plain()
    assert plain == {"name": "one", "train": {"total_iter": 1, "lr": 9}}
    over = load_tree(row, [f"_base_={tmp_path / 'big' / 'two.yml'}", "name=row"]).root.plain()
    assert over == {"name": "row", "train": {"total_iter": 2, "lr": 9}}
    with pytest.raises(OptionError, match=r"none\.yml: no such option file \(.*row\.yml names it"):
        load_tree(row, ["_base_=none.yml"])
