"""What a recognizer gives on clean faces: the mean norm, what it does to a reference, and the same-person cosine."""

from __future__ import annotations

from pathlib import Path

import measure_recognizer
import numpy as np
import pytest
import torch
from people_toys import toy_recognizer, write_index, write_people

from basicsr.models.identity_source import quality_from_norm
from basicsr.recognizers import load_recognizer
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import img2tensor, imread, list_images


@pytest.fixture
def recognizer(tmp_path: Path) -> Path:
    return toy_recognizer(tmp_path / "rec.safetensors")


def test_the_figure_is_the_mean_norm_of_the_photos(
    recognizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_people(tmp_path / "faces", [3, 2])
    assert measure_recognizer.main(["--source", str(tmp_path / "faces"), "--recognizer", str(recognizer)]) == 0
    net = load_recognizer(recognizer)
    with torch.no_grad():
        photos = torch.stack([img2tensor(imread(path)) for path in list_images(tmp_path / "faces")])
        expected = net(photos).norm.mean().item()
    figure = float(capsys.readouterr().out.removeprefix("typical_norm: "))
    assert figure == pytest.approx(expected, rel=1e-3)
    given = load_recognizer(recognizer, typical_norm=figure).spec.typical_norm
    quality = quality_from_norm(torch.tensor([expected, expected / 2]), given)
    np.testing.assert_allclose(quality, [1.0, 0.5], rtol=1e-3)


def test_an_unreadable_photo_is_counted_and_none_at_all_is_an_error(recognizer: Path, tmp_path: Path) -> None:
    write_people(tmp_path / "faces", [2])
    (tmp_path / "faces" / "broken.png").write_bytes(b"no picture")
    command = ["--source", str(tmp_path / "faces"), "--recognizer", str(recognizer)]
    assert measure_recognizer.main(command) == 1
    for path in list_images(tmp_path / "faces"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of 3 pictures can be used"):
        measure_recognizer.main(command)


def test_the_same_person_cosine_weighs_identities_equally_whatever_their_number_of_photos(
    recognizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # identity 0 has many alike photos, identity 1 two that differ, identity 2 one photo, the last row no identity
    rows = [(f"faces/{name}", identity, "train") for name, identity in write_people(tmp_path / "faces", [5, 1, 1])]
    write_people(tmp_path / "noisy", [0, 2], noise=60.0)
    rows += [("noisy/p01/1.png", "p01", "train"), ("noisy/p01/0.png", "", "train")]
    index = write_index(tmp_path / "index.csv", rows)
    assert measure_recognizer.main(["--source", str(index), "--recognizer", str(recognizer)]) == 0
    net = load_recognizer(recognizer)
    vectors: dict[str, list[np.ndarray]] = {}
    for name, identity, _ in rows:
        with torch.no_grad():
            vectors.setdefault(identity, []).append(net(img2tensor(imread(tmp_path / name))[None]).embedding[0].numpy())
    means = []
    for identity in ("p00", "p01"):
        photos = vectors[identity]
        means.append(np.mean([float(photos[i] @ photos[j]) for i in range(len(photos)) for j in range(i)]))
    assert abs(means[0] - means[1]) > 0.02  # else a mean over all pairs would pass too
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["typical_norm", "same_person_cosine"]
    assert float(lines["same_person_cosine"]) == pytest.approx(np.mean(means), abs=1e-4)  # printed with four digits


def test_without_two_photos_of_an_identity_there_is_no_same_person_cosine(
    recognizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(name, identity, "train") for name, identity in write_people(tmp_path, [1, 1])]
    index = write_index(tmp_path / "index.csv", rows)
    assert measure_recognizer.main(["--source", str(index), "--recognizer", str(recognizer)]) == 0
    assert "same_person_cosine" not in capsys.readouterr().out
