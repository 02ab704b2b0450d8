"""From a batch to the identity that conditions the network: references, the degraded photo itself, or nothing.

Shapes: B batch; R references; S pixels; E embedding width; C, h, w recogniser map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.archs.kv_share import ReferenceCache, ReferencePhotos
from basicsr.archs.self_encoder_arch import SelfEncoder
from basicsr.recognizers import Recognizer
from basicsr.utils.errors import OptionError
from basicsr.utils.signature import require_within

IdentityMode = Literal["ref", "self", "none"]
MODE_NONE, MODE_SELF, MODE_REF = 0, 1, 2
MODE_CODES: dict[str, int] = {"none": MODE_NONE, "self": MODE_SELF, "ref": MODE_REF}

MIN_QUALITY = 1e-3  # a key's logit gets log(quality): it must stay finite


def fixed_modes(mode: IdentityMode, batch_size: int, device: torch.device) -> Tensor:
    """The same mode for every sample, (B,) int64."""
    return torch.full((batch_size,), MODE_CODES[mode], device=device)


def check_shares(p_null: float, p_self: float) -> None:
    """Refuse probabilities that `draw_modes` cannot draw with."""
    require_within(0, 1, p_null=p_null, p_self=p_self)
    if p_null + p_self > 1:
        raise OptionError(f"p_null: found {p_null} beside p_self {p_self}, expected that the two are at most 1 in all.")


def draw_modes(identity_draw: Tensor, p_null: float, p_self: float) -> Tensor:
    """Identity dropout (Ho & Salimans 2022): one checkpoint learns all three modes.

    Args:
        identity_draw: (B,) in [0, 1), drawn with the sample, so that ranks and resumed runs agree.
        p_null, p_self: probabilities of the modes none and self; the rest uses the reference.
    Returns:
        (B,) int64 of MODE_*.
    """
    modes = torch.full_like(identity_draw, MODE_REF, dtype=torch.int64)
    modes[identity_draw < p_null + p_self] = MODE_SELF
    modes[identity_draw < p_null] = MODE_NONE
    return modes


@torch.no_grad()
def identity_features(
    recognizer: Recognizer,
    lq: Tensor,
    refs: Tensor | None,
    ref_mask: Tensor | None,
    modes: Tensor,
    self_encoder: SelfEncoder | None = None,
) -> IdentityFeatures:
    """Recogniser features of each sample's identity photos.

    Args:
        recognizer: frozen, takes (N, 3, S, S) in [-1, 1] in FFHQ framing.
        lq: (B, 3, S, S).
        refs, ref_mask: (B, R, 3, S, S) and (B, R) bool; None: no sample has a reference.
        modes: (B,) of MODE_*; a sample in mode ref without any reference falls back to self.
        self_encoder: E_LQ, which knows degraded photos better than the recogniser, and refuses those that tell nothing:
            such a sample has an empty mask row.
    Returns:
        IdentityFeatures with max(R, 1) places; a sample in mode none has an empty mask row. Its photos are the
        references alone: keys of the degraded photo beside those that its own self-attention has already would leave
        every weighted mean as it is.
    """
    if refs is None or ref_mask is None:
        refs, ref_mask = lq.unsqueeze(1), torch.zeros_like(modes, dtype=torch.bool).unsqueeze(1)
    uses_ref = (modes == MODE_REF) & ref_mask.any(1)
    uses_self = (modes == MODE_SELF) | ((modes == MODE_REF) & ~uses_ref)
    given = ReferencePhotos(refs, ref_mask & uses_ref.unsqueeze(1))
    photos, mask = refs.clone(), given.mask.clone()
    photos[uses_self, 0] = lq[uses_self]
    mask[uses_self, 0] = True
    features = _embed(recognizer, photos, mask)._replace(photos=given)
    if self_encoder is not None and uses_self.any():
        out = self_encoder(lq[uses_self], features.embed[uses_self, 0], features.quality[uses_self, 0])
        features.embed[uses_self, 0] = out.embedding
        features.quality[uses_self, 0] = out.quality.clamp_min(MIN_QUALITY)
        features.mask[uses_self, 0] = out.quality >= self_encoder.min_quality
    return features


def _embed(recognizer: Recognizer, photos: Tensor, mask: Tensor) -> IdentityFeatures:
    """Features of the photos that `mask` (B, R) lets through; the other places stay zero."""
    batch_size, num_refs = mask.shape
    spec = recognizer.spec
    embed = photos.new_zeros(batch_size, num_refs, spec.embed_dim)
    feature_map = photos.new_zeros(batch_size, num_refs, *spec.map_shape)
    quality = photos.new_ones(batch_size, num_refs)
    if mask.any():
        out = recognizer(photos[mask])
        embed[mask] = out.embedding
        feature_map[mask] = out.feature_map
        quality[mask] = quality_from_norm(out.norm, spec.typical_norm)
    return IdentityFeatures(embed, feature_map, mask, quality)


def quality_from_norm(norm: Tensor, typical_norm: float | None) -> Tensor:
    """Trust in an embedding, (0, 1]: its feature norm against that of clean faces (Kim et al. 2022, AdaFace, sec. 3.2).

    A recogniser whose typical norm is not known gives every photo the same trust, 1.
    """
    if typical_norm is None:
        return torch.ones_like(norm)
    return (norm / typical_norm).clamp(MIN_QUALITY, 1.0)


def stack_identities(samples: Sequence[IdentityFeatures]) -> IdentityFeatures:
    """Single samples (1, R_i, ...) as one batch (B, max R_i, ...), padded with zeros that the masks leave out.

    Photos that are no ReferenceCache yet are left out: what reads them must have read them before.
    """
    most = max(sample.mask.shape[1] for sample in samples)

    def stacked(parts: Sequence[Tensor]) -> Tensor:
        """(1, R_i, ...) each -> (B, max R_i, ...)"""
        return torch.cat([F.pad(x, (0, 0) * (x.ndim - 2) + (0, most - x.shape[1])) for x in parts])

    embed, feature_map, mask, quality = (stacked(parts) for parts in zip(*(s[:4] for s in samples), strict=True))
    caches = [sample.photos if isinstance(sample.photos, ReferenceCache) else None for sample in samples]
    full = next((cache for cache in caches if cache is not None), None)
    if full is None:
        return IdentityFeatures(embed, feature_map, mask, quality)
    empty = ReferenceCache(
        tuple(torch.zeros_like(keys[:, :1]) for keys in full.keys),
        tuple(torch.zeros_like(values[:, :1]) for values in full.values),
        torch.zeros_like(full.mask[:, :1]),
    )
    known = [empty if cache is None else cache for cache in caches]
    cache = ReferenceCache(
        tuple(stacked(parts) for parts in zip(*(cache.keys for cache in known), strict=True)),
        tuple(stacked(parts) for parts in zip(*(cache.values for cache in known), strict=True)),
        stacked([cache.mask for cache in known]),
    )
    return IdentityFeatures(embed, feature_map, mask, quality, cache)


def select_identities(identity: IdentityFeatures, places: Sequence[int]) -> IdentityFeatures:
    """The identities of some samples of a batch, with the photos that are a ReferenceCache already."""
    photos = identity.photos if isinstance(identity.photos, ReferenceCache) else None
    if photos is not None:
        keys, values = (tuple(part[places] for part in parts) for parts in (photos.keys, photos.values))
        photos = ReferenceCache(keys, values, photos.mask[places])
    return IdentityFeatures(
        identity.embed[places], identity.feature_map[places], identity.mask[places], identity.quality[places], photos
    )


def require_the_recognizers_shapes(net_g: IDCodeFormer, recognizer: Recognizer | None) -> None:
    """The token projector must fit the recogniser's features."""
    if recognizer is None:
        raise OptionError("network_identity: IDCodeFormer needs a recogniser. Name its weights: network_identity.path.")
    spec = recognizer.spec
    wanted = {"id_embed_dim": spec.embed_dim, "id_map_shape": list(spec.map_shape)}
    found = {"id_embed_dim": net_g.id_embed_dim, "id_map_shape": list(net_g.id_map_shape)}
    for key, value in wanted.items():
        if found[key] != value:
            raise OptionError(
                f"network_g.{key}: found {found[key]}, but the recogniser gives {value}. Set it to {value}."
            )
