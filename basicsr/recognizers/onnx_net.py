"""A recogniser stored as an ONNX graph, made a differentiable torch module.

Any graph with one picture in and one embedding out. The map that feeds identity tokens is, unless named, the last
tensor of the graph that still has a spatial extent: what enters the global convolution, pooling or flatten.

Shapes: B batch; H, W input; C, h, w map; E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from basicsr.utils.errors import WeightsError

if TYPE_CHECKING:
    import onnx

NOT_COMPUTING = ("Constant", "Identity")  # operators that say nothing about the layout


@dataclass(frozen=True)
class GraphFacts:
    """What a layout is recognised by."""

    input_shape: tuple[int, int, int]  # (3, H, W)
    embed_dim: int
    first_ops: tuple[str, ...]  # the first four operators that compute
    num_convs: int
    map_node: str
    map_shape: tuple[int, int, int]  # (C, h, w)


def read_graph(path: str | Path) -> onnx.ModelProto:
    """Read a graph with the shapes of its tensors inferred.

    Raises:
        WeightsError: missing, cut off, or no ONNX file.
    """
    import onnx  # heavy: only who loads a graph pays for it
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weights file.")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model)
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path}: cannot be read as ONNX, it is cut off or of another kind ({reason}).") from error


def graph_facts(model: onnx.ModelProto, where: str | Path, map_node: str | None = None) -> GraphFacts:
    """Sizes and names in a graph from `read_graph`.

    Raises:
        WeightsError: not one picture in and one vector out, or no tensor `map_node` with a spatial extent.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in stored]
    outputs = [_shape(value) for value in graph.output]
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]) != 4 or not all(inputs[0][1:]) or len(outputs[0]) < 2:
        raise WeightsError(
            f"{where}: inputs {inputs}, outputs {outputs}; a recogniser has one picture (n, 3, H, W) in and one "
            "embedding (n, E) out. Is this a detector?"
        )
    maps = {value.name: _shape(value)[1:] for value in graph.value_info}
    maps = {name: shape for name, shape in maps.items() if len(shape) == 3 and shape[1] * shape[2] > 1 and shape[0]}
    produced = [name for node in graph.node for name in node.output if name in maps]
    if not produced or (map_node is not None and map_node not in maps):
        raise WeightsError(
            f"{where}: no feature map '{map_node or '(last)'}'. The last are: {', '.join(produced[-4:]) or 'none'}."
        )
    name = map_node or produced[-1]
    operators = [node.op_type for node in graph.node if node.op_type not in NOT_COMPUTING]
    return GraphFacts(
        input_shape=(inputs[0][1], inputs[0][2], inputs[0][3]),
        embed_dim=outputs[0][1],
        first_ops=tuple(operators[:4]),
        num_convs=operators.count("Conv"),
        map_node=name,
        map_shape=(maps[name][0], maps[name][1], maps[name][2]),
    )


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes of a tensor; 0 stands for one that is free or unknown."""
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


class OnnxNet(nn.Module):
    """The graph as torch operations, with the map as a second result.

    Raises:
        WeightsError: the graph uses an operator that cannot be converted.
    """

    def __init__(self, model: onnx.ModelProto, where: str | Path, map_node: str | None = None) -> None:
        super().__init__()
        import onnx
        from onnx2torch import convert

        facts = graph_facts(model, where, map_node)
        self.map_shape = facts.map_shape
        with_map = onnx.ModelProto()
        with_map.CopyFrom(model)  # the caller's graph keeps its one output
        with_map.graph.output.append(next(v for v in model.graph.value_info if v.name == facts.map_node))
        try:
            self.graph = convert(with_map)
        except NotImplementedError as error:
            raise WeightsError(
                f"{where}: onnx2torch cannot convert this graph ({str(error).splitlines()[0]}). Export it with opset "
                "11 to 17."
            ) from error

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised input (B, 3, H, W) -> embedding (B, E), as the graph gives it, and the map (B, C, h, w)."""
        embedding, feature_map = self.graph(x)
        return embedding.flatten(1), feature_map
