"""The option files of test.py: shipped ones are legal, undefined metrics are refused, restored sets are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from basicsr.evaluation.plan import read_plan, runs_with_weights
from basicsr.utils.errors import OptionError

SEARCHED = list(sys.path)
from basicsr import test as program  # noqa: E402

sys.path[:] = SEARCHED  # a program puts the repository in the place of its own folder

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "options" / "test").glob("*.yml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.yml"
    path.write_text("# a plan\n" + text)
    return path


RUN = "runs: {D: {weights: d.pth}}\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_file_is_legal_and_names_a_judge_that_did_not_train(path: Path) -> None:
    plan = read_plan(path)
    assert plan.recognizers
    assert not set(plan.recognizers) & set(plan.trained_with)
    assert plan.baseline in plan.runs


def test_the_four_sets_of_the_proposal_are_shipped() -> None:
    assert {"celeba", "challenge", "lfw", "wider"} <= {path.stem for path in FILES}


def test_a_metric_that_needs_a_ground_truth_is_refused_on_a_set_without_one(tmp_path: Path) -> None:
    path = write(tmp_path, f"name: x\n{RUN}sets:\n  wider:\n    lq: somewhere\n    metrics: [psnr]\n")
    with pytest.raises(
        OptionError, match=r"sets\.wider\.metrics.*'psnr': needs ground truth.*undefined there.*plan\.yml:7"
    ):
        read_plan(path)
    (tmp_path / "pairs.csv").write_text("lq,ref,identity\na.png,b.png,x\n")
    table = tmp_path / "pairs.csv"
    path = write(tmp_path, f"name: x\n{RUN}sets: {{lfw: {{pairs: {table}, metrics: [ids_ref, lpips]}}}}\n")
    with pytest.raises(OptionError, match="'lpips': needs ground truth"):
        read_plan(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"name: x\n{RUN}sets: {{s: {{lq: a, metricks: [niqe]}}}}\n", "metricks"),
        (f"name: x\n{RUN}sets: {{s: {{}}}}\n", "either pairs, or the folder lq"),
        ("name: x\nruns: {D: {}}\nsets: {s: {lq: a}}\n", "either weights, or the folder"),
        ("name: x\nruns: {D: {weights: a, guide: -1}}\nsets: {s: {lq: a}}\n", r"^runs\.guide: .*>= 0"),
        ("name: x\nruns: {D: {weights: a, guide: 5, mode: none}}\nsets: {s: {lq: a}}\n", r"runs\.D: guide"),
        ("name: x\nruns: {D: {weights: a, wrong_references: true}}\nsets: {s: {lq: a}}\n", "needs pairs_wrong"),
        (f"name: x\n{RUN}", "sets"),
        (f"name: x\n{RUN}sets: {{s: {{lq: a}}}}\nbaseline: A\n", "baseline 'A': expected one of D"),
        (f"name: x\n{RUN}sets: {{s: {{lq: a}}}}\nroles: {{main: D w=0}}\n", "role main=D w=0: no such run"),
        ("name: x\nruns: {../D: {weights: d}}\nsets: {s: {lq: a}}\n", "becomes the name of a folder"),
    ],
)
def test_a_fault_in_the_file_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as raised:
        read_plan(write(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_several_w_are_runs_of_their_own(tmp_path: Path) -> None:
    text = "name: x\nruns: {D: {weights: d, w: [0, 0.5]}, A: {weights: a}, other: {folder: f}}\nsets: {s: {lq: a}}\n"
    plan = read_plan(write(tmp_path, text))
    assert [(label, w) for label, _, w in runs_with_weights(plan)] == [("D w=0", 0.0), ("D w=0.5", 0.5), ("A", 0.5)]


def test_what_is_missing_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path, f"name: x\n{RUN}sets: {{s: {{lq: {tmp_path}}}}}\n")
    with pytest.raises(OptionError, match=r"runs\.D\.weights: d\.pth does not exist"):
        program.main(["-opt", str(path)])
    assert program.main(["-opt", str(path), "--dry-run"]) == 0


@pytest.mark.parametrize("key", ["recognizers", "trained_with", "fid_statistics", "detector", "calibration_pairs"])
def test_a_judge_that_is_missing_is_named_before_anything_is_restored(tmp_path: Path, key: str) -> None:
    (tmp_path / "d.pth").write_bytes(b"1")
    file = "gone.onnx" if key in ("detector", "calibration_pairs") else "[gone.onnx]"
    text = f"name: x\nruns: {{D: {{weights: {tmp_path / 'd.pth'}}}}}\nsets: {{s: {{lq: {tmp_path}}}}}\n{key}: {file}\n"
    with pytest.raises(OptionError, match=rf"{key}: gone\.onnx does not exist"):
        program.main(["-opt", str(write(tmp_path, text))])


def test_a_recognizer_of_a_run_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "d.pth").write_bytes(b"1")
    run = f"{{weights: {tmp_path / 'd.pth'}, guide: 10, recognizer: gone.onnx}}"
    with pytest.raises(OptionError, match=r"runs\.D\.recognizer: gone\.onnx does not exist"):
        program.main(["-opt", str(write(tmp_path, f"name: x\nruns: {{D: {run}}}\nsets: {{s: {{lq: {tmp_path}}}}}\n"))])


def test_a_number_of_guidance_steps_is_passed_on_and_none_leaves_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "d.pth"
    weights.write_bytes(b"1")
    runs = "plain: {{{0}}}, off: {{{0}, guide: 0}}, guided: {{{0}, guide: 7, recognizer: r.onnx}}"
    text = f"name: x\nruns: {{{runs.format(f'weights: {weights}')}}}\nsets: {{s: {{pairs: pairs.csv}}}}\n"
    plan = read_plan(write(tmp_path, text))
    commands: dict[str, list[str]] = {}

    class Done:
        returncode = 0

    def fake(command: list[str], check: bool) -> Done:
        out = Path(command[command.index("-o") + 1])
        out.mkdir()
        commands[out.name] = command[1:]
        return Done()

    monkeypatch.setattr(program.subprocess, "run", fake)
    for name, run in plan.runs.items():
        program.restore(plan, plan.sets["s"], run, 0.5, tmp_path / name)
    assert "--guide" not in commands["plain"]
    for name, steps in (("off", "0"), ("guided", "7")):
        assert commands[name][commands[name].index("--guide") + 1] == steps
    assert commands["guided"][commands["guided"].index("--recognizer") + 1] == "r.onnx"
    assert commands["guided"][commands["guided"].index("--mode") + 1] == "ref"


def test_the_same_command_with_the_same_weights_restores_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "d.pth"
    weights.write_bytes(b"1")
    plan = read_plan(
        write(tmp_path, f"name: x\nruns: {{D: {{weights: {weights}}}}}\nsets: {{s: {{lq: {tmp_path}}}}}\n")
    )
    calls: list[list[str]] = []

    class Done:
        returncode = 0

    def fake(command: list[str], check: bool) -> Done:
        calls.append(command)
        out = Path(command[command.index("-o") + 1])
        out.mkdir(exist_ok=True)
        (out / "results.json").write_text('{"complete": true}')
        return Done()

    monkeypatch.setattr(program.subprocess, "run", fake)
    for _ in range(2):
        assert program.restore(plan, plan.sets["s"], plan.runs["D"], 0.5, tmp_path / "out")
    assert len(calls) == 1
    assert calls[0][0] == sys.executable
    weights.write_bytes(b"2")
    assert program.restore(plan, plan.sets["s"], plan.runs["D"], 0.5, tmp_path / "out")
    assert len(calls) == 2
