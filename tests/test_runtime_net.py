"""ONNX Runtime gives the embeddings of the differentiable network, at any batch, and steps back where it cannot."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from recognizer_graphs import write_insightface_graph

from basicsr.recognizers import load_recognizer
from basicsr.recognizers.onnx_net import OnnxNet
from basicsr.recognizers.runtime_net import RuntimeNet, load_for_judging, open_session
from basicsr.utils.errors import WeightsError

CPU = torch.device("cpu")


def faces(number: int) -> torch.Tensor:
    return torch.rand(number, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_embeddings_are_those_of_the_differentiable_network(tmp_path: Path) -> None:
    path = write_insightface_graph(tmp_path / "tiny.onnx", embed_dim=128)
    judge = load_for_judging(path, CPU)
    assert isinstance(judge.net, RuntimeNet)
    images = faces(3)
    # 1e-5: float32 sums in another order
    assert torch.allclose(judge(images).embedding, load_recognizer(path)(images).embedding, atol=1e-5)


def test_a_graph_with_a_fixed_batch_takes_any_number_of_faces(tmp_path: Path) -> None:
    path = write_insightface_graph(tmp_path / "free.onnx", embed_dim=128)
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, str(tmp_path / "two.onnx"))
    images = torch.randn(5, 3, 112, 112)
    free, two = (RuntimeNet(tmp_path / name)(images)[0] for name in ("free.onnx", "two.onnx"))
    assert two.shape == (5, 128)
    assert torch.allclose(two, free, atol=1e-5)


def test_a_graph_that_bends_the_standard_is_run_by_torch(tmp_path: Path) -> None:
    path = write_insightface_graph(tmp_path / "mxnet.onnx", "mxnet", slopes_1d=True)
    judge = load_for_judging(path, CPU)
    assert isinstance(judge.net, OnnxNet)
    assert judge(faces(1)).embedding.shape == (1, 512)


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"broken\.onnx: cannot be run by ONNX Runtime"):
        open_session(tmp_path / "broken.onnx")
    with pytest.raises(WeightsError, match="no such weights file"):
        open_session(tmp_path / "gone.onnx")


def test_the_recognisers_of_the_test_data_agree_in_both_ways(test_data: Path) -> None:
    for name in ("mobilefacenet_ms1m_128", "mobilefacenet_casia_128"):
        path = test_data / "recognizers" / f"{name}.onnx"
        images = faces(2)
        judge = load_for_judging(path, CPU)
        assert isinstance(judge.net, RuntimeNet)
        assert torch.allclose(judge(images).embedding, load_recognizer(path)(images).embedding, atol=1e-5)
