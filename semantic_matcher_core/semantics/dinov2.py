"""DINOv2 vision transformers (Oquab et al., arXiv 2304.07193) for feature maps.

Parameters carry the names of the published state dicts (github.com/facebookresearch/dinov2,
``dinov2_vit*14_pretrain.pth``; with registers, Darcet et al., arXiv 2309.16588, ``dinov2_vit*14_reg4_pretrain.pth``),
so these load strictly. Attention is ``scaled_dot_product_attention``: no N x N matrix is kept.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantic_matcher_core.errors import unknown_name
from semantic_matcher_core.semantics.encoder import NetworkEncoder
from semantic_matcher_core.semantics.vit import Block, FusedSwiGlu, Mlp, PatchEmbed, check_patches


@dataclass(frozen=True)
class _Architecture:
    dim: int
    depth: int
    heads: int
    swiglu: bool = False
    registers: int = 0


_ARCHITECTURES = {
    "dinov2_vits14": _Architecture(384, 12, 6),
    "dinov2_vitb14": _Architecture(768, 12, 12),
    "dinov2_vitl14": _Architecture(1024, 24, 16),
    "dinov2_vitg14": _Architecture(1536, 40, 24, swiglu=True),
}
_ARCHITECTURES |= {f"{name}_reg": replace(sizes, registers=4) for name, sizes in _ARCHITECTURES.items()}

_PATCH = 14
# Side of the published position map in patches: they were trained, at last, at 518 x 518.
_GRID = 37
# Added to the number of patches before the scale is formed. Once against rounding, now part of what the weights expect.
_INTERPOLATE_OFFSET = 0.1


class DinoV2(NetworkEncoder):
    """A DINOv2 ViT with 14 px patches.

    The image goes in as it is, in [0, 1]: the published reasoners were trained without ImageNet normalisation.

    Args:
        name: ``dinov2_vits14``, ``dinov2_vitb14``, ``dinov2_vitl14`` or ``dinov2_vitg14``, and each with ``_reg`` for
            the one with registers.

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
        if architecture.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, architecture.registers, dim))
        self.registers = architecture.registers
        self.patch_embed = PatchEmbed(dim, _PATCH)
        mlp = FusedSwiGlu if architecture.swiglu else Mlp
        self.blocks = nn.ModuleList(Block(dim, architecture.heads, mlp(dim)) for _ in range(architecture.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def encode_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return images as they are, and the position encoding for their size.

        Args:
            images: ``B x 3 x H x W`` in [0, 1], H and W positive multiples of 14.

        Raises:
            ShapeError: H or W is no such multiple, or there are not three channels.
        """
        return images, self.interpolate_pos_encoding(*check_patches(images, _PATCH))

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
        if self.registers:
            # They have no place in the image, and so no position.
            registers = self.register_tokens.expand(len(images), -1, -1)
            tokens = torch.cat((tokens[:, :1], registers, tokens[:, 1:]), dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 1 + self.registers :]).transpose(1, 2).unflatten(2, (rows, columns))

    def interpolate_pos_encoding(self, rows: int, columns: int) -> Tensor:
        """Interpolate the position encoding for another number of patches, as the published hub models do.

        Bicubic; without antialiasing, with the offset in the *scale* (not the size) that the weights expect; those with
        registers expect antialiasing, and no offset.

        Args:
            rows, columns: patches down and across.

        Returns:
            ``1 x (1 + rows * columns) x C``, the class token's first.
        """
        if (rows, columns) == (_GRID, _GRID):
            return self.pos_embed
        pos_embed = self.pos_embed.float()
        down, across = (_resizing(n, bool(self.registers), pos_embed.device) for n in (rows, columns))
        # The resize is separable: as two products it takes a GPU hundredths of F.interpolate's time (1.85 ms of an H100
        # for 64 x 48 patches), and nothing need be kept that would go stale with the weights.
        with torch.autocast(pos_embed.device.type, enabled=False):
            grid = (down @ pos_embed[0, 1:].reshape(_GRID, -1)).unflatten(1, (_GRID, -1))
            resized = (across @ grid).flatten(0, 1)[None]
        return torch.cat((pos_embed[:, :1], resized), dim=1).to(self.pos_embed.dtype)


# Without a limit: a few kilobytes each, and a recorded CUDA graph goes on reading them.
@functools.cache
def _resizing(patches: int, antialias: bool, device: torch.device) -> Tensor:
    """Return ``patches x 37``: what a bicubic resize along one axis multiplies with."""
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(_GRID)[None, :, :, None].expand(-1, -1, -1, 4)
        if antialias:
            resized = F.interpolate(unit, size=(patches, 4), mode="bicubic", antialias=True)
        else:
            resized = F.interpolate(unit, scale_factor=((patches + _INTERPOLATE_OFFSET) / _GRID, 1.0), mode="bicubic")
        return resized[0, :, :, 0].T.contiguous().to(device)
