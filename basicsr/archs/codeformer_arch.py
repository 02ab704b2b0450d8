"""CodeFormer: code prediction transformer and controllable feature transformation (CFT).

Paper: Zhou et al. 2022, sec. 3.2 and 3.3.
Arguments, key names and arithmetic are those of the released weights; sizes follow from the arguments.

Shapes: B batch; H, W pixels; h, w latent grid; L = h*w tokens; C token width; K codes; D code width;
Cf feature channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.blocks import ResBlock, adaptive_instance_norm, out_of_autocast, run_block
from basicsr.archs.identity_encoder_arch import IdentityCrossAttention, IdentityTokens
from basicsr.archs.kv_share import KeyValueShare, SharedKeys
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import ARCH_REGISTRY, suggest
from basicsr.utils.signature import require_within
from basicsr.utils.weights import load_into, load_state

FuseAt = dict[str, Callable[[Tensor], Tensor]]  # by feature width: what is done to the generator's feature there
CodeGrad = Literal["none", "ste_softmax", "gumbel", "soft"]
Condition = IdentityTokens | SharedKeys  # what a layer of the transformer is told of the identity
PREDICTOR = ("position_emb", "feat_emb", "ft_layers", "idx_pred_layer")  # what fix_modules calls 'transformer'


class CodeFormerOutput(NamedTuple):
    """Result of stages II and III."""

    restored: Tensor | None  # (B, 3, H, W) RGB, about [-1, 1], not clamped; None with code_only
    logits: Tensor  # (B, L, K)
    lq_feat: Tensor  # (B, D, h, w), the encoder's output


class CodePrediction(NamedTuple):
    """What encoder and transformer give, before anything is decoded."""

    logits: Tensor  # (B, L, K)
    lq_feat: Tensor  # (B, D, h, w), the encoder's output
    taps: dict[str, Tensor]  # by width: encoder features (B, Cf, width, width) that modulate the generator


class TransformerLayer(nn.Module):
    """Pre-norm layer; the position goes to queries and keys only. IDCodeFormer fills in one of the last two."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads)
        self.linear1 = nn.Linear(dim, 2 * dim)
        self.linear2 = nn.Linear(2 * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn: IdentityCrossAttention | None = None
        self.kv_share: KeyValueShare | None = None

    def forward(self, x: Tensor, position: Tensor, condition: Condition | None = None) -> Tensor:
        """x (L, B, C) -> (L, B, C), with position (L, 1, C)."""
        h = self.norm1(x)
        h_with_position = h + position
        attended = self.self_attn(h_with_position, h_with_position, h, need_weights=False)[0]
        x = x + attended
        if self.kv_share is not None and isinstance(condition, SharedKeys):
            joint = self.kv_share(self.self_attn, h, position, condition)
            x = x + self.kv_share.gated(joint - attended, condition)
        if self.cross_attn is not None and isinstance(condition, IdentityTokens):
            x = x + self.cross_attn(x, condition)
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class CFTBlock(nn.Module):
    """Controllable feature transformation: out = dec + w * (dec * scale(e) + shift(e)), e = encode_enc([enc, dec])."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels)
        self.scale = self._head(channels)
        self.shift = self._head(channels)

    @staticmethod
    def _head(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1),
        )

    def forward(self, dec_feat: Tensor, enc_feat: Tensor, w: float) -> Tensor:
        """Pull dec_feat towards the input's enc_feat, both (B, Cf, h, w), by w >= 0 (0: quality, 1: fidelity)."""
        e = self.encode_enc(torch.cat([enc_feat, dec_feat], dim=1))  # (B, 2Cf, h, w) -> (B, Cf, h, w)
        return torch.add(dec_feat, torch.addcmul(self.shift(e), dec_feat, self.scale(e)), alpha=w)


@ARCH_REGISTRY.register()
class CodeFormer(VQAutoEncoder):
    """Predict the code sequence of the clean face from the degraded one, decode it, and blend in input features by w.

    Args:
        dim_embd, n_head, n_layers: width, heads and layers of the transformer.
        codebook_size: K.
        latent_size: L, tokens; must be what img_size and ch_mult give.
        connect_list: feature widths (px, as text) with a CFT block.
        fix_modules: parts that are not trained: names of sub-modules, or 'transformer' for the whole code predictor.
        vqgan_path: stage-I weights; every key of the VQGAN part must be there.
        img_size, nf, ch_mult, res_blocks, attn_resolutions, emb_dim: see VQAutoEncoder; the defaults are released.
    """

    def __init__(
        self,
        dim_embd: int = 512,
        n_head: int = 8,
        n_layers: int = 9,
        codebook_size: int = 1024,
        latent_size: int = 256,
        connect_list: Sequence[str] = ("32", "64", "128", "256"),
        fix_modules: Sequence[str] | None = ("quantize", "generator"),
        vqgan_path: str | None = None,
        img_size: int = 512,
        nf: int = 64,
        ch_mult: Sequence[int] = (1, 2, 2, 4, 4, 8),
        res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        emb_dim: int = 256,
    ) -> None:
        super().__init__(img_size, nf, ch_mult, "nearest", res_blocks, attn_resolutions, codebook_size, emb_dim)
        if latent_size != self.latent_width**2:
            raise OptionError(
                f"latent_size: {latent_size}, but img_size {img_size} with the {len(ch_mult)} levels of ch_mult "
                f"{list(ch_mult)} has {self.latent_width} x {self.latent_width} = {self.latent_width**2} tokens"
            )
        require_within(1, dim_embd=dim_embd, n_head=n_head, n_layers=n_layers)
        if dim_embd % n_head:
            raise OptionError(f"n_head: {n_head} heads do not divide dim_embd {dim_embd}")
        if vqgan_path is not None:
            load_into(self, load_state(vqgan_path, param_key="params_ema"), strict=True, where=vqgan_path)
        self.connect_list = self.checked_widths(connect_list, "connect_list")
        self.checkpointing = False  # of the transformer, see `run_block`
        self.position_emb = nn.Parameter(torch.zeros(latent_size, dim_embd))
        self.feat_emb = nn.Linear(emb_dim, dim_embd)
        self.ft_layers = nn.ModuleList(TransformerLayer(dim_embd, n_head) for _ in range(n_layers))
        self.idx_pred_layer = nn.Sequential(nn.LayerNorm(dim_embd), nn.Linear(dim_embd, codebook_size, bias=False))
        self.fuse_convs_dict = nn.ModuleDict({size: CFTBlock(self.channels_at[size]) for size in self.connect_list})
        self.fix(fix_modules or ())  # last, so that every part can be named

    def checked_widths(self, widths: Sequence[str], name: str) -> list[str]:
        """`widths` if the net has features of all of them; `name` is the option to blame."""
        for width in widths:
            if width not in self.channels_at:
                raise OptionError(f"{name}: no feature of width '{width}'; this net has {list(self.channels_at)}")
        return list(widths)

    def fix(self, names: Sequence[str]) -> None:
        """Stop training the named parts."""
        known = ["position_emb", *(name for name, _ in self.named_children())]
        for name in names:
            if name != "transformer" and name not in known:
                near = suggest(name, ["transformer", *known])
                raise OptionError(
                    f"fix_modules: no part '{name}'."
                    + (f" Did you mean '{near}'?" if near else "")
                    + f" Parts: transformer, {', '.join(known)}"
                )
            for part in PREDICTOR if name == "transformer" else (name,):
                getattr(self, part).requires_grad_(False)

    def forward(  # type: ignore[override]  # a subclass as released, whose forward has another result
        self,
        x: Tensor,
        w: float = 0.0,
        detach_16: bool = True,
        code_only: bool = False,
        adain: bool = False,
        code_grad: CodeGrad = "none",
        decode_first: int | None = None,
    ) -> CodeFormerOutput:
        """Restore x (B, 3, H, W), RGB in [-1, 1].

        Args:
            w: fidelity weight, >= 0; 0 leaves the CFT out.
            detach_16: the codebook gets no gradient from the decoded image.
            code_only: predict codes, decode nothing.
            adain: give the looked-up codes the statistics of lq_feat.
            code_grad: how an image loss reaches the logits, see `look_up`.
            decode_first: only so many samples are decoded (all of them get logits); None: all.
        """
        logits, lq_feat, taps = self.predict(x, 0.0 if code_only else w)
        if code_only:
            return CodeFormerOutput(None, logits, lq_feat)
        fuse_at = self.cft_at(taps, w, decode_first)
        restored = self.decode(logits, lq_feat, fuse_at, code_grad, detach_16, adain, decode_first)
        return CodeFormerOutput(restored, logits, lq_feat)

    def predict(self, x: Tensor, w: float = 0.0) -> CodePrediction:
        """Everything that comes before decoding x (B, 3, H, W) with the fidelity weight w."""
        self.check_input(x)
        lq_feat, taps = self.encoder.forward_with_taps(x, self.connect_list if w > 0 else ())
        return CodePrediction(self.predict_codes(lq_feat), lq_feat, taps)

    def check_input(self, x: Tensor, name: str = "lq") -> None:
        """The tokens have learned positions, so only one image size fits; `name` is the picture to blame."""
        if x.shape[1:] != (3, self.img_size, self.img_size):
            expected = f"(B, 3, {self.img_size}, {self.img_size})"
            raise ValueError(
                f"{name}: shape {tuple(x.shape)}, this net restores {expected}. Resize or crop the face first"
            )

    def to_tokens(self, lq_feat: Tensor) -> Tensor:
        """Tokens (L, B, C) of the encoder's output (B, D, h, w), row by row of the grid."""
        # float32: each layer adds to the tokens, and half precision would lose what a late one adds
        return out_of_autocast(self.feat_emb(lq_feat.flatten(2).permute(2, 0, 1)))  # (B, D, h, w) -> (L, B, C)

    def predict_codes(
        self, lq_feat: Tensor, conditions: Sequence[Condition] | None = None, offset: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, K) of the codes, row by row of the grid, from lq_feat (B, D, h, w).

        Args:
            conditions: one for each layer; None: a blind prediction.
            offset: (L, B, C), added to the tokens before the first layer.
        """
        tokens = self.to_tokens(lq_feat)
        if offset is not None:
            tokens = tokens + offset
        position = self.position_emb.unsqueeze(1)  # (L, 1, C)
        for layer, condition in zip(self.ft_layers, conditions or repeat(None), strict=False):
            tokens = run_block(layer, tokens, position, condition, checkpointing=self.checkpointing)
        return self.idx_pred_layer(tokens).permute(1, 0, 2)  # (L, B, C) -> (B, L, K)

    def decode(
        self,
        logits: Tensor,
        lq_feat: Tensor,
        fuse_at: FuseAt,
        code_grad: CodeGrad,
        detach_16: bool,
        adain: bool,
        decode_first: int | None,
    ) -> Tensor:
        """Images of the most probable codes, (B, 3, H, W) or fewer samples by decode_first."""
        quant_feat = self.look_up(logits[:decode_first], code_grad, detach_16)  # (B, L, K) -> (B, D, h, w)
        if adain:
            quant_feat = adaptive_instance_norm(quant_feat, lq_feat[:decode_first])
        return self.generator(quant_feat, fuse_at)

    def look_up(self, logits: Tensor, code_grad: CodeGrad, detach_16: bool) -> Tensor:
        """Codebook rows (B, D, h, w) of the most probable codes in `logits` (B, L, K).

        code_grad: how a gradient comes from there to the logits.
            none: not at all, as released.
            ste_softmax: forward the row of the best code, backward through the expectation softmax(logits) C.
            gumbel: the same on logits with Gumbel noise.
            soft: the expectation itself, forward and backward.
        Noise and expectation are for training alone: in eval mode the value is always the row of the best code.
        """
        codebook = self.quantize.codebook.detach() if detach_16 else self.quantize.codebook  # (K, D)
        logits = logits.float()  # half-precision noise has zeros and ties, half-precision exponentials lose small codes
        if code_grad == "gumbel" and self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()
        shape = (logits.shape[0], self.latent_width, self.latent_width, self.emb_dim)
        hard = self.quantize.get_codebook_feat(logits.argmax(2), shape)  # (B, L, K) -> (B, D, h, w)
        soft_value = code_grad == "soft" and self.training
        if not soft_value and (code_grad == "none" or not torch.is_grad_enabled()):
            return hard.detach() if detach_16 else hard
        expectation = F.softmax(logits, dim=2).to(codebook.dtype) @ codebook  # (B, L, K) -> (B, L, D)
        expectation = expectation.view(shape).permute(0, 3, 1, 2).contiguous()  # (B, L, D) -> (B, D, h, w)
        if soft_value:
            return expectation
        # the bracket is exactly zero: the value stays the hard one bit for bit, the gradient is the expectation's
        return hard.detach() + (expectation - expectation.detach())

    def cft_at(self, taps: dict[str, Tensor], w: float, decode_first: int | None) -> FuseAt:
        """What is done to the generator's feature at each width of connect_list; nothing at w = 0."""
        if w <= 0:
            return {}
        # detach: image losses must not reach the encoder through the skip; only the code losses train it
        return {
            size: partial(block, enc_feat=taps[size][:decode_first].detach(), w=w)
            for size, block in self.fuse_convs_dict.items()
        }
