"""Layers of the vision transformers, named as in the published state dicts of DINOv2 and DINOv3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.layers import attention
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.precision import to_weight


def check_patches(images: Tensor, patch: int) -> tuple[int, int]:
    """Return how many patches images have down and across.

    Raises:
        ShapeError: they are not ``B x 3 x H x W`` with H and W positive multiples of the patch.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError(f"images must be B x 3 x H x W, got {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if height < patch or width < patch or height % patch or width % patch:
        raise ShapeError(
            f"image height and width must be positive multiples of {patch}, got {height} x {width}; "
            "resize_for_encoder makes them so"
        )
    return height // patch, width // patch


class PatchEmbed(nn.Module):
    """One linear layer of the pixels of each patch."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(to_weight(images, self.proj.weight)).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and feed-forward beside the residual stream.

    Args:
        dim, heads: channels, and heads of the attention.
        mlp: the feed-forward network.
        eps: of the norms.
    """

    def __init__(self, dim: int, heads: int, mlp: nn.Module, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = mlp
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        # One step for scale and sum: these run over the whole stream twice a block.
        x = torch.addcmul(x, self.attn(self.norm1(x), rotation), self.ls1.gamma)
        return torch.addcmul(x, self.mlp(self.norm2(x)), self.ls2.gamma)


class Attention(nn.Module):
    """Self-attention, with queries and keys turned by their position where there is a rotation."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused = is_enabled("fused_attention")
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        # B x N x 3C -> 3 x B x heads x N x C/heads
        q, k, v = self.qkv(to_weight(x, self.qkv.weight)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        return self.proj(attention(q, k, v, fused=self.fused).transpose(1, 2).flatten(2))


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn channel i together with channel i + D/2 (rotary position encoding, Su et al., arXiv 2104.09864).

    Args:
        x: ``B x heads x N x D``.
        rotation: ``2 x N x D``, cosines and sines, float32.
    """
    first, second = x.chunk(2, dim=-1)
    return (x * rotation[0] + torch.cat((-second, first), dim=-1) * rotation[1]).to(x.dtype)


class LayerScale(nn.Module):
    """A factor for each channel, as the published state dicts name it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(to_weight(x, self.fc1.weight))))


class FusedSwiGlu(nn.Module):
    """Gated feed-forward of DINOv2's giant (Shazeer, arXiv 2002.05202): two thirds of the width, rounded up to 8."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = (4 * dim * 2 // 3 + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(to_weight(x, self.w12.weight)).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class SwiGlu(nn.Module):
    """The same of DINOv3, with gate and value as layers of their own.

    Args:
        dim: channels.
        hidden: of the gate.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(dim, hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = to_weight(x, self.w1.weight)
        return self.w3(F.silu(self.w1(x)) * self.w2(x))
