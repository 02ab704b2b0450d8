"""Detector files for the tests: toy ONNX graphs and state dicts in the layouts of YuNet, SCRFD and RetinaFace.

The toy SCRFD sees: a face is where the picture is bright, one per grid point of stride 32 whose brightness is high.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from basicsr.faces.align import FFHQ_512

STRIDES = (8, 16, 32)
FACE = 64.0  # px, side of the toy's face, as brightness marks it
BRIGHT = 200.0  # of 255


def write_yunet(path: Path, score: float = 0.9) -> Path:
    """YuNet's outputs for any picture: the first grid point of stride 32 is a face, nothing else is."""
    nodes, outputs, weights = [], [], []
    for stride in STRIDES:
        for kind, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            name = f"{kind}_{stride}"
            bias = np.full(channels, score if stride == 32 and kind in ("cls", "obj") else 0.0, np.float32)
            weight = np.zeros((channels, 3, stride, stride), np.float32)
            weights += [numpy_helper.from_array(weight, f"w_{name}"), numpy_helper.from_array(bias, f"b_{name}")]
            nodes += [
                helper.make_node("Conv", ["input", f"w_{name}", f"b_{name}"], [f"c_{name}"], strides=[stride] * 2),
                helper.make_node("Transpose", [f"c_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{name}", f"s_{name}"], [name]),
            ]
            weights.append(numpy_helper.from_array(np.array([1, -1, channels], np.int64), f"s_{name}"))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, channels]))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])
    return _write(path, nodes, [image], outputs, weights)


def write_scrfd(path: Path) -> Path:
    """SCRFD that takes every bright cell of 32x32 px for the top left corner of a face of FACE px in FFHQ framing."""
    nodes, outputs, weights = [], [], []
    for stride in STRIDES:
        counts = FACE / stride  # SCRFD speaks in units of the stride
        points = (FFHQ_512 / 512 * counts).astype(np.float32).ravel()
        fixed = {4: np.array([0, 0, counts, counts], np.float32), 10: points}
        for channels in (1, 4, 10):
            name = f"o{channels}_{stride}"
            weight = np.zeros((channels, 3, stride, stride), np.float32)
            bias = fixed.get(channels, np.zeros(channels, np.float32))
            if channels == 1:
                weight += (128 / 127.5) / (3 * stride**2) / 2  # mean of the input, -1 .. 1, to -.5 .. .5
                bias = np.array([0.5 if stride == 32 else -9.0], np.float32)
            weights += [numpy_helper.from_array(weight, f"w_{name}"), numpy_helper.from_array(bias, f"b_{name}")]
            weights.append(numpy_helper.from_array(np.array([-1, channels], np.int64), f"s_{name}"))
            nodes += [
                helper.make_node("Conv", ["input", f"w_{name}", f"b_{name}"], [f"c_{name}"], strides=[stride] * 2),
                helper.make_node("Transpose", [f"c_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{name}", f"s_{name}"], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, channels]))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])
    return _write(path, nodes, [image], outputs, weights)


def _write(path: Path, nodes: list, inputs: list, outputs: list, weights: list) -> Path:
    graph = helper.make_graph(nodes, "detector", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), path)
    return path
