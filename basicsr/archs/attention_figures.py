"""What the identity does inside the code transformer, in three numbers: is it looked at, and does that depend on place?

Attention that is the same at every position is a bias, not attention (with a single key it is always so); attention to
the null key alone is no conditioning. The fused attention keeps no weights: they are computed once more here, for one
batch, where somebody asks.

Shapes: B batch; Q queries (positions of the image); N keys; d width of a head; C = heads * d.
"""

from typing import Any

import torch
from torch import Tensor

from basicsr.archs.blocks import Attention, merge_heads
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures

FIGURES = ("id_attn_entropy", "id_attn_null", "id_attn_spatial_var")


def attention_figures(attention: Attention) -> dict[str, Tensor]:
    """Figures of one attention for each sample, (B,) each.

    id_attn_entropy: mean entropy of the weights over heads and positions, divided by the log of the number of keys:
        1 all keys alike (also where there is only one), 0 each position looks at one key.
    id_attn_null: mean weight on the keys that are no identity.
    id_attn_spatial_var: variance over the positions of what the identity keys give, divided by its mean square:
        0 a constant, the same everywhere; 1 a pattern without a constant part.
    """
    q, k, v, bias = (part.float() for part in attention[:4])
    weights = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias, dim=-1)  # (B, heads, Q, N)
    log_num_keys = torch.isfinite(bias).sum((1, 2, 3)).float().log()
    entropy = torch.special.entr(weights).sum(-1).mean((1, 2))  # (B,)
    away = attention.num_away
    given = merge_heads(weights[..., away:] @ v[:, :, away:])  # (B, heads, Q, d) -> (B, Q, C)
    # from the first position: exactly zero where all are equal, which a difference to a rounded mean is not
    variance = (given - given[:, :1]).var(1, correction=0).sum(-1)
    mean_square = given.square().mean(1).sum(-1)
    return {
        "id_attn_entropy": torch.where(log_num_keys > 0, entropy / log_num_keys, torch.ones_like(entropy)),
        "id_attn_null": weights[..., :away].sum(-1).mean((1, 2)),
        "id_attn_spatial_var": variance / mean_square.clamp_min(torch.finfo(torch.float32).tiny),
    }


@torch.no_grad()
def identity_attention(net: IDCodeFormer, lq: Tensor, identity: IdentityFeatures) -> dict[str, Tensor]:
    """FIGURES of each of the M samples that have something to look at, (M,) each: means over the layers.

    Costs one code prediction. With `inject: kv_share` the keys that are no identity are the image's own, and `id_gate`
    is the mean of |tanh(a)| over the layers.

    Args:
        net: in training or evaluation.
        lq: (B, 3, H, W).
    """
    found: list[dict[str, Tensor]] = []
    has_ref = lq.new_zeros(len(lq), dtype=torch.bool)

    def record(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Hook of the modules that let the identity in."""
        nonlocal has_ref
        found.append(attention_figures(module.project(*inputs)))
        has_ref = inputs[-1].has_ref

    attends = net.inject in ("cross_attn", "kv_share")
    modules = [layer.get_submodule(net.inject) for layer in net.ft_layers] if attends else []
    hooks = [module.register_forward_hook(record) for module in modules]
    try:
        net(lq, identity, code_only=True)
    finally:
        for hook in hooks:
            hook.remove()
    figures = {
        name: torch.stack([of_layer[name] for of_layer in found]).mean(0)[has_ref] if found else lq.new_zeros(0)
        for name in FIGURES
    }
    if net.inject == "kv_share":
        gates = torch.stack([module.get_parameter("gate").tanh().abs() for module in modules])
        figures["id_gate"] = gates.mean().expand_as(figures["id_attn_null"])
    return figures
