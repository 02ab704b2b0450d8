"""Embeddings of picture files: what they are, what the cache keeps, and pictures that fail."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from people_toys import SIDE, toy_recognizer, write_people

from basicsr.faces.align import ARCFACE_112, scale_template
from basicsr.recognizers import Recognizer, embed_files, load_recognizer
from basicsr.recognizers.crop import template_points
from basicsr.recognizers.embedding_store import ARCFACE_FRAMING, Framing
from basicsr.utils import feature_cache
from basicsr.utils.errors import ImageFileError, WeightsError
from basicsr.utils.img_util import img2tensor, imread, imwrite


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return load_recognizer(toy_recognizer(tmp_path_factory.mktemp("rec") / "rec.safetensors"))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [tmp_path / "people" / name for name, _ in write_people(tmp_path / "people", [2, 2, 3])]


class Calls:
    """Counts the faces that go through a recogniser."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, recognizer: Recognizer) -> None:
        self.faces = 0
        embed = recognizer.embed_template

        def counted(images: torch.Tensor) -> object:
            self.faces += len(images)
            return embed(images)

        monkeypatch.setattr(recognizer, "embed_template", counted)


def test_a_row_is_what_the_recogniser_says_of_the_picture(recognizer, paths):
    found = embed_files(paths, recognizer, batch_size=3)
    out = recognizer(torch.stack([img2tensor(imread(path)) for path in paths]))
    np.testing.assert_allclose(found.vectors, out.embedding.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.norms, out.norm.numpy(), rtol=1e-4)
    assert found.ok.all()
    assert found.failures == []


def test_the_toy_recogniser_tells_people_apart(recognizer, paths):
    vectors = embed_files(paths, recognizer).vectors
    person = np.array([0, 0, 1, 1, 2, 2, 2])
    same = person[:, None] == person
    cosines = vectors @ vectors.T
    assert cosines[same].min() > 0.8
    assert cosines[~same].max() < 0.6


def test_pictures_of_other_sizes_go_into_one_batch(recognizer, paths, tmp_path):
    larger = tmp_path / "larger.png"
    imwrite(larger, imread(paths[0]).repeat(2, 0).repeat(2, 1))
    vectors = embed_files([paths[0], larger], recognizer).vectors
    assert vectors[0] @ vectors[1] > 0.95


def test_an_arcface_crop_is_taken_as_it_is(recognizer, tmp_path, rng):
    picture = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    imwrite(tmp_path / "crop.png", picture)
    np.testing.assert_allclose(scale_template(ARCFACE_112, SIDE / 112), template_points((SIDE, SIDE)))
    found = embed_files([tmp_path / "crop.png"], recognizer, framing=ARCFACE_FRAMING)
    direct = recognizer.embed_template(img2tensor(picture)[None])  # the recogniser's input has that side
    np.testing.assert_allclose(found.vectors, direct.embedding.numpy(), atol=2e-3)


def test_what_is_in_the_cache_is_not_computed_again(recognizer, paths, tmp_path, monkeypatch):
    first = embed_files(paths[:4], recognizer, cache=tmp_path / "cache")
    calls = Calls(monkeypatch, recognizer)
    again = embed_files(paths, recognizer, cache=tmp_path / "cache")
    assert calls.faces == 3
    np.testing.assert_array_equal(again.vectors[:4], first.vectors)
    np.testing.assert_array_equal(again.norms[:4], first.norms)


def test_a_changed_picture_is_computed_again(recognizer, paths, tmp_path, monkeypatch):
    embed_files(paths, recognizer, cache=tmp_path / "cache")
    imwrite(paths[0], imread(paths[2]))
    calls = Calls(monkeypatch, recognizer)
    found = embed_files(paths, recognizer, cache=tmp_path / "cache")
    assert calls.faces == 1
    assert found.vectors[0] @ found.vectors[2] > 0.999


def test_another_recogniser_or_framing_has_its_own_rows(recognizer, paths, tmp_path):
    first = embed_files(paths, recognizer, cache=tmp_path / "cache").vectors
    other = embed_files(paths, recognizer, cache=tmp_path / "cache", framing=ARCFACE_FRAMING).vectors
    assert np.abs(first - other).max() > 0.05
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_killed_run_keeps_what_it_had_flushed(recognizer, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "FLUSH_SECONDS", 0.0)
    embed, seen = recognizer.embed_template, []

    def killed(images: torch.Tensor) -> object:
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return embed(images)

    monkeypatch.setattr(recognizer, "embed_template", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_files(paths, recognizer, cache=tmp_path / "cache", batch_size=2)
    monkeypatch.setattr(recognizer, "embed_template", embed)
    calls = Calls(monkeypatch, recognizer)
    found = embed_files(paths, recognizer, cache=tmp_path / "cache", batch_size=2)
    assert calls.faces == 3
    np.testing.assert_allclose(found.vectors, embed_files(paths, recognizer).vectors, atol=1e-5)
    assert len(list(tmp_path.glob("cache/*/*.npz"))) == 1  # the parts became one


def test_a_broken_part_of_the_cache_is_named_and_computed_again(recognizer, paths, tmp_path, caplog):
    first = embed_files(paths, recognizer, cache=tmp_path / "cache").vectors
    part = next(tmp_path.glob("cache/*/*.npz"))
    part.write_bytes(part.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = embed_files(paths, recognizer, cache=tmp_path / "cache").vectors
    np.testing.assert_array_equal(first, again)
    assert "broken part" in caplog.text


def test_pictures_that_fail_are_named_and_the_rest_goes_on(recognizer, paths, tmp_path, caplog):
    paths[1].write_bytes(paths[1].read_bytes()[:60])  # cut off
    wide = tmp_path / "wide.png"
    imwrite(wide, np.zeros((20, 40, 3), np.uint8))
    with caplog.at_level(logging.INFO):
        found = embed_files([*paths, wide, tmp_path / "absent.png"], recognizer)
    assert found.ok.tolist() == [True, False, True, True, True, True, True, False, False]
    assert [path for path, _ in found.failures] == [paths[1], wide, tmp_path / "absent.png"]
    assert not found.vectors[1].any()
    assert "3 failed" in caplog.text
    assert str(wide) in caplog.text


def test_one_face_without_an_embedding_takes_no_other_along(recognizer, paths, monkeypatch):
    blank = img2tensor(imread(paths[3]))
    embed = recognizer.embed_template

    def refuses(images: torch.Tensor) -> object:
        if any(torch.allclose(image, blank, atol=0.02) for image in images if image.shape == blank.shape):
            raise ImageFileError("no embedding")
        return embed(images)

    monkeypatch.setattr(recognizer, "embed_template", refuses)
    framing = Framing("whole", lambda image: template_points((SIDE, SIDE)))
    found = embed_files(paths, recognizer, framing=framing)
    assert found.ok.tolist() == [True, True, True, False, True, True, True]
    assert "no embedding" in found.failures[0][1]


def test_no_usable_picture_is_one_line(recognizer, tmp_path):
    with pytest.raises(ImageFileError, match="none of 1 pictures can be used"):
        embed_files([tmp_path / "absent.png"], recognizer)


def test_a_recogniser_that_is_no_file_has_no_cache(recognizer, paths, tmp_path):
    unsaved = Recognizer(recognizer.net, dataclasses.replace(recognizer.spec, sha256=""))
    with pytest.raises(WeightsError, match="not loaded from a file"):
        embed_files(paths, unsaved, cache=tmp_path / "cache")
