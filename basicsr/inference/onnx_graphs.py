"""The networks as graphs that torch.export can follow: tensors in, one tensor out, nothing decided by a value.

Shapes: B batch; R references; S side of the network's picture; E width of the identity embedding; C, h, w recogniser
map; L image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures, mean_embedding
from basicsr.archs.kv_share import ReferenceCache
from basicsr.archs.self_encoder_arch import SelfEncoder
from basicsr.models.identity_source import MIN_QUALITY, quality_from_norm
from basicsr.recognizers import Recognizer
from basicsr.recognizers.crop import crop_to_template

Knob = float | Tensor  # a fixed value, or a scalar that goes into the graph

KNOBS = ("w", "w_id", "id_scale")


class RestorerGraph(nn.Module):
    """Degraded face and, for IDCodeFormer, identity -> restored face.

    Args:
        knobs: w, and for IDCodeFormer w_id and id_scale; those that are None are handed to forward.
        adain: see `CodeFormer.forward`.
    """

    def __init__(self, net: CodeFormer, knobs: Mapping[str, float | None], adain: bool) -> None:
        super().__init__()
        self.net = net
        self.knobs = dict(knobs)
        self.adain = adain

    def forward(
        self,
        lq: Tensor,
        id_embed: Tensor | None = None,
        id_map: Tensor | None = None,
        ref_mask: Tensor | None = None,
        id_quality: Tensor | None = None,
        w: Tensor | None = None,
        w_id: Tensor | None = None,
        id_scale: Tensor | None = None,
    ) -> Tensor:
        """lq (B, 3, S, S) -> restored (B, 3, S, S), RGB [-1, 1].

        Args:
            id_embed, id_map, ref_mask, id_quality: see `IdentityFeatures`; IDCodeFormer takes all, CodeFormer none.
            w, w_id, id_scale: scalars, of the knobs that are not fixed.
        """
        known = (id_embed, id_map, ref_mask, id_quality)
        identity = IdentityFeatures(*cast(Any, known)) if isinstance(self.net, IDCodeFormer) else None
        return self.restore(lq, identity, {"w": w, "w_id": w_id, "id_scale": id_scale})

    def restore(self, lq: Tensor, identity: IdentityFeatures | None, free: Mapping[str, Tensor | None]) -> Tensor:
        """The restored face for an identity; `free`: the values of the knobs that are not fixed."""
        knobs: dict[str, Any] = {name: free[name] if k is None else k for name, k in self.knobs.items()}
        if None in self.knobs.values():
            return self._with_free_knobs(lq, identity, **knobs)
        given = () if identity is None else (identity,)
        return cast(Tensor, self.net(lq, *given, **knobs, adain=self.adain).restored)

    def _with_free_knobs(
        self, lq: Tensor, identity: IdentityFeatures | None, w: Knob, w_id: Knob = 0.0, id_scale: Knob = 1.0
    ) -> Tensor:
        """What the net's forward does, with knobs that may be tensors: every branch is in the graph."""
        net = self.net
        styles = net.style_dict if isinstance(net, IDCodeFormer) and _acts(w_id) else nn.ModuleDict()
        cfts = net.fuse_convs_dict if _acts(w) else nn.ModuleDict()
        lq_feat, taps = net.encoder.forward_with_taps(lq, [*styles, *cfts])
        logits = self._logits(lq_feat, identity, id_scale)
        fuse_at: dict[str, Callable[[Tensor], Tensor]] = {}
        if styles:
            embed, has_ref = _style_of(cast(IDCodeFormer, net), identity, lq.shape[0])
        for size in {**dict(cfts.items()), **dict(styles.items())}:
            cft = partial(cfts[size], enc_feat=taps[size], w=1.0) if size in cfts else None
            delta = None
            if size in styles:
                delta = partial(styles[size], enc_feat=taps[size], embed=embed, has_ref=has_ref)
            fuse_at[size] = partial(_fuse, cft=cft, delta=delta, w=w, w_id=w_id)
        return net.decode(logits, lq_feat, fuse_at, "none", True, self.adain, None)

    def _logits(self, lq_feat: Tensor, identity: IdentityFeatures | None, id_scale: Knob) -> Tensor:
        """Code logits (B, L, K) under id_scale."""
        net = self.net
        if not isinstance(net, IDCodeFormer):
            return net.predict_codes(lq_feat)
        if not isinstance(id_scale, Tensor):
            return net.guided_logits(lq_feat, identity, id_scale)
        null_logits = net.predict_codes(lq_feat)
        logits = net.predict_codes(lq_feat, net.conditions(identity, lq_feat.shape[0]))
        return null_logits + id_scale * (logits - null_logits)


class WholeGraph(nn.Module):
    """Degraded face and reference faces -> recogniser -> restored face.

    Args:
        own_identity: a face without references is guided by itself (mode self); else by nobody (mode none).
    """

    def __init__(
        self,
        restorer: RestorerGraph,
        recognizer: Recognizer,
        self_encoder: SelfEncoder | None,
        own_identity: bool,
    ) -> None:
        super().__init__()
        self.restorer = restorer
        self.recognizer = recognizer
        self.self_encoder = self_encoder if own_identity else None
        self.own_identity = own_identity

    def forward(
        self,
        lq: Tensor,
        refs: Tensor,
        ref_mask: Tensor,
        w: Tensor | None = None,
        w_id: Tensor | None = None,
        id_scale: Tensor | None = None,
    ) -> Tensor:
        """lq (B, 3, S, S), refs (B, R, 3, S, S), ref_mask (B, R) -> restored (B, 3, S, S), RGB [-1, 1].

        Where ref_mask is False `refs` may be anything finite. The knobs are those of RestorerGraph.
        """
        net = cast(IDCodeFormer, self.restorer.net)
        lonely = ~ref_mask.any(1, keepdim=True)  # (B, 1)
        first = torch.arange(ref_mask.shape[1], device=refs.device)[None] == 0  # (1, R)
        is_self = lonely & first & self.own_identity  # (B, R): here the degraded face stands for a reference
        photos = torch.where(is_self[:, :, None, None, None], lq[:, None], refs)
        identity = self._features(photos, ref_mask | is_self)
        if self.self_encoder is not None:
            identity = self._corrected(lq, identity, is_self)
        if net.inject == "kv_share":
            identity = identity._replace(photos=self._reference_cache(refs, ref_mask))
        return self.restorer.restore(lq, identity, {"w": w, "w_id": w_id, "id_scale": id_scale})

    def _features(self, photos: Tensor, mask: Tensor) -> IdentityFeatures:
        """What the recogniser says of photos (B, R, 3, S, S); of those that the mask leaves out, too."""
        spec = self.recognizer.spec
        shape = mask.shape
        faces = crop_to_template(photos.flatten(0, 1), spec.input_size, spec.template_offset, spec.template)
        out = self.recognizer.describe(faces)  # of B*R photos
        quality = quality_from_norm(out.norm, spec.typical_norm).unflatten(0, shape)
        return IdentityFeatures(out.embedding.unflatten(0, shape), out.feature_map.unflatten(0, shape), mask, quality)

    def _corrected(self, lq: Tensor, identity: IdentityFeatures, is_self: Tensor) -> IdentityFeatures:
        """The identity of faces without references as E_LQ tells it, or none where it finds none."""
        encoder = cast(SelfEncoder, self.self_encoder)
        out = encoder.describe(lq, identity.embed[:, 0], identity.quality[:, 0])
        quality = out.quality.clamp_min(MIN_QUALITY)[:, None]
        return identity._replace(
            embed=torch.where(is_self[:, :, None], out.embedding[:, None], identity.embed),
            quality=torch.where(is_self, quality, identity.quality),
            mask=identity.mask & ~(is_self & (out.quality < encoder.min_quality)[:, None]),
        )

    def _reference_cache(self, refs: Tensor, ref_mask: Tensor) -> ReferenceCache:
        """Keys and values of all photos; the mask keeps away those that are none."""
        net = cast(IDCodeFormer, self.restorer.net)
        layers = net.keys_and_values(refs.flatten(0, 1))
        keys, values = zip(*layers, strict=True)  # each (B*R, L, C)
        shape = ref_mask.shape
        return ReferenceCache(
            tuple(key.unflatten(0, shape) for key in keys),
            tuple(value.unflatten(0, shape) for value in values),
            ref_mask,
        )


def _acts(knob: Knob) -> bool:
    """Whether a knob is free, or fixed at something that changes the picture."""
    return isinstance(knob, Tensor) or knob != 0


def _style_of(net: IDCodeFormer, identity: IdentityFeatures | None, batch: int) -> tuple[Tensor, Tensor]:
    """The vector (B, E) that styles the decoder, and who has one (B,)."""
    if net.constant_identity is not None:
        return net.constant_identity.style_vector(batch)
    known = cast(IdentityFeatures, identity)
    return mean_embedding(known), known.mask.any(1)


def _fuse(
    dec_feat: Tensor,
    cft: Callable[[Tensor], Tensor] | None,
    delta: Callable[[Tensor], Tensor] | None,
    w: Knob,
    w_id: Knob,
) -> Tensor:
    """F_d + w (CFT(F_d; 1) - F_d) + w_id * delta(F_d); F_d = dec_feat (B, Cf, h, w)."""
    fused = dec_feat
    if cft is not None:
        fused = fused + w * (cft(dec_feat) - dec_feat)
    if delta is not None:
        fused = fused + w_id * delta(dec_feat)
    return fused
