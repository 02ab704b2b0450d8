"""E_LQ, the identity of a degraded photo: its network, its loss, its file, and what becomes of it in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_run import make_recognizer

from basicsr.archs.self_encoder_arch import SelfEncoder, SelfIdentity
from basicsr.models.identity_source import (
    MODE_NONE,
    MODE_REF,
    MODE_SELF,
    fixed_modes,
    identity_features,
    quality_from_norm,
)
from basicsr.models.self_encoder import load_self_encoder, save_self_encoder, self_encoder_loss
from basicsr.recognizers import Recognizer, load_recognizer
from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import save_atomic


@pytest.fixture
def recognizer(tmp_path: Path) -> Recognizer:
    return load_recognizer(make_recognizer(tmp_path / "recognizer.safetensors"))


def student(min_quality: float = 0.0, std: float = 0.0) -> SelfEncoder:
    """E_LQ for the toy recogniser; `std` > 0: as if trained."""
    torch.manual_seed(3)
    net: Any = SelfEncoder(16, 32, min_quality).eval()
    nn.init.normal_(net.mlp[-1].weight, std=std)
    return net


def faces(batch: int) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_an_untrained_student_says_what_the_recogniser_says(recognizer: Recognizer) -> None:
    own = recognizer(faces(3)).embedding
    out = student()(faces(3), own, torch.tensor([1.0, 0.1, 1e-3]))
    torch.testing.assert_close(out.embedding, own)
    assert out.quality.tolist() == [0.5, 0.5, 0.5]


@torch.no_grad()
def test_a_trained_student_gives_unit_vectors_and_a_quality_between_0_and_1(recognizer: Recognizer) -> None:
    own = recognizer(faces(3)).embedding
    out = student(std=0.5)(faces(3), own, torch.tensor([1.0, 0.1, 1e-3]))
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))
    assert (out.embedding * own).sum(1).max() < 0.95
    assert 0 < out.quality.min() < out.quality.max() < 1


def test_the_loss_is_the_distance_of_the_embedding_and_the_error_of_its_own_expectation() -> None:
    target = F.normalize(torch.randn(4, 5), dim=1)
    embedding = F.normalize(torch.randn(4, 5), dim=1).requires_grad_()
    quality = torch.rand(4).requires_grad_()
    cosines = [sum(x * y for x, y in zip(*rows, strict=True)) for rows in zip(embedding.tolist(), target.tolist())]  # noqa: B905
    expected = sum(1 - c + (q - max(c, 0)) ** 2 for c, q in zip(cosines, quality.tolist(), strict=True)) / 4
    loss = self_encoder_loss(SelfIdentity(embedding, quality), target)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(embedding.grad, -target / 4)  # the embedding learns nothing from the expectation


def test_some_steps_bring_embedding_and_expectation_to_the_truth() -> None:
    net, own = student().train(), F.normalize(torch.randn(4, 16), dim=1)
    target, trust = F.normalize(torch.randn(4, 16), dim=1), torch.ones(4)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        self_encoder_loss(net(faces(4), own, trust), target).backward()
        optimizer.step()
    out = net(faces(4), own, trust)
    cosine = (out.embedding * target).sum(1)
    assert cosine.min() > 0.9
    assert (out.quality - cosine).abs().max() < 0.2


def test_a_file_gives_the_same_network_back_and_is_for_its_recogniser_alone(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    net, path = student(min_quality=0.25, std=0.5), tmp_path / "self.pth"
    save_self_encoder(net, path, recognizer, {"index": "toy"})
    again = load_self_encoder(path, recognizer)
    inputs = faces(2), recognizer(faces(2)).embedding, torch.ones(2)
    assert all(torch.equal(one, other) for one, other in zip(net(*inputs), again(*inputs), strict=True))
    assert again.min_quality == 0.25
    assert not any(parameter.requires_grad for parameter in again.parameters())
    other = load_recognizer(make_recognizer(tmp_path / "other.safetensors", seed=5))
    with pytest.raises(WeightsError, match="another recogniser"):
        load_self_encoder(path, other)
    save_atomic({"params": {}}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth: is no self encoder"):
        load_self_encoder(tmp_path / "net.pth", recognizer)


@torch.no_grad()
def test_mode_self_takes_the_students_word_and_mode_ref_does_not(recognizer: Recognizer) -> None:
    net, lq, refs = student(std=0.5), faces(3), faces(6).view(3, 2, 3, 32, 32)
    modes = torch.tensor([MODE_SELF, MODE_REF, MODE_NONE])
    mask = torch.ones(3, 2, dtype=torch.bool)
    with_student = identity_features(recognizer, lq, refs, mask, modes, net)
    without = identity_features(recognizer, lq, refs, mask, modes)
    own = recognizer(lq[:1])
    told = net(lq[:1], own.embedding, quality_from_norm(own.norm, recognizer.spec.typical_norm))
    torch.testing.assert_close(with_student.embed[0, 0], told.embedding[0])
    assert with_student.quality[0, 0] == pytest.approx(told.quality.item())
    assert torch.equal(with_student.embed[1], without.embed[1])
    assert torch.equal(with_student.quality[1], without.quality[1])
    assert with_student.mask.tolist() == [[True, False], [True, True], [False, False]]


@torch.no_grad()
def test_a_photo_of_too_little_quality_has_no_identity(recognizer: Recognizer) -> None:
    net, lq = student(std=0.5), faces(4)
    modes = fixed_modes("self", 4, lq.device)
    quality = identity_features(recognizer, lq, None, None, modes, net).quality[:, 0]
    net.min_quality = quality.median().item()
    mask = identity_features(recognizer, lq, None, None, modes, net).mask[:, 0]
    assert torch.equal(mask, quality >= net.min_quality)
    assert 0 < mask.sum() < 4
