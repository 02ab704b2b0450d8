"""CelebA-HQ's public files, made small and with the flaws that copies in the wild have, become an index."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import prepare_celebahq
import pytest

from basicsr.data.face_index import FaceIndex
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread, imwrite

# idx -> (orig_idx, person); photos of all three parts of the official partition
PICTURES = {
    0: (119_612, "7"), 1: (99_093, "7"), 2: (162_769, "8"), 3: (162_770, "9"), 4: (182_636, "9"), 5: (182_637, "10"),
}  # fmt: skip
ATTRIBUTES = "5_o_Clock_Shadow Eyeglasses Male Wearing_Earrings Wearing_Hat Wearing_Necklace Young"


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "CelebAMask-HQ"
    for idx in PICTURES:
        imwrite(folder / f"CelebA-HQ-img/{idx}.jpg", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    rows = [f"{idx}          {orig}     {orig + 1:06d}.jpg" for idx, (orig, _) in PICTURES.items()]
    write(folder / "CelebA-HQ-to-CelebA-mapping.txt", "idx        orig_idx   orig_file", *rows)
    write(folder / "identity_CelebA.txt", *(f"{orig + 1:06d}.jpg {who}" for orig, who in PICTURES.values()))
    ticks = [f"{idx}.jpg  -1 {1 if idx == 2 else -1} 1 -1 -1 1 -1" for idx in PICTURES]
    write(folder / "CelebAMask-HQ-attribute-anno.txt", "30000", ATTRIBUTES, *ticks)
    pose = [f"{idx}.jpg {idx * 10 - 20}.125 1.5 -0.25" for idx in PICTURES]
    write(folder / "CelebAMask-HQ-pose-anno.txt", "30000", "Yaw Pitch Raw", *pose)
    return folder


def write(path: Path, *lines: str, end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def run(source: Path, out: Path, *options: str) -> int:
    return prepare_celebahq.main(["--source", str(source), "--out", str(out), "--workers", "1", *options])


def problems(out: Path) -> list[tuple[str, str]]:
    with (out / "problems.csv").open(newline="", encoding="utf-8") as file:
        return [(row["kind"], Path(row["place"]).name) for row in csv.DictReader(file)]


def test_identity_partition_pose_and_accessories_of_each_picture(source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "out") == 0
    rows = list(FaceIndex.read(tmp_path / "out/index.csv").rows)
    assert [row.path.resolve() for row in rows] == [source / f"CelebA-HQ-img/{idx}.jpg" for idx in PICTURES]
    assert [row.identity for row in rows] == [who for _, who in PICTURES.values()]
    assert [row.split for row in rows] == ["train", "train", "train", "val", "val", "test"]
    assert rows[2].attributes == {
        "yaw": "0.12", "pitch": "1.5", "roll": "-0.25", "eyeglasses": "1", "hat": "0", "earrings": "0",
        "necklace": "1", "attr_male": "1", "attr_young": "0", "source": "162770.jpg",
    }  # fmt: skip
    assert problems(tmp_path / "out") == []


def test_headers_crlf_blanks_and_missing_headers_change_nothing(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "a")
    mapping = (source / "CelebA-HQ-to-CelebA-mapping.txt").read_text().splitlines()
    write(source / "CelebA-HQ-to-CelebA-mapping.txt", *mapping[1:], end="\r\n")
    identities = (source / "identity_CelebA.txt").read_text().splitlines()
    write(source / "identity_CelebA.txt", "\ufeffimg label", *identities, "", end="\r\n")
    ticks = (source / "CelebAMask-HQ-attribute-anno.txt").read_text().splitlines()
    write(source / "CelebAMask-HQ-attribute-anno.txt", *ticks[1:], end=" \r\n")
    assert run(source, tmp_path / "b") == 0
    assert (tmp_path / "a/index.csv").read_text() == (tmp_path / "b/index.csv").read_text()
    assert problems(tmp_path / "b") == []


def test_the_image_list_of_the_deltas_and_lists_by_celeba_photo_are_read_by_header_and_name(
    source: Path, tmp_path: Path
) -> None:
    run(source, tmp_path / "a")
    (source / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    (source / "CelebAMask-HQ-attribute-anno.txt").unlink()
    rows = [f"{idx} x0 {orig + 1:06d}.jpg {orig} abcdef" for idx, (orig, _) in PICTURES.items()]
    write(source / "image_list.txt", "idx proc_md5 orig_file orig_idx final_md5", *rows)
    ticks = [f"{orig + 1:06d}.jpg -1 {1 if idx == 2 else -1}  1 -1 -1  1 -1" for idx, (orig, _) in PICTURES.items()]
    write(source / "list_attr_celeba.txt", "202599", ATTRIBUTES, *ticks)
    partition = [f"{orig + 1:06d}.jpg {'012'[(idx > 2) + (idx > 4)]}" for idx, (orig, _) in PICTURES.items()]
    write(source / "list_eval_partition.txt", "image_id,partition", *(row.replace(" ", ",") for row in partition))
    assert run(source, tmp_path / "b") == 0
    assert (tmp_path / "a/index.csv").read_text() == (tmp_path / "b/index.csv").read_text()


def test_a_line_for_each_flaw_and_the_rest_goes_on(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapping = (source / "CelebA-HQ-to-CelebA-mapping.txt").read_text().splitlines()
    mapping[1] = "0 5 000005.jpg"  # orig_file is not orig_idx + 1
    del mapping[2]  # picture 1 has no row
    write(source / "CelebA-HQ-to-CelebA-mapping.txt", *mapping, "77 100 000101.jpg", "oops", mapping[-1])
    identities = (source / "identity_CelebA.txt").read_text().splitlines()
    write(source / "identity_CelebA.txt", *identities[:2], *identities[3:], "000001.jpg 3 x", identities[0] + "1")
    (source / "CelebA-HQ-img/4.jpg").write_bytes((source / "CelebA-HQ-img/4.jpg").read_bytes()[:200])
    imwrite(source / "CelebA-HQ-img/cover.png", np.zeros((32, 32, 3), np.uint8))
    pose = (source / "CelebAMask-HQ-pose-anno.txt").read_text().splitlines()
    write(source / "CelebAMask-HQ-pose-anno.txt", *pose[:4], "2.jpg 1 2", "3.jpg up 0 0", *pose[6:])
    assert run(source, tmp_path / "out") == 1
    found = problems(tmp_path / "out")
    assert sorted(found) == sorted([
        ("mapping row that contradicts itself", "CelebA-HQ-to-CelebA-mapping.txt:2"),
        ("picture without a mapping row", "0.jpg"),
        ("picture without a mapping row", "1.jpg"),
        ("mapping row without a picture", "77.jpg"),
        ("row of a list that cannot be read", "CelebA-HQ-to-CelebA-mapping.txt:8"),
        ("mapping row for a picture that has one", "CelebA-HQ-to-CelebA-mapping.txt:9"),
        ("row of a list that cannot be read", "identity_CelebA.txt:6"),
        ("photo that a list names twice, the first row counts", "identity_CelebA.txt:7"),
        ("unknown identity", "2.jpg"),
        ("unusable", "4.jpg"),
        ("picture whose name is no number", "cover.png"),
        ("row of a list that cannot be read", "CelebAMask-HQ-pose-anno.txt:5"),
        ("picture without a pose", "2.jpg"),
        ("pose that is no angle", "3.jpg"),
    ])  # fmt: skip
    rows = list(FaceIndex.read(tmp_path / "out/index.csv").rows)
    assert [(row.path.name, row.identity) for row in rows] == [("2.jpg", ""), ("3.jpg", "9"), ("5.jpg", "10")]
    assert [row.attributes["yaw"] for row in rows] == ["", "", "30.12"]
    assert all(kind in caplog.text and place in caplog.text for kind, place in found)


def test_a_person_whom_the_lists_put_into_two_splits_loses_one_identity(source: Path, tmp_path: Path) -> None:
    lines = (source / "identity_CelebA.txt").read_text().splitlines()
    write(source / "identity_CelebA.txt", *lines[:-1], lines[-1].replace(" 10", " 7"))
    assert run(source, tmp_path / "out") == 0
    assert [row.identity for row in FaceIndex.read(tmp_path / "out/index.csv").rows][-2:] == ["9", ""]
    assert [kind for kind, _ in problems(tmp_path / "out")] == ["person in two splits: identity taken out"]


def test_masks_say_who_wears_what_where_asked_or_where_there_are_no_attributes(source: Path, tmp_path: Path) -> None:
    masks = source / "CelebAMask-HQ-mask-anno/0"
    for name in ("00000_eye_g", "00001_hat", "00003_ear_r", "00003_neck_l", "00004_skin"):
        imwrite(masks / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    expected = {"eyeglasses": "100000", "hat": "010000", "earrings": "000100", "necklace": "000100"}

    def worn(out: Path) -> dict[str, str]:
        rows = FaceIndex.read(out / "index.csv").rows
        return {column: "".join(row.attributes[column] for row in rows) for column in expected}

    run(source, tmp_path / "a", "--accessories_from", "masks")
    assert worn(tmp_path / "a") == expected
    assert FaceIndex.read(tmp_path / "a/index.csv").rows[0].attributes["attr_male"] == "1"
    (source / "CelebAMask-HQ-attribute-anno.txt").unlink()
    run(source, tmp_path / "b")
    assert worn(tmp_path / "b") == expected


def test_copies_have_the_size_and_running_again_makes_what_is_missing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(source, out, "--size", "16", "--format", "webp", "--workers", "2") == 0
    files = {path: path.read_bytes() for path in [*FaceIndex.read(out / "index.csv").paths, out / "index.csv"]}
    assert all(imread(path).shape == (16, 16, 3) for path in list(files)[:-1])
    next(iter(files)).unlink()
    (out / "index.csv").unlink()
    assert run(source, out, "--size", "16", "--format", "webp") == 0
    assert {path: path.read_bytes() for path in files} == files


def test_the_counts_of_a_whole_set_are_compared_with_the_published_ones(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare_celebahq, "NUM_PICTURES", 6)
    monkeypatch.setattr(prepare_celebahq, "PUBLISHED", {"train": (3, 2), "val": (2, 1), "test": (1, 1)})
    caplog.set_level("INFO")
    run(source, tmp_path / "a")
    assert "as counted for CelebA-HQ" in caplog.text
    monkeypatch.setattr(prepare_celebahq, "PUBLISHED", {"train": (3, 3), "val": (2, 1), "test": (1, 1)})
    run(source, tmp_path / "b")
    assert "differ: found {'train': (3, 2)" in caplog.text


def test_without_identities_the_index_has_none_and_says_so(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "identity_CelebA.txt").unlink()
    assert run(source, tmp_path / "out", "--no_check") == 0
    assert "no identity_CelebA.txt" in caplog.text
    assert {row.identity for row in FaceIndex.read(tmp_path / "out/index.csv").rows} == {""}


def test_what_cannot_be_is_said_in_one_line(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--accessories_from masks: there are none"):
        run(source, tmp_path / "out", "--accessories_from", "masks")
    with pytest.raises(UserError, match=r"--pose .*no such file"):
        run(source, tmp_path / "out", "--pose", "absent.txt")
    write(source / "CelebA-HQ-to-CelebA-mapping.txt", "idx orig_idx", "0 1")
    with pytest.raises(UserError, match="the header lacks orig_file"):
        run(source, tmp_path / "out")
    write(source / "CelebA-HQ-to-CelebA-mapping.txt", "nothing here")
    with pytest.raises(UserError, match=r"the header lacks|no row"):
        run(source, tmp_path / "out")
    (source / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    with pytest.raises(UserError, match=r"no CelebA-HQ-to-CelebA-mapping.txt or image_list.txt in it"):
        run(source, tmp_path / "out")


def test_a_photo_that_a_list_or_the_folder_has_twice_is_a_line_and_the_first_counts(
    source: Path, tmp_path: Path
) -> None:
    run(source, tmp_path / "a", "--no_check")
    lists = ("identity_CelebA.txt", "CelebAMask-HQ-attribute-anno.txt", "CelebAMask-HQ-pose-anno.txt")
    for name, other in zip(lists, ("119613.jpg 3", f"2.jpg{' -1' * 7}", "0.jpg 1 2 3"), strict=True):
        text = (source / name).read_text()
        (source / name).write_text(text + other + "\n")
    imwrite(source / "CelebA-HQ-img/00001.png", np.zeros((32, 32, 3), np.uint8))
    assert run(source, tmp_path / "b", "--no_check") == 1
    assert len(problems(tmp_path / "b")) == 4
    assert ("second picture of a number", "1.jpg") in problems(tmp_path / "b")
    index, before = ((tmp_path / name / "index.csv").read_text() for name in ("b", "a"))
    assert index == before.replace("CelebA-HQ-img/1.jpg", "CelebA-HQ-img/00001.png")
