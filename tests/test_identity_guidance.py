"""Identity guidance: what it optimizes, what it leaves alone, and that a face is guided the same in any company."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from identity_toys import codeformer, id_codeformer, images, references, trained
from people_toys import toy_recognizer
from torch import Tensor

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.models import identity_guidance
from basicsr.models.identity_guidance import (
    FALLBACK_MARGIN,
    GuidanceOptions,
    IdentityGuidance,
    fit_preview,
    margin_of,
    mean_reference,
    show_preview,
    token_kl,
)
from basicsr.recognizers import Recognizer, load_recognizer
from basicsr.utils.errors import ImageFileError, UserError

NEVER = 1.0  # a margin that no face reaches
MOVES: dict[str, Any] = {"steps": 8, "kl": 0.2, "views": 0, "margin": NEVER}  # options that change the toy's faces


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return load_recognizer(toy_recognizer(tmp_path_factory.mktemp("recognizer") / "rec.safetensors"))


def targets(recognizer: Recognizer, count: int, seed: int = 3) -> Tensor:
    """Identities of random images, (count, E)."""
    faces = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return recognizer(F.avg_pool2d(faces, 5, 1, 2)).embedding


def guided(net: Any, recognizer: Recognizer, count: int = 2, **options: Any) -> Any:
    """`count` faces of the plain network, guided."""
    guidance = IdentityGuidance(net, [recognizer], GuidanceOptions(**{"margin": NEVER, **options}))
    return guidance(images(count), [targets(recognizer, count)], w=0.5)


def test_no_steps_give_the_plain_result_bit_for_bit(recognizer: Recognizer) -> None:
    net = codeformer()
    with torch.no_grad():
        plain = net(images(2), w=0.5, adain=True).restored
    guidance = IdentityGuidance(net, [recognizer], GuidanceOptions(steps=0))
    faces = guidance(images(2), [targets(recognizer, 2)], w=0.5, adain=True)
    assert torch.equal(faces.restored, plain)
    assert torch.equal(faces.unguided, plain)
    assert [report.steps for report in faces.reports] == [0, 0]
    assert not faces.offset.any()


def test_no_steps_give_the_conditioned_result_of_an_idcodeformer(recognizer: Recognizer) -> None:
    net, identity = trained(id_codeformer()), references()
    inputs: dict[str, Any] = {"identity": identity, "w": 0.7, "w_id": 0.8, "id_scale": 1.5}
    with torch.no_grad():
        plain = net(images(2), **inputs).restored
    faces = IdentityGuidance(net, [recognizer], GuidanceOptions(steps=0))(images(2), [targets(recognizer, 2)], **inputs)
    assert torch.equal(faces.restored, plain)


@pytest.mark.parametrize("kind", ["plain", "conditioned", "scaled"])
def test_guidance_makes_the_face_more_similar_and_its_loss_smaller(recognizer: Recognizer, kind: str) -> None:
    options = GuidanceOptions(steps=8, kl=0.2, margin=NEVER, views=0)
    net: CodeFormer = codeformer() if kind == "plain" else trained(id_codeformer())
    inputs: dict[str, Any] = {"w": 0.5}
    if kind != "plain":
        inputs |= {"identity": references(), "id_scale": 1.0 if kind == "conditioned" else 2.0}
    faces = IdentityGuidance(net, [recognizer], options)(images(2), [targets(recognizer, 2)], **inputs)
    for report in faces.reports:
        assert report.similarity_after > report.similarity_before
        loss = 1 - report.similarity_after + options.kl * report.kl
        assert loss < 1 - report.similarity_before


def test_the_reported_similarity_and_kl_are_those_of_the_result(recognizer: Recognizer) -> None:
    net, goal = codeformer(), targets(recognizer, 2)
    faces = IdentityGuidance(net, [recognizer], GuidanceOptions(**MOVES))(images(2), [goal])
    assert all(report.kl > 0 for report in faces.reports)
    with torch.no_grad():
        logits = net.predict(images(2)).logits
        moved = logits + faces.offset
        restored = net.generator(net.look_up(moved, "none", True))
        p, q = moved.softmax(2), logits.softmax(2)
        kl = (p * (p / q).log()).sum(2).mean(1)
        cosine = (recognizer(restored).embedding * goal).sum(1)
    torch.testing.assert_close(faces.restored, restored)
    assert [report.kl for report in faces.reports] == pytest.approx(kl.tolist(), rel=1e-4)
    assert [report.similarity_after for report in faces.reports] == pytest.approx(cosine.tolist(), abs=1e-5)


@pytest.mark.parametrize("kl", [0.1, 0.3])
def test_the_kl_of_a_result_is_at_most_the_fall_of_the_identity_loss(recognizer: Recognizer, kl: float) -> None:
    """1 - cos + kl * KL never ends above its start, so KL <= (1 - cos before) / kl, here at most 1 / kl."""
    net = codeformer()
    with torch.no_grad():
        own = recognizer(net(images(3)).restored).embedding
    goal = F.normalize(own + 1.5 * targets(recognizer, 3), dim=1)
    options = GuidanceOptions(**{**MOVES, "kl": kl, "lr": 0.3})
    for report in IdentityGuidance(net, [recognizer], options)(images(3), [goal]).reports:
        assert report.similarity_before > 0
        assert 0 < report.kl <= (1 - report.similarity_before) / kl


def test_a_face_whose_loss_did_not_fall_keeps_its_unguided_result(recognizer: Recognizer) -> None:
    faces = guided(codeformer(), recognizer, steps=1, kl=20.0, lr=20.0)
    assert torch.equal(faces.restored, faces.unguided)
    assert not faces.offset.any()
    assert [report.kl for report in faces.reports] == [0, 0]


def test_a_larger_kl_weight_stays_closer(recognizer: Recognizer) -> None:
    near, far = (guided(codeformer(), recognizer, steps=8, kl=kl, lr=0.1, views=0).reports for kl in (5.0, 0.1))
    assert all(report.kl > 0 for report in near)
    assert all(a.kl < b.kl for a, b in zip(near, far, strict=True))


@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("margin", [NEVER, 0.2])
def test_a_batch_equals_its_single_faces(
    recognizer: Recognizer, margin: float, preview: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lower margin faces leave the batch at different steps."""
    monkeypatch.setattr(identity_guidance, "PREVIEW_WIDTH", 16)  # the toy's image has 32 px
    net, goal = codeformer(), targets(recognizer, 3)
    options = GuidanceOptions(**{**MOVES, "margin": margin}, preview=preview)
    guidance = IdentityGuidance(net, [recognizer], options)
    batch = guidance(images(3), [goal])
    assert any(report.kl > 0 for report in batch.reports)
    assert (len({report.steps for report in batch.reports}) > 1) == (margin != NEVER)
    for i in range(3):
        single = guidance(images(3)[i : i + 1], [goal[i : i + 1]])
        torch.testing.assert_close(batch.restored[i : i + 1], single.restored, rtol=1e-4, atol=1e-4)
        assert batch.reports[i].steps == single.reports[0].steps
        assert batch.reports[i].stopped_at_margin == single.reports[0].stopped_at_margin


def test_a_face_stops_at_the_margin_and_the_others_go_on(recognizer: Recognizer) -> None:
    net, goal = codeformer(), targets(recognizer, 2)
    with torch.no_grad():
        own = recognizer(net(images(2)).restored).embedding
    goal = torch.stack([own[0], goal[1]])  # the first is there already
    options = GuidanceOptions(steps=3, margin=0.98, views=0)
    faces = IdentityGuidance(net, [recognizer], options)(images(2), [goal])
    assert faces.reports[0].stopped_at_margin
    assert faces.reports[0].steps == 0
    assert torch.equal(faces.restored[0], faces.unguided[0])
    assert not faces.reports[1].stopped_at_margin
    assert faces.reports[1].steps == 3


def test_the_same_seed_gives_the_same_result_and_another_seed_other_views(recognizer: Recognizer) -> None:
    first, again, other = (guided(codeformer(), recognizer, steps=4, seed=seed).restored for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_start_is_where_guidance_goes_on(recognizer: Recognizer) -> None:
    net, goal = codeformer(), targets(recognizer, 2)
    long = IdentityGuidance(net, [recognizer], GuidanceOptions(**MOVES))(images(2), [goal])
    assert all(report.kl > 0 for report in long.reports)
    short = IdentityGuidance(net, [recognizer], GuidanceOptions(steps=1, lr=0.0, margin=NEVER))
    cold, warm = short(images(2), [goal]), short(images(2), [goal], start=long.offset)
    assert [r.similarity_after for r in cold.reports] == pytest.approx([r.similarity_before for r in cold.reports])
    assert [r.similarity_after for r in warm.reports] == pytest.approx([r.similarity_after for r in long.reports])


def test_the_optimizer_is_adam() -> None:
    ours, theirs = torch.full((4,), 2.0), torch.full((4,), 2.0, requires_grad=True)
    scale = torch.tensor([1.0, 10.0, 0.1, 0.0])
    adam, reference = identity_guidance._Adam(ours), torch.optim.Adam([theirs], 0.1, identity_guidance.BETAS)
    for step in range(5):
        adam.step(2 * scale * ours + step, 0.1)
        theirs.grad = 2 * scale * theirs.detach() + step
        reference.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_two_recognizers_count_alike(recognizer: Recognizer, tmp_path: Path) -> None:
    second = load_recognizer(toy_recognizer(tmp_path / "second.safetensors", seed=5))
    net, nets = codeformer(), [recognizer, second]
    goals = [targets(one, 2) for one in nets]
    faces = IdentityGuidance(net, nets, GuidanceOptions(steps=12, margin=NEVER, views=0))(images(2), goals)
    with torch.no_grad():
        cosines = [(one(faces.restored).embedding * goal).sum(1) for one, goal in zip(nets, goals, strict=True)]
    expected = torch.stack(cosines).mean(0).tolist()
    assert [report.similarity_after for report in faces.reports] == pytest.approx(expected, abs=1e-5)
    assert all(report.similarity_after > report.similarity_before for report in faces.reports)


def test_recomputed_features_give_the_same_result(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = guided(codeformer(), recognizer, **MOVES)
    assert all(report.kl > 0 for report in kept.reports)
    monkeypatch.setattr(identity_guidance, "KEPT_PIXELS", 0)
    net = codeformer()
    recomputed = guided(net, recognizer, **MOVES)
    torch.testing.assert_close(recomputed.restored, kept.restored)
    assert not net.generator.checkpointing


def test_weights_get_no_gradient(recognizer: Recognizer) -> None:
    net = codeformer()
    guided(net, recognizer, steps=2)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_bf16_and_float32_reach_the_same_identity(recognizer: Recognizer) -> None:
    """Towards an identity that other codes have. The results differ: which of two like codes leads is chance."""
    net, rng = codeformer(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        codes = net.predict(images(2)).logits.argmax(2)
        changed = torch.rand(codes.shape, generator=rng) < 0.15
        others = torch.where(changed, torch.randint(0, 16, codes.shape, generator=rng), codes)
        goal = recognizer(net.decode_codes(others)).embedding
    results = []
    for enabled in (False, True):
        guidance = IdentityGuidance(net, [recognizer], GuidanceOptions(60, kl=0.0, lr=0.3, margin=NEVER, views=0))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(guidance(images(2), [goal]))
    assert results[1].restored.dtype == torch.float32
    for faces in results:
        assert all(report.similarity_after >= 0.9 > report.similarity_before for report in faces.reports)
    with torch.no_grad():
        first, second = (recognizer(faces.restored).embedding for faces in results)
    assert ((first * second).sum(1) >= 0.9).all()


def linear_image(mixing: Tensor, feature: Tensor) -> Tensor:
    """Images (F, 3, 16, 16) that are linear in features (F, 6, 8, 8)."""
    return F.pixel_shuffle((mixing @ feature.flatten(2) + 0.3).view(-1, 12, 8, 8), 2)


def test_the_preview_of_a_linear_generator_is_exact() -> None:
    """Each face has a linear map of its own, and a feature that the fit has not seen gives its image."""
    rng = torch.Generator().manual_seed(0)
    feature, other = (torch.randn(2, 6, 8, 8, generator=rng) for _ in range(2))
    mixing = torch.randn(2, 12, 6, generator=rng)
    preview = fit_preview(feature, linear_image(mixing, feature))
    # the ridge shrinks the map by about 1e-4
    torch.testing.assert_close(show_preview(preview, other), linear_image(mixing, other), rtol=0, atol=5e-3)


def test_the_preview_is_the_image_where_it_is_fitted() -> None:
    rng = torch.Generator().manual_seed(0)
    feature, image = torch.randn(2, 6, 8, 8, generator=rng), torch.rand(2, 3, 16, 16, generator=rng)
    torch.testing.assert_close(show_preview(fit_preview(feature, image), feature), image)


def test_guidance_by_a_preview_is_judged_on_the_whole_image(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_guidance, "PREVIEW_WIDTH", 16)  # the toy's image has 32 px
    net, goal = codeformer(), targets(recognizer, 2)
    decoded: list[tuple[int, ...]] = []
    net.generator.blocks[-1].register_forward_hook(lambda _module, _inputs, out: decoded.append(tuple(out.shape)))
    options = GuidanceOptions(**{**MOVES, "steps": 6})
    faces = IdentityGuidance(net, [recognizer], options)(images(2), [goal])
    assert len(decoded) == 3  # the unguided image, a fit after three of six steps, and the result
    with torch.no_grad():
        cosine = (recognizer(faces.restored).embedding * goal).sum(1)
    assert [report.similarity_after for report in faces.reports] == pytest.approx(cosine.tolist(), abs=1e-5)
    assert all(report.similarity_after > report.similarity_before for report in faces.reports)
    whole = IdentityGuidance(net, [recognizer], dataclasses.replace(options, preview=False))(images(2), [goal])
    assert len(decoded) == 3 + 8  # the unguided image, one in each step, and the result
    assert not torch.equal(whole.restored, faces.restored)


def test_the_margin_is_the_recognizers_own_where_it_was_measured(recognizer: Recognizer) -> None:
    assert margin_of(recognizer, 0.4) == 0.4
    unmeasured = Recognizer(recognizer.net, dataclasses.replace(recognizer.spec, same_person_cosine=None))
    measured = Recognizer(recognizer.net, dataclasses.replace(recognizer.spec, same_person_cosine=0.7))
    assert margin_of(unmeasured, None) == FALLBACK_MARGIN
    assert margin_of(measured, None) == 0.7


def test_the_product_with_a_reference_is_the_mean_cosine_to_those_that_are_there() -> None:
    embeddings = F.normalize(torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    embeddings[0, 2] = torch.nan  # padding may hold anything
    target = mean_reference(embeddings, mask)
    face = F.normalize(torch.ones(5), dim=0)
    torch.testing.assert_close(target[0] @ face, (embeddings[0, :2] @ face).mean())
    torch.testing.assert_close(target[1] @ face, (embeddings[1] @ face).mean())


@pytest.mark.parametrize("fault", ["zero", "nan", "opposite"])
def test_a_reference_that_points_at_nobody_is_refused(fault: str) -> None:
    vector = F.normalize(torch.ones(5), dim=0)
    second = {"zero": vector, "nan": torch.full((5,), torch.nan), "opposite": -vector}[fault]
    first = torch.zeros(5) if fault == "zero" else vector
    mask = torch.tensor([[True, fault != "zero"]])
    with pytest.raises(ImageFileError):
        mean_reference(torch.stack([first, second])[None], mask)


@pytest.mark.parametrize("value", [0.0, float("nan"), 3.0])
def test_a_target_that_is_no_unit_vector_is_refused(recognizer: Recognizer, value: float) -> None:
    goal = targets(recognizer, 1)
    with pytest.raises(UserError):
        IdentityGuidance(codeformer(), [recognizer], GuidanceOptions(steps=1))(images(1), [goal * value])


def test_broken_weights_are_refused_before_the_first_move(recognizer: Recognizer) -> None:
    net = codeformer()
    net.generator.blocks[-1].weight.data.fill_(torch.nan)
    with pytest.raises(UserError):
        guided(net, recognizer, steps=1)


def test_guidance_without_a_recognizer_is_refused() -> None:
    with pytest.raises(UserError):
        IdentityGuidance(codeformer(), [], GuidanceOptions())


@pytest.mark.parametrize(
    "wrong", [{"steps": -1}, {"kl": -0.1}, {"kl": float("nan")}, {"lr": float("inf")}, {"margin": 1.5}, {"views": -1}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        GuidanceOptions(**wrong)


def test_the_kl_is_zero_for_equal_logits_and_that_of_the_definition_else() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 5, generator=rng), torch.randn(2, 4, 5, generator=rng)
    assert token_kl(a, a).tolist() == pytest.approx([0, 0], abs=1e-6)
    p, q = a.double().softmax(2), b.double().softmax(2)
    expected = (p * (p.log() - q.log())).sum(2).mean(1)
    torch.testing.assert_close(token_kl(a, b).double(), expected)
