"""Masks of a parsing network: which classes are face, soft, and which network a file is for."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from basicsr.faces.parsing import NOT_FACE, FaceParser
from basicsr.utils.errors import WeightsError


class Labels(torch.nn.Module):
    """Says that the left half of a face is of one class and the right half of another."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, faces: torch.Tensor) -> tuple[torch.Tensor]:
        logits = torch.zeros(len(faces), 19, 512, 512)
        logits[:, self.left, :, :256] = logits[:, self.right, :, 256:] = 1
        return (logits,)


def parser_with(net: torch.nn.Module, kind: str) -> FaceParser:
    parser = FaceParser.__new__(FaceParser)
    parser.device, parser.net, parser.kind = torch.device("cpu"), net, kind
    return parser


@pytest.mark.parametrize("kind", NOT_FACE)
def test_skin_is_face_and_cloth_is_not_with_a_soft_border(kind: str) -> None:
    cloth = {"ParseNet": 18, "BiSeNet": 16}[kind]
    masks = parser_with(Labels(1, cloth), kind).masks([np.zeros((64, 64, 3), np.uint8)] * 2)
    assert [mask.shape for mask in masks] == [(512, 512)] * 2
    row = masks[1][256]
    assert (row[100], row[400]) == (pytest.approx(1, abs=1e-3), pytest.approx(0, abs=1e-3))
    assert row[255] == pytest.approx(0.5, abs=0.05)
    assert np.abs(np.diff(row)).max() < 0.05


def test_the_faces_of_a_group_photo_are_parsed_a_few_at_a_time() -> None:
    class Counting(Labels):
        seen: ClassVar[list[int]] = []

        def forward(self, faces: torch.Tensor) -> tuple[torch.Tensor]:
            self.seen.append(len(faces))
            return super().forward(faces)

    assert len(parser_with(Counting(1, 1), "ParseNet").masks([np.zeros((8, 8, 3), np.uint8)] * 9)) == 9
    assert Counting.seen == [4, 4, 1]


def test_hair_is_kept_with_the_face_by_both_networks() -> None:
    assert 13 not in NOT_FACE["ParseNet"]
    assert 17 not in NOT_FACE["BiSeNet"]


@pytest.mark.slow
def test_both_networks_of_facexlib_are_read_from_their_file(tmp_path: Path) -> None:
    from facexlib.parsing.bisenet import BiSeNet
    from facexlib.parsing.parsenet import ParseNet

    for net in (ParseNet(in_size=512, out_size=512, parsing_ch=19), BiSeNet(num_class=19)):
        torch.save(net.state_dict(), tmp_path / "net.pth")
        parser = FaceParser(tmp_path / "net.pth")
        assert parser.kind == type(net).__name__
        (mask,) = parser.masks([np.zeros((64, 64, 3), np.uint8)])
        assert 0 <= mask.min() <= mask.max() <= 1 + 1e-5
    torch.save({"weight": torch.zeros(3)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="no face parsing network"):
        FaceParser(tmp_path / "net.pth")
