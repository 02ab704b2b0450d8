"""Stage I: a VQGAN learns the codebook (CodeFormer sec. 3.1; Esser et al. 2021).

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from basicsr.archs.vector_quantizer import GumbelQuantizer, VectorQuantizer, perplexity
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.models.base_model import BaseModel, Batch, Losses, Networks
from basicsr.utils.dist_util import all_gather_tensor, all_reduce_mean, bare_net, broadcast_from_main
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import MODEL_REGISTRY
from basicsr.utils.seed import rng_for
from basicsr.utils.signature import require_within

RESTART_STREAM = 1021  # key of the random numbers that place restarted codes


@MODEL_REGISTRY.register()
class VQGANModel(BaseModel):
    """Reconstruct `gt` through the codebook: L_pix + L_percep + d * L_gan + L_ids + codebook_weight * L_codebook.

    L_ids of the reconstruction is off as released. A codebook that has learned to keep the person bounds stages II and
    III less; it must then be the same in all that is compared.

    Args:
        codebook_weight: factor on the quantizer's own loss.
        code_restart_every: iterations between two restarts of the codes that a batch does not use; None: never, as
            released. Short runs on small data need it, else most of the codebook stays unused.
        code_restart_until: last iteration with a restart.
        gumbel_anneal_iter, gumbel_min_temperature: the quantizer 'gumbel' has the temperature
            max(gumbel_min_temperature, 1 - t / gumbel_anneal_iter) in iteration t, as released.
    """

    REQUIRED_NETWORKS: ClassVar[frozenset[str]] = frozenset({"network_g"})
    ALLOWED_LOSSES: ClassVar[frozenset[str]] = frozenset({"pixel_opt", "perceptual_opt", "gan_opt", "identity_opt"})

    def __init__(
        self,
        networks: Networks,
        losses: Mapping[str, nn.Module],
        device: torch.device,
        *,
        codebook_weight: float = 1.0,
        code_restart_every: int | None = None,
        code_restart_until: int = 0,
        gumbel_anneal_iter: int = 160_000,
        gumbel_min_temperature: float = 1 / 16,
        net_d_start_iter: int = 30_000,
        disc_weight: float = 0.8,
    ) -> None:
        super().__init__(networks, losses, device, net_d_start_iter, disc_weight)
        self.codebook_weight = codebook_weight
        self.code_restart_every = code_restart_every
        self.code_restart_until = code_restart_until
        self.gumbel_anneal_iter = gumbel_anneal_iter
        self.gumbel_min_temperature = gumbel_min_temperature
        quantizer = cast(VQAutoEncoder, networks.g).quantize
        if code_restart_every is not None and not isinstance(quantizer, VectorQuantizer):
            raise OptionError(
                "train.code_restart_every: only the quantizer 'nearest' has codes to restart. Leave it out."
            )

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """See BaseModel."""
        super().check_arguments(arguments)
        get = arguments.get
        require_within(0, codebook_weight=get("codebook_weight"), code_restart_until=get("code_restart_until"))
        require_within(1, code_restart_every=get("code_restart_every"), gumbel_anneal_iter=get("gumbel_anneal_iter"))
        require_within(1e-3, 1, gumbel_min_temperature=get("gumbel_min_temperature"))

    def generator_losses(self, batch: Batch, current_iter: int) -> tuple[Losses, Tensor]:
        """See BaseModel. The restored picture is the reconstruction of gt."""
        gt = batch["gt"]
        net = cast(VQAutoEncoder, bare_net(self.net_g))
        if isinstance(net.quantize, GumbelQuantizer):
            falling = 1 - current_iter / self.gumbel_anneal_iter
            net.quantize.temperature = max(self.gumbel_min_temperature, falling)
        out = self.net_g(gt)
        losses = self.weigh(pixel=(out.restored, gt), perceptual=(out.restored, gt))
        losses |= self.gan_loss(out.restored, losses, net.last_layer, current_iter)
        if num := self.identity_samples(batch, current_iter):
            losses |= self.weigh(identity=(out.restored[:num], gt[:num], current_iter))
        losses["l_g_codebook"] = self.codebook_weight * out.codebook_loss
        if isinstance(net.quantize, VectorQuantizer):
            usage = all_reduce_mean(out.quant_stats["min_encodings"].detach().mean(0))  # (K,)
            self.figures["perplexity"] = perplexity(usage)
        return losses, out.restored

    def describe(self, current_iter: int) -> str:
        """See BaseModel."""
        restart = ", codes restarted" if self._restart_is_due(current_iter) else ""
        return super().describe(current_iter) + restart

    def _restart_is_due(self, current_iter: int) -> bool:
        every = self.code_restart_every
        return every is not None and current_iter <= self.code_restart_until and (current_iter - 1) % every == 0

    def before_iteration(self, batch: Batch, current_iter: int) -> None:
        """Where a restart is due, give codes that no rank's batch uses a new place: a feature of all ranks' batches."""
        if not self._restart_is_due(current_iter):
            return
        net = cast(VQAutoEncoder, bare_net(self.net_g))
        with torch.no_grad():
            quantizer = cast(VectorQuantizer, net.quantize)
            # sample i of rank r is sample i * R + r of the whole batch: (R, B, D, h, w) -> (B, R, ...) -> (B * R, ...)
            latents = all_gather_tensor(net.encoder(batch["gt"])).transpose(0, 1).flatten(0, 1)
            unused = quantizer.codes_used(latents) == 0
            moved = quantizer.restart(unused, latents, rng_for(RESTART_STREAM, current_iter))
            broadcast_from_main(quantizer.embedding.weight)  # a code at the border may be used on one rank alone
        self.figures["codes_restarted"] = torch.tensor(float(moved), device=latents.device)

    def restore(self, batch: Batch, net: nn.Module) -> Tensor:
        """The VQGAN's reconstruction of gt: the ceiling of what stage II can reach at w = 0."""
        with torch.no_grad():
            return cast(Tensor, net(batch["gt"]).restored)
