"""A tiny CodeFormer and IDCodeFormer, and made-up references. For the tests of the identity path."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.archs.kv_share import ReferencePhotos
from basicsr.utils.weights import load_into

TINY: dict[str, Any] = {
    "dim_embd": 16, "n_head": 4, "n_layers": 2, "codebook_size": 16, "latent_size": 64, "connect_list": ["16", "32"],
    "img_size": 32, "nf": 8, "ch_mult": [1, 1, 2], "emb_dim": 8,
}  # fmt: skip
IDENTITY: dict[str, Any] = {"id_embed_dim": 6, "id_map_shape": [5, 2, 2], "num_vec_tokens": 2, "num_map_tokens": 3}


def codeformer() -> Any:
    """32 px, 8 x 8 codes, 2 layers; codes and positions as if trained."""
    torch.manual_seed(0)
    net: Any = CodeFormer(**TINY)
    net.quantize.embedding.weight.data.normal_()
    net.position_emb.data.normal_(std=0.5)
    return net.eval()


def id_codeformer(**changes: Any) -> Any:
    """At the start: the same CodeFormer, identity parts untrained."""
    torch.manual_seed(7)
    net = IDCodeFormer(**TINY, **{**IDENTITY, **changes}).eval()
    load_into(net, codeformer().state_dict(), strict=False)
    return net


def trained(net: Any, std: float = 0.3) -> Any:
    """The same with every zero-initialised output projection and the null keys at small random values, gates open."""
    torch.manual_seed(9)
    for layer in net.ft_layers:
        if layer.cross_attn is not None:
            layer.cross_attn.proj_out.weight.data.normal_(std=std)
            if layer.cross_attn.null_key is not None:
                layer.cross_attn.null_key.data.normal_(std=std)
        if layer.kv_share is not None:
            layer.kv_share.gate.data.fill_(0.8)
    if net.inject == "token_map":
        net.token_map.proj.weight.data.normal_(std=std)
    for style in net.style_dict.values():
        style.mlp[-1].weight.data.normal_(std=std)
        style.mlp[-1].bias.data.normal_(std=std)
    return net


def images(batch: int) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def references(batch: int = 2, num_refs: int = 2, seed: int = 0) -> IdentityFeatures:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, num_refs, dtype=torch.bool)
    return IdentityFeatures(
        F.normalize(torch.randn(batch, num_refs, 6, generator=rng), dim=-1),
        torch.randn(batch, num_refs, 5, 2, 2, generator=rng),
        mask,
        torch.rand(batch, num_refs, generator=rng) * 0.9 + 0.1,
        ReferencePhotos(torch.rand(batch, num_refs, 3, 32, 32, generator=rng) * 2 - 1, mask),
    )


def photos_of(identity: IdentityFeatures) -> ReferencePhotos:
    """The pictures, as `references` has put them in."""
    assert isinstance(identity.photos, ReferencePhotos)
    return identity.photos


def take(identity: IdentityFeatures, order: list[int]) -> IdentityFeatures:
    """The references `order`, for every sample."""
    embed, feature_map, mask, quality = (part[:, order] for part in identity[:4])
    photos = ReferencePhotos(*(part[:, order] for part in photos_of(identity)))
    return IdentityFeatures(embed, feature_map, mask, quality, photos)


def without(identity: IdentityFeatures, sample: int, place: int | slice = slice(None)) -> IdentityFeatures:
    """The same with the references at `place` of one sample masked."""
    mask = identity.mask.clone()
    mask[sample, place] = False
    return identity._replace(mask=mask, photos=photos_of(identity)._replace(mask=mask))


def swapped(identity: IdentityFeatures) -> IdentityFeatures:
    """The references of each sample given to another one."""
    embed, feature_map, mask, quality = (part.flip(0) for part in identity[:4])
    images, photo_mask = photos_of(identity)
    return IdentityFeatures(embed, feature_map, mask, quality, ReferencePhotos(images.flip(0), photo_mask.flip(0)))
