"""The bundled semantic encoder: what surrounds a point, up to the whole image, for a fraction of DINOv2's cost.

Convolutions down to 1/32 of the size, a few blocks of global attention there (Vaswani et al., 2017, pre-norm), and back
to 1/16. It was trained by this project with the first reasoner of the variant ``compact``, on correspondence
alone: its features tell parts of a scene apart; they name nothing.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.layers import attention, conv_stack, memory_format, standardised
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.semantics.encoder import NetworkEncoder

_WIDTHS = (48, 96, 160, 192)
_HEADS = 6
_BLOCKS = 2


class CompactContext(NetworkEncoder):
    """Image to 128 channels for every 16th pixel, any size that is a multiple of 16.

    Args:
        name: its name in the table of encoders.
        batch_norm: with batch normalisation, for training; :func:`~semantic_matcher_core.layers.folded` removes it.
    """

    feature_dim = 128
    patch_size = 16

    def __init__(self, name: str = "compact_context", *, batch_norm: bool = False) -> None:
        super().__init__()
        self.name = name
        self.channels_last = is_enabled("channels_last")
        c4, c8, c16, c32 = _WIDTHS
        self.stride4 = conv_stack(48, c4, c4, stride=1, batch_norm=batch_norm)
        self.stride8 = conv_stack(c4, c8, c8, batch_norm=batch_norm)
        self.stride16 = conv_stack(c8, c16, c16, batch_norm=batch_norm)
        self.stride32 = conv_stack(c16, c32, c32, batch_norm=batch_norm)
        self.blocks = nn.ModuleList(_Block(c32, _HEADS) for _ in range(_BLOCKS))
        self.norm = nn.LayerNorm(c32)
        self.from16 = nn.Conv2d(c16, self.feature_dim, 1)
        self.from32 = nn.Conv2d(c32, self.feature_dim, 1)

    @staticmethod
    def convert_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights as stored, in half precision, as this module's state dict."""
        return {name: tensor.float() for name, tensor in state.items()}

    def encode_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Standardise images."""
        return (standardised(images).contiguous(memory_format=memory_format(self.channels_last)),)

    def encode(self, *inputs: Tensor) -> Tensor:
        """Run the network on standardised images."""
        (images,) = inputs
        fine = self.stride16(self.stride8(self.stride4(F.pixel_unshuffle(images, 4))))
        coarse = self.stride32(fine)
        tokens = coarse.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        coarse = self.norm(tokens).transpose(1, 2).unflatten(2, coarse.shape[-2:])
        # An odd number of patches: the coarse map's cells are two patches wide, the last one half outside.
        wide = F.interpolate(self.from32(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.from16(fine) + wide[..., : fine.shape[-2], : fine.shape[-1]]


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused = is_enabled("fused_attention")
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(attention(q, k, v, fused=self.fused).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))
