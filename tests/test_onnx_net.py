"""ONNX graphs as differentiable modules: parity with ONNX Runtime, which map is taken, faults."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from basicsr.recognizers.onnx_net import OnnxNet, graph_facts, read_graph
from basicsr.utils.errors import WeightsError


def write_graph(path: Path, opset: int = 13, embed_dim: int = 4, input_shape: tuple[int, int] = (12, 8)) -> Path:
    """A recogniser in small: two convolutions with PReLU, a global depthwise convolution, a flatten."""
    rng = np.random.default_rng(0)
    h, w = input_shape[0] // 4, input_shape[1] // 4
    weights = {
        "w1": rng.normal(size=(6, 3, 3, 3)) / 5,
        "slope": rng.uniform(0.1, 0.4, (6, 1, 1)),
        "w2": rng.normal(size=(embed_dim, 6, 3, 3)) / 7,
        "w3": rng.normal(size=(embed_dim, 1, h, w)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["first"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["first", "slope"], ["active"]),
        helper.make_node("Conv", ["active", "w2"], ["map"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["map", "w3"], ["reduced"], group=embed_dim),
        helper.make_node("Flatten", ["reduced"], ["embedding"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, *input_shape])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", embed_dim])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_module_gives_what_onnx_runtime_gives_for_any_batch(tmp_path: Path, opset: int):
    path = write_graph(tmp_path / "tiny.onnx", opset)
    net = OnnxNet(read_graph(path), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = torch.randn(batch, 3, 12, 8)
        expected = session.run(None, {"image": images.numpy()})[0]
        np.testing.assert_allclose(net(images)[0].detach().numpy(), expected, atol=1e-5)


def test_map_is_the_last_tensor_with_a_spatial_extent(tmp_path: Path):
    path = write_graph(tmp_path / "tiny.onnx")
    facts = graph_facts(read_graph(path), path)
    assert (facts.map_node, facts.map_shape) == ("map", (4, 3, 2))
    assert (facts.input_shape, facts.embed_dim) == ((3, 12, 8), 4)
    assert facts.first_ops == ("Conv", "PRelu", "Conv", "Conv")


def test_map_named_by_the_caller_is_that_tensor(tmp_path: Path):
    path = write_graph(tmp_path / "tiny.onnx")
    net = OnnxNet(read_graph(path), path, "active")
    images = torch.randn(2, 3, 12, 8)
    model = onnx.load(str(path))
    model.graph.output.append(helper.make_tensor_value_info("active", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(["active"], {"image": images.numpy()})[0]
    assert net.map_shape == (6, 6, 4)
    np.testing.assert_allclose(net(images)[1].detach().numpy(), expected, atol=1e-5)


def test_gradient_to_the_picture_is_the_finite_difference(tmp_path: Path):
    path = write_graph(tmp_path / "tiny.onnx")
    net = OnnxNet(read_graph(path), path).double()
    images = torch.randn(2, 3, 12, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: net(x)[0], images, fast_mode=True)


def test_the_graph_that_was_read_keeps_its_one_output(tmp_path: Path):
    path = write_graph(tmp_path / "tiny.onnx")
    model = read_graph(path)
    OnnxNet(model, path)
    assert len(model.graph.output) == 1


def test_unknown_map_name_is_answered_with_the_names_there_are(tmp_path: Path):
    path = write_graph(tmp_path / "tiny.onnx")
    with pytest.raises(WeightsError, match=r"'nope'.*active, map"):
        graph_facts(read_graph(path), path, "nope")


def test_a_cut_off_file_and_a_missing_one_are_one_line(tmp_path: Path):
    path = write_graph(tmp_path / "tiny.onnx")
    path.write_bytes(path.read_bytes()[:300])
    for name in (path, tmp_path / "none.onnx"):
        with pytest.raises(WeightsError) as caught:
            read_graph(name)
        assert "\n" not in str(caught.value)


def test_a_graph_with_several_outputs_is_no_recogniser(tmp_path: Path):
    path = write_graph(tmp_path / "tiny.onnx")
    model = read_graph(path)
    model.graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 4, 3, 2]))
    with pytest.raises(WeightsError, match="one picture"):
        graph_facts(model, path)
