"""The weight layouts that are known, and how each is recognised and built.

A new layout is one more entry in LAYOUTS: a test for the file, a builder for the network, and the facts that the file
does not hold (normalisation, template).

Shapes: E embedding; C, h, w feature map; H, W input of the recogniser.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from torch import Tensor, nn

from basicsr.recognizers.crop import TemplateName
from basicsr.recognizers.gray_resnet import GrayResNet, gray_resnet_for, is_gray_resnet
from basicsr.recognizers.ir_se import IRNet, ir_net_for, kind_of
from basicsr.recognizers.iresnet import IResNet, iresnet_for, is_iresnet
from basicsr.recognizers.mobilefacenet import MobileFaceNet
from basicsr.recognizers.onnx_net import GraphFacts, OnnxNet, graph_facts
from basicsr.recognizers.weights_file import WeightsFile
from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_into

OWN_NETS: dict[str, Callable[..., IResNet | MobileFaceNet]] = {"iresnet": IResNet, "mobilefacenet": MobileFaceNet}
ARCFACE_MEAN = ARCFACE_STD = (127.5, 127.5, 127.5)  # of 0..255
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of 0..255
INSIGHTFACE_WIDTHS = (128, 256, 512)  # of an embedding; fewer numbers are an age or a mood

ColorOrder = Literal["rgb", "bgr", "gray"]
StateNet = IResNet | IRNet | GrayResNet


@dataclasses.dataclass(frozen=True)
class RecognizerSpec:
    """What a recogniser expects and gives."""

    layout: str
    input_size: tuple[int, int]  # (H, W), px
    color_order: ColorOrder
    mean: tuple[float, ...]  # of 0..255, in the colour order
    std: tuple[float, ...]  # of 0..255
    template_offset: tuple[float, float]  # (x, y) px of the input, added to the template at a height of H
    embed_dim: int
    map_shape: tuple[int, int, int]  # (C, h, w)
    typical_norm: float | None  # mean embedding norm on clean faces; None where nobody measured it
    sha256: str  # of the file; empty before it is written
    template: TemplateName = "arcface_112"
    normalizes: bool = False  # the network itself gives unit vectors, so that their norm says nothing
    same_person_cosine: float | None = None  # typical cosine of two clean photos of one person; None: not measured


BuiltNet = tuple[nn.Module, RecognizerSpec]
Builder = Callable[[WeightsFile, "Layout", str | None], BuiltNet]  # the last argument: map_node


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one kind of weights file is known and built."""

    name: str
    describes: str  # for the error that lists the known layouts
    matches: Callable[[WeightsFile], bool]
    build: Builder
    color_order: ColorOrder = "rgb"
    mean: tuple[float, ...] = ARCFACE_MEAN
    std: tuple[float, ...] = ARCFACE_STD
    template: TemplateName = "arcface_112"
    template_offset: tuple[float, float] = (0.0, 0.0)
    typical_norm: float | None = None
    same_person_cosine: float | None = None


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


def _build_graph(file: WeightsFile, layout: Layout, map_node: str | None) -> BuiltNet:
    """Network and facts of an ONNX graph whose normalisation the layout states."""
    if file.graph is None:
        raise TypeError(f"layout {layout.name} matched a file without a graph")
    facts = graph_facts(file.graph, file.path, map_node)
    net = OnnxNet(file.graph, file.path, map_node)
    spec = _spec(layout, facts.input_shape[1:], facts.embed_dim, facts.map_shape)
    return net, dataclasses.replace(spec, normalizes=facts.normalizes)


def _is_insightface_graph(file: WeightsFile) -> bool:
    """A graph as insightface's packs have them: told by its sizes, so that any network of the kind will do."""
    if file.graph is None:
        return False
    facts = graph_facts(file.graph, file.path)
    starts = facts.first_ops[:1] == ("Conv",) or _normalizes_input(facts)
    return facts.input_shape == (3, 112, 112) and facts.embed_dim in INSIGHTFACE_WIDTHS and starts


def _normalizes_input(facts: GraphFacts) -> bool:
    """MXNet's exports hold (x - 127.5) * .0078125 as their first two operators, and take 0..255."""
    return facts.first_ops[:2] in (("Sub", "Mul"), ("Sub", "Div"))


def _build_insightface_graph(file: WeightsFile, layout: Layout, map_node: str | None) -> BuiltNet:
    """As `_build_graph`, with the range that the graph itself expects."""
    net, spec = _build_graph(file, layout, map_node)
    if file.graph is not None and _normalizes_input(graph_facts(file.graph, file.path)):
        spec = dataclasses.replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return net, spec


def _has_state(test: Callable[[Mapping[str, Tensor]], bool]) -> Callable[[WeightsFile], bool]:
    """Test for a published state dict by its keys."""
    return lambda file: file.graph is None and "layout" not in file.header and test(file.state)


def _build_with(net_for: Callable[[Mapping[str, Tensor]], StateNet]) -> Builder:
    """Builder for a state dict; all sizes follow from the shapes in the file."""

    def build(file: WeightsFile, layout: Layout, _: str | None) -> BuiltNet:
        try:
            net = net_for(file.state)
        except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
            raise WeightsError(
                f"{file.path}: looks like {layout.name}, but its tensors do not belong together "
                f"({type(error).__name__}: {error}). Get the file again."
            ) from error
        # counters of training, unused here: old torch did not write them, and converters drop them
        counters = {name: value for name, value in net.state_dict().items() if name.endswith("num_batches_tracked")}
        load_into(net, {**counters, **file.state}, where=str(file.path))
        return net, _spec(layout, net.input_size, net.embed_dim, net.map_shape)

    return build


def _build_own(file: WeightsFile, layout: Layout, _: str | None) -> BuiltNet:
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
        color_order=layout.color_order,
        mean=layout.mean,
        std=layout.std,
        template=layout.template,
        template_offset=layout.template_offset,
        embed_dim=embed_dim,
        map_shape=map_shape,
        typical_norm=layout.typical_norm,
        same_person_cosine=layout.same_person_cosine,
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
        # 1 352 LFW identities, 7 670 photos, 64 px FFHQ framing, fixed crop, no flipped sums (sd .10 over all pairs)
        same_person_cosine=0.633,
    ),
    Layout(
        name="mobilefacenet_casia",
        describes="MobileFaceNet .onnx, 112x96 px (high x wide) in, 128-d out, PReLU",
        matches=_is_graph((3, 112, 96), ("Conv", "PRelu", "Conv", "PRelu"), 50, 128),
        build=_build_graph,
        std=(128.0, 128.0, 128.0),
        template_offset=(-8.0, 0.0),
        typical_norm=5.49,  # measured the same way (sd .74)
        same_person_cosine=0.625,  # measured the same way (sd .11)
    ),
    Layout(
        name="insightface_onnx",
        describes="recognition .onnx of an insightface pack, 112x112 px in, 128, 256 or 512-d out",
        matches=_is_insightface_graph,
        build=_build_insightface_graph,
    ),
    Layout(
        name="arcface_torch_iresnet",
        describes="state dict of an arcface_torch iresnet 18/34/50/100, .pth or .safetensors",
        matches=_has_state(is_iresnet),
        build=_build_with(iresnet_for),
    ),
    Layout(
        name="adaface_ir",
        describes="checkpoint or state dict of an AdaFace IR-18/50/101",
        matches=_has_state(lambda state: kind_of(state) == "adaface"),
        build=_build_with(ir_net_for),
        color_order="bgr",
    ),
    Layout(
        name="ir_se",
        describes="state dict of TreB1eN's IR-SE50, facexlib's recognition_arcface_ir_se50.pth",
        matches=_has_state(lambda state: kind_of(state) == "ir_se"),
        build=_build_with(ir_net_for),
        color_order="bgr",
    ),
    Layout(
        name="gray_resnet",
        describes="state dict of the gray ResNet-18, GFPGAN's arcface_resnet18.pth",
        matches=_has_state(is_gray_resnet),
        build=_build_with(gray_resnet_for),
        color_order="gray",
        mean=(127.5,),
        std=(127.5,),
        template="ffhq_512",  # those who publish figures with it shrink the whole face, without any crop
    ),
)
