"""PatchGAN discriminator of stages I and III. Paper: Isola et al. 2017; the layout is that of the released weights.

Shapes: B batch; H, W pixels; h, w patches (512 px -> 30 x 30).
"""

from typing import Literal

from torch import Tensor, nn

from basicsr.archs.blocks import Normalize, run_in_float32
from basicsr.archs.sync_batch_norm import SyncBatchNorm2d
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.signature import require_within
from basicsr.utils.weights import load_into, load_state

NORMS = {"batch": SyncBatchNorm2d, "group": Normalize}


@ARCH_REGISTRY.register()
class VQGANDiscriminator(nn.Module):
    """One logit per patch: high for real, low for restored.

    Args:
        nc: image channels.
        ndf: width of the first layer; it doubles up to 8 * ndf.
        n_layers: convolutions of stride 2; each halves the patch grid, and the first has no normalisation.
        norm: batch, as released: over the samples of all ranks. group: each sample by itself, so that parts of a batch
            (train.accumulate) give what the whole one gives; the keys of the running moments are then not there.
        model_path: weights under 'params_d' or 'params', or nothing.
    """

    def __init__(
        self,
        nc: int = 3,
        ndf: int = 64,
        n_layers: int = 4,
        norm: Literal["batch", "group"] = "batch",
        model_path: str | None = None,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise OptionError(f"norm: no normalisation '{norm}'; there are {', '.join(NORMS)}")
        require_within(1, nc=nc, ndf=ndf, n_layers=n_layers)
        layers: list[nn.Module] = [nn.Conv2d(nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = ndf
        for depth in range(1, n_layers + 1):
            next_width = ndf * min(2**depth, 8)
            stride = 2 if depth < n_layers else 1
            layers += [
                nn.Conv2d(width, next_width, 4, stride, 1, bias=False),  # no bias: the normalisation removes it
                NORMS[norm](next_width),
                nn.LeakyReLU(0.2),
            ]
            width = next_width
        layers.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.main = nn.Sequential(*layers)
        if model_path is not None:
            load_into(self, load_state(model_path, param_key="params_d"), strict=True, where=model_path)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.main[:-1]:
            x = layer(x)
        # under autocast, too: a mean of logits near zero has no digits to lose
        return run_in_float32(self.main[-1], x)  # (B, nc, H, W) -> (B, 1, h, w)
