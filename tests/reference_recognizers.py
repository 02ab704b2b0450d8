"""Recognition networks computed a second time: from a state dict and its key names, in float64, without nn.Module.

Written from the published key names and layer orders only. It is what the golden tests of the adapters compare with;
nothing of basicsr is imported here.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Mapping[str, Tensor]


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, norms and slopes: a norm that is still the identity would hide its place."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if not value.is_floating_point():
            continue
        if value.ndim > 1:
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5)
        elif name.endswith("running_var") or name.endswith("weight"):
            value.uniform_(0.3, 1.5, generator=generator)
        else:
            value.uniform_(-0.3, 0.3, generator=generator)
    return net.eval()


def conv(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"].double(), None, stride, padding)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """Batch norm in evaluation, eps 1e-5; without a gain where the file has none."""
    shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)

    def of(part: str) -> Tensor:
        return state[f"{name}.{part}"].double().reshape(shape)

    scaled = (x - of("running_mean")) / (of("running_var") + 1e-5).sqrt()
    return scaled * of("weight") + of("bias") if f"{name}.weight" in state else scaled


def prelu(state: State, name: str, x: Tensor) -> Tensor:
    slope = state[f"{name}.weight"].double().reshape(1, -1, 1, 1)
    return torch.where(x > 0, x, slope * x)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x.flatten(1) @ state[f"{name}.weight"].double().T + state[f"{name}.bias"].double()


def blocks_of(state: State, stage: str) -> list[str]:
    numbers = {int(name.split(".")[1]) for name in state if name.startswith(f"{stage}.")}
    return [f"{stage}.{number}" for number in sorted(numbers)]


def iresnet(state: State, x: Tensor) -> Tensor:
    """arcface_torch, RGB [-1, 1] -> embedding, not normalised."""
    x = prelu(state, "prelu", norm(state, "bn1", conv(state, "conv1", x.double())))
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for i, block in enumerate(blocks_of(state, stage)):
            stride = 1 if i else 2
            h = norm(state, f"{block}.bn2", conv(state, f"{block}.conv1", norm(state, f"{block}.bn1", x)))
            h = norm(state, f"{block}.bn3", conv(state, f"{block}.conv2", prelu(state, f"{block}.prelu", h), stride))
            if stride == 2:
                x = norm(state, f"{block}.downsample.1", conv(state, f"{block}.downsample.0", x, stride, 0))
            x = h + x
    return norm(state, "features", linear(state, "fc", norm(state, "bn2", x)))


def ir_net(state: State, x: Tensor, has_squeeze: bool) -> Tensor:
    """AdaFace's IR (six parts per block, the last a norm) or TreB1eN's IR-SE (the last a squeeze), BGR [-1, 1]."""
    x = prelu(state, "input_layer.2", norm(state, "input_layer.1", conv(state, "input_layer.0", x.double())))
    for i, block in enumerate(blocks_of(state, "body")):
        part = f"{block}.res_layer"
        widens = f"{block}.shortcut_layer.0.weight" in state
        stride = 2 if i == 0 or widens else 1
        h = conv(state, f"{part}.1", norm(state, f"{part}.0", x))
        if has_squeeze:
            h = norm(state, f"{part}.4", conv(state, f"{part}.3", prelu(state, f"{part}.2", h), stride))
            gate = conv(state, f"{part}.5.fc1", h.mean((2, 3), keepdim=True), padding=0).clamp(min=0)
            h = h / (1 + (-conv(state, f"{part}.5.fc2", gate, padding=0)).exp())
        else:
            h = norm(state, f"{part}.2", h)
            h = norm(state, f"{part}.5", conv(state, f"{part}.4", prelu(state, f"{part}.3", h), stride))
        shortcut = x[..., ::stride, ::stride]
        if widens:
            shortcut = norm(
                state, f"{block}.shortcut_layer.1", conv(state, f"{block}.shortcut_layer.0", x, stride, padding=0)
            )
        x = h + shortcut
    return norm(state, "output_layer.4", linear(state, "output_layer.3", norm(state, "output_layer.0", x)))


def gray_resnet(state: State, x: Tensor) -> Tensor:
    """GFPGAN's arcface_resnet18, gray [-1, 1] -> embedding, not normalised."""
    x = F.max_pool2d(prelu(state, "prelu", norm(state, "bn1", conv(state, "conv1", x.double()))), 2)
    for number in range(1, 5):
        for i, block in enumerate(blocks_of(state, f"layer{number}")):
            stride = 2 if number > 1 and i == 0 else 1
            h = norm(state, f"{block}.bn1", conv(state, f"{block}.conv1", norm(state, f"{block}.bn0", x)))
            h = norm(state, f"{block}.bn2", conv(state, f"{block}.conv2", prelu(state, f"{block}.prelu", h), stride))
            if f"{block}.downsample.0.weight" in state:
                x = norm(state, f"{block}.downsample.1", conv(state, f"{block}.downsample.0", x, stride, 0))
            x = prelu(state, f"{block}.prelu", h + x)
    return norm(state, "bn5", linear(state, "fc5", norm(state, "bn4", x)))
