"""The page of options, the command line around the option file."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from config_toys import TOY_FILE, TOYS, toy_file

from basicsr.config import add_option_arguments, answer_from_args, explain, options_from_args, parse_options
from basicsr.config.explain import argument_docs, type_text
from basicsr.utils.errors import OptionError

ROOT = Path(__file__).resolve().parents[1]


def arguments(*argv: str) -> argparse.Namespace:
    """A parsed command line."""
    parser = argparse.ArgumentParser()
    add_option_arguments(parser)
    return parser.parse_args(argv)


def page() -> str:
    """The page of all registered classes."""
    for package in ("archs", "data", "losses", "metrics", "models"):
        importlib.import_module(f"basicsr.{package}")
    return explain()


def test_the_options_page_in_docs_is_what_explain_prints() -> None:
    path = ROOT / "docs" / "options.md"
    stale = "stale; write it anew: python basicsr/train.py --explain > docs/options.md"
    assert path.read_text(encoding="utf-8") == page(), stale


def test_every_option_on_the_page_has_its_line_of_documentation() -> None:
    blank = [line.split("|")[1].strip() for line in page().splitlines() if re.fullmatch(r"\|.*\| *\|", line)]
    assert blank == []


def test_the_page_shows_arguments_of_the_registered_classes_with_type_default_and_meaning() -> None:
    text = explain(TOYS)
    assert "### `ToyDataset` (also `ToyJointDataset`)" in text
    assert "| `source` | text | *required* |" in text
    assert "| `degradation` | mapping or ~ | see below |" in text
    assert "| `degradation.blur_sigma` | [float, float] | [1, 15] | px |" in text
    assert "| `train.code_grad` | none or soft | soft | how a gradient passes |" in text
    assert "| `val.w` | float | 0.0 | fidelity weight |" in text
    assert "`network_identity` |" not in text.partition("## Losses")[2]


def test_the_page_of_a_file_lists_what_its_changes_of_type_dropped(tmp_path: Path) -> None:
    toy_file(tmp_path, TOY_FILE.replace("  width: 16", "  width: 16\n  widths: ['8']"), "base.yml")
    path = toy_file(tmp_path, "_base_: base.yml\nnetwork_g: {type: ToyIDNet}\n")
    text = explain(TOYS, path)
    assert f"- network_g.widths ({tmp_path / 'base.yml'}:17): dropped, ToyIDNet takes no such argument" in text


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (float | None, "float or ~"),
        (None | int, "int or ~"),
        (tuple[float, float], "[float, float]"),
        (tuple[int, ...], "list of int"),
        (list[str] | None, "list of text or ~"),
        (Literal["a", "b"], "a or b"),
        (bool, "true or false"),
        (dict[str, int], "mapping"),
        (Any, "anything"),
    ],
)
def test_a_type_is_said_in_the_words_of_the_yaml(hint: Any, text: str) -> None:
    assert type_text(hint) == text


def test_meanings_are_read_from_the_args_of_a_docstring_over_several_lines_and_names() -> None:
    class Toy:
        """Summary.

        Args:
            one: first line
                and second.
            two, three: shared: with a colon

        Returns:
            four: nothing.
        """

    meanings = argument_docs(Toy)
    assert meanings["one"] == "first line and second"
    assert meanings["two"] == meanings["three"] == "shared: with a colon"
    assert "four" not in meanings


def test_dry_run_prints_options_that_parse_and_warns_of_missing_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = toy_file(tmp_path)
    args = arguments("-opt", str(path), "--dry-run", "--force_yml", "name=other", "path:pretrain_network_g=no.pth")
    answer = answer_from_args(args, TOYS)
    assert answer is not None
    assert yaml.safe_load(answer)["name"] == "other"
    assert [line for line in caplog.messages if "path.pretrain_network_g: no.pth does not exist" in line]
    assert parse_options(toy_file(tmp_path, answer, "again.yml"), (), TOYS, check_files=False).name == "other"


def test_a_plain_command_line_starts_the_run(tmp_path: Path) -> None:
    args = arguments("-opt", str(toy_file(tmp_path)), "--auto_resume", "--launcher", "pytorch", "--local-rank", "1")
    assert answer_from_args(args, TOYS) is None
    assert args.auto_resume
    assert options_from_args(args, TOYS).name == "toy"


def test_debug_is_the_same_run_under_another_name_with_early_log_validation_and_checkpoint(tmp_path: Path) -> None:
    options = options_from_args(arguments("-opt", str(toy_file(tmp_path)), "--debug"), TOYS)
    assert options.val is not None
    assert options.name == "debug_toy"
    assert (options.logger.print_freq, options.logger.save_checkpoint_freq, options.val.val_freq) == (1, 8, 8)


def test_explain_needs_no_option_file_but_a_run_does() -> None:
    assert (answer_from_args(arguments("--explain"), TOYS) or "").startswith("# Options")
    with pytest.raises(OptionError, match="-opt FILE is missing"):
        options_from_args(arguments(), TOYS)


def test_several_force_yml_flags_add_up(tmp_path: Path) -> None:
    args = arguments("-opt", str(toy_file(tmp_path)), "--force_yml", "name=a", "--force_yml", "manual_seed=3")
    options = options_from_args(args, TOYS)
    assert (options.name, options.manual_seed) == ("a", 3)
