"""The draft of the paper's section: from numbers with a known truth it says what is true, and says what is missing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from _ablation_pictures import PER_GROUP, choose
from ablation_toys import PEOPLE, PHOTOS, ROOT, make_ablation, write_report
from report_ablation import main

from basicsr.evaluation.ablation import tabulate
from basicsr.evaluation.claims import claim_of, sentence
from basicsr.evaluation.results import Figure
from basicsr.evaluation.runs import RunValues, read_runs
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread

C_MODES = {"C ref": 0.40, "C wrong": 0.31, "C none": 0.33, "C self": 0.34, "C oracle": 0.45}
D_MODES = {"D ref": 0.40, "D wrong": 0.30, "D none": 0.33, "D self": 0.35, "D oracle": 0.50}
SWEEP = {f"{row} w={w}": 0.3 - w / 10 for row in ("A", "D") for w in (0, 1)}
LEVELS = {"degraded": 0.2, "ceiling": 0.8, "A0": 0.3, "A": 0.3, "B": 0.33, **C_MODES, **D_MODES, **SWEEP}
TRUTH = {run: (level, None if run == "A w=1" else level) for run, level in LEVELS.items()}

pytestmark = pytest.mark.slow  # every chart and table of a whole ablation is made: half a minute


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete one: B is above A, C above B, D equals C, A0 equals A."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return make_ablation(tmp_path_factory.mktemp("toy") / "ablation", TRUTH)


@pytest.fixture(scope="module")
def report(ablation: Path) -> str:
    """The report of the complete one, in a folder beside it."""
    return report_of(ablation)


def report_of(ablation: Path) -> str:
    out = ablation.parent / f"{ablation.name}_docs" / "report.md"
    assert main(["--ablation", str(ablation), "--out", str(out)]) == 0
    return out.read_text()


def section(report: str, title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    level = re.search(rf"^(#+) {re.escape(title)}", report, re.M)
    assert level is not None, title
    rest = report[level.end() :]
    end = re.search(rf"^#{{1,{len(level[1])}}} ", rest, re.M)
    return rest[: end.start()] if end else rest


def test_the_claim_is_decided_step_by_step(report: str) -> None:
    text = section(report, "After stage III")
    assert "**A < B < C < D (each better than the one before) is not shown in IDS (judge): 2 of 3 steps are.**" in text
    for step, expected in (("A < B: Better. B − A", 0.03), ("B < C: Better. C ref − B", 0.07)):
        found = re.search(rf"^- {step} in IDS \(judge\): \+(0\.\d+) \[", text, re.M)
        assert found is not None, step
        assert float(found[1]) == pytest.approx(expected, abs=0.003)
    assert "- C ? D: No difference shown. D ref − C ref in IDS (judge): " in text
    assert "  - No difference shown. A − A0 in IDS (judge)" in text
    assert "  - Better. D ref − A in LPIPS-squeeze: −0.0" in text, "less is better"


def test_the_proposals_table_has_the_rows_with_their_known_means(report: str, ablation: Path) -> None:
    text = section(report, "After stage III")
    table = text[text.index("| | LPIPS-squeeze ↓ | IDS (judge) ↑ |") :].splitlines()
    rows = {line.split("|")[1].strip().split(" (")[0]: line.split("|")[2:4] for line in table[2:7]}
    assert list(rows) == ["A0", "A", "B", "C ref", "D ref"]
    found = read_runs(ablation / "report_stage3_seed0"), read_runs(ablation / "report_stage3_seed1")
    for label, (lpips, ids) in rows.items():
        for key, cell, digits in (("lpips_squeeze", lpips, 4), ("ids_judge", ids, 3)):
            values = [v for runs in found for run in runs if run.label == label for v in run.values[key].values()]
            mean, low, high = (float(number) for number in re.findall(r"\d\.\d+", cell)[:3])
            assert mean == pytest.approx(sum(values) / len(values), abs=10**-digits)
            assert low < mean < high


def test_bounds_copying_and_set_up_are_there_with_their_sources(report: str) -> None:
    bounds = section(report, "Bounds and modes")
    for run in ("degraded", "ceiling", "C wrong", "C none", "C self", "C oracle", "D wrong", "D oracle"):
        assert f"\n| {run} |" in bounds
    copying = section(report, "Does it copy?")
    assert re.search(r"\| D ref \| Does it copy .* \| −0\.29\d \|", copying), "IDS to the reference − cos(ref, GT)"
    assert "no: less alike than two real photos" in copying
    assert "yes: it can be misused to change a person" in copying
    setup = section(report, "Set-up")
    for expected in (
        f"| held-out test set | {PEOPLE * PHOTOS} pictures of {PEOPLE} people, split 'test' of datasets/lfw64/",
        "| recogniser that trains | mobilefacenet_ms1m_128.onnx",
        "| recogniser that judges | judge.onnx, sha256 0123456789ab",
        "| budget (factor on all iterations) | 0.5 | plan.json |",
        "| seeds | stage 2: 0, 1; stage 3: 0, 1 |",
        "| stage 1, shared | stage1 | 2.35 M | 1.23 M | 0.73 | 2500 | 8 |",
        "| before stage 2, shared | blind | 2.35 M | 1.23 M | 0.73 | 600 | 8 |",
        "| stage 3, row D | stage3_d_seed0 | 2.35 M | 1.23 M | 0.73 | 50 | 8 |",
        "| degradation of the test set, one of 2 in turns | 'large': blur sigma 1 to 15 px at 512 px, downs",
    ):
        assert expected in setup
    assert "What is missing" not in report


def test_every_table_and_chart_names_its_source_and_every_chart_is_there(report: str, ablation: Path) -> None:
    docs = ablation.parent / "ablation_docs"
    charts = re.findall(r"!\[.+\]\((.+)\)\n\n.+ Source: `.+`\.\n", report)
    assert len(charts) == report.count("![")
    assert {path.name for path in (docs / "images" / "report").iterdir()} == {Path(chart).name for chart in charts}
    for chart in charts:
        assert min(imread(docs / chart).shape[:2]) > 100
    assert sum((docs / chart).stat().st_size for chart in charts) < 1_000_000
    for title in ("After stage III", "After stage II ("):
        text = section(report, title)
        tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
        assert len(tables) > 4
        assert "Source: `report_stage" in text


def test_pictures_of_faces_stay_out_of_the_docs(report: str, ablation: Path) -> None:
    assert "`pictures/grid.png` (not published" in report
    grid = imread(ablation / "pictures" / "grid.png")
    assert grid.shape[0] > 6 * 192, "two lowest, two about the median, two highest"
    assert not list((ablation.parent / "ablation_docs").rglob("*grid*"))
    assert not re.search(r"\bp\d+\b", section(report, "Pictures")), "no names of people"


def test_pictures_are_chosen_by_the_rule_each_person_once() -> None:
    names = {f"{person}_{photo}": f"p{person}" for person in range(9) for photo in range(3)}
    figure = Figure("ids", "IDS", "higher", "", 3, "ids")
    gains = {name: int(name[0]) + (int(name[2]) - 1) / 10 for name in names}  # the median photo is number 1
    runs = [RunValues(label, {"ids": values}, names, {"ids": figure})
            for label, values in (("A", dict.fromkeys(names, 0.0)), ("D ref", gains))]  # fmt: skip
    chosen = choose(runs[0], runs[1], "ids")
    assert [one.name for one in chosen] == ["0_1", "1_1", "3_1", "4_1", "7_1", "8_1"]
    assert [one.group for one in chosen[::PER_GROUP]] == ["lowest", "median", "highest"]


@pytest.mark.parametrize("levels", [(0.45, 0.45), (0.45, 0.37), (0.38, 0.38)])
def test_a_step_counts_only_where_all_seeds_agree(tmp_path: Path, levels: tuple[float, float]) -> None:
    """D − C of (+.05, +.05), (+.05, −.03) and (−.02, −.02), with an interval over people that leaves 0 out."""
    reports = [
        write_report(tmp_path / str(seed), {**LEVELS, "D ref": level}, seed) for seed, level in enumerate(levels)
    ]
    table = tabulate("T", reports)
    answer = next(a for a in table.answers_in("ids_judge") if (a.question.run, a.question.minus) == ("D ref", "C ref"))
    ids = table.first_figure("ids")
    assert ids is not None
    assert answer.difference.ci_low is not None
    assert answer.difference.ci_high is not None
    assert answer.difference.ci_low * answer.difference.ci_high > 0
    claim = claim_of(table, ids)
    expected = {
        (0.45, 0.45): ("better", 2, "is shown in IDS (judge).", "C < D: Better."),
        (0.45, 0.37): ("seeds disagree", 1, "2 of 3 steps", "C ? D: Not shown: the seeds disagree."),
        (0.38, 0.38): ("worse", 2, "2 of 3 steps", "C > D: Worse."),
    }[levels]
    verdict, agreeing, conclusion, step = expected
    assert (answer.verdict, answer.num_agreeing) == (verdict, agreeing)
    assert conclusion in claim.conclusion
    assert claim.steps[-1].startswith(step)
    assert claim.holds == (verdict == "better")


def test_no_sentence_ranks_where_the_verdict_does_not(tmp_path: Path) -> None:
    rng_levels = {run: 0.3 + place / 1000 for place, run in enumerate(LEVELS)}
    table = tabulate("T", [write_report(tmp_path / str(seed), rng_levels, seed) for seed in range(2)])
    said = {answer.verdict: sentence(answer) for answer in table.answers}
    assert {"better", "no difference shown"} <= said.keys()
    for answer in table.answers:
        ranks = sentence(answer).startswith(("Better.", "Worse."))
        assert ranks == (answer.verdict in ("better", "worse"))
        low, high = answer.difference.ci_low, answer.difference.ci_high
        assert low is not None
        assert high is not None
        assert not (ranks and low <= 0 <= high)


def test_what_is_missing_is_said(ablation: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Row D was never trained, C has no wrong references, one seed, no stage II, no training of row B."""
    folder = tmp_path / "partial"
    shutil.copytree(ablation, folder, ignore=shutil.ignore_patterns("report_*", "stage3_b_seed0"))
    kept = {run: level for run, level in LEVELS.items() if not run.startswith("D") and run != "C wrong"}
    write_report(folder / "report_stage3_seed0", kept, 0)
    report = report_of(folder)
    missing = section(report, "What is missing")
    for expected in (
        "Row D was not judged.",
        "Row C was not judged in mode wrong.",
        "Nothing was judged after stage 2.",
        "After stage 3 there is one seed: how trainings scatter is not known.",
        "The folder of the training is not there: stage 3 of row B, seed 0.",
    ):
        assert f"- {expected}" in missing
        assert expected in caplog.text
    assert "C ? D: not measured" in report
    assert "One training each" in report
    assert "None: they are chosen by the difference of D and A" in report


def test_a_run_that_one_seed_lacks_is_left_out_of_the_tables_and_named(report: str) -> None:
    assert "After stage III: left out of the tables, since not every seed has them: A w=1." in report
    assert "\n| A w=0 |" in report
    assert "\n| A w=1 |" not in report


@pytest.mark.parametrize(("break_it", "reason"), [
    (lambda folder: (folder / "plan.json").unlink(), "plan.json: cannot be read"),
    (lambda folder: (folder / "plan.json").write_text("{}"), "plan.json: is not that of an ablation"),
    (lambda folder: shutil.rmtree(folder / "report_stage3_seed0"), "no report_stage"),
])  # fmt: skip
def test_a_folder_that_is_none_is_refused_in_one_line(tmp_path: Path, break_it: object, reason: str) -> None:
    (tmp_path / "plan.json").write_text('{"budget": 1, "options": {}}')
    write_report(tmp_path / "report_stage3_seed0", {"A": 0.3}, 0)
    break_it(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=re.escape(reason)) as caught:
        main(["--ablation", str(tmp_path), "--out", str(tmp_path / "report.md")])
    assert "\n" not in str(caught.value)


def test_a_guided_row_is_in_tables_and_checks_and_not_among_the_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    levels = {"A": 0.3, "A+G ref": 0.9, "A+G wrong": 0.1}
    folder = make_ablation(tmp_path / "ablation", {run: (level,) for run, level in levels.items()}, ("A", "A+G"))
    report = report_of(folder)
    assert "| A+G ref (A + guidance) |" in report
    assert re.search(r"\| A\+G ref \| Does it copy .* \| \+0\.\d+ \| .* yes: it copies \|", report)
    assert "row A |" in report
    assert "row A+G" not in report
    assert "Row A+G was not judged in mode oracle." in report
    assert "Row A+G was not judged in mode none." not in report
