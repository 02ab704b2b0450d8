"""Who a face is: threshold, margin, one to one; and galleries that are broken in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from basicsr.inference.gallery import Match, match_faces, mode_for, people_of, read_gallery, warn_of_strangers
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, imread, imwrite

NAMES = ["ann", "bob", "cy"]


def test_a_face_goes_to_the_person_who_is_clearly_nearest() -> None:
    similarity = np.array([[0.7, 0.1, 0.0], [0.3, 0.2, 0.1], [0.5, 0.45, 0.0]], np.float32)
    matches = match_faces(similarity, NAMES, threshold=0.35, margin=0.1)
    assert [match.person for match in matches] == ["ann", None, None]
    assert [match.nearest for match in matches] == ["ann", "ann", "ann"]
    assert "below the threshold 0.35" in matches[1].reason
    assert "below the margin 0.1" in matches[2].reason


def test_a_person_is_one_face_of_a_photo_and_the_other_gets_nobody() -> None:
    similarity = np.array([[0.6, 0.5, 0.0], [0.8, 0.1, 0.0], [0.0, 0.1, 0.9]], np.float32)
    matches = match_faces(similarity, NAMES, threshold=0.3, margin=0.05)
    assert [match.person for match in matches] == [None, "ann", "cy"]
    assert "ann is face 1 of this photo" in matches[0].reason


def test_a_gallery_of_one_person_needs_no_margin() -> None:
    assert match_faces(np.array([[0.5]], np.float32), ["ann"], 0.4, 0.2)[0].person == "ann"


def embed(faces: list[Image]) -> np.ndarray:
    """The mean colour as a direction."""
    means = np.stack([face.reshape(-1, 3).mean(0) for face in faces])
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def read(path: Path) -> Image:
    if path.name == "bad.png":
        raise ImageFileError(f"{path}: no face found in this reference.")
    return imread(path)


def test_photos_that_cannot_be_used_are_named_and_nobody_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, colour in (
        ("ann/a.png", (9, 0, 0)),
        ("ann/bad.png", (0, 9, 0)),
        ("bob.png", (0, 0, 9)),
        ("cy/bad.png", (1, 1, 1)),
    ):
        imwrite(tmp_path / "g" / name, np.full((8, 8, 3), colour, np.uint8))
    (tmp_path / "g/dee").mkdir()
    gallery = read_gallery(tmp_path / "g", read, embed, key="k", cache=tmp_path / "c.safetensors")  # type: ignore[arg-type]
    assert {name: len(person.files) for name, person in gallery.people.items()} == {"ann": 1, "bob": 1}
    text = caplog.text
    assert "no photos, dee is left out" in text
    assert "none of 1 photos of cy can be used" in text
    assert [match.person for match in gallery.match(np.array([[0, 0, 1]], np.float32))] == ["bob"]
    imwrite(tmp_path / "h/bad.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="nobody has a photo that can be used"):
        read_gallery(tmp_path / "h", read, embed, key="k", cache=None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no such folder"):
        people_of(tmp_path / "nowhere")


def test_a_photo_that_is_unlike_the_others_of_its_person_is_named(caplog: pytest.LogCaptureFixture) -> None:
    embeddings = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1]], np.float32)
    files = [Path(f"{name}.png") for name in "abc"]
    warn_of_strangers("ann", files, embeddings, doubtful=0.2)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("ann: c.png looks unlike the other photos of the person (cosine 0.00, below 0.2)")
    caplog.clear()
    warn_of_strangers("ann", files[:2], embeddings[:2], doubtful=0.2)
    warn_of_strangers("ann", files[:1], embeddings[:1], doubtful=2.0)
    assert not caplog.records


def test_who_is_refused_is_restored_blind_unless_a_mode_without_references_was_asked_for() -> None:
    refused, known = Match(None, 0.1, "ann", "below the threshold"), Match("ann", 0.9, "ann")
    assert [mode_for(asked, refused) for asked in (None, "ref", "self", "none")] == ["none", "none", "self", "none"]
    for match in (known, None):
        assert [mode_for(asked, match) for asked in (None, "ref", "self", "none")] == [None, "ref", "self", "none"]


def test_the_cache_knows_a_photo_by_its_content_and_another_recogniser_asks_again(tmp_path: Path) -> None:
    imwrite(tmp_path / "g/ann.png", np.full((8, 8, 3), 9, np.uint8))
    asked: list[int] = []

    def counted(faces: list[Image]) -> np.ndarray:
        asked.append(len(faces))
        return embed(faces)

    def run(key: str = "k") -> None:
        read_gallery(tmp_path / "g", read, counted, key=key, cache=tmp_path / "c.safetensors")  # type: ignore[arg-type]

    run()
    (tmp_path / "g/ann.png").rename(tmp_path / "g/ann2.png")
    run()
    assert asked == [1]
    run("another")
    imwrite(tmp_path / "g/ann2.png", np.full((8, 8, 3), 10, np.uint8))
    run()
    assert asked == [1, 1, 1]
    (tmp_path / "c.safetensors").write_bytes(b"broken")
    run()
    assert asked == [1, 1, 1, 1]
