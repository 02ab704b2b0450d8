"""How a network runs: in which precision, compiled or not, one call at a time.

bfloat16 on a CPU: convolutions and matrix products multiply in bfloat16 and sum in float32; what is summed over a whole
picture or decides between codes stays float32: the statistics of GroupNorm, softmax, the tokens of the transformer
between its layers, and the last layers of encoder and generator.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

import torch
from torch import nn

from basicsr.archs.blocks import Upsample
from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.utils.errors import UserError

logger = logging.getLogger(__name__)

Precision = Literal["auto", "float32", "bf16", "fp16"]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class HasLock(Protocol):
    """An object whose calls take turns."""

    lock: threading.RLock


Owner = TypeVar("Owner", bound=HasLock)


def one_at_a_time(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """The method, for any number of threads: their calls take turns, so that one batch is on the device at a time."""

    @functools.wraps(method)
    def turn(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with self.lock:
            return method(self, *args, **kwargs)

    return turn


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX512-BF16 or AMX); elsewhere bfloat16 is slower than float32."""
    # torch tells by private functions alone, which older versions lack: none of them is a CPU without
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def choose_precision(name: Precision, device: torch.device) -> torch.dtype:
    """The type that convolutions and matrix products work in; "auto" is bfloat16 where the device has it, else float32.

    Raises:
        UserError: no such precision, or the device has none of it.
    """
    if name == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and cpu_has_bf16()
        return torch.bfloat16 if has_bf16 else torch.float32
    if name not in DTYPES:
        raise UserError(f"--precision {name}: expected one of auto, {', '.join(DTYPES)}.")
    if name == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16: not on a CPU. Take bf16, float32 or auto.")
    if name == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        logger.warning("--precision bf16: this CPU has no bfloat16 of its own and is slower with it than in float32")
    return DTYPES[name]


def store_weights_as(net: CodeFormer, dtype: torch.dtype) -> None:
    """Keep the weights of convolutions and linear layers in `dtype`; autocast would else convert them at each call.

    Not those whose layer runs in float32, nor those that are added up before use.
    """
    kept: set[nn.Module] = {net.encoder.blocks[-1], net.generator.blocks[-1]}
    kept |= {part.conv for part in net.modules() if isinstance(part, Upsample)}
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Linear) and part not in kept:
            part.weight.data = part.weight.data.to(dtype)
            if part.bias is not None:
                part.bias.data = part.bias.data.to(dtype)


def compiled(net: nn.Module) -> Callable[..., Any]:
    """The network compiled, at its first call for each batch size.

    Raises, when called:
        UserError: it cannot be compiled here.
    """
    compiled_net = torch.compile(net)

    @functools.wraps(net.forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled_net(*args, **kwargs)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"--compile: the network cannot be compiled here ({reason}). Leave it out.") from error

    return call
