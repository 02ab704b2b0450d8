"""report.html: complete, self-contained, escaped, honest about what is missing."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from basicsr.evaluation.cells import main_table
from basicsr.evaluation.charts import Curves
from basicsr.evaluation.gallery import gallery, thumbnail
from basicsr.evaluation.report import write_report
from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Failure, Figure, Unavailable
from basicsr.utils.img_util import decode, imwrite

IDS = Figure("ids_j", "IDS (j)", "higher", "cosine", 3, "ids", "j", "j.onnx", "0123456789abcdef" * 4)
NATURAL = Figure("cos_ref_gt_j", "cos(ref, GT) (j)", "neither", "cosine", 3, "cos_ref_gt", "j")
LPIPS = Figure("lpips_alex", "LPIPS-alex", "lower", "whole image", 4, kind="perceptual")


def make_result(tmp_path: Path, num_pairs: int, figures: list[Figure]) -> EvaluationResult:
    """Pairs p00, p01, ... whose value grows with their number; run y is better than x."""
    picture = tmp_path / "picture.png"
    reference = tmp_path / "reference.png"
    for path in (picture, reference):
        imwrite(path, np.full((16, 16, 3), 128, np.uint8))
    names = [f"p{i:02d}" for i in range(num_pairs)]
    runs = ["x", "y"]
    pairs = [
        EvaluationPair(
            name, picture, dict.fromkeys(runs, picture), dict.fromkeys(runs, (reference,)), picture, f"id{i}"
        )
        for i, name in enumerate(names)
    ]
    values = {
        run: {figure.key: {name: (i + shift) / 100 for i, name in enumerate(names)} for figure in figures}
        for run, shift in (("x", 0), ("y", 5))
    }
    return EvaluationResult("Title <b>", "note", runs, pairs, figures, values, [], [], [])


def write(result: EvaluationResult, tmp_path: Path, curves: dict[str, Curves] | None = None) -> str:
    return write_report(result, tmp_path / "out", curves).read_text(encoding="utf-8")


class TagBalance(HTMLParser):
    """Raises on a closing tag that does not match the open one."""

    VOID = ("meta", "img", "br", "link", "input", "path", "use", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and self.open.pop() != tag:
            raise ValueError(f"</{tag}> closes another tag")


def test_report_is_one_balanced_file_that_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    curves = {"stage I": {"l_g_pix": (np.array([1.0, 2.0]), np.array([0.5, 0.4]))}}
    html = write(make_result(tmp_path, 3, [IDS, NATURAL]), tmp_path, curves)
    balance = TagBalance()
    balance.feed(html)
    assert balance.open == []
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "url(http" not in html
    assert "<script" not in html
    assert "stage I" in html


def test_titles_are_escaped_and_labels_stand_on_the_first_line(tmp_path: Path) -> None:
    result = make_result(tmp_path, 3, [IDS])
    result.labels.append("IDS: generated-face recogniser")
    html = write(result, tmp_path)
    (first_line,) = re.findall(r"<h1>(.*?)</h1>", html, re.S)
    assert "Title &lt;b&gt;" in first_line
    assert "IDS: generated-face recogniser" in first_line


def test_unavailable_figures_print_their_reason_and_no_number(tmp_path: Path) -> None:
    result = make_result(tmp_path, 3, [IDS])
    result.unavailable.append(Unavailable("LPIPS-alex", "needs alexnet.pth in weights/lpips/"))
    html = write(result, tmp_path)
    (row,) = re.findall(r"<tr><td>LPIPS-alex</td>(.*?)</tr>", html, re.S)
    assert "not available: needs alexnet.pth in weights/lpips/" in row
    assert not re.search(r"\d\.\d", row)


def test_failures_are_listed_with_run_and_reason(tmp_path: Path) -> None:
    result = make_result(tmp_path, 3, [IDS])
    result.failures.append(Failure("p07", "x", "cut off"))
    assert "p07 [x]: cut off" in write(result, tmp_path)


def test_table_marks_the_best_run_in_the_direction_of_the_figure(tmp_path: Path) -> None:
    ids, natural, lpips = main_table(make_result(tmp_path, 8, [IDS, NATURAL, LPIPS]))
    assert [cell.is_best for cell in ids.cells] == [False, True]
    assert [cell.is_best for cell in natural.cells] == [False, False]
    assert [cell.is_best for cell in lpips.cells] == [True, False]
    assert ids.cells[1].mean == "0.085"


def test_nothing_is_bold_where_no_run_is_shown_to_differ(tmp_path: Path) -> None:
    few = make_result(tmp_path, 5, [IDS])
    assert not any(cell.is_best for cell in main_table(few)[0].cells), "five people show nothing"
    result = make_result(tmp_path, 12, [IDS])
    for i, name in enumerate(result.values["y"]["ids_j"]):
        result.values["y"]["ids_j"][name] = result.values["x"]["ids_j"][name] + (0.05 if i % 2 else -0.04)
    assert not any(cell.is_best for cell in main_table(result)[0].cells)


def test_what_is_level_with_the_best_run_is_bold_too(tmp_path: Path) -> None:
    result = make_result(tmp_path, 12, [IDS])
    result.runs.append("z")
    level = {
        name: value + (0.01 if i % 2 else -0.02) for i, (name, value) in enumerate(result.values["y"]["ids_j"].items())
    }
    result.values["z"] = {"ids_j": level}
    assert [cell.is_best for cell in main_table(result)[0].cells] == [False, True, True]


def test_pictures_with_a_fault_are_counted_for_each_run_beside_the_means(tmp_path: Path) -> None:
    result = make_result(tmp_path, 8, [IDS])
    result.failures.extend(
        [
            Failure("p01", "x", "cut off"),
            Failure("p01", "x", "again"),
            Failure("p02", None, "no picture"),
        ]
    )
    row = main_table(result)[-1]
    assert (row.label, [cell.mean for cell in row.cells]) == ("Pictures with a fault (listed above)", ["2", "1"])


def test_a_run_with_references_of_its_own_has_a_column_for_them(tmp_path: Path) -> None:
    result = make_result(tmp_path, 5, [IDS])
    other = tmp_path / "other.png"
    imwrite(other, np.full((16, 16, 3), 20, np.uint8))
    for pair in result.pairs:
        pair.refs["y"] = (other,)
    shown = gallery(result)
    assert shown is not None
    assert shown.columns == ["LQ", "Reference", "Reference of y", "x", "y", "GT"]
    assert shown.groups[0][1][0].thumbnails[2].path == other
    for pair in result.pairs:
        pair.refs["y"] = (pair.gt,) if pair.gt else ()
    shown = gallery(result)
    assert shown is not None
    assert shown.columns == ["LQ", "Reference", "x", "y", "GT"], "the ground truth as reference is there already"


@pytest.mark.parametrize(("figure", "worst"), [(IDS, "p00"), (LPIPS, "p19")])
def test_gallery_shows_the_worst_median_and_best_pictures(tmp_path: Path, figure: Figure, worst: str) -> None:
    shown = gallery(make_result(tmp_path, 20, [figure]))
    assert shown is not None
    assert shown.columns == ["LQ", "Reference", "x", "y", "GT"]
    groups = {title: [row.name.split(" ")[0] for row in rows] for title, rows in shown.groups}
    order = [f"p{i:02d}" for i in range(20)]
    if worst == "p19":
        order.reverse()
    assert groups == {"Worst": order[:4], "Median": order[8:12], "Best": order[-4:]}


def test_gallery_of_few_pictures_shows_each_once(tmp_path: Path) -> None:
    shown = gallery(make_result(tmp_path, 5, [IDS]))
    assert shown is not None
    ((title, rows),) = shown.groups
    assert (title, len(rows)) == ("From worst to best", 5)


def test_small_thumbnails_are_lossless_and_large_ones_shrink(tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    imwrite(tmp_path / "small.png", small)
    imwrite(tmp_path / "large.png", np.zeros((512, 256, 3), np.uint8))

    def decoded(name: str) -> np.ndarray:
        data = base64.b64decode(thumbnail(tmp_path / name, "", "").source.split(",")[1])
        return decode(data, name)

    assert np.array_equal(decoded("small.png"), small)
    assert decoded("large.png").shape == (192, 96, 3)


def test_a_picture_that_cannot_be_shown_leaves_an_empty_place_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    shown = thumbnail(tmp_path / "broken.png", "0.5", "x")
    assert (shown.source, shown.caption) == ("", "0.5")
    assert "empty" in shown.title


def test_the_cover_stands_on_the_first_screen_with_the_note_as_its_sentence(tmp_path: Path) -> None:
    result = make_result(tmp_path, 3, [IDS, NATURAL])
    cover = tmp_path / "cover.png"
    imwrite(cover, np.full((8, 24, 3), (10, 90, 200), np.uint8))
    path = write_report(result, tmp_path / "out", cover=cover)
    html = path.read_text(encoding="utf-8")
    head = html[html.index("<header>") : html.index("<nav>")]
    (data,) = re.findall(r'<img src="data:image/png;base64,([^"]*)"', head)
    assert base64.b64decode(data) == cover.read_bytes()
    assert head.count("<p>note</p>") == 1
    assert '<p class="lead">note</p>' not in html
