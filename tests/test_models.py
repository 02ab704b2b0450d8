"""The stages: what they refuse, what each iteration of the schedule does, where gradients go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import build, make_recognizer, parse, run, stage_options

from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.archs.kv_share import ReferenceCache, ReferencePhotos
from basicsr.config import parse_options
from basicsr.models.base_model import Batch, Losses
from basicsr.models.code_stage import CodeStage
from basicsr.models.identity_source import (
    MODE_NONE,
    MODE_REF,
    MODE_SELF,
    draw_modes,
    identity_features,
    stack_identities,
)
from basicsr.models.schedule import Step, phase_at
from basicsr.recognizers import load_recognizer
from basicsr.utils.errors import OptionError, UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=2), folder)
    return folder


def one_batch(stage_number: int, toy: Path, **train: Any) -> Any:
    """(stage, first batch) of a toy stage."""
    from basicsr.engine.loaders import build_dataset, train_loader

    options = parse(stage_options(stage_number, toy, **train), toy)
    train_set = options.datasets["train"]
    return build(options), next(iter(train_loader(build_dataset(train_set), train_set, 0, 0)))


@pytest.mark.parametrize("stage_number", [1, 2, 3])
def test_a_few_steps_on_one_batch_lower_its_loss(toy: Path, stage_number: int) -> None:
    phases: dict[str, Any] = {"schedule": [{"until": None, "w": 1.0}]} if stage_number == 3 else {}
    stage, batch = one_batch(stage_number, toy, gan_opt=None, **phases) if stage_number != 2 else one_batch(2, toy)
    optimizer = torch.optim.Adam([p for p in stage.net_g.parameters() if p.requires_grad], 3e-3)
    values = []
    for _ in range(8):
        total = torch.stack(list(stage.generator_losses(batch, 2)[0].values())).sum()
        values.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert values[-1] < 0.95 * values[0]


def test_a_stage_hands_the_reference_photos_to_a_network_that_shares_keys_and_values(toy: Path) -> None:
    from basicsr.engine.loaders import build_dataset, train_loader

    plain = stage_options(2, toy, p_null=0.0, p_self=0.0)
    plain["network_g"]["inject"] = "kv_share"
    options = parse(plain, toy)
    train_set = options.datasets["train"]
    stage, batch = build(options), next(iter(train_loader(build_dataset(train_set), train_set, 0, 0)))
    stage.generator_losses(batch, 1)[0]["l_g_code"].backward()
    for layer in stage.trained_net().ft_layers:  # type: ignore[attr-defined]
        assert layer.kv_share.gate.grad.abs() > 0
        layer.kv_share.gate.data.fill_(0.8)
    logits: list[torch.Tensor] = []  # of toys a picture seldom shows it: the best code must change
    stage.trained_net().idx_pred_layer.register_forward_hook(lambda _m, _i, out: logits.append(out))  # type: ignore[attr-defined]
    for other in (batch, batch, batch | {"refs": batch["refs"].flip(0)}):
        stage.restore(other, stage.net_g)
    assert torch.equal(logits[0], logits[1])
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_attention_figures_are_computed_where_a_line_is_printed_and_nowhere_else(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = CodeStage.costly_figures

    def counted(stage: CodeStage, batch: Batch) -> Losses:
        looks.append(1)
        return look(stage, batch)

    monkeypatch.setattr(CodeStage, "costly_figures", counted)
    plain = stage_options(2, toy) | {"name": "figures"}
    plain["logger"]["print_freq"] = 2
    folder = run(plain, toy).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in lines] == [2, 4]
    assert len(looks) == 2
    for line in lines:
        assert 0 < line["id_attn_entropy"] <= 1
        assert 0 < line["id_attn_null"] < 1
        assert 0 < line["id_attn_spatial_var"] <= 1


def test_stage_ii_refuses_to_start_without_stage_i_weights(toy: Path) -> None:
    plain = stage_options(2, toy)
    del plain["path"]["pretrain_network_vqgan"]
    with pytest.raises(OptionError, match="untrained"):
        parse(plain, toy)


def test_codes_of_another_codebook_are_refused(toy: Path) -> None:
    plain = stage_options(2, toy)
    other = stage_options(1, toy, total_iter=1)
    other |= {"name": "other_vqgan", "manual_seed": 7}
    run(other, toy)
    trained = run({**plain, "name": "with_first"}, toy)
    plain["path"] |= {
        "pretrain_network_vqgan": str(toy / "experiments/other_vqgan/models/net_g_latest.pth"),
        "pretrain_network_g": str(trained.folder / "models/net_g_latest.pth"),
    }
    with pytest.raises(OptionError, match="codebook"):
        build(parse(plain, toy))


def test_a_recogniser_of_other_sizes_is_refused_with_the_values_to_set(toy: Path) -> None:
    plain = stage_options(2, toy)
    plain["network_g"]["id_embed_dim"] = 32
    with pytest.raises(OptionError, match=r"id_embed_dim.*16"):
        build(parse(plain, toy))


@pytest.mark.parametrize("w", [0.0, 0.7])
def test_stage_iii_with_the_gan_is_legal_at_any_w(toy: Path, w: float) -> None:
    stage, batch = one_batch(3, toy, schedule=[{"until": None, "w": w}])
    losses, restored = stage.generator_losses(batch, 5)
    torch.stack(list(losses.values())).sum().backward()
    assert {"l_g_pix", "l_g_gan", "l_g_code"} <= losses.keys()
    assert restored.shape == batch["gt"].shape
    assert torch.isfinite(stage.figures["d_weight"])


def test_an_identity_loss_in_a_code_only_phase_has_its_own_decode(toy: Path) -> None:
    stage, batch = one_batch(3, toy, schedule=[{"until": None, "code_only": True}])
    losses, restored = stage.generator_losses(batch, 2)
    assert "l_g_id" in losses
    assert restored is None, "these pictures are not for the discriminator"
    losses["l_g_id"].backward()
    gradient = stage.trained_net().idx_pred_layer[1].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_l_ids_is_due_and_computed_in_every_phase_of_the_shipped_schedule(toy: Path) -> None:
    shipped = parse_options(ROOT / "options" / "stage3_id.yml", check_files=False).training()[0]
    schedule = [{**phase, "until": phase["until"] and phase["until"] // 5000} for phase in shipped.stage["schedule"]]
    # margin off: an untrained recogniser finds all faces alike, and a face that is recognised gives no gradient
    identity = {**shipped.losses["identity_opt"], "margin": None}
    stage, batch = one_batch(3, toy, schedule=schedule, identity_opt=identity)
    first_due: dict[tuple[int, str], int] = {}  # by number of the phase and kind of step
    for t in range(1, 24 + 60 + 1):
        if stage.identity_samples(batch, t):
            first_due.setdefault((phase_at(stage.schedule, t), str(stage.step_at(t)[0])), t)
    large = Step("large", code_only=True)
    kinds = [(0, Step(w=1.0)), (1, Step(w=1.3)), (2, large), (3, Step(w=1.3)), (3, large)]
    assert set(first_due) == {(number, str(step)) for number, step in kinds}
    head = stage.trained_net().idx_pred_layer[1].weight
    for t in first_due.values():
        step = stage.step_at(t)[0]
        losses, restored = stage.generator_losses(batch, t)
        assert (restored is None) == step.code_only
        (gradient,) = torch.autograd.grad(losses["l_g_id"], head)
        assert gradient.abs().sum() > 0, (step, t)


@pytest.mark.parametrize(("code_grad", "reaches"), [("ste_softmax", True), ("none", False)])
def test_l_ids_reaches_the_transformer_only_through_an_estimator(toy: Path, code_grad: str, reaches: bool) -> None:
    stage, batch = one_batch(2, toy, code_grad=code_grad)
    stage.generator_losses(batch, 2)[0]["l_g_id"].backward()
    net = stage.trained_net()
    for parameter in (*net.ft_layers.parameters(), *net.encoder.parameters()):
        if not reaches:
            assert parameter.grad is None
    for layer in net.ft_layers if reaches else ():
        assert layer.self_attn.in_proj_weight.grad.abs().sum() > 0
        assert layer.linear1.weight.grad.abs().sum() > 0


def test_identity_dropout_has_its_shares() -> None:
    draws = torch.arange(1000) / 1000
    modes = draw_modes(draws, p_null=0.15, p_self=0.2)
    counts = [(modes == mode).sum().item() for mode in (MODE_NONE, MODE_SELF, MODE_REF)]
    assert counts == [150, 200, 650]


def test_identity_features_follow_the_mode_of_each_sample(tmp_path: Path) -> None:
    recognizer = load_recognizer(make_recognizer(tmp_path / "r.safetensors"))
    lq, refs = torch.rand(4, 3, 32, 32) * 2 - 1, torch.rand(4, 2, 3, 32, 32) * 2 - 1
    ref_mask = torch.tensor([[True, True], [True, False], [True, True], [False, False]])
    modes = torch.tensor([MODE_REF, MODE_SELF, MODE_NONE, MODE_REF])
    out = identity_features(recognizer, lq, refs, ref_mask, modes)
    assert out.mask.tolist() == [[True, True], [True, False], [False, False], [True, False]]
    torch.testing.assert_close(out.embed[0], recognizer(refs[0]).embedding)
    torch.testing.assert_close(out.embed[1, :1], recognizer(lq[1:2]).embedding)
    torch.testing.assert_close(out.embed[3, :1], recognizer(lq[3:4]).embedding)  # no reference: its own
    assert not out.embed[2].any()
    assert isinstance(out.photos, ReferencePhotos)
    assert out.photos.mask.tolist() == [[True, True], [False, False], [False, False], [False, False]]
    assert torch.equal(out.photos.images[0], refs[0])
    assert (out.quality > 0).all()
    assert (out.quality <= 1).all()


def test_row_a_trains_without_a_recogniser(toy: Path) -> None:
    plain = stage_options(2, toy)
    plain["network_g"] = {k: v for k, v in plain["network_g"].items() if not k.startswith(("id_", "num_"))}
    plain["network_g"]["type"] = "CodeFormer"
    del plain["network_identity"]
    plain["train"]["identity_opt"] = None
    trainer = run({**plain, "name": "row_a"}, toy)
    assert trainer.state.current_iter == 4


def test_a_student_that_is_not_there_is_named(toy: Path) -> None:
    plain = stage_options(2, toy)
    plain["network_identity"]["self_path"] = "no/self.pth"
    with pytest.raises(OptionError, match=r"network_identity\.self_path.*no/self\.pth does not exist"):
        parse(plain, toy)


def test_ids_as_loss_without_a_recogniser_is_refused(toy: Path) -> None:
    plain = stage_options(2, toy)
    del plain["network_identity"]
    with pytest.raises(UserError, match="network_identity"):
        build(parse(plain, toy))


def test_lpips_without_its_backbone_is_left_out_and_said_but_a_named_file_must_be_there(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basicsr.utils.lpips_net.BACKBONE_FOLDER", tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    stage = build(parse(stage_options(1, toy, perceptual_opt={"type": "LPIPSLoss"}), toy))
    assert set(stage.losses) == {"pixel", "gan"}
    assert "train.perceptual_opt: this run trains without it" in caplog.text
    named = {"type": "LPIPSLoss", "backbone": str(tmp_path / "vgg.pth")}
    with pytest.raises(UserError, match=r"vgg\.pth"):
        build(parse(stage_options(1, toy, perceptual_opt=named), toy))


def test_single_samples_make_one_batch_in_which_each_keeps_its_references() -> None:
    def sample(num_refs: int, cached: bool) -> IdentityFeatures:
        mask = torch.ones(1, num_refs, dtype=torch.bool)
        layers = tuple(torch.rand(1, num_refs, 4, 6) for _ in range(2))
        cache = ReferenceCache(layers, tuple(-keys for keys in layers), mask) if cached else None
        return IdentityFeatures(torch.rand(1, num_refs, 5), torch.rand(1, num_refs, 3, 2, 2), mask, mask.float(), cache)

    samples = [sample(1, cached=True), sample(3, cached=True), sample(2, cached=False)]
    batch = stack_identities(samples)
    assert batch.mask.tolist() == [[True, False, False], [True, True, True], [True, True, False]]
    assert isinstance(batch.photos, ReferenceCache)
    assert batch.photos.mask.tolist() == [[True, False, False], [True, True, True], [False, False, False]]
    for row, one in enumerate(samples):
        count = one.mask.shape[1]
        for stacked, own in zip(batch[:4], one[:4], strict=True):
            assert torch.equal(stacked[row, :count], own[0])
            assert not stacked[row, count:].any()
        if isinstance(one.photos, ReferenceCache):
            layers = zip(batch.photos.keys + batch.photos.values, one.photos.keys + one.photos.values, strict=True)
            for stacked, own in layers:
                assert torch.equal(stacked[row, :count], own[0])


@pytest.mark.parametrize(("lacking", "says"), [("lq", "'degradation'"), ("lq_large", "'degradation_large'")])
def test_a_data_set_without_the_degraded_photo_that_is_due_is_named_with_the_way_out(
    toy: Path, lacking: str, says: str
) -> None:
    step = {"until": None, "lq": "large" if lacking == "lq_large" else "small"}
    stage, batch = one_batch(3, toy, schedule=[step])
    del batch[lacking]
    with pytest.raises(OptionError, match=says):
        stage.generator_losses(batch, 1)
