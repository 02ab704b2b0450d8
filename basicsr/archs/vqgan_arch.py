"""VQGAN, stage I: encoder, codebook, generator. Papers: Esser et al. 2021; Zhou et al. 2022 (CodeFormer), sec. 3.1.

Layout, key names and arithmetic are those of the released weights; sizes follow from the arguments.

Shapes: B batch; H, W pixels (img_size); h, w latent grid; L = h*w codes; D code width (emb_dim).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from basicsr.archs.blocks import AttnBlock, Downsample, Normalize, ResBlock, Upsample, run_block, run_in_float32
from basicsr.archs.vector_quantizer import GumbelQuantizer, VectorQuantizer
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.signature import require_within
from basicsr.utils.weights import load_into, load_state

MIN_CODES = 64  # with fewer, a face has no eyes or mouth of its own in the grid


class VQAutoEncoderOutput(NamedTuple):
    """Result of stage I."""

    restored: Tensor  # (B, 3, H, W) RGB, about [-1, 1], not clamped
    codebook_loss: Tensor  # scalar
    quant_stats: dict[str, Tensor]  # see the quantizer


def level_widths(img_size: int, ch_mult: Sequence[int], attn_resolutions: Collection[int]) -> list[int]:
    """Feature width in pixels of every level, largest first; the last one is the side of the latent grid.

    Raises:
        OptionError: sizes that do not fit each other.
    """
    num_halvings = len(ch_mult) - 1
    if not ch_mult or img_size % 2**num_halvings:
        raise OptionError(
            f"img_size: {img_size} px cannot be halved {num_halvings} times, as ch_mult {list(ch_mult)} asks. "
            f"Take a multiple of {2 ** max(num_halvings, 0)} or another number of levels in ch_mult"
        )
    widths = [img_size >> level for level in range(len(ch_mult))]
    if widths[-1] ** 2 < MIN_CODES:
        raise OptionError(
            f"img_size: {img_size} px with the {len(ch_mult)} levels of ch_mult {list(ch_mult)} leaves a face "
            f"{widths[-1]} x {widths[-1]} = {widths[-1] ** 2} codes, and at least {MIN_CODES} are needed. "
            "Take fewer levels in ch_mult or a larger img_size"
        )
    absent = sorted(set(attn_resolutions) - set(widths))
    if absent:
        raise OptionError(f"attn_resolutions: no feature of width {absent[0]}; this net has {widths}")
    return widths


class Encoder(nn.Module):
    """Image -> latent grid, one flat list of blocks.

    `taps` names, for each feature width, the block whose output the controllable feature transformation (CFT) takes:
    the last ResBlock of the level, before its attention. `checkpointing`: see `run_block`.
    """

    def __init__(
        self,
        in_channels: int,
        nf: int,
        emb_dim: int,
        ch_mult: Sequence[int],
        res_blocks: int,
        img_size: int,
        attn_resolutions: Collection[int],
    ) -> None:
        super().__init__()
        widths = level_widths(img_size, ch_mult, attn_resolutions)
        blocks: list[nn.Module] = [nn.Conv2d(in_channels, nf, 3, 1, 1)]
        self.taps: dict[str, int] = {}
        self.checkpointing = False
        channels = nf
        for mult, width in zip(ch_mult, widths, strict=True):
            for _ in range(res_blocks):
                self.taps[str(width)] = len(blocks)
                blocks.append(ResBlock(channels, nf * mult))
                channels = nf * mult
                if width in attn_resolutions:
                    blocks.append(AttnBlock(channels))
            if width != widths[-1]:
                blocks.append(Downsample(channels))
        blocks += [ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels)]
        blocks += [
            Normalize(channels),
            nn.Conv2d(channels, emb_dim, 3, 1, 1),
        ]  # no activation between them, as released
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_with_taps(x, ())[0]

    def forward_with_taps(self, x: Tensor, widths: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Latent grid (B, D, h, w), and by width those features (B, C, width, width) that `widths` asks for."""
        wanted = {self.taps[width]: width for width in widths}
        taps: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks[:-1]):
            x = run_block(block, x, checkpointing=self.checkpointing)
            if index in wanted:
                taps[wanted[index]] = x
        # the nearest of two like codes is a matter of digits that half precision has not
        return run_in_float32(self.blocks[-1], x), taps  # (B, 3, H, W) -> (B, D, h, w)


class Generator(nn.Module):
    """Latent grid -> image, one flat list of blocks.

    `taps` names, for each feature width, the block after which the CFT acts: the first ResBlock of the level;
    at the latent grid's width the last one, before its attention (both as released). `checkpointing`: see `run_block`.
    """

    def __init__(
        self,
        nf: int,
        emb_dim: int,
        ch_mult: Sequence[int],
        res_blocks: int,
        img_size: int,
        attn_resolutions: Collection[int],
    ) -> None:
        super().__init__()
        widths = level_widths(img_size, ch_mult, attn_resolutions)
        channels = nf * ch_mult[-1]
        blocks: list[nn.Module] = [nn.Conv2d(emb_dim, channels, 3, 1, 1)]
        blocks += [ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels)]
        self.taps: dict[str, int] = {}
        self.ends: dict[str, int] = {}  # by feature width: the first block that is no longer of it
        self.checkpointing = False
        for mult, width in zip(reversed(ch_mult), reversed(widths), strict=True):
            for _ in range(res_blocks):
                if width == widths[-1] or str(width) not in self.taps:
                    self.taps[str(width)] = len(blocks)
                blocks.append(ResBlock(channels, nf * mult))
                channels = nf * mult
                if width in attn_resolutions:
                    blocks.append(AttnBlock(channels))
            self.ends[str(width)] = len(blocks)
            if width != widths[0]:
                blocks.append(Upsample(channels))
        blocks += [Normalize(channels), nn.Conv2d(channels, 3, 3, 1, 1)]  # no activation, no tanh: as released
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, fuse_at: Mapping[str, Callable[[Tensor], Tensor]] | None = None) -> Tensor:
        """Decode x (B, D, h, w); `fuse_at`: by feature width, what is done to the feature (B, C, width, width)."""
        x = self._run(0, len(self.blocks) - 1, x, fuse_at)
        # half precision would round the picture to less than its 8 bits
        return run_in_float32(self.blocks[-1], x)  # (B, D, h, w) -> (B, 3, H, W)

    def forward_to(
        self, width: str, x: Tensor, fuse_at: Mapping[str, Callable[[Tensor], Tensor]] | None = None
    ) -> Tensor:
        """The last feature of that width (B, C, width, width), from x (B, D, h, w)."""
        return self._run(0, self.ends[width], x, fuse_at)

    def forward_from(
        self, width: str, x: Tensor, fuse_at: Mapping[str, Callable[[Tensor], Tensor]] | None = None
    ) -> Tensor:
        """The image (B, 3, H, W) from what `forward_to` gave."""
        x = self._run(self.ends[width], len(self.blocks) - 1, x, fuse_at)
        return run_in_float32(self.blocks[-1], x)

    def _run(self, start: int, end: int, x: Tensor, fuse_at: Mapping[str, Callable[[Tensor], Tensor]] | None) -> Tensor:
        """Blocks start .. end - 1, with what `fuse_at` does after some of them."""
        fuse_after = {self.taps[width]: fuse for width, fuse in (fuse_at or {}).items()}
        for index in range(start, end):
            x = run_block(self.blocks[index], x, checkpointing=self.checkpointing)
            if index in fuse_after:
                x = run_block(fuse_after[index], x, checkpointing=self.checkpointing)
        return x


@ARCH_REGISTRY.register()
class VQAutoEncoder(nn.Module):
    """Autoencoder whose latent grid is made of codebook rows.

    Args:
        img_size: px, square.
        nf: channels of the first level; level i has nf * ch_mult[i] channels at img_size / 2**i px.
        ch_mult: factors on nf, one for each level; their number decides the size of the code grid.
        quantizer: nearest code, or Gumbel-softmax.
        gumbel_straight_through, gumbel_kl_weight: of the Gumbel quantizer: hard codes in training, factor on its loss.
        res_blocks: ResBlocks per level.
        attn_resolutions: feature widths (px) whose ResBlocks are each followed by attention.
        codebook_size, emb_dim: codes and their width.
        beta: weight of the codebook term (nearest).
        model_path: weights to start from, 'params_ema' before 'params'.
    """

    def __init__(
        self,
        img_size: int,
        nf: int,
        ch_mult: Sequence[int],
        quantizer: Literal["nearest", "gumbel"] = "nearest",
        res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        codebook_size: int = 1024,
        emb_dim: int = 256,
        beta: float = 0.25,
        gumbel_straight_through: bool = False,
        gumbel_kl_weight: float = 1e-8,
        model_path: str | None = None,
    ) -> None:
        super().__init__()
        require_within(1, img_size=img_size, nf=nf, ch_mult=ch_mult, res_blocks=res_blocks)
        require_within(1, codebook_size=codebook_size, emb_dim=emb_dim)
        require_within(0, beta=beta, gumbel_kl_weight=gumbel_kl_weight)
        self.img_size = img_size
        self.widths = level_widths(img_size, ch_mult, attn_resolutions)
        self.channels_at = {str(width): nf * mult for width, mult in zip(self.widths, ch_mult, strict=True)}
        self.latent_width = self.widths[-1]
        self.emb_dim = emb_dim
        self.encoder = Encoder(3, nf, emb_dim, ch_mult, res_blocks, img_size, attn_resolutions)
        self.quantize: VectorQuantizer | GumbelQuantizer
        if quantizer == "nearest":
            self.quantize = VectorQuantizer(codebook_size, emb_dim, beta)
        elif quantizer == "gumbel":
            self.quantize = GumbelQuantizer(codebook_size, emb_dim, gumbel_straight_through, gumbel_kl_weight)
        else:
            raise OptionError(f"quantizer: no quantizer '{quantizer}'; there are 'nearest' and 'gumbel'")
        self.generator = Generator(nf, emb_dim, ch_mult, res_blocks, img_size, attn_resolutions)
        if model_path is not None:
            load_into(self, load_state(model_path), strict=True, where=model_path)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the generator's last convolution, where the adaptive GAN weight compares gradients."""
        return self.generator.get_parameter(f"blocks.{len(self.generator.blocks) - 1}.weight")

    def forward(self, x: Tensor) -> VQAutoEncoderOutput:
        """Reconstruct x (B, 3, H, W), RGB in [-1, 1]."""
        quant = self.quantize(self.encoder(x))  # (B, 3, H, W) -> (B, D, h, w)
        return VQAutoEncoderOutput(self.generator(quant.quant_feat), quant.codebook_loss, quant.stats)

    @torch.no_grad()
    def encode_codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of the images x (B, 3, H, W) in row-major order, (B, L) int64, and their codebook rows (B, D, h, w)."""
        return self.feat_of_codes(self.quantize.code_indices(self.encoder(x)).flatten(1))

    @torch.no_grad()
    def feat_of_codes(self, code_idx: Tensor) -> tuple[Tensor, Tensor]:
        """The codes (B, L) themselves, and their codebook rows (B, D, h, w)."""
        shape = (len(code_idx), self.latent_width, self.latent_width, self.emb_dim)
        return code_idx, self.quantize.get_codebook_feat(code_idx, shape)

    def decode_codes(self, code_idx: Tensor) -> Tensor:
        """Images (B, 3, H, W) of the codes (B, L)."""
        shape = (code_idx.shape[0], self.latent_width, self.latent_width, self.emb_dim)
        return self.generator(self.quantize.get_codebook_feat(code_idx, shape))
