"""An ablation whose programs are played: what a failed training costs, and what the same command makes up for later."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from _steps import Steps
from ablation_toys import ROOT, SHIPPED, write_report
from run_ablation import main

from basicsr.utils.csv_util import write_rows
from basicsr.utils.errors import UserError

LEVELS = {"degraded": 0.1, "ceiling": 0.8, "A": 0.3, "C ref": 0.4}


class Programs:
    """Plays every program of an ablation by what it leaves; `failing` are trainings that leave nothing."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.failing: set[str] = set()
        self.ran: list[str] = []

    def run(self, command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> int:
        program = Path(command[0]).stem
        arguments = {flag: command[i + 1] for i, flag in enumerate(command[:-1]) if flag.startswith("-")}
        self.ran.append(program)
        if program == "train":
            name = next(a.removeprefix("name=") for a in command if a.startswith("name="))
            self.ran[-1] = name
            if name in self.failing:
                return 1
            for net in "gd":
                self.leave(self.out / "experiments" / name / "models" / f"net_{net}_latest.pth")
        elif program == "make_test_set":
            row = {"lq": "lq/0.png", "gt": "gt/0.png", "ref": "ref/0.png", "ref:wrong": "wrong_ref/0.png"}
            for kind in ("", "_wrong", "_oracle"):
                write_rows(self.out / "test_set" / f"pairs{kind}.csv", [row])
            for folder in ("lq", "gt"):
                (self.out / "test_set" / folder).mkdir()
        elif program == "reconstruct":
            Path(arguments["--out"]).mkdir(parents=True, exist_ok=True)
        elif program == "inference_codeformer":
            self.leave(Path(arguments["-o"]) / "results.json", '{"complete": true}')
        else:
            start = list(command).index("--restored") + 1
            labels = [a.partition("=")[0] for a in command[start : list(command).index("--recognizer")]]
            write_report(Path(arguments["--out"]), {label: LEVELS.get(label, 0.3) for label in labels}, 0)
        return 0

    def leave(self, path: Path, text: str = "") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.chdir(ROOT)
    played = Programs(tmp_path / "out")
    monkeypatch.setattr(Steps, "_run_program", lambda _, *arguments: played.run(*arguments))
    (tmp_path / "ablation.yml").write_text(f"_base_: {SHIPPED}\nrows: [A, C]\nw_sweep: []\n")
    return played


def run(programs: Programs) -> tuple[int, str]:
    config = programs.out.parent / "ablation.yml"
    programs.ran = []
    code = main(["--config", str(config), "--seeds", "1", "--out", str(programs.out), "--jobs", "2"])
    return code, (programs.out / "ablation.md").read_text()


@pytest.mark.slow
def test_a_row_that_fails_costs_itself_and_is_made_up_for_by_the_same_command(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    programs.failing = {"stage2_c_seed0"}
    with caplog.at_level(logging.ERROR):
        code, table = run(programs)
    assert code == 1
    assert "\n| A (baseline) |" in table
    assert "\n| ceiling |" in table
    assert "\n| C " not in table
    said = caplog.text
    assert "the step 'stage2_c_seed0' ended with code 1; its reason stands in" in said
    assert "the step 'stage3_c_seed0' was left out: " in said
    assert "the step 'restore C ref, stage 3, seed 0' was left out: " in said

    programs.failing = set()
    code, table = run(programs)
    assert code == 0
    made = [name for name in programs.ran if name.startswith("stage")]
    assert made == ["stage2_c_seed0", "stage3_c_seed0"], "and nothing that was there"
    assert programs.ran.count("make_test_set") == 0
    assert programs.ran.count("inference_codeformer") == 2 * 5, "five modes after both stages"
    assert programs.ran.count("evaluate") == 2, "both again, now with C"
    for label in ("A (baseline)", "C ref", "C wrong", "C oracle"):
        assert f"\n| {label} " in table
    figures = {path.name for path in (programs.out / "figures").iterdir()}
    assert figures == {f"stage{s}_C_ref_minus_C_{mode}.png" for s in (2, 3) for mode in ("wrong", "none")}

    code, again = run(programs)
    assert (code, again) == (0, table)
    assert programs.ran == ["reconstruct"], "which goes on by itself"


def test_an_ablation_of_which_nothing_came_is_one_line(programs: Programs) -> None:
    programs.failing = {"stage1"}
    config = programs.out.parent / "ablation.yml"
    with pytest.raises(UserError, match=r"nothing was restored.* the first reason: the step 'stage1' ended"):
        main(["--config", str(config), "--seeds", "1", "--out", str(programs.out)])
