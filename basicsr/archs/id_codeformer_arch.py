"""CodeFormer that knows the person: references condition the code transformer, their identity styles the decoder.

Everything added to CodeFormer is zero at the start: with its weights the output is its output, and only new keys are
missing.

Shapes: B batch; R references; H, W pixels; h, w feature size; L tokens; C token width; K codes; D code width;
Cf feature channels; E width of the identity embedding.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from basicsr.archs.codeformer_arch import (
    CodeFormer,
    CodeFormerOutput,
    CodeGrad,
    CodePrediction,
    Condition,
    FuseAt,
    TransformerLayer,
)
from basicsr.archs.identity_encoder_arch import (
    ConstantIdentity,
    IdentityCrossAttention,
    IdentityEncoder,
    IdentityFeatures,
    IdentityTokenMap,
    constant_for,
    mean_embedding,
    reference_bias,
)
from basicsr.archs.identity_style import STYLES, IdentityStyle, StyleMode, add_style
from basicsr.archs.kv_share import (
    KeyValueShare,
    ReferenceCache,
    ReferencePhotos,
    placed_cache,
    project_keys,
    shared_keys,
)
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.signature import require_within


@ARCH_REGISTRY.register()
class IDCodeFormer(CodeFormer):
    """CodeFormer that is told who the person is.

    The first arguments are CodeFormer's. Then:

    Args:
        id_embed_dim: width of the recogniser's embedding.
        id_map_shape: (channels, height, width) of its feature map.
        num_vec_tokens, num_map_tokens: identity tokens of one reference, from the embedding and from the feature map.
            1, 0 without null key is the idea taken literally: attention over one key is a constant.
        use_null_key: add a learned key with a zero value, so that image tokens can look away from the identity.
        inject: how the identity reaches the code transformer. cross_attn: attention to identity tokens after each
            self-attention. kv_share: each self-attention also sees the reference photos, read by this net's own encoder
            and layers. token_map: a map that is linear in the identity vector is added to the image tokens. none: not
            at all. num_vec_tokens, num_map_tokens and use_null_key are those of cross_attn.
        style: how the identity styles decoder features, see IdentityStyle.
        style_list: feature widths (px, as text) that are styled; None: those of connect_list.
        style_grid: side of the grid on which the style is predicted. 1: constant over the face, as AdaIN is; 8: a map.
        token_grid: side of the grid on which `inject: token_map` predicts its map.
        identity_source: recognizer: what the references say. constant: learned tokens and a learned style vector in
            their place, the same for everybody, with or without references: the control of an experiment.
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
        id_embed_dim: int = 512,
        id_map_shape: Sequence[int] = (512, 7, 7),
        num_vec_tokens: int = 4,
        num_map_tokens: int = 12,
        use_null_key: bool = True,
        inject: Literal["cross_attn", "kv_share", "token_map", "none"] = "cross_attn",
        style: Literal["adain", "film", "adain_mean", "none"] = "adain",
        style_list: Sequence[str] | None = None,
        style_grid: int = 1,
        token_grid: int = 8,
        identity_source: Literal["recognizer", "constant"] = "recognizer",
    ) -> None:
        require_within(1, id_embed_dim=id_embed_dim, id_map_shape=id_map_shape)
        require_within(1, style_grid=style_grid, token_grid=token_grid)
        require_within(0, num_vec_tokens=num_vec_tokens, num_map_tokens=num_map_tokens)
        super().__init__(
            dim_embd, n_head, n_layers, codebook_size, latent_size, connect_list, None, vqgan_path,
            img_size, nf, ch_mult, res_blocks, attn_resolutions, emb_dim,
        )  # fmt: skip
        self.id_embed_dim = id_embed_dim
        self.id_map_shape = tuple(id_map_shape)
        # identity parts come after all of CodeFormer's: one seed gives both nets the same common weights
        self.identity_encoder: IdentityEncoder | None = None
        self.constant_identity: ConstantIdentity | None = None
        if identity_source == "constant":
            num_tokens = num_vec_tokens + num_map_tokens
            self.constant_identity = constant_for(inject, style, id_embed_dim, dim_embd, num_tokens)
        self.token_map: IdentityTokenMap | None = None
        self._let_in(inject, id_map_shape, num_vec_tokens, num_map_tokens, use_null_key, token_grid)
        self.inject = inject
        self.style_dict = self._styles(style, self.connect_list if style_list is None else style_list, style_grid)
        self.fix(fix_modules or ())

    def _let_in(
        self,
        inject: str,
        map_shape: Sequence[int],
        num_vec_tokens: int,
        num_map_tokens: int,
        use_null_key: bool,
        token_grid: int,
    ) -> None:
        """Build the parts through which the identity reaches the code transformer, see the class."""
        dim, num_heads = self.feat_emb.out_features, cast(TransformerLayer, self.ft_layers[0]).self_attn.num_heads
        if inject == "cross_attn":
            if self.constant_identity is None:
                self.identity_encoder = IdentityEncoder(
                    self.id_embed_dim, map_shape, dim, num_heads, num_vec_tokens, num_map_tokens
                )
            for layer in self.ft_layers:
                layer.cross_attn = IdentityCrossAttention(dim, num_heads, use_null_key)
        elif inject == "kv_share":
            for layer in self.ft_layers:
                layer.kv_share = KeyValueShare()
        elif inject == "token_map":
            if token_grid > self.latent_width:
                raise OptionError(f"token_grid: {token_grid}, but there are {self.latent_width} tokens in a row")
            self.token_map = IdentityTokenMap(self.id_embed_dim, dim, token_grid, self.latent_width)
        elif inject != "none":
            raise OptionError(f"inject: no way '{inject}'; there are 'cross_attn', 'kv_share', 'token_map' and 'none'")

    def _styles(self, style: StyleMode | Literal["none"], widths: Sequence[str], grid: int) -> nn.ModuleDict:
        """The IdentityStyle of each feature width; none for the style 'none'."""
        if style not in STYLES:
            raise OptionError(f"style: no style '{style}'; there are {', '.join(STYLES)}")
        if style == "none":
            return nn.ModuleDict()
        sizes = self.checked_widths(widths, "style_list")
        for size in sizes:
            if grid > int(size):
                raise OptionError(f"style_grid: {grid}, but style_list has features {size} px wide; take at most that")
        return nn.ModuleDict(
            {size: IdentityStyle(self.channels_at[size], self.id_embed_dim, style, grid) for size in sizes}
        )

    def forward(  # type: ignore[override]  # the identity stands next to the image, as in the paper's figure
        self,
        x: Tensor,
        identity: IdentityFeatures | None = None,
        w: float = 0.0,
        w_id: float = 1.0,
        id_scale: float = 1.0,
        detach_16: bool = True,
        code_only: bool = False,
        adain: bool = False,
        code_grad: CodeGrad = "none",
        decode_first: int | None = None,
    ) -> CodeFormerOutput:
        """Restore x (B, 3, H, W), RGB in [-1, 1], with CodeFormer's arguments and:

        Args:
            identity: the references; None, or a sample without any, is restored exactly as CodeFormer does.
            w_id: weight of the identity style, >= 0.
            id_scale: scale s of the identity in the code logits, l_null + s (l_id - l_null): 1 plain, 0 without,
                above 1 exaggerated.
        """
        logits, lq_feat, taps = self.predict(x, identity, *((0.0, 0.0) if code_only else (w, w_id)), id_scale)
        if code_only:
            return CodeFormerOutput(None, logits, lq_feat)
        fuse_at = self.ia_cft_at(taps, identity, w, w_id, decode_first)
        restored = self.decode(logits, lq_feat, fuse_at, code_grad, detach_16, adain, decode_first)
        return CodeFormerOutput(restored, logits, lq_feat)

    def predict(  # type: ignore[override]  # see forward
        self,
        x: Tensor,
        identity: IdentityFeatures | None = None,
        w: float = 0.0,
        w_id: float = 1.0,
        id_scale: float = 1.0,
    ) -> CodePrediction:
        """Everything that comes before decoding; see `forward` for the arguments."""
        self.check_input(x)
        widths = [*(self.style_dict if self._is_styled(identity, w_id) else ()), *(self.connect_list if w > 0 else ())]
        lq_feat, taps = self.encoder.forward_with_taps(x, widths)
        return CodePrediction(self.guided_logits(lq_feat, identity, id_scale), lq_feat, taps)

    def _is_styled(self, identity: IdentityFeatures | None, w_id: float) -> bool:
        return w_id != 0 and (identity is not None or self.constant_identity is not None)

    def ia_cft_at(
        self,
        taps: dict[str, Tensor],
        identity: IdentityFeatures | None,
        w: float,
        w_id: float,
        decode_first: int | None,
    ) -> FuseAt:
        """What is done to the generator's features: CFT by w, and the identity's style by w_id."""
        fuse_at = self.cft_at(taps, w, decode_first)
        if self._is_styled(identity, w_id) and len(self.style_dict):
            fuse_at |= self.style_at(taps, fuse_at, identity, w_id, decode_first)
        return fuse_at

    def guided_logits(self, lq_feat: Tensor, identity: IdentityFeatures | None, id_scale: float) -> Tensor:
        """Code logits (B, L, K) under id_scale, with one pass of the transformer where it is 0 or 1."""
        if id_scale == 0:
            return self.predict_codes(lq_feat)
        conditions, offset = self.conditions(identity, lq_feat.shape[0]), self.token_offset(identity, lq_feat.shape[0])
        logits = self.predict_codes(lq_feat, conditions, offset)
        if (conditions is None and offset is None) or id_scale == 1:
            return logits
        null_logits = self.predict_codes(lq_feat)
        return null_logits + id_scale * (logits - null_logits)

    def conditions(self, identity: IdentityFeatures | None, batch: int) -> Sequence[Condition] | None:
        """What each layer of the transformer is told of the references of `batch` samples; None: nothing."""
        if self.constant_identity is not None:
            tokens = self.constant_identity.identity_tokens(batch)
            return None if tokens is None else [tokens] * len(self.ft_layers)
        if identity is None:
            return None
        if self.identity_encoder is not None:
            return [self.identity_encoder(identity)] * len(self.ft_layers)
        if self.inject in ("none", "token_map"):
            return None
        photos = identity.photos
        if photos is None:
            raise ValueError(
                "identity.photos: None, but inject: kv_share reads the reference photos themselves. Hand over "
                "ReferencePhotos, or what reference_cache() made of them"
            )
        if isinstance(photos, ReferencePhotos):
            if not photos.mask.any():
                return None
            photos = self.reference_cache(photos)
        return shared_keys(photos, reference_bias(identity.quality, photos.mask))

    def token_offset(self, identity: IdentityFeatures | None, batch: int) -> Tensor | None:
        """What `inject: token_map` adds to the image tokens of `batch` samples, (L, B, C); None: nothing."""
        if self.token_map is None or (identity is None and self.constant_identity is None):
            return None
        return cast(Tensor, self.token_map(*self.style_vector(identity, batch)))

    def style_vector(self, identity: IdentityFeatures | None, batch: int) -> tuple[Tensor, Tensor]:
        """V (B, E) of each sample and which of them have one (B,)."""
        if self.constant_identity is not None:
            return self.constant_identity.style_vector(batch)
        if identity is None:
            raise ValueError("identity: None, but a style is the style of somebody")
        return mean_embedding(identity), identity.mask.any(1)

    def reference_cache(self, photos: ReferencePhotos) -> ReferenceCache:
        """Keys and values of the photos in each layer, which any number of faces may then share.

        Every photo passes through encoder and transformer by itself and blind. Only the projections to keys and values
        (and the norm before them) hold a graph: in training the layers learn to read the references, while how a photo
        becomes tokens is learned from the image path, whose weights these are. A graph through the encoder would hold
        R times the memory of the image's own, and pull the encoder of degraded photos towards clean ones.
        """
        return placed_cache(self.keys_and_values(photos.images[photos.mask]), photos.mask)

    def keys_and_values(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What the self-attention of each layer makes of photos (N, 3, H, W): two of (N, L, C)."""
        self.check_input(images, "identity.photos")
        position = self.position_emb.unsqueeze(1)  # (L, 1, C)
        layers = cast(Sequence[TransformerLayer], list(self.ft_layers))
        with torch.no_grad():
            inputs = [self.to_tokens(self.encoder(images))]  # of each layer, (L, N, C)
            for layer in layers[:-1]:
                inputs.append(layer(inputs[-1], position))
        # casts of weights that autocast has kept from under no_grad would cut the image path off (older torch)
        torch.clear_autocast_cache()
        return [
            project_keys(layer.self_attn, layer.norm1(tokens), position)
            for layer, tokens in zip(layers, inputs, strict=True)
        ]

    def style_at(
        self,
        taps: dict[str, Tensor],
        cft: FuseAt,
        identity: IdentityFeatures | None,
        w_id: float,
        decode_first: int | None,
    ) -> FuseAt:
        """What is done to the generator's features of the styled widths: the CFT, if any, plus w_id * delta."""
        embed, has_ref = self.style_vector(identity, next(iter(taps.values())).shape[0])
        embed, has_ref = embed[:decode_first], has_ref[:decode_first]
        fuse_at: FuseAt = {}
        for size, style in self.style_dict.items():
            # detach: as in the CFT, image losses must not reach the encoder through the skip
            delta = partial(style, enc_feat=taps[size][:decode_first].detach(), embed=embed, has_ref=has_ref)
            fuse_at[size] = partial(add_style, cft=cft.get(size), delta=delta, w_id=w_id)
        return fuse_at
