"""Stage II: predict the code sequence of `gt` from `lq` and the identity of the references (CodeFormer sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from basicsr.models.base_model import Batch, Losses, Networks
from basicsr.models.code_stage import CodeStage, degraded_photos, pictures_of
from basicsr.utils.registry import MODEL_REGISTRY

CodeGrad = Literal["none", "ste_softmax", "gumbel", "soft"]


@MODEL_REGISTRY.register(aliases=["CodeFormerIdxModel"])
class IDCodeFormerModel(CodeStage):
    """L_code + L_feat + lambda_ids * L_ids. A picture is decoded only where L_ids is due: that is the cost of it.

    Args:
        code_grad: how L_ids reaches the transformer through the code lookup (none: it does not).
        p_null, p_self: share of samples trained without an identity, and with that of the degraded photo itself.
    """

    ALLOWED_LOSSES: ClassVar[frozenset[str]] = frozenset({"code_opt", "feat_opt", "identity_opt"})

    def __init__(
        self,
        networks: Networks,
        losses: Mapping[str, nn.Module],
        device: torch.device,
        *,
        code_grad: CodeGrad = "ste_softmax",
        p_null: float = 0.15,
        p_self: float = 0.15,
    ) -> None:
        super().__init__(networks, losses, device, code_grad, p_null, p_self)

    def generator_losses(self, batch: Batch, current_iter: int) -> tuple[Losses, Tensor | None]:
        """See BaseModel. There is no discriminator in this stage, so no picture is handed on."""
        code_idx, gt_feat = self.gt_codes(batch)
        num_decoded = self.identity_samples(batch, current_iter)
        lq = degraded_photos(batch)
        out = self.forward_g(
            lq, self.identity_of(batch, lq), w=0.0, code_only=num_decoded == 0, decode_first=num_decoded or None
        )
        losses = self.code_losses(out, code_idx, gt_feat)
        if num_decoded:
            losses |= self.weigh(identity=(pictures_of(out), batch["gt"][:num_decoded], current_iter))
        return losses, None
