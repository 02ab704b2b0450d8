"""What holds on a CUDA device: the same numbers as on the CPU, under bf16, and compiled. Random weights, 64 px."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.models.identity_guidance import GuidanceOptions, IdentityGuidance
from basicsr.recognizers import load_recognizer

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.gpu

DEVICE = "cuda"


@pytest.fixture(autouse=True)
def float32_without_tf32() -> Iterator[None]:
    """Parity in float32 needs float32: TF32 keeps 10 bits of the mantissa."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def make_net(arch: type[CodeFormer] = CodeFormer) -> CodeFormer:
    torch.manual_seed(0)
    net = arch(
        img_size=64,
        nf=32,
        ch_mult=(1, 2, 2, 4),
        attn_resolutions=(8,),
        latent_size=64,
        codebook_size=64,
        emb_dim=64,
        dim_embd=64,
        n_layers=3,
        connect_list=("16", "32"),
    )
    return net.eval()


def make_lq(batch_size: int = 4) -> Tensor:
    return torch.rand(batch_size, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, both as one long vector."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def test_the_forward_on_the_device_equals_the_one_on_the_cpu():
    net, lq = make_net(), make_lq()
    with torch.no_grad():
        on_cpu = net(lq, w=0.5)
        on_device = net.to(DEVICE)(lq.to(DEVICE), w=0.5)
    assert relative_error(on_device.logits.cpu(), on_cpu.logits) < 1e-4
    assert relative_error(on_device.restored.cpu(), on_cpu.restored) < 1e-3


def test_bf16_logits_stay_within_the_rounding_of_bf16():
    """8 bits of mantissa, some 40 layers: 2 % of the norm. Logits, because codes may flip between near equals."""
    net, lq = make_net().to(DEVICE), make_lq().to(DEVICE)
    with torch.no_grad():
        expected = net(lq, code_only=True).logits
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            found = net(lq, code_only=True).logits
    assert relative_error(found, expected) < 0.02


def test_bf16_decodes_the_same_codes_to_the_same_image():
    net = make_net().to(DEVICE)
    code_idx = torch.randint(64, (4, 64), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    with torch.no_grad():
        expected = net.decode_codes(code_idx)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            found = net.decode_codes(code_idx)
    assert relative_error(found, expected) < 0.03


@pytest.mark.parametrize("arch", [CodeFormer, IDCodeFormer])
def test_the_compiled_net_equals_the_eager_one(arch):
    net, lq = make_net(arch).to(DEVICE), make_lq().to(DEVICE)
    with torch.no_grad():
        expected = net(lq, w=0.5)
        found = torch.compile(net)(lq, w=0.5)
    assert relative_error(found.logits, expected.logits) < 1e-4
    assert relative_error(found.restored, expected.restored) < 1e-3


def test_a_training_step_in_bf16_gives_every_trained_parameter_a_finite_gradient():
    net, lq = make_net().to(DEVICE).train(), make_lq().to(DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        out = net(lq, w=1.0, code_grad="ste_softmax")
        loss = out.restored.float().square().mean() + out.logits.float().logsumexp(-1).mean()
    loss.backward()
    trained = {name: value.grad for name, value in net.named_parameters() if value.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.isfinite().all()] == []


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_guidance_on_the_device_makes_faces_more_similar_to_their_reference(precision: torch.dtype) -> None:
    recognizer = load_recognizer(ROOT / "weights" / "demo" / "train.safetensors").to(DEVICE)
    net, lq = make_net().to(DEVICE), make_lq(2).to(DEVICE)
    with torch.no_grad():
        goal = recognizer(net.decode_codes(torch.arange(128, device=DEVICE).view(2, 64) % 64)).embedding
    guidance = IdentityGuidance(net, [recognizer], GuidanceOptions(steps=10, kl=0.0, margin=1.0, views=0))
    with torch.autocast(DEVICE, precision, enabled=precision != torch.float32):
        faces = guidance(lq, [goal], w=0.5)
    assert faces.restored.isfinite().all()
    assert all(report.similarity_after > report.similarity_before for report in faces.reports)
