"""How a network runs: doubled pictures convolved the short way, bfloat16 near float32, threads that take turns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from restorer_toys import make_net
from toy_run import SIZE

from basicsr.archs.blocks import Upsample
from basicsr.inference import FaceRestorer
from basicsr.inference.execution import choose_precision, compiled
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import Image


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_net(folder)
    return folder


def crops(count: int) -> list[Image]:
    return [np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), np.uint8) for i in range(count)]


@pytest.mark.parametrize("size", [(5, 7), (1, 2), (8, 2)])
def test_a_doubled_picture_convolved_the_short_way_is_the_same(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block, x = Upsample(6).requires_grad_(False), torch.randn(2, 6, *size)
    doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    expected = F.conv2d(doubled, block.conv.weight, block.conv.bias, padding=1)
    found = block(x.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found, expected, atol=2e-6), "float32 sums in another order"


def test_gradients_come_through_a_channels_last_upsample() -> None:
    block, x = Upsample(4), torch.randn(1, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    block(x).sum().backward()
    assert block.conv.weight.grad is not None
    assert block.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("weights", ["net.pth"])
def test_bfloat16_gives_the_picture_of_float32_within_its_own_rounding(toy: Path, weights: str) -> None:
    exact = FaceRestorer(toy / weights, device="cpu")
    rounded = FaceRestorer(toy / weights, device="cpu", precision="bf16")
    stored = {parameter.dtype for parameter in rounded.net.parameters()}
    assert stored == {torch.float32, torch.bfloat16}
    assert {p.dtype for p in rounded.net.encoder.blocks[-1].parameters()} == {torch.float32}
    one, other = exact.restore_batch(crops(3)), rounded.restore_batch(crops(3))
    difference = np.abs(np.stack([a.image.astype(int) - b.image for a, b in zip(one, other, strict=True)]))
    assert 0 < difference.mean() < 4
    again = rounded.restore_batch(crops(3))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(other, again, strict=True))


def test_precisions_that_a_device_has_not_are_refused_and_auto_takes_what_there_is() -> None:
    with pytest.raises(UserError, match="fp16: not on a CPU"):
        choose_precision("fp16", torch.device("cpu"))
    with pytest.raises(UserError, match="expected one of auto"):
        choose_precision("int8", torch.device("cpu"))  # type: ignore[arg-type]
    assert choose_precision("auto", torch.device("mps")) == torch.float32
    assert choose_precision("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_threads_that_share_a_restorer_get_what_they_would_get_alone(toy: Path) -> None:
    restorer, inside, most = FaceRestorer(toy / "net.pth", device="cpu"), [0], [0]

    def enter(*_: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])

    def leave(*_: object) -> None:
        inside[0] -= 1

    pictures, refs = crops(16), crops(18)[16:]

    def one(i: int) -> tuple[Any, ...]:
        face = restorer.restore(pictures[i], refs[i % 2], w=i / 16)
        two = restorer.restore_batch(pictures[i - 1 : i + 1], [refs, ()], mode=("self", "none", None)[i % 3])
        encoded = restorer.encode_references(refs)
        return face, *two, restorer.restore(pictures[i], encoded), restorer.embed([pictures[i]]).numpy().tolist()

    alone = [one(i) for i in range(1, 16)]
    restorer.net.register_forward_pre_hook(enter)
    restorer.net.register_forward_hook(leave)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, range(1, 16)))
    assert most == [1], "one batch is on the device at a time"
    for expected, found in zip(alone, together, strict=True):
        assert found[-1] == expected[-1]
        for face, same in zip(expected[:-1], found[:-1], strict=True):
            assert np.array_equal(face.image, same.image)
            assert face[1:] == same[1:]


def test_a_network_that_cannot_be_compiled_here_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda net: refuse)
    with pytest.raises(UserError, match=r"--compile: .*\(no compiler\)\. Leave it out") as caught:
        compiled(torch.nn.Linear(1, 1))(torch.ones(1))
    assert "\n" not in str(caught.value)


def test_what_is_called_with_compile_is_the_compiled_network(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def compile_net(net: torch.nn.Module) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(len(args))
            return net(*args, **kwargs)

        return call

    plain = FaceRestorer(toy / "net.pth", device="cpu")
    monkeypatch.setattr(torch, "compile", compile_net)
    fast = FaceRestorer(toy / "net.pth", device="cpu", compile_net=True)
    assert np.array_equal(plain.restore(crops(1)[0]).image, fast.restore(crops(1)[0]).image)
    assert len(calls) == 1


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_values() -> None:
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU()).eval(), torch.randn(1, 3, 6, 6)
    with torch.inference_mode():
        assert torch.allclose(compiled(net)(x), net(x), atol=1e-6)
