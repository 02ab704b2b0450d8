"""What stages II and III share: codes of gt from the frozen VQGAN, the identity of a batch, code figures.

Shapes: B batch; L = h*w tokens; K codes; D code width; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from basicsr.archs.attention_figures import identity_attention
from basicsr.archs.codeformer_arch import CodeFormer, CodeFormerOutput
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.models.base_model import BaseModel, Batch, Losses, Networks
from basicsr.models.identity_source import (
    IdentityMode,
    check_shares,
    draw_modes,
    fixed_modes,
    identity_features,
    require_the_recognizers_shapes,
)
from basicsr.models.start_check import check_vqgan
from basicsr.recognizers import Recognizer
from basicsr.utils.dist_util import all_reduce_mean, bare_net
from basicsr.utils.errors import OptionError

TOP_K = 5


class CodeStage(BaseModel):
    """A stage that predicts the codes of `gt` (CodeFormer sec. 3.2), conditioned on an identity where net_g takes one.

    Args:
        code_grad: how image losses reach the transformer through the code lookup; part of the training, not of the net.
        p_null, p_self: identity dropout, see `draw_modes`.
    """

    REQUIRED_NETWORKS: ClassVar[frozenset[str]] = frozenset({"network_g", "network_vqgan"})
    # codes of an untrained autoencoder teach noise: upstream's stages II and III started that way without a word
    REQUIRED_WEIGHTS: ClassVar[frozenset[str]] = frozenset({"network_vqgan"})
    FIND_UNUSED_PARAMETERS = True

    def __init__(
        self,
        networks: Networks,
        losses: Mapping[str, nn.Module],
        device: torch.device,
        code_grad: str,
        p_null: float,
        p_self: float,
        net_d_start_iter: int = 0,
        disc_weight: float = 0.8,
    ) -> None:
        _require_the_same_codebook(networks)
        super().__init__(networks, losses, device, net_d_start_iter, disc_weight)
        self.code_grad = code_grad
        self.p_null, self.p_self = p_null, p_self
        self.takes_identity = isinstance(networks.g, IDCodeFormer)
        if self.takes_identity:
            require_the_recognizers_shapes(cast(IDCodeFormer, networks.g), networks.identity)

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """See BaseModel."""
        super().check_arguments(arguments)
        check_shares(arguments["p_null"], arguments["p_self"])

    def gt_codes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Codes of gt under the frozen VQGAN: indices (B, L) and features (B, D, h, w).

        A data set with a code cache brings the indices with it (`code_idx`); else gt is encoded here.
        """
        vqgan = cast(VQAutoEncoder, self.vqgan)
        with torch.autocast(self.device.type, enabled=False):  # half precision would teach the code next to it
            return vqgan.feat_of_codes(batch["code_idx"]) if "code_idx" in batch else vqgan.encode_codes(batch["gt"])

    def identity_of(self, batch: Batch, lq: Tensor) -> IdentityFeatures | None:
        """Identity of a training batch, with identity dropout; None where net_g takes none."""
        if not self.takes_identity:
            return None
        return self._identity_in(batch, lq, draw_modes(batch["identity_draw"], self.p_null, self.p_self))

    def _identity_in(self, batch: Batch, lq: Tensor, modes: Tensor) -> IdentityFeatures:
        """Identity of each sample by its mode, see `identity_features`."""
        recognizer, refs, ref_mask = cast(Recognizer, self.identity), batch.get("refs"), batch.get("ref_mask")
        return identity_features(recognizer, lq, refs, ref_mask, modes, self.self_encoder)

    def forward_g(self, lq: Tensor, identity: IdentityFeatures | None, **knobs: Any) -> CodeFormerOutput:
        """One forward of net_g, with the identity where it takes one."""
        if self.takes_identity:
            knobs["identity"] = identity
        return cast(CodeFormerOutput, self.net_g(lq, code_grad=self.code_grad, **knobs))

    def describe(self, current_iter: int) -> str:
        """See BaseModel."""
        return "codes, L_ids" if self.identity_is_due(current_iter) else "codes"

    def code_losses(self, out: CodeFormerOutput, code_idx: Tensor, gt_feat: Tensor) -> Losses:
        """Cross-entropy and feature loss of the predicted codes; top-1 and top-5 accuracy go to the log."""
        with torch.no_grad():
            best = out.logits.topk(min(TOP_K, out.logits.shape[-1]), dim=-1).indices  # (B, L, K) -> (B, L, 5)
            hits = best == code_idx.unsqueeze(-1)
            self.figures["code_top1"] = hits[..., 0].float().mean()
            self.figures["code_top5"] = hits.any(-1).float().mean()
        return self.weigh(code=(out.logits, code_idx), feat=(out.lq_feat, gt_feat))

    def check_start(self, batch: Batch) -> None:
        """See BaseModel and `check_vqgan`."""
        check_vqgan(cast(VQAutoEncoder, self.vqgan), batch["gt"])

    def costly_figures(self, batch: Batch) -> Losses:
        """How the code prediction looks at the references: see `attention_figures`, and the mean |gate| of kv_share."""
        if not self.takes_identity:
            return {}
        identity = self._identity_in(batch, batch["lq"], fixed_modes("ref", len(batch["lq"]), self.device))
        values = identity_attention(cast(IDCodeFormer, self.trained_net()), batch["lq"], identity)
        # ranks may differ in how many of their samples look at something, down to none
        num = all_reduce_mean(torch.tensor(float(len(values["id_attn_null"])), device=self.device))
        return {name: all_reduce_mean(value.sum()) / num for name, value in values.items() if num > 0}

    @torch.no_grad()
    def restore(
        self,
        batch: Batch,
        net: nn.Module,
        *,
        w: float = 0.0,
        mode: IdentityMode = "ref",
        w_id: float = 1.0,
        id_scale: float = 1.0,
        adain: bool = False,
    ) -> Tensor:
        """Restored pictures (B, 3, H, W) of a validation batch.

        Args:
            net: takes what net_g takes.
            w: fidelity weight.
            mode: identity from the references, from the degraded photo itself, or none.
            w_id, id_scale: weight of the identity styling, its scale in the logits (nets that take an identity).
            adain: give the codes the statistics of the degraded features (on in the released inference tool).
        """
        lq = degraded_photos(batch)
        if not self.takes_identity:
            return cast(Tensor, net(lq, w=w, adain=adain).restored)
        identity = self._identity_in(batch, lq, fixed_modes(mode, len(lq), lq.device))
        return cast(Tensor, net(lq, identity, w=w, w_id=w_id, id_scale=id_scale, adain=adain).restored)

    def trained_net(self) -> CodeFormer:
        """net_g without its DDP wrapper."""
        return cast(CodeFormer, bare_net(self.net_g))


def _require_the_same_codebook(networks: Networks) -> None:
    """Codes of the frozen VQGAN mean nothing to a net_g with another codebook."""
    frozen = cast(VQAutoEncoder, networks.vqgan).quantize.state_dict()
    own = cast(CodeFormer, networks.g).quantize.state_dict()
    same = frozen.keys() == own.keys() and all(torch.equal(frozen[key].cpu(), own[key].cpu()) for key in frozen)
    if not same:
        raise OptionError(
            "network_vqgan: its codebook is not the one of network_g, so its codes would teach noise. "
            "Give both the same stage I weights (path.pretrain_network_vqgan), or weights that were trained from them."
        )


def degraded_photos(batch: Batch, name: str = "lq") -> Tensor:
    """The degraded photos (B, 3, H, W) of a batch, `lq` or `lq_large`.

    Raises:
        OptionError: its data set makes none.
    """
    if name not in batch:
        key = "degradation" if name == "lq" else "degradation_large"
        raise OptionError(f"datasets: the set gives no '{name}', which this stage restores. Give it '{key}'.")
    return cast(Tensor, batch[name])


def pictures_of(out: CodeFormerOutput) -> Tensor:
    """The restored pictures of a forward that decoded some."""
    if out.restored is None:
        raise ValueError("this forward was code_only: it has no pictures")
    return out.restored
