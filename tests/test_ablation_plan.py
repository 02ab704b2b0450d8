"""The plan of an ablation: what is trained once, what each row is restored from, and what a smaller budget changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import run_ablation
from _ablation_plan import Plan, scaled_iterations
from _steps import Step
from run_ablation import keep_to_the_plan

from basicsr.config import parse_options
from basicsr.evaluation.ablation_options import AblationOptions, read_ablation
from basicsr.utils.csv_util import read_rows, write_rows
from basicsr.utils.errors import OptionError, UserError

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "options" / "ablation" / "lfw.yml"


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> AblationOptions:
    monkeypatch.chdir(ROOT)
    return read_ablation(SHIPPED)


def plan_of(options: AblationOptions, rows: Sequence[str], seeds: int = 1, budget: float = 1.0) -> Plan:
    return Plan(options, rows, seeds, budget, Path("experiments/x"))


def command_of(step: Step) -> str:
    return " ".join(step.command)


def test_stage_one_is_trained_once_and_a0_shares_the_stage_two_of_a(options: AblationOptions) -> None:
    """Without a picture in stage II it makes no difference how an image loss would reach the codes."""
    plan = plan_of(options, ("A0", "A", "B"), seeds=2)
    names = [name.rpartition("_")[0] or name for name in plan.trainings]
    assert names.count("stage1") == 1
    assert names.count("stage2_a0") == names.count("stage2_b") == 2
    assert names.count("stage2_a") == 0
    assert names.count("stage3_a0") == names.count("stage3_a") == names.count("stage3_b") == 2
    third = command_of(plan.trainings["stage3_a_seed1"])
    assert "path:pretrain_network_g=experiments/x/experiments/stage2_a0_seed1/models/net_g_latest.pth" in third
    assert "path:pretrain_network_d=experiments/x/experiments/stage1/models/net_d_latest.pth" in third


def test_every_row_is_its_option_file_over_the_bases_of_the_experiment(options: AblationOptions) -> None:
    plan = plan_of(options, ("D",))
    for stage in (2, 3):
        command = plan.trainings[f"stage{stage}_d_seed0"].command
        assert f"options/ablation/stage{stage}_d.yml" in command
        assert f"_base_={ROOT}/options/lfw/stage{stage}.yml" in command


def test_a_row_with_references_is_restored_with_right_wrong_no_own_and_perfect_ones(options: AblationOptions) -> None:
    plan = plan_of(options, ("B", "C"))
    labels = [run.label for stage, _, run in plan.restorations() if stage == 3]
    row_c = [f"C {mode}" for mode in ("ref", "wrong", "none", "self", "oracle")]
    assert labels == ["B", "B w=0", "B w=1", *row_c, "C w=0", "C w=1"]
    commands = {step.title: command_of(step) for step in plan.layers()[-1]}
    wrong = commands["restore C wrong, stage 3, seed 0"]
    assert "pairs_wrong.csv" in wrong
    assert "--mode ref" in wrong
    assert "--mode none" in commands["restore B, stage 3, seed 0"]


def test_a_guided_row_trains_nothing_and_restores_with_the_weights_of_its_row(options: AblationOptions) -> None:
    plan, alone = plan_of(options, ("A", "A+G", "D", "D+G"), seeds=2), plan_of(options, ("A", "D"), seeds=2)
    assert list(plan.trainings) == list(alone.trainings)
    guided = [run for stage, seed, run in plan.restorations() if (stage, seed) == (3, 1) and "+G" in run.label]
    modes = ("ref", "wrong", "oracle")
    labels = [[*(f"{row} {mode}" for mode in modes), f"{row} w=0", f"{row} w=1"] for row in ("A+G", "D+G")]
    assert [run.label for run in guided] == [*labels[0], *labels[1]]
    assert {run.training for run in guided} == {"stage3_a_seed1", "stage3_d_seed1"}
    steps = {step.title: step for step in plan.layers()[-1]}
    recognizer = plan.recognizer()
    assert recognizer is not None
    for row in "AD":
        wrong = steps[f"restore {row}+G wrong, stage 3, seed 1"].command
        weights = f"experiments/x/experiments/stage3_{row.lower()}_seed1/models/net_g_latest.pth"
        pairs = "experiments/x/test_set/pairs_wrong.csv"
        given = {"--guide": "10", "--recognizer": recognizer, "--mode": "ref", "--pairs": pairs, "--weights": weights}
        for flag, value in given.items():
            assert wrong[list(wrong).index(flag) + 1] == value
    unguided = [step for title, step in steps.items() if "+G" not in title]
    assert unguided
    assert not any("--guide" in step.command for step in unguided)
    assert len({step.makes for step in steps.values()}) == len(steps), "a guided result has a folder of its own"


def test_a_guided_row_without_a_recognizer_to_guide_by_is_refused(
    options: AblationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(options, ("A", "A+G"))
    monkeypatch.setattr(plan, "recognizer", lambda: None)
    with pytest.raises(OptionError, match="network_identity"):
        plan.layers()


def test_a_guided_row_needs_the_row_whose_weights_it_takes() -> None:
    with pytest.raises(OptionError, match=r"^--rows: the row 'D\+G' restores with the weights of row 'D'"):
        run_ablation.main(["--config", str(SHIPPED), "--out", "x", "--rows", "A", "A+G", "D+G", "--dry-run"])


def test_a_restoration_that_two_rows_share_is_made_once(options: AblationOptions) -> None:
    plan = plan_of(options, ("A0", "A"))
    made = [step.makes for step in plan.layers()[-1]]
    assert len(made) == len(set(made))
    second = [plan.folder_of(run) for stage, _, run in plan.restorations() if stage == 2]
    assert len(second) == 2
    assert len(set(second)) == 1


def test_every_step_names_what_it_needs_of_earlier_ones(options: AblationOptions) -> None:
    layers = plan_of(options, ("A", "D")).layers()
    made: set[Path] = {Path("experiments/x/test_set/pairs.csv"), Path("experiments/x/test_set/pairs_wrong.csv")}
    made |= {Path("experiments/x/test_set/gt")}
    for layer in layers:
        for step in layer:
            assert set(step.needs) <= made, step.title
        made |= {
            step.makes.with_name(step.makes.name.replace("net_g", net)) for step in layer for net in ("net_g", "net_d")
        }
    needs = {step.title: {path.parts[3] for path in step.needs} for step in layers[-2]}
    assert needs == {f"stage3_{row}_seed0": {"stage1", f"stage2_{row}_seed0"} for row in "ad"}


@pytest.fixture
def judged(options: AblationOptions, tmp_path: Path) -> Callable[[Sequence[str]], Step]:
    """The evaluation of rows that are all restored."""
    write_rows(tmp_path / "test_set" / "pairs.csv", [{"gt": "gt/0.png", "ref": "ref/0.png", "ref:wrong": "w/0.png"}])

    def evaluation(rows: Sequence[str]) -> Step:
        plan = Plan(options, rows, 1, 1.0, tmp_path)
        for _, _, run in plan.restorations():
            (tmp_path / plan.folder_of(run)).mkdir(parents=True, exist_ok=True)
            (tmp_path / plan.folder_of(run) / "results.json").write_text('{"complete": true}')
        return plan.evaluation_step(3, 0, None)

    return evaluation


def test_a_row_that_is_added_is_judged_with_the_others(judged: Callable[[Sequence[str]], Step]) -> None:
    step = judged(("A", "B"))
    assert not step.is_done(step.makes)
    step.makes.parent.mkdir(exist_ok=True)
    step.makes.write_text(json.dumps({"runs": ["A", "A w=0", "A w=1", "B", "B w=0", "B w=1"]}))
    assert step.is_done(step.makes)
    more = judged(("A", "B", "C"))
    assert more.makes == step.makes
    assert not more.is_done(more.makes)


def test_what_was_not_restored_to_its_end_is_not_judged(
    judged: Callable[[Sequence[str]], Step], options: AblationOptions, tmp_path: Path
) -> None:
    whole = judged(("A", "B"))
    plan = Plan(options, ("A", "B"), 1, 1.0, tmp_path)
    cut_off = next(run for stage, _, run in plan.restorations() if (stage, run.label) == (3, "B"))
    (plan.folder_of(cut_off) / "results.json").write_text('{"complete": false}')
    less = plan.evaluation_step(3, 0, None)
    gone = set(whole.command) - set(less.command)
    assert {argument.partition("=")[0] for argument in gone} == {
        "B",
        "--questions",
        str(tmp_path / "report_stage3_seed0/questions.csv"),
    }


def test_the_questions_for_which_there_are_runs_are_the_family(judged: Callable[[Sequence[str]], Step]) -> None:
    step = judged(("A", "B", "C"))
    table = Path(step.command[list(step.command).index("--questions") + 1])
    asked = {(row["run"], row["minus"]) for _, row in read_rows(table)}
    assert asked == {("B", "A"), ("C ref", "B"), ("C ref", "C wrong"), ("C ref", "C none")}


def test_guided_rows_are_asked_about_and_judged_with_the_references_they_were_given(
    judged: Callable[[Sequence[str]], Step],
) -> None:
    command = list(judged(("A", "A+G", "D", "D+G")).command)
    asked = {(row["run"], row["minus"]) for _, row in read_rows(Path(command[command.index("--questions") + 1]))}
    guided = {("A+G ref", "A"), ("A+G ref", "A+G wrong"), ("D+G ref", "D ref"), ("D+G ref", "D+G wrong")}
    assert {pair for pair in asked if "+G" in pair[0]} == guided
    ((_, pairs),) = read_rows(Path(command[command.index("--pairs") + 1]))
    assert (pairs["ref:A+G wrong"], pairs["ref:A+G oracle"]) == ("w/0.png", "gt/0.png")


def test_a_budget_scales_every_iteration_and_leaves_shares(options: AblationOptions) -> None:
    base = parse_options(ROOT / options.stage3, check_files=False)
    forced = scaled_iterations(base, 0.1)
    smaller = parse_options(ROOT / options.stage3, forced, check_files=False)
    assert base.train is not None
    assert smaller.train is not None
    assert smaller.train.total_iter == round(base.train.total_iter * 0.1)
    assert smaller.train.scheduler is not None
    assert msgspec.to_builtins(smaller.train.scheduler)["periods"] == (smaller.train.total_iter,)
    assert smaller.train.stage["net_d_start_iter"] == round(base.train.stage["net_d_start_iter"] * 0.1)
    ends = [phase["until"] for phase in smaller.train.stage["schedule"]]
    assert ends == [phase["until"] for phase in base.train.stage["schedule"]]
    assert scaled_iterations(base, 1.0) == []


def test_absolute_phases_are_scaled_too() -> None:
    base = parse_options(ROOT / "options" / "stage3_id.yml", check_files=False)
    assert base.train is not None
    smaller = parse_options(ROOT / "options" / "stage3_id.yml", scaled_iterations(base, 0.01), check_files=False)
    assert smaller.train is not None
    for before, after in zip(base.train.stage["schedule"], smaller.train.stage["schedule"], strict=True):
        expected = before["until"] if not isinstance(before["until"], int) else round(before["until"] * 0.01)
        assert after["until"] == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("rows: [A, Bee]", r"rows\[1\]: no row 'Bee'.* \(.*lfw.yml:\d+\)"),
        ("rows: [A, A]", "the row 'A' is named twice"),
        ("row: [A]", "row: no such key. Did you mean 'rows'"),
        ("w: -1", r"w: Expected `float` >= 0.0"),
        ("stage2: options/lfw/stage4.yml", "stage2: no such option file: options/lfw/stage4.yml"),
        ("test: {index: a.csv, size: 64, strenght: large}", "test.strenght: no such key. Did you mean 'strength'"),
    ],
)
def test_a_fault_in_the_option_file_is_one_line_with_its_place(
    options: AblationOptions, tmp_path: Path, change: str, reason: str
) -> None:
    path = tmp_path / "lfw.yml"
    path.write_text(f"_base_: {SHIPPED}\n{change}\n")
    with pytest.raises(OptionError, match=reason) as caught:
        read_ablation(path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_budget_is_refused_and_more_rows_are_welcome(
    options: AblationOptions, tmp_path: Path
) -> None:
    keep_to_the_plan(tmp_path / "plan.json", plan_of(options, ("A",)))
    keep_to_the_plan(tmp_path / "plan.json", plan_of(options, ("A", "B"), seeds=3))
    with pytest.raises(UserError, match="another budget"):
        keep_to_the_plan(tmp_path / "plan.json", plan_of(options, ("A",), budget=0.5))


def test_a_folder_from_before_there_were_guided_rows_takes_them(options: AblationOptions, tmp_path: Path) -> None:
    keep_to_the_plan(tmp_path / "plan.json", plan_of(options, ("A",)))
    noted = json.loads((tmp_path / "plan.json").read_text())
    del noted["options"]["guide"]
    (tmp_path / "plan.json").write_text(json.dumps(noted))
    keep_to_the_plan(tmp_path / "plan.json", plan_of(options, ("A", "A+G")))
    more = msgspec.structs.replace(options, guide=20)
    with pytest.raises(UserError):
        keep_to_the_plan(tmp_path / "plan.json", plan_of(more, ("A", "A+G")))
