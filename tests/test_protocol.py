"""docs/evaluation.md, protocol idcf-eval/1, followed by hand with NumPy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image as PillowImage

from basicsr.evaluation import JudgingOptions, Sources, evaluate_folders
from basicsr.evaluation.results import PROTOCOL

PEOPLE = ("00022", "00075", "00119")


def embedding_by_hand(session: onnxruntime.InferenceSession, path: Path) -> np.ndarray:
    """Steps 1 to 3 for a recogniser of 112 x 96 px, RGB, (x - 127.5) / 128."""
    face = np.asarray(PillowImage.open(path).convert("RGB"), np.float32)
    scale = face.shape[0] / 512
    step = 384 / 112 * scale  # px of the face for one px of the input
    box = (64 * scale + 8 * step, 61 * scale, 448 * scale - 8 * step, 445 * scale)
    planes = [PillowImage.fromarray(np.ascontiguousarray(face[..., channel])) for channel in range(3)]
    small = [np.asarray(plane.resize((96, 112), PillowImage.Resampling.BICUBIC, box=box)) for plane in planes]
    x = (np.stack(small)[None] - 127.5) / 128
    (vector,) = session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("side", [512, 200, 64])
def test_a_reader_of_the_protocol_gets_the_same_ids(test_data: Path, tmp_path: Path, side: int) -> None:
    judge = test_data / "recognizers" / "mobilefacenet_casia_128.onnx"
    for person in PEOPLE:
        first, second = sorted((test_data / "refsets" / person / "refs").glob("*.png"))[:2]
        for folder, photo in (("restored", first), ("gt", second)):
            picture = PillowImage.open(photo).convert("RGB").resize((side, side), PillowImage.Resampling.LANCZOS)
            (tmp_path / folder).mkdir(exist_ok=True)
            picture.save(tmp_path / folder / f"{person}.png")
    session = onnxruntime.InferenceSession(str(judge), providers=["CPUExecutionProvider"])
    by_hand = [
        float(embedding_by_hand(session, tmp_path / "restored" / f"{person}.png")
              @ embedding_by_hand(session, tmp_path / "gt" / f"{person}.png"))
        for person in PEOPLE
    ]  # fmt: skip
    sources = Sources({"run": tmp_path / "restored"}, tmp_path / "gt")
    options = JudgingOptions([judge], lpips_nets=(), metrics=["ids"])
    result = evaluate_folders(sources, options, device=torch.device("cpu"))
    assert result.protocol == PROTOCOL == "idcf-eval/1"
    assert result.values_of("run", "ids_mobilefacenet_casia_128") == pytest.approx(by_hand, abs=1e-4)  # float32
    assert max(by_hand) - min(by_hand) > 1e-2, "three people of whom every one is different"
