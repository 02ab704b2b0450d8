"""Stage III: codes and pictures together, by a schedule (CodeFormer sec. 3.3; the schedule is data, not code)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from basicsr.archs.codeformer_arch import CFTBlock
from basicsr.models.base_model import Batch, Losses, Networks
from basicsr.models.code_stage import CodeStage, degraded_photos, pictures_of
from basicsr.models.id_codeformer_model import CodeGrad
from basicsr.models.schedule import Phase, Step, phase_at, resolve_schedule, steps_of
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import MODEL_REGISTRY
from basicsr.utils.seed import rng_for

logger = logging.getLogger(__name__)


@MODEL_REGISTRY.register(aliases=["CodeFormerJointModel"])
class IDCodeFormerJointModel(CodeStage):
    """L_code + L_feat on every iteration; L_pix + L_percep + d * L_gan where pictures are made; L_ids where it is due.

    Args:
        schedule: phases of the training; past the last `until` the last phase goes on.
        code_grad: how image losses reach the transformer through the code lookup; none is the released behaviour.
        p_null, p_self: share of samples trained without an identity, and with that of the degraded photo itself.
        net_d_start_iter: the discriminator takes part after this iteration.
        disc_weight: factor on the adaptive GAN weight.
        schedule_seed: of the draws of `w` where the schedule gives a range.
    """

    ALLOWED_LOSSES: ClassVar[frozenset[str]] = frozenset(
        {"code_opt", "feat_opt", "pixel_opt", "perceptual_opt", "gan_opt", "identity_opt"}
    )

    def __init__(
        self,
        networks: Networks,
        losses: Mapping[str, nn.Module],
        device: torch.device,
        total_iter: int,
        *,
        schedule: list[Phase],
        code_grad: CodeGrad = "ste_softmax",
        p_null: float = 0.15,
        p_self: float = 0.15,
        net_d_start_iter: int = 5_001,
        disc_weight: float = 0.8,
        schedule_seed: int = 0,
    ) -> None:
        super().__init__(networks, losses, device, code_grad, p_null, p_self, net_d_start_iter, disc_weight)
        self.schedule = resolve_schedule(schedule, total_iter)
        self.schedule_seed = schedule_seed
        self._check_steps(total_iter)

    def _check_steps(self, total_iter: int) -> None:
        """Every kind of step has a loss to train with; phases that the run never reaches are said."""
        for number, step in steps_of(self.schedule):
            usable = {"code", "feat"} if step.code_only else {"code", "feat", "pixel", "perceptual"}
            if not any(step.factor(name) > 0 for name in usable & self.losses.keys()):
                raise OptionError(
                    f"train.schedule.{number}: the step '{step}' leaves no loss to train with. "
                    f"It could have {', '.join(sorted(f'{name}_opt' for name in usable))}."
                )
        reached = phase_at(self.schedule, total_iter) + 1
        if reached < len(self.schedule):
            logger.warning(
                "train.schedule: the run ends with iteration %d, in phase %d of %d. Phases follow total_iter where "
                "'until' is a share of it (until: 0.27)",
                total_iter,
                reached,
                len(self.schedule),
            )

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """See BaseModel."""
        super().check_arguments(arguments)
        resolve_schedule(arguments["schedule"], arguments["total_iter"])

    def step_of(self, current_iter: int) -> Step:
        """What iteration `current_iter` (1-based) does."""
        return self.schedule[phase_at(self.schedule, current_iter)].step_at(current_iter)

    def step_at(self, current_iter: int) -> tuple[Step, float]:
        """What iteration `current_iter` (1-based) does, and its w: from a range, a function of t alone."""
        step = self.step_of(current_iter)
        if isinstance(step.w, tuple):
            return step, float(rng_for(self.schedule_seed, current_iter).uniform(*step.w))
        return step, float(step.w)

    def describe(self, current_iter: int) -> str:
        """See BaseModel: the phase, its step, and what is due."""
        step = self.step_of(current_iter)
        judged = not step.code_only and self.trains_discriminator(current_iter)
        due = [*(["L_ids"] if self.identity_is_due(current_iter) else []), *(["discriminator"] if judged else [])]
        return ", ".join([f"phase {phase_at(self.schedule, current_iter) + 1}: {step}", *due])

    def trains_discriminator(self, current_iter: int) -> bool:
        """See BaseModel. A phase that turns the GAN loss off trains no discriminator either."""
        return super().trains_discriminator(current_iter) and self.step_of(current_iter).factor("gan") > 0

    def identity_is_due(self, current_iter: int) -> bool:
        """See BaseModel. A phase may turn the loss off."""
        return super().identity_is_due(current_iter) and self.step_of(current_iter).factor("identity") > 0

    def generator_losses(self, batch: Batch, current_iter: int) -> tuple[Losses, Tensor | None]:
        """See BaseModel. In a code_only iteration L_ids has a decode of its own (w = 0, its part of the batch)."""
        step, w = self.step_at(current_iter)
        self.factors = {name: step.factor(name) for name in self.losses}
        lq, gt = degraded_photos(batch, "lq" if step.lq == "small" else "lq_large"), batch["gt"]
        num_identity = self.identity_samples(batch, current_iter)
        code_idx, gt_feat = self.gt_codes(batch)
        out = self.forward_g(
            lq,
            self.identity_of(batch, lq),
            w=0.0 if step.code_only else w,
            code_only=step.code_only and not num_identity,
            decode_first=num_identity if step.code_only and num_identity else None,
        )
        losses = self.code_losses(out, code_idx, gt_feat)
        if num_identity:
            losses |= self.weigh(identity=(pictures_of(out)[:num_identity], gt[:num_identity], current_iter))
        if step.code_only:
            return losses, None
        restored = pictures_of(out)
        losses |= self.weigh(pixel=(restored, gt), perceptual=(restored, gt))
        losses |= self.gan_loss(restored, losses, self._last_layer(restored, w), current_iter)
        return losses, restored

    def _last_layer(self, restored: Tensor, w: float) -> Tensor:
        """Tensor at which the GAN's gradient is compared with the reconstruction's.

        The generator's last layer where it is trained; else that of the largest CFT's shift branch; at w = 0, where no
        CFT is in the graph, the restored picture itself: a point that every loss passes through.
        """
        net = self.trained_net()
        if net.last_layer.requires_grad:
            return net.last_layer
        if w > 0:
            return cast(CFTBlock, net.fuse_convs_dict[net.connect_list[-1]]).get_parameter("shift.2.weight")
        return restored
