"""Tiny ONNX recognisers in the manners of those that are published; shared by the tests of graphs and of layouts."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Manner = Literal["torch", "torch_view", "mxnet"]


def write_insightface_graph(
    path: Path, manner: Manner = "torch", embed_dim: int = 512, slopes_1d: bool = False, side: int = 112
) -> Path:
    """A recogniser of the kind that insightface's packs hold: three convolutions, PReLU, one matrix, batch norm.

    Args:
        manner: torch: flattened by an operator; torch_view: by computing with the shape, x.view(len(x), -1); mxnet: the
            range is inside, (x - 127.5) * .0078125.
        slopes_1d: slopes of shape (C,), as MXNet writes them; the standard asks for (C, 1, 1), ONNX Runtime for it too.
    """
    rng = np.random.default_rng(0)
    flat = 6 * (side // 16) ** 2
    values = {
        "w1": rng.normal(size=(6, 3, 3, 3)) / 5,
        "slope": rng.uniform(0.1, 0.4, 6 if slopes_1d else (6, 1, 1)),
        "w2": rng.normal(size=(6, 6, 3, 3)) / 7,
        "w3": rng.normal(size=(6, 6, 3, 3)) / 7,
        "w4": rng.normal(size=(embed_dim, flat)) / flat**0.5,
        "b4": rng.normal(size=embed_dim) / 3,
        **{name: rng.uniform(0.5, 1.5, embed_dim) for name in ("gain", "bias", "mean", "variance")},
    }
    first = "image"
    nodes = []
    if manner == "mxnet":
        values |= {"center": np.array([127.5]), "factor": np.array([0.0078125])}
        nodes = [
            helper.make_node("Sub", ["image", "center"], ["centered"], name="_minusscalar0"),
            helper.make_node("Mul", ["centered", "factor"], ["scaled"], name="_mulscalar0"),
        ]
        first = "scaled"
    nodes += [
        helper.make_node("Conv", [first, "w1"], ["first"], strides=[4, 4], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("PRelu", ["first", "slope"], ["active"]),
        helper.make_node("Conv", ["active", "w2"], ["second"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["second", "w3"], ["map"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        *flatten_nodes(manner),
        helper.make_node("Gemm", ["flat", "w4", "b4"], ["vector"], transB=1),
        helper.make_node("BatchNormalization", ["vector", "gain", "bias", "mean", "variance"], ["embedding"]),
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    if manner == "torch_view":
        tensors += [
            numpy_helper.from_array(np.array(number, np.int64), name) for name, number in (("zero", 0), ("rest", [-1]))
        ]
    # MXNet's exports list their weights among the inputs
    listed = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors if manner == "mxnet"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["None", 3, side, side]), *listed],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["None", embed_dim])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(path))
    return path


def flatten_nodes(manner: Manner) -> list[onnx.NodeProto]:
    """map (n, C, h, w) -> flat (n, C*h*w)."""
    if manner != "torch_view":
        return [helper.make_node("Flatten", ["map"], ["flat"], axis=1)]
    return [
        helper.make_node("Shape", ["map"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch"], ["batch_1d"], axes=[0]),
        helper.make_node("Concat", ["batch_1d", "rest"], ["flat_shape"], axis=0),
        helper.make_node("Reshape", ["map", "flat_shape"], ["flat"]),
    ]
