"""Stage III: codes and pictures together, by a schedule (CodeFormer sec. 3.3; the schedule is data, not code)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from basicsr.archs.codeformer_arch import CFTBlock
from basicsr.models.base_model import Batch, Losses, Networks
from basicsr.models.code_stage import CodeStage, degraded_photos, pictures_of
from basicsr.models.id_codeformer_model import CodeGrad
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import MODEL_REGISTRY
from basicsr.utils.seed import rng_for

LQ_DOC = "degraded photo: small (degradation) or large (degradation_large)"
W_DOC = "fidelity weight: a number, or [low, high] drawn anew in each iteration"
CODE_ONLY_DOC = "predict codes, make no picture (L_ids has a decode of its own where it is due)"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one iteration does: which degraded photo, which fidelity weight (or range of it), codes alone or not."""

    lq: Annotated[Literal["small", "large"], Meta(description=LQ_DOC)] = "small"
    w: Annotated[float | tuple[float, float], Meta(description=W_DOC)] = 1.0
    code_only: Annotated[bool, Meta(description=CODE_ONLY_DOC)] = False


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of iterations. Every `every`-th of them does the phase's own step, the rest does `otherwise`."""

    until: Annotated[int | None, Meta(description="last iteration of the phase; ~: to the end")] = None
    lq: Annotated[Literal["small", "large"], Meta(description=LQ_DOC)] = "small"
    w: Annotated[float | tuple[float, float], Meta(description=W_DOC)] = 1.0
    code_only: Annotated[bool, Meta(description=CODE_ONLY_DOC)] = False
    every: Annotated[int, Meta(description="iterations from one step of the phase's own kind to the next")] = 1
    otherwise: Annotated[Step | None, Meta(description="what the iterations between them do")] = None

    def step_at(self, current_iter: int) -> Step:
        """The step of an iteration (1-based) inside this phase."""
        if self.otherwise is not None and current_iter % self.every != 0:
            return self.otherwise
        return Step(self.lq, self.w, self.code_only)


def check_schedule(schedule: Sequence[Phase]) -> None:
    """Phases must follow each other, and the last one must be open or the run must end with it."""
    ends = [phase.until for phase in schedule]
    closed = [end for end in ends if end is not None]
    if not schedule or None in ends[:-1] or closed != sorted(set(closed)):
        raise OptionError(
            f"train.schedule: the phases end at {ends}; give ascending 'until', only the last one may be '~'."
        )
    for number, phase in enumerate(schedule):
        if phase.every < 1 or (phase.every > 1) != (phase.otherwise is not None):
            raise OptionError(
                f"train.schedule.{number}: 'every' (found {phase.every}) and 'otherwise' go together: "
                "every: 15 needs otherwise: {...}, every: 1 takes none."
            )
        for step in (phase, phase.otherwise):
            low, high = (0, 0) if step is None else step.w if isinstance(step.w, tuple) else (step.w, step.w)
            if not 0 <= low <= high:
                raise OptionError(
                    f"train.schedule.{number}: found w {[low, high]}, expected a number from 0, or [low, high] of such."
                )


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
        *,
        schedule: list[Phase],
        code_grad: CodeGrad = "ste_softmax",
        p_null: float = 0.15,
        p_self: float = 0.15,
        net_d_start_iter: int = 5_001,
        disc_weight: float = 0.8,
        schedule_seed: int = 0,
    ) -> None:
        check_schedule(schedule)
        super().__init__(networks, losses, device, code_grad, p_null, p_self, net_d_start_iter, disc_weight)
        self.schedule = schedule
        self.schedule_seed = schedule_seed

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """See BaseModel."""
        super().check_arguments(arguments)
        check_schedule(arguments["schedule"])

    def step_at(self, current_iter: int) -> tuple[Step, float]:
        """What iteration `current_iter` (1-based) does, and its w: from a range, a function of t alone."""
        phase = next((p for p in self.schedule if p.until is None or current_iter <= p.until), self.schedule[-1])
        step = phase.step_at(current_iter)
        if isinstance(step.w, tuple):
            return step, float(rng_for(self.schedule_seed, current_iter).uniform(*step.w))
        return step, float(step.w)

    def generator_losses(self, batch: Batch, current_iter: int) -> tuple[Losses, Tensor | None]:
        """See BaseModel. In a code_only iteration L_ids has a decode of its own (w = 0, its part of the batch)."""
        step, w = self.step_at(current_iter)
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
