"""IDS: its value, its label, and what it says when the recogniser is missing."""

from pathlib import Path

import pytest
import torch

from basicsr.metrics.base_metric import MetricUnavailable
from basicsr.metrics.identity_metric import IdentityMetric
from basicsr.recognizers import RecognizerSpec, load_recognizer, save_recognizer
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.img_util import quantize
from basicsr.utils.weights import sha256_of


@pytest.fixture
def recognizer(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = IResNet((1, 1, 1, 1), 4, (24, 24), 8)
    spec = RecognizerSpec(
        "iresnet", (24, 24), "rgb", (127.5,) * 3, (127.5,) * 3, (0.0, 0.0), 8, net.map_shape, None, ""
    )
    path = tmp_path / "judge.safetensors"
    save_recognizer(net, path, spec, {"trained_on": "generated faces"})
    return path


def test_value_is_the_cosine_of_the_two_embeddings_after_rounding_to_8_bits(recognizer: Path):
    metric = IdentityMetric(str(recognizer))
    restored, gt = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    net = load_recognizer(recognizer)
    expected = torch.nn.functional.cosine_similarity(net(quantize(restored)).embedding, net(quantize(gt)).embedding)
    torch.testing.assert_close(metric.update(restored, gt), expected.double(), atol=1e-6, rtol=0)
    assert metric.compute() == pytest.approx(expected.mean().item(), abs=1e-6)
    assert metric.better == "higher"


def test_a_face_is_wholly_like_itself(recognizer: Path):
    face = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(
        IdentityMetric(str(recognizer)).update(face, face), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_label_and_protocol_name_the_judge_and_that_it_knows_generated_faces_only(recognizer: Path):
    metric = IdentityMetric(str(recognizer))
    assert metric.label == "IDS (judge, generated-face recogniser)"
    assert metric.sha256 == sha256_of(recognizer)
    assert metric.sha256 in metric.protocol


def test_a_missing_recogniser_makes_the_metric_unavailable_and_names_the_file(tmp_path: Path):
    with pytest.raises(MetricUnavailable, match=r"gone\.onnx"):
        IdentityMetric(str(tmp_path / "gone.onnx"))
