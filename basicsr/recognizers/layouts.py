"""The weight layouts that are known, and how each is recognised and built.

A new layout is one more entry in LAYOUTS: a test for the file, a builder for the network, and the facts that the file
does not hold (normalisation, template).

Shapes: E embedding; C, h, w feature map; H, W input of the recogniser.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from torch import Tensor, nn

from basicsr.recognizers.iresnet import IResNet
from basicsr.recognizers.mobilefacenet import MobileFaceNet
from basicsr.recognizers.onnx_net import OnnxNet, graph_facts
from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_into

if TYPE_CHECKING:
    import onnx

ARCFACE_KEYS = {"conv1.weight", "layer4.0.prelu.weight", "fc.weight", "features.weight"}
OWN_NETS: dict[str, Callable[..., IResNet | MobileFaceNet]] = {"iresnet": IResNet, "mobilefacenet": MobileFaceNet}
ARCFACE_MEAN = ARCFACE_STD = (127.5, 127.5, 127.5)  # of 0..255
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of 0..255


@dataclasses.dataclass(frozen=True)
class RecognizerSpec:
    """What a recogniser expects and gives."""

    layout: str
    input_size: tuple[int, int]  # (H, W), px
    color_order: Literal["rgb", "bgr", "gray"]
    mean: tuple[float, ...]  # of 0..255, in the colour order
    std: tuple[float, ...]  # of 0..255
    template_offset: tuple[float, float]  # (x, y) px of the input, added to the ArcFace-112 template times H/112
    embed_dim: int
    map_shape: tuple[int, int, int]  # (C, h, w)
    typical_norm: float | None  # mean embedding norm on clean faces; None where nobody measured it
    sha256: str  # of the file; empty before it is written


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """One opened file: the graph of an ONNX file, or the tensors and the header of any other."""

    path: Path
    graph: onnx.ModelProto | None
    state: dict[str, Tensor]
    header: dict[str, str]
    facts: dict[str, str | int | float]  # in the header, what save_recognizer was given


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one kind of weights file is known and built."""

    name: str
    describes: str  # for the error that lists the known layouts
    matches: Callable[[WeightsFile], bool]
    build: Callable[[WeightsFile, Layout, str | None], tuple[nn.Module, RecognizerSpec]]
    mean: tuple[float, ...] = ARCFACE_MEAN
    std: tuple[float, ...] = ARCFACE_STD
    template_offset: tuple[float, float] = (0.0, 0.0)
    typical_norm: float | None = None


def _is_graph(
    input_shape: tuple[int, int, int], first_ops: tuple[str, ...], num_convs: int, embed_dim: int
) -> Callable[[WeightsFile], bool]:
    """Test for an ONNX graph by what does not change when it is exported again: sizes and operators."""

    def matches(file: WeightsFile) -> bool:
        if file.graph is None:
            return False
        facts = graph_facts(file.graph, file.path)
        return (
            facts.input_shape == input_shape
            and facts.first_ops == first_ops
            and facts.num_convs == num_convs
            and facts.embed_dim == embed_dim
        )

    return matches


def _build_graph(file: WeightsFile, layout: Layout, map_node: str | None) -> tuple[nn.Module, RecognizerSpec]:
    """Network and facts of an ONNX graph whose normalisation the layout states."""
    if file.graph is None:
        raise TypeError(f"layout {layout.name} matched a file without a graph")
    facts = graph_facts(file.graph, file.path, map_node)
    net = OnnxNet(file.graph, file.path, map_node)
    return net, _spec(layout, facts.input_shape[1:], facts.embed_dim, facts.map_shape)


def _is_iresnet(file: WeightsFile) -> bool:
    """arcface_torch's keys; GFPGAN's gray ResNet shares some of them, but has no `features`."""
    return "layout" not in file.header and file.state.keys() >= ARCFACE_KEYS


def _build_iresnet(file: WeightsFile, layout: Layout, _: str | None) -> tuple[nn.Module, RecognizerSpec]:
    """Depths, width and input size all follow from the shapes in the file."""
    state = file.state
    depths = [len({name.split(".")[1] for name in state if name.startswith(f"layer{i}.")}) for i in range(1, 5)]
    width = state["conv1.weight"].shape[0]
    embed_dim, flat = state["fc.weight"].shape
    side = 16 * math.isqrt(flat // (8 * width))
    net = IResNet(depths, width, (side, side), embed_dim)
    load_into(net, state, where=str(file.path))
    return net, _spec(layout, (side, side), embed_dim, net.map_shape)


def _build_own(file: WeightsFile, layout: Layout, _: str | None) -> tuple[nn.Module, RecognizerSpec]:
    """One of OWN_NETS from the header that `save_recognizer` wrote."""
    try:
        kind = OWN_NETS[file.header["layout"]]
        arguments: dict[str, Any] = json.loads(file.header["arguments"])
        net = kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in arguments.items()})
        spec = msgspec.json.decode(file.header["spec"], type=RecognizerSpec)
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise WeightsError(
            f"{file.path}: the header of this recogniser is broken ({error}). Train it again."
        ) from error
    load_into(net, file.state, where=str(file.path))
    return net, spec


def _spec(
    layout: Layout, input_size: tuple[int, int], embed_dim: int, map_shape: tuple[int, int, int]
) -> RecognizerSpec:
    """What the layout states, with the sizes found in the file."""
    return RecognizerSpec(
        layout=layout.name,
        input_size=input_size,
        color_order="rgb",
        mean=layout.mean,
        std=layout.std,
        template_offset=layout.template_offset,
        embed_dim=embed_dim,
        map_shape=map_shape,
        typical_norm=layout.typical_norm,
        sha256="",
    )


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="own",
        describes=".safetensors written by scripts/train_recognizer.py",
        matches=lambda file: "layout" in file.header,
        build=_build_own,
    ),
    Layout(
        name="mobilefacenet_ms1m",
        describes="MobileFaceNet .onnx, 112x112 px in, 128-d out, ReLU6",
        matches=_is_graph((3, 112, 112), ("Conv", "Clip", "Conv", "Relu"), 51, 128),
        build=_build_graph,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        typical_norm=17.96,  # mean over 6 650 LFW photos, SCRFD landmarks, 256 px FFHQ framing, fixed crop (sd 2.07)
    ),
    Layout(
        name="mobilefacenet_casia",
        describes="MobileFaceNet .onnx, 112x96 px (high x wide) in, 128-d out, PReLU",
        matches=_is_graph((3, 112, 96), ("Conv", "PRelu", "Conv", "PRelu"), 50, 128),
        build=_build_graph,
        std=(128.0, 128.0, 128.0),
        template_offset=(-8.0, 0.0),
        typical_norm=5.49,  # measured the same way (sd .74)
    ),
    Layout(
        name="arcface_torch_iresnet",
        describes="state dict of an arcface_torch iresnet 18/34/50/100, .pth or .safetensors",
        matches=_is_iresnet,
        build=_build_iresnet,
    ),
)
