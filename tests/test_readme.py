"""What the documents promise is there: commands with flags that exist, option files, links; and the README is short."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("[!.]*/README.md")])
MAX_README_LINES = 250

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def fenced_lines(document: Path) -> list[str]:
    """Lines of the fenced blocks that hold shell commands, continuation lines joined."""
    lines, language = [], None
    for line in text_of(document).replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            language = None if language is not None else line.strip().removeprefix("```")
        elif language in ("", "bash"):
            lines.append(line.strip())
    return lines


def commands_in(document: Path) -> list[list[str]]:
    """The `python FILE ...` and `torchrun ... FILE ...` commands of the document, from FILE on."""
    found = []
    for line in fenced_lines(document):
        if line.startswith(("python ", "torchrun ")):
            words = shlex.split(line, comments=True)
            start = next(i for i, word in enumerate(words) if word.endswith(".py"))
            found.append(words[start:])
    return found


def help_of(script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `python script --help` prints, run in this process."""
    monkeypatch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
    module = importlib.import_module("basicsr.train" if script == "basicsr/train.py" else Path(script).stem)
    with pytest.raises(SystemExit) as left:
        module.main(["--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_there_are_commands_to_check() -> None:
    assert len(commands_in(ROOT / "README.md")) >= 5


@every_document
def test_every_flag_of_a_documented_command_is_known(
    document: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    helps: dict[str, str] = {}
    for script, *arguments in commands_in(document):
        assert (ROOT / script).is_file(), script
        if script not in helps:
            helps[script] = help_of(script, capsys, monkeypatch)
        for word in arguments:
            if re.fullmatch(r"--?[A-Za-z]\w*", word):
                assert re.search(rf"(?<![\w-]){word}(?![\w-])", helps[script]), f"{script} {word}"


@every_document
def test_every_option_file_and_link_of_a_document_is_there(document: Path) -> None:
    text = text_of(document)
    for option_file in re.findall(r"options/[\w/]+\.yml", text):
        if option_file == "options/x.yml":  # the place in an example of an error message
            continue
        if f"`{option_file}`:\n\n```yaml" in text:  # the page gives the file itself, see test_extending.py
            continue
        assert (ROOT / option_file).is_file(), option_file
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), target


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= MAX_README_LINES
