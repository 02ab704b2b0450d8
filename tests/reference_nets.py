"""CodeFormer and its VQGAN computed a second time: from a state dict and its key names, in float64, without nn.Module.

Written from the published layout only, for one small size: img_size 16, ch_mult (1, 2), res_blocks 2, attention at
8 px. It is what the parity tests compare with; nothing of basicsr is imported here.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]

ENCODER = ["conv", "res", "res", "down", "res", "attn", "res", "attn", "res", "attn", "res", "norm", "conv"]
GENERATOR = ["conv", "res", "attn", "res", "res", "attn", "res", "attn", "up", "res", "res", "norm", "conv"]
ENCODER_TAPS = {2: "16", 6: "8"}  # after the second ResBlock of the level, before its attention
GENERATOR_TAPS = {6: "8", 9: "16"}  # latent grid: second ResBlock; other levels: first ResBlock


def conv(state: State, name: str, x: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"].double(), state[f"{name}.bias"].double(), stride, padding)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """32 groups, eps 1e-6."""
    grouped = x.reshape(x.shape[0], 32, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    scaled = (centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()).reshape(x.shape)
    return scaled * state[f"{name}.weight"].double()[:, None, None] + state[f"{name}.bias"].double()[:, None, None]


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def res_block(state: State, name: str, x: Tensor) -> Tensor:
    h = conv(state, f"{name}.conv1", swish(norm(state, f"{name}.norm1", x)))
    h = conv(state, f"{name}.conv2", swish(norm(state, f"{name}.norm2", h)))
    return h + (conv(state, f"{name}.conv_out", x, padding=0) if f"{name}.conv_out.weight" in state else x)


def attn_block(state: State, name: str, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    h = norm(state, f"{name}.norm", x)
    q, k, v = (conv(state, f"{name}.{part}", h, padding=0).reshape(batch, channels, -1) for part in "qkv")
    scores = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(channels)
    weights = scores.exp() / scores.exp().sum(2, keepdim=True)
    mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(batch, channels, height, width)
    return x + conv(state, f"{name}.proj_out", mixed, padding=0)


def block(state: State, kind: str, name: str, x: Tensor) -> Tensor:
    if kind == "conv":
        return conv(state, name, x)
    if kind == "norm":
        return norm(state, name, x)
    if kind == "res":
        return res_block(state, name, x)
    if kind == "attn":
        return attn_block(state, name, x)
    if kind == "down":
        padded = x.new_zeros(x.shape[0], x.shape[1], x.shape[2] + 1, x.shape[3] + 1)
        padded[:, :, :-1, :-1] = x
        return conv(state, f"{name}.conv", padded, padding=0, stride=2)
    return conv(state, f"{name}.conv", x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def encode(state: State, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    x, taps = x.double(), {}
    for index, kind in enumerate(ENCODER):
        x = block(state, kind, f"encoder.blocks.{index}", x)
        if index in ENCODER_TAPS:
            taps[ENCODER_TAPS[index]] = x
    return x, taps


def generate(state: State, x: Tensor, taps: Mapping[str, Tensor], w: float) -> Tensor:
    for index, kind in enumerate(GENERATOR):
        x = block(state, kind, f"generator.blocks.{index}", x)
        size = GENERATOR_TAPS.get(index)
        if size is not None and w > 0 and f"fuse_convs_dict.{size}.scale.0.weight" in state:
            x = fuse(state, f"fuse_convs_dict.{size}", taps[size], x, w)
    return x


def fuse(state: State, name: str, enc_feat: Tensor, dec_feat: Tensor, w: float) -> Tensor:
    e = res_block(state, f"{name}.encode_enc", torch.cat([enc_feat, dec_feat], 1))
    scale, shift = (
        conv(state, f"{name}.{part}.2", F.leaky_relu(conv(state, f"{name}.{part}.0", e), 0.2))
        for part in ("scale", "shift")
    )
    return dec_feat + w * (dec_feat * scale + shift)


def quantize(state: State, feat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(codebook rows (B, D, h, w), code_idx (B, L), codebook loss with beta 0.25)"""
    codebook = state["quantize.embedding.weight"].double()
    rows = feat.flatten(2).transpose(1, 2)
    code_idx = torch.cdist(rows, codebook.expand(len(rows), -1, -1)).argmin(2)
    quant_feat = codebook[code_idx].transpose(1, 2).reshape(feat.shape)
    return quant_feat, code_idx, 1.25 * (quant_feat - feat).square().mean()


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"].double() + state[f"{name}.bias"].double()


def linear(state: State, name: str, x: Tensor) -> Tensor:
    out = x @ state[f"{name}.weight"].double().T
    return out + state[f"{name}.bias"].double() if f"{name}.bias" in state else out


def self_attention(state: State, name: str, with_position: Tensor, x: Tensor, num_heads: int) -> Tensor:
    """Tokens (B, L, C); head by head."""
    weight, bias = state[f"{name}.in_proj_weight"].double(), state[f"{name}.in_proj_bias"].double()
    dim = x.shape[-1]
    q, k, v = (
        tokens @ weight[i * dim : (i + 1) * dim].T + bias[i * dim : (i + 1) * dim]
        for i, tokens in enumerate((with_position, with_position, x))
    )
    out = torch.empty_like(x)
    width = dim // num_heads
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        out[..., part] = torch.softmax(scores, -1) @ v[..., part]
    return linear(state, f"{name}.out_proj", out)


def predict_logits(state: State, lq_feat: Tensor, num_layers: int, num_heads: int) -> Tensor:
    x = linear(state, "feat_emb", lq_feat.flatten(2).transpose(1, 2))
    position = state["position_emb"].double()
    for index in range(num_layers):
        name = f"ft_layers.{index}"
        h = layer_norm(state, f"{name}.norm1", x)
        x = x + self_attention(state, f"{name}.self_attn", h + position, h, num_heads)
        h = linear(state, f"{name}.linear1", layer_norm(state, f"{name}.norm2", x))
        x = x + linear(state, f"{name}.linear2", h * 0.5 * (1 + torch.erf(h / math.sqrt(2))))
    return linear(state, "idx_pred_layer.1", layer_norm(state, "idx_pred_layer.0", x))


def codeformer(
    state: State, lq: Tensor, w: float, adain: bool, num_layers: int, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(restored, logits, lq_feat)"""
    lq_feat, taps = encode(state, lq)
    logits = predict_logits(state, lq_feat, num_layers, num_heads)
    codes = state["quantize.embedding.weight"].double()[logits.argmax(2)]
    quant_feat = codes.transpose(1, 2).reshape(lq_feat.shape)
    if adain:
        mean, std = quant_feat.mean((2, 3), keepdim=True), (quant_feat.var((2, 3), keepdim=True) + 1e-5).sqrt()
        lq_mean, lq_std = lq_feat.mean((2, 3), keepdim=True), (lq_feat.var((2, 3), keepdim=True) + 1e-5).sqrt()
        quant_feat = (quant_feat - mean) / std * lq_std + lq_mean
    return generate(state, quant_feat, taps, w), logits, lq_feat


def autoencoder(state: State, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(restored, codebook loss, code_idx)"""
    quant_feat, code_idx, loss = quantize(state, encode(state, x)[0])
    return generate(state, quant_feat, {}, 0.0), loss, code_idx
