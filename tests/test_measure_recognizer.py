"""The figure that quality is measured against: the mean norm of clean faces, and what it does to a reference."""

from __future__ import annotations

from pathlib import Path

import measure_recognizer
import numpy as np
import pytest
import torch
from people_toys import toy_recognizer, write_people

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
