"""The bundled extractor's network: early downsampling, maps of features, and descriptors computed at keypoints alone.

Feature pyramids (Lin et al., CVPR 2017, arXiv 1612.03144) with the small widths of XFeat (Potje et al., CVPR 2024).
What makes a descriptor of the maps runs at some thousand keypoints instead of every pixel, as in ALIKED's sparse
descriptor head (Zhao et al., 2023): with ``positions`` it reads the finest map at places that it predicts, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.constants import constant
from semantic_matcher_core.layers import conv_stack, grid_sample
from semantic_matcher_core.precision import FullPrecisionConv1x1, to_weight

STRIDE = 32


@dataclass(frozen=True)
class Architecture:
    """Sizes of a :class:`CompactNetwork`.

    Attributes:
        widths: channels at strides 2, 4, 8, 16 and 32.
        depths: 3 x 3 convolutions at each of them.
        fused: channels of the fused map, at stride 8.
        hidden: width of the descriptor head's hidden layer.
        positions: places besides the keypoint itself that the head reads at stride 4; 0 for none.
        descriptor_dim: of the descriptors.
    """

    widths: tuple[int, int, int, int, int] = (24, 64, 96, 128, 160)
    depths: tuple[int, int, int, int, int] = (1, 2, 3, 3, 2)
    fused: int = 96
    hidden: int = 256
    positions: int = 0
    descriptor_dim: int = 128

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, for YAML and the metadata of weights."""
        return asdict(self)


class CompactNetwork(nn.Module):
    """Images to two maps of features and a map of scores; descriptors of the maps at keypoints.

    Args:
        architecture: its sizes.
        batch_norm: with batch normalisation, for training; see :func:`~semantic_matcher_core.layers.folded`.
    """

    def __init__(self, architecture: Architecture = Architecture(), *, batch_norm: bool = False) -> None:
        super().__init__()
        self.architecture = architecture
        c2, c4, c8, c16, c32 = architecture.widths
        d2, d4, d8, d16, d32 = architecture.depths
        fused, dim, hidden = architecture.fused, architecture.descriptor_dim, architecture.hidden

        def convs(inputs: int, outputs: int, depth: int, stride: int = 2) -> nn.Sequential:
            return conv_stack(inputs, *[outputs] * depth, stride=stride, batch_norm=batch_norm)

        self.stride2 = conv_stack(12, *[c2] * d2, stride=1, batch_norm=batch_norm, blocks=2)
        self.stride4 = convs(c2, c4, d4)
        self.stride8 = convs(c4, c8, d8)
        self.stride16 = convs(c8, c16, d16)
        self.stride32 = convs(c16, c32, d32)
        self.from8, self.from16, self.from32 = (nn.Conv2d(c, fused, 1) for c in (c8, c16, c32))
        self.fuse = convs(fused, fused, 1, stride=1)
        self.to4 = nn.Conv2d(fused, c4, 1)
        self.to2 = nn.Conv2d(c4, c2, 1)
        self.score = nn.Sequential(*convs(c2, c2, 1, stride=1), FullPrecisionConv1x1(c2, 4))
        self.head = nn.Sequential(
            nn.Linear(fused + c4 * (1 + architecture.positions), hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)
        )
        if architecture.positions:
            self.offsets = nn.Linear(fused + c4, 2 * architecture.positions)
            # A ring of 2 to 6 pixels about the keypoint to begin with.
            nn.init.normal_(self.offsets.weight, std=1e-3)
            angle = torch.arange(architecture.positions) * 2.4
            reach = 2 + 4 * torch.arange(architecture.positions) / max(1, architecture.positions - 1)
            ring = torch.stack((angle.cos() * reach, angle.sin() * reach), dim=-1)
            self.offsets.bias.data = ring.flatten()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the maps of images.

        Args:
            images: ``B x 3 x H x W``, zero mean and unit variance, H and W multiples of 32.

        Returns:
            ``B x C x H/4 x W/4`` and ``B x F x H/8 x W/8`` features, and ``B x 1 x H x W`` logits of the score.
        """
        half, fine, coarse = self.maps(images)
        return fine, coarse, self.score_map(half, fine)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``B x C x H/2 x W/2``, ``B x C x H/4 x W/4`` and ``B x F x H/8 x W/8`` features of images."""
        return self.deep(*self.shallow(images))

    def shallow(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first layers' features of images, at strides 2 and 4."""
        half = self.stride2(to_weight(images, self.from8.weight))
        return half, self.stride4(half)

    def deep(self, half: Tensor, quarter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return :meth:`maps` of what :meth:`shallow` returns."""
        eighth = self.stride8(quarter)
        sixteenth = self.stride16(eighth)
        coarse = _doubled(self.from32(self.stride32(sixteenth))).add_(self.from16(sixteenth))
        coarse = self.fuse(_doubled(coarse).add_(self.from8(eighth)))
        return half, _doubled(self.to4(coarse)).add_(quarter).relu_(), coarse

    def score_map(self, half: Tensor, fine: Tensor) -> Tensor:
        """Return ``B x 1 x H x W`` logits of the score, of the first two of :meth:`maps`."""
        return F.pixel_shuffle(self.score(_doubled(self.to2(fine)).add_(half).relu_()), 2)

    def describe(self, fine: Tensor, coarse: Tensor, keypoints: Tensor) -> Tensor:
        """Compute L2-normalised descriptors at keypoints.

        Args:
            fine, coarse: the maps of :meth:`forward`, float32.
            keypoints: ``B x N x 2`` (x, y) pixels.

        Returns:
            ``B x N x D``.
        """
        at = torch.cat((read_map(coarse, keypoints, 8), read_map(fine, keypoints, 4)), dim=-1)
        if self.architecture.positions:
            moved = keypoints[:, :, None] + self.offsets(to_weight(at, self.offsets.weight)).unflatten(-1, (-1, 2))
            around = read_map(fine, moved.flatten(1, 2), 4).unflatten(1, moved.shape[1:3])
            at = torch.cat((at, around.flatten(2)), dim=-1)
        return F.normalize(self.head(to_weight(at, self.from8.weight)).float(), dim=-1)


def architecture_of(state: Mapping[str, Tensor]) -> Architecture | None:
    """Return the sizes of the network that a folded state dict is of, ``None`` where it is of another.

    Names may begin with ``net.``.
    """
    if not any(name.removeprefix("net.") == "head.2.weight" for name in state):
        return None
    shapes = {name.removeprefix("net."): tensor.shape for name, tensor in state.items()}
    strides = (2, 4, 8, 16, 32)
    offsets = shapes.get("offsets.weight")
    return Architecture(
        widths=tuple(shapes[f"stride{s}.0.0.weight"][0] for s in strides),  # type: ignore[arg-type]
        depths=tuple(  # type: ignore[arg-type]
            sum(n.startswith(f"stride{s}.") and n.endswith(".0.weight") for n in shapes) for s in strides
        ),
        fused=shapes["from8.weight"][0],
        hidden=shapes["head.0.weight"][0],
        positions=0 if offsets is None else offsets[0] // 2,
        descriptor_dim=shapes["head.2.weight"][0],
    )


def read_map(values: Tensor, pixels: Tensor, stride: int) -> Tensor:
    """Return ``B x N x C`` of a ``B x C x H/stride x W/stride`` map at ``B x N x 2`` (x, y) pixels, bilinear
    between the centres of its cells; beyond the outermost ones the border counts.
    """
    if values.device.type == "cpu" and not torch.is_grad_enabled():
        return _read_rows(values, (pixels + 0.5) / stride - 0.5)
    extent = constant((values.shape[-1] * stride, values.shape[-2] * stride), pixels)
    return grid_sample(values, (2 * pixels + 1) / extent - 1, "bilinear", "border")


def _read_rows(values: Tensor, at: Tensor) -> Tensor:
    """Return ``B x N x C`` of ``B x C x h x w`` maps at ``B x N x 2`` (x, y), as weighted sums of rows of a table.

    On a CPU twice as fast as grid_sample, which reads channel by channel, with one thread for an image; there the
    channels of a pixel lie side by side already.
    """
    batch, channels, height, width = values.shape
    x, y = at[..., 0].clamp(0, width - 1), at[..., 1].clamp(0, height - 1)
    # What is not a number is read somewhere, and stays so.
    left, top = (v.floor().nan_to_num(0) for v in (x, y))
    x, y = x - left, y - top
    weights = torch.stack(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), dim=-1)
    # Rows of a table are counted in whole numbers: float32 has not all that a large map needs.
    left, top = left.long(), top.long()
    right, low = (left + 1).clamp_(max=width - 1), (top + 1).clamp_(max=height - 1)
    top, low = ((torch.arange(batch, device=values.device)[:, None] * height + v) * width for v in (top, low))
    corners = torch.stack((top + left, top + right, low + left, low + right), dim=-1)
    table = values.permute(0, 2, 3, 1).reshape(-1, channels)
    rows = F.embedding_bag(corners.flatten(0, 1), table, per_sample_weights=weights.flatten(0, 1), mode="sum")
    return rows.unflatten(0, at.shape[:2])


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
