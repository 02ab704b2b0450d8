"""A recogniser stored as an ONNX graph, made a differentiable torch module.

Any graph with one picture in and one embedding out. The map that feeds identity tokens is, unless named, the last
tensor of the graph that still has a spatial extent: what enters the global convolution, pooling or flatten.

Shapes: B batch; H, W input; C, h, w map; E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from basicsr.utils.errors import WeightsError

if TYPE_CHECKING:
    import onnx

NOT_COMPUTING = ("Constant", "Identity")  # operators that say nothing about the layout
RESHAPING = ("Flatten", "Reshape", "Squeeze")
LENGTHS = ("ReduceL2", "ReduceSumSquare", "ReduceSum")
FLOAT32 = 1  # onnx.TensorProto.FLOAT
LENGTH_CHAIN = 4  # operators between a length and the division by it: root, clip, expand


@dataclass(frozen=True)
class GraphFacts:
    """What a layout is recognised by."""

    input_shape: tuple[int, int, int]  # (3, H, W)
    embed_dim: int
    first_ops: tuple[str, ...]  # the first four operators that compute
    num_convs: int
    normalizes: bool  # the graph itself ends in a division by the length
    map_node: str
    map_shape: tuple[int, int, int]  # (C, h, w)


def read_graph(path: str | Path) -> onnx.ModelProto:
    """Read a graph, checked, with the shapes of its tensors inferred.

    Raises:
        WeightsError: missing, cut off, or no ONNX file.
    """
    return _parse(path, whole=True)


def parse_graph(path: str | Path) -> onnx.ModelProto:
    """Read a graph unchecked: quick, enough for `inputs_and_outputs`.

    Raises:
        WeightsError: missing, cut off, or no ONNX file.
    """
    return _parse(path, whole=False)


def _parse(path: str | Path, whole: bool) -> onnx.ModelProto:
    import onnx  # heavy: only who loads a graph pays for it
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weights file.")
    try:
        model = onnx.load(str(path), load_external_data=whole)
        if not whole:
            return model
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model)
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path}: cannot be read as ONNX, it is cut off or of another kind ({reason}).") from error
    _say_that_gemm_gives_vectors(inferred.graph)
    return inferred


def _say_that_gemm_gives_vectors(graph: onnx.GraphProto) -> None:
    """Where shape inference gave up, state what is certain: (n, E) behind a matrix product with bias.

    It gives up behind a flatten that computes with the shape, `x.view(len(x), -1)`, and the converter must know that a
    batch norm there is one of vectors.
    """
    of_gemm = {node.output[0] for node in graph.node if node.op_type == "Gemm"}
    for value in graph.value_info:
        tensor = value.type.tensor_type
        if value.name in of_gemm and not tensor.HasField("shape"):
            tensor.shape.dim.add()
            tensor.shape.dim.add()


def inputs_and_outputs(model: onnx.ModelProto) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Sizes of what goes into a graph and of what comes out; 0 stands for one that is free."""
    stored = {tensor.name for tensor in model.graph.initializer}  # old graphs list their weights as inputs
    inputs = [_shape(value) for value in model.graph.input if value.name not in stored]
    return inputs, [_shape(value) for value in model.graph.output]


def graph_facts(model: onnx.ModelProto, where: str | Path, map_node: str | None = None) -> GraphFacts:
    """Sizes and names in a graph from `read_graph`.

    Raises:
        WeightsError: not one picture in and one vector out, or no tensor `map_node` with a spatial extent.
    """
    graph = model.graph
    inputs, outputs = inputs_and_outputs(model)
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]) != 4 or not all(inputs[0][1:]) or len(outputs[0]) < 2:
        raise WeightsError(
            f"{where}: inputs {inputs}, outputs {outputs}; a recogniser has one picture (n, 3, H, W) in and one "
            "embedding (n, E) out. Is this a detector?"
        )
    if any(value.type.tensor_type.elem_type != FLOAT32 for value in graph.output):
        raise WeightsError(f"{where}: the embedding is not float32. Export the graph in single precision.")
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
        normalizes=_normalizes(graph),
        map_node=name,
        map_shape=(maps[name][0], maps[name][1], maps[name][2]),
    )


def _normalizes(graph: onnx.GraphProto) -> bool:
    """Whether the graph ends in a division by the vector's length; only its last few operators are looked at."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in (*NOT_COMPUTING, *RESHAPING):
        node = makers.get(node.input[0]) if node.input else None
    if node is None or node.op_type != "Div":
        return node is not None and node.op_type == "LpNormalization"
    divisor = makers.get(node.input[1])
    for _ in range(LENGTH_CHAIN):
        if divisor is None or divisor.op_type in LENGTHS:
            return divisor is not None
        divisor = makers.get(divisor.input[0]) if divisor.input else None
    return False


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
        self.input_shape = facts.input_shape
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

    @torch.no_grad()
    def make_traceable(self) -> None:
        """Replace `x.view(len(x), -1)`, which computes its shape with tensors, by the flatten that it is.

        The same values, but torch.export can follow it with a free batch size.
        """
        graph = self.graph.graph
        shapes = _ShapeRecorder(self.graph)
        shapes.run(torch.zeros(2, *self.input_shape))
        for node in list(graph.nodes):
            if node.op != "call_module" or type(self.graph.get_submodule(node.target)).__name__ != "OnnxReshape":
                continue
            before = shapes.found[node.args[0]]
            if shapes.found[node] == (before[0], before[1:].numel()):
                with graph.inserting_before(node):
                    node.replace_all_uses_with(graph.call_function(torch.flatten, (node.args[0], 1)))
        graph.eliminate_dead_code()
        self.graph.recompile()


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n] = result.shape
        return result
