"""DINOv3 vision transformers (Siméoni et al., arXiv 2508.10104) for feature maps: ViT-S, S+ and B, patch 16.

Parameters carry the names of the published state dicts (``dinov3_vit*16*_pretrain_lvd1689m-*.pth``), so these load
strictly. They are under Meta's DINOv3 licence. The network is written after the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import unknown_name
from semantic_matcher_core.semantics.encoder import NetworkEncoder
from semantic_matcher_core.semantics.vit import Block, Mlp, PatchEmbed, SwiGlu, check_patches


@dataclass(frozen=True)
class _Architecture:
    dim: int
    depth: int
    heads: int
    gated: int = 0  # width of the gated feed-forward network; 0 for the plain one


_ARCHITECTURES = {
    "dinov3_vits16": _Architecture(384, 12, 6),
    "dinov3_vits16plus": _Architecture(384, 12, 6, gated=1536),
    "dinov3_vitb16": _Architecture(768, 12, 12),
}

_PATCH = 16
_REGISTERS = 4
_EPS = 1e-5
# Wavelengths of the position encoding grow from 1, half of the image, to this.
_LONGEST = 100.0


class DinoV3(NetworkEncoder):
    """A DINOv3 ViT with 16 px patches.

    The image goes in as it is, in [0, 1], as into DINOv2: a reasoner learns what it is given.

    Args:
        name: ``dinov3_vits16``, ``dinov3_vits16plus`` or ``dinov3_vitb16``.

    Raises:
        UnknownNameError: any other name.
    """

    narrow_weights = "all"

    def __init__(self, name: str = "dinov3_vits16") -> None:
        super().__init__()
        if name not in _ARCHITECTURES:
            raise unknown_name("DINOv3 model", name, _ARCHITECTURES)
        architecture = _ARCHITECTURES[name]
        self.name = name
        self.feature_dim = dim = architecture.dim
        self.patch_size = _PATCH
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, _REGISTERS, dim))
        # Stands for masked patches in pre-training; here only because it is in the published files.
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(dim, _PATCH)
        self.rope_embed = _Wavelengths(dim // architecture.heads)

        def mlp() -> nn.Module:
            return SwiGlu(dim, architecture.gated) if architecture.gated else Mlp(dim)

        self.blocks = nn.ModuleList(Block(dim, architecture.heads, mlp(), _EPS) for _ in range(architecture.depth))
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    @staticmethod
    def convert_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Apply the published masks of the biases, which leave keys without one."""
        masks = {k: v for k, v in state.items() if k.endswith(".qkv.bias_mask")}
        state = {k: v for k, v in state.items() if k not in masks}
        for name, mask in masks.items():
            bias = name.removesuffix("_mask")
            state[bias] = state[bias].masked_fill(mask == 0, 0.0)
        return state

    def encode_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return images as they are, and the rotations for their size.

        Args:
            images: ``B x 3 x H x W`` in [0, 1], H and W positive multiples of 16.

        Raises:
            ShapeError: H or W is no such multiple, or there are not three channels.
        """
        return images, self.rotation(*check_patches(images, _PATCH))

    def encode(self, *inputs: Tensor) -> Tensor:
        """Compute patch tokens of the last layer after the final norm, as a map.

        Args:
            inputs: images ``B x 3 x H x W`` and their rotations, see :meth:`encode_inputs`.

        Returns:
            ``B x C x H/16 x W/16``, a view of ``B x (H/16 * W/16) x C`` memory.
        """
        images, rotation = inputs
        rows, columns = images.shape[-2] // _PATCH, images.shape[-1] // _PATCH
        first = torch.cat((self.cls_token, self.storage_tokens), dim=1).expand(len(images), -1, -1)
        tokens = torch.cat((first, self.patch_embed(images)), dim=1)
        for block in self.blocks:
            tokens = block(tokens, rotation)
        return self.norm(tokens[:, 1 + _REGISTERS :]).transpose(1, 2).unflatten(2, (rows, columns))

    def rotation(self, rows: int, columns: int) -> Tensor:
        """Compute the rotations of all tokens; class and register tokens have no place, and are not turned.

        Args:
            rows, columns: patches down and across.

        Returns:
            ``2 x (1 + 4 + rows * columns) x D`` cosines and sines, float32.
        """
        periods = self.rope_embed.periods.float()
        y, x = (
            (torch.arange(count, dtype=torch.float32, device=periods.device) + 0.5) / count * 2
            - 1  # centres of the patches in [-1, 1]
            for count in (rows, columns)
        )
        down = (2 * math.pi * y[:, None] / periods)[:, None].expand(-1, columns, -1)
        across = (2 * math.pi * x[:, None] / periods)[None].expand(rows, -1, -1)
        angles = torch.cat((down, across, down, across), dim=-1).flatten(0, 1)
        angles = torch.cat((angles.new_zeros((1 + _REGISTERS, angles.shape[1])), angles))
        return torch.stack((angles.cos(), angles.sin()))


class _Wavelengths(nn.Module):
    """Wavelengths of the position encoding, in halves of the image."""

    periods: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        count = head_dim // 4
        self.register_buffer("periods", _LONGEST ** (torch.arange(count, dtype=torch.float32) / count))
