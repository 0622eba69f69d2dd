"""DINOv2 vision transformers (Oquab et al., arXiv 2304.07193) for feature maps.

Parameters carry the names of the published state dicts (github.com/facebookresearch/dinov2,
``dinov2_vit*14_pretrain.pth``, without registers), so these load strictly. Attention is
``scaled_dot_product_attention``: no N x N matrix is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantic_matcher_core.errors import ShapeError, unknown_name
from semantic_matcher_core.layers import attention
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.precision import to_weight
from semantic_matcher_core.semantics.encoder import NetworkEncoder


@dataclass(frozen=True)
class _Architecture:
    dim: int
    depth: int
    heads: int
    swiglu: bool = False


_ARCHITECTURES = {
    "dinov2_vits14": _Architecture(384, 12, 6),
    "dinov2_vitb14": _Architecture(768, 12, 12),
    "dinov2_vitl14": _Architecture(1024, 24, 16),
    "dinov2_vitg14": _Architecture(1536, 40, 24, swiglu=True),
}

_PATCH = 14
# Side of the published position map in patches: they were trained, at last, at 518 x 518.
_GRID = 37
# Added to the number of patches before the scale is formed. Once against rounding, now part of what the weights expect.
_INTERPOLATE_OFFSET = 0.1


class DinoV2(NetworkEncoder):
    """A DINOv2 ViT with 14 px patches.

    The image goes in as it is, in [0, 1]: the published reasoners were trained without ImageNet normalisation.

    Args:
        name: ``dinov2_vits14``, ``dinov2_vitb14``, ``dinov2_vitl14`` or ``dinov2_vitg14``.

    Raises:
        UnknownNameError: any other name.
    """

    narrow_weights = "all"

    def __init__(self, name: str = "dinov2_vits14") -> None:
        super().__init__()
        if name not in _ARCHITECTURES:
            raise unknown_name("DINOv2 model", name, _ARCHITECTURES)
        architecture = _ARCHITECTURES[name]
        self.name = name
        self.feature_dim = dim = architecture.dim
        self.patch_size = _PATCH
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + _GRID * _GRID, dim), std=0.02))
        # Stands for masked patches in pre-training; here only because it is in the published files.
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = _PatchEmbed(dim)
        self.blocks = nn.ModuleList(
            _Block(dim, architecture.heads, architecture.swiglu) for _ in range(architecture.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def encode_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return images as they are, and the position encoding for their size.

        Args:
            images: ``B x 3 x H x W`` in [0, 1], H and W positive multiples of 14.

        Raises:
            ShapeError: H or W is no such multiple, or there are not three channels.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ShapeError(f"images must be B x 3 x H x W, got {tuple(images.shape)}")
        height, width = images.shape[-2:]
        if height < _PATCH or width < _PATCH or height % _PATCH or width % _PATCH:
            raise ShapeError(
                f"image height and width must be positive multiples of {_PATCH}, got {height} x {width}; "
                "resize_for_encoder makes them so"
            )
        return images, self.interpolate_pos_encoding(height // _PATCH, width // _PATCH)

    def encode(self, *inputs: Tensor) -> Tensor:
        """Compute patch tokens of the last layer after the final norm, as a map.

        Args:
            inputs: images ``B x 3 x H x W`` and their position encoding, see :meth:`encode_inputs`.

        Returns:
            ``B x C x H/14 x W/14``, a view of ``B x (H/14 * W/14) x C`` memory.
        """
        images, positions = inputs
        rows, columns = images.shape[-2] // _PATCH, images.shape[-1] // _PATCH
        patches = self.patch_embed(images)
        tokens = torch.cat((self.cls_token.expand(len(images), -1, -1), patches), dim=1) + positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 1:]).transpose(1, 2).unflatten(2, (rows, columns))

    def interpolate_pos_encoding(self, rows: int, columns: int) -> Tensor:
        """Position encoding for another number of patches, as the published hub models make it.

        Bicubic, without antialiasing, with the offset in the *scale* (not the size) that the weights expect.

        Args:
            rows, columns: patches down and across.

        Returns:
            ``1 x (1 + rows * columns) x C``, the class token's first.
        """
        if (rows, columns) == (_GRID, _GRID):
            return self.pos_embed
        pos_embed = self.pos_embed.float()
        grid = pos_embed[:, 1:].transpose(1, 2).unflatten(2, (_GRID, _GRID))
        scale = ((rows + _INTERPOLATE_OFFSET) / _GRID, (columns + _INTERPOLATE_OFFSET) / _GRID)
        resized = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat((pos_embed[:, :1], resized.flatten(2).transpose(1, 2)), dim=1).to(self.pos_embed.dtype)


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=_PATCH, stride=_PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(to_weight(images, self.proj.weight)).flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, swiglu: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads)
        self.ls1 = _LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _SwiGlu(dim) if swiglu else _Mlp(dim)
        self.ls2 = _LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused = is_enabled("fused_attention")
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # B x N x 3C -> 3 x B x heads x N x C/heads
        q, k, v = self.qkv(to_weight(x, self.qkv.weight)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attention(q, k, v, fused=self.fused).transpose(1, 2).flatten(2))


class _LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(to_weight(x, self.fc1.weight))))


class _SwiGlu(nn.Module):
    """Gated feed-forward of the giant model (Shazeer, arXiv 2002.05202): two thirds of the width, rounded up to 8."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = (4 * dim * 2 // 3 + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(to_weight(x, self.w12.weight)).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)
