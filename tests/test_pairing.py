"""Pairing: by name and by CSV; whatever has no partner is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from basicsr.evaluation.pairing import match
from basicsr.evaluation.sources import ANY_RUN, Matching, Sources
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imwrite


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        imwrite(folder / name, np.zeros((4, 4, 3), np.uint8))
    return folder


def reasons(matching: Matching) -> list[str]:
    return [str(failure) for failure in matching.failures]


def test_pictures_match_by_name_up_to_the_suffix(tmp_path: Path) -> None:
    gt = pictures(tmp_path / "gt", "a.png", "b.png")
    run = pictures(tmp_path / "run", "a.jpg", "b.png")
    matching = match(Sources({"run": run}, gt))
    assert [(pair.name, pair.restored["run"].name) for pair in matching.pairs] == [("a", "a.jpg"), ("b", "b.png")]
    assert matching.failures == []


def test_a_flat_folder_matches_a_nested_one_by_unique_stems(tmp_path: Path) -> None:
    gt = pictures(tmp_path / "gt", "ann/1.png", "bob/2.png")
    run = pictures(tmp_path / "run", "1.png", "2.png")
    matching = match(Sources({"run": run}, gt))
    assert [pair.name for pair in matching.pairs] == ["ann/1", "bob/2"]
    assert matching.failures == []


def test_ambiguous_stems_are_a_failure_and_not_a_guess(tmp_path: Path) -> None:
    gt = pictures(tmp_path / "gt", "ann/1.png", "2.png")
    run = pictures(tmp_path / "run", "x/1.png", "y/1.png", "2.png")
    matching = match(Sources({"run": run}, gt))
    assert "run" not in matching.pairs[1].restored
    assert any("ann/1 [run]: restored: 2 pictures of this name" in reason for reason in reasons(matching))


def test_two_files_of_one_name_are_one_failure_that_says_so(tmp_path: Path) -> None:
    gt = pictures(tmp_path / "gt", "a.png", "b.png")
    run = pictures(tmp_path / "run", "a.png", "a.jpg", "b.png")
    matching = match(Sources({"run": run}, gt))
    assert reasons(matching) == [f"a [run]: restored: 2 pictures of this name in {run} (a.jpg, a.png)"]


def test_every_missing_partner_is_named_with_its_run(tmp_path: Path) -> None:
    gt = pictures(tmp_path / "gt", "a.png", "b.png")
    full, partial = pictures(tmp_path / "full", "a.png", "b.png"), pictures(tmp_path / "partial", "a.png", "z.png")
    ref = pictures(tmp_path / "ref", "a.png")
    found = reasons(match(Sources({"full": full, "partial": partial}, gt, {ANY_RUN: ref})))
    assert len(found) == 3
    assert found[0].startswith("b [partial]: restored: no picture of this name")
    assert found[1].startswith("b: reference: no picture of this name")
    assert found[2].startswith("z [partial]: restored, but no ground truth")


def test_a_run_with_references_of_its_own_is_compared_with_them(tmp_path: Path) -> None:
    gt = pictures(tmp_path / "gt", "a.png")
    runs = {name: pictures(tmp_path / name, "a.png") for name in ("right", "wrong")}
    right, wrong = pictures(tmp_path / "ref", "a.png"), pictures(tmp_path / "ref_wrong", "a.png")
    pair = match(Sources(runs, gt, {ANY_RUN: right, "wrong": wrong})).pairs[0]
    assert pair.refs == {"right": (right / "a.png",), "wrong": (wrong / "a.png",)}


def test_csv_rows_name_all_partners_and_the_identity(tmp_path: Path) -> None:
    pictures(tmp_path, "gt/a.png", "lq/a_lq.png", "ref/r1.png", "ref/r2.png", "ref/w.png")
    run = pictures(tmp_path / "run", "a_lq.png", "extra.png")
    table = tmp_path / "pairs.csv"
    table.write_text(
        "gt,lq,ref,ref:run,identity\ngt/a.png,lq/a_lq.png,ref/r1.png;ref/r2.png,,ann\n", encoding="utf-8-sig"
    )
    matching = match(Sources({"run": run}, pairs=table))
    (pair,) = matching.pairs
    assert (pair.identity, pair.restored["run"].name) == ("ann", "a_lq.png")  # results are named after the LQ
    assert [path.name for path in pair.refs["run"]] == ["r1.png", "r2.png"]
    assert matching.failures == []
    assert "1 pictures are in no row" in matching.warnings[0]


def test_a_column_of_references_holds_for_every_run_of_that_last_word_without_one_of_its_own(tmp_path: Path) -> None:
    pictures(tmp_path, "gt/a.png", "right.png", "wrong.png", "own.png")
    runs = {name: pictures(tmp_path / name, "a.png") for name in ("wrong", "D wrong", "D_wrong", "E wrong", "D ref")}
    (tmp_path / "pairs.csv").write_text("gt,ref,ref:wrong,ref:E wrong\ngt/a.png,right.png,wrong.png,own.png\n")
    (pair,) = match(Sources(runs, pairs=tmp_path / "pairs.csv")).pairs
    found = {run: path.stem for run, (path,) in pair.refs.items()}
    assert found == {"wrong": "wrong", "D wrong": "wrong", "D_wrong": "wrong", "E wrong": "own", "D ref": "right"}


def test_csv_paths_start_at_the_folder_given_for_their_column(tmp_path: Path) -> None:
    gt, run = pictures(tmp_path / "elsewhere", "a.png"), pictures(tmp_path / "run", "sub/x.png")
    (tmp_path / "pairs.csv").write_text("gt,restored\na.png,sub/x.png\nmissing.png,y.png\n")
    matching = match(Sources({"run": run}, gt, pairs=tmp_path / "pairs.csv"))
    assert matching.pairs[0].restored["run"] == run / "sub" / "x.png"
    assert reasons(matching) == [f"missing: ground truth: no such file: {gt / 'missing.png'}"]


def test_identities_of_an_index_that_starts_higher_up_are_found_by_the_end_of_the_path(tmp_path: Path) -> None:
    gt = pictures(tmp_path / "faces", "ann/1.png", "bob/1.png")
    (tmp_path / "index.csv").write_text("path,identity\nfaces/ann/1.png,ann\nfaces/bob/1.png,bob\n")
    matching = match(Sources({"run": gt}, gt, identities=tmp_path / "index.csv"))
    assert [pair.identity for pair in matching.pairs] == ["ann", "bob"]


def test_identities_come_from_an_index_by_path_or_unique_stem(tmp_path: Path) -> None:
    gt, run = (
        pictures(tmp_path / "gt", "a.png", "b.png", "c.png"),
        pictures(tmp_path / "run", "a.png", "b.png", "c.png"),
    )
    (tmp_path / "index.csv").write_text("path,identity,split\na.png,ann,test\nfaces/b.png,bob,test\n")
    matching = match(Sources({"run": run}, gt, identities=tmp_path / "index.csv"))
    assert [pair.identity for pair in matching.pairs] == ["ann", "bob", None]
    assert "1 pictures have no identity" in matching.warnings[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gt,lq\n", "no rows"),
        ("image\na.png\n", r"pairs\.csv:1: no column gt or lq or restored; the header has: image"),
        ("gt,lq\na.png\n", r"pairs\.csv:2: the row does not have the 2 cells"),
        ("gt\na.png\na.jpg\n", r"pairs\.csv:3: 'a' is listed twice"),
    ],
)
def test_a_broken_csv_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    pictures(tmp_path, "a.png", "a.jpg")
    run = pictures(tmp_path / "run", "a.png")
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        match(Sources({"run": run}, pairs=tmp_path / "pairs.csv"))


def test_folders_without_a_common_name_stop_with_an_example_of_each(tmp_path: Path) -> None:
    gt, run = pictures(tmp_path / "gt", "a.png"), pictures(tmp_path / "run", "a_restored.png")
    with pytest.raises(UserError, match=r"e\.g\. a_restored; expected e\.g\. a\)"):
        match(Sources({"run": run}, gt))


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    gt = pictures(tmp_path / "gt", "a.png")
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(UserError, match=folder.name):
            match(Sources({"run": folder}, gt))
    with pytest.raises(UserError, match="--gt DIR"):
        match(Sources({"run": gt}))
