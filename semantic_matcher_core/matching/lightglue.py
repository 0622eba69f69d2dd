"""LightGlue: Local Feature Matching at Light Speed (Lindenberger et al., ICCV 2023; arXiv 2306.13643).

The network is written after the paper, with the names of the published state dicts (cvg/LightGlue, v0.1_arxiv;
verlab/accelerated_features for LighterGlue). It is ours rather than kornia's because attention decides the speed on a
CPU (kornia's cross attention keeps all its weights, twice: this takes 0.6 of its time) and because kornia's sets a
switch of the whole process; ``tests/core/test_lightglue.py`` holds the two against each other.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.layers import attention
from semantic_matcher_core.optimisations import is_enabled

# Dropping points costs gathers, which pay off on a GPU from this many points on; on a CPU they always do.
_PRUNED_FROM = {"cuda": 1536}


@dataclass(frozen=True)
class Architecture:
    """Sizes of a published LightGlue.

    Attributes:
        input_dim: of the descriptors.
        dim: of the network.
        layers: of a self- and a cross-attention each.
        heads: of each attention.
        scale_and_orientation: positions are (x, y, scale, orientation).
    """

    input_dim: int
    dim: int = 256
    layers: int = 9
    heads: int = 4
    scale_and_orientation: bool = False


class Assignment(NamedTuple):
    """What the network says of one pair of images with M and N keypoints.

    Attributes:
        scores: ``m x n`` log-probability that two keypoints match, of the keypoints that were kept.
        kept0, kept1: ``m`` and ``n`` int64, which keypoints these are; ``None`` for all.
        layers: how many were run.
    """

    scores: Tensor
    kept0: Tensor | None
    kept1: Tensor | None
    layers: int


class LightGlue(nn.Module):
    """Attention within and across two images, then a soft assignment.

    Args:
        architecture: sizes; those of the weights that are loaded.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        dim, heads, layers = architecture.dim, architecture.heads, architecture.layers
        self.input_proj = nn.Identity() if architecture.input_dim == dim else nn.Linear(architecture.input_dim, dim)
        self.posenc = _PositionalEncoding(4 if architecture.scale_and_orientation else 2, dim // heads)
        self.transformers = nn.ModuleList(_Layer(dim, heads) for _ in range(layers))
        self.log_assignment = nn.ModuleList(_MatchAssignment(dim) for _ in range(layers))
        self.token_confidence = nn.ModuleList(_TokenConfidence(dim) for _ in range(layers - 1))
        self.eval()

    @staticmethod
    def convert_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename what older files call otherwise; LighterGlue's file holds an extractor besides, which is left out."""
        if any(name.startswith("matcher.") for name in state):
            state = {k.removeprefix("matcher."): v for k, v in state.items() if k.startswith("matcher.")}
        # The first is computed, not learned; the others are left over, and nothing reads them.
        unread = re.compile(r"confidence_thresholds|log_assignment\.\d+\.r")
        state = {k: v for k, v in state.items() if not unread.fullmatch(k)}
        return {re.sub(r"^(self_attn|cross_attn)\.(\d+)\.", r"transformers.\2.\1.", k): v for k, v in state.items()}

    def forward(
        self,
        positions0: Tensor,
        positions1: Tensor,
        descriptors0: Tensor,
        descriptors1: Tensor,
        *,
        depth_confidence: float | None = None,
        width_confidence: float | None = None,
    ) -> Assignment:
        """Match the keypoints of one pair.

        Args:
            positions0, positions1: ``M x 2`` and ``N x 2`` (or 4) normalised, see :func:`normalised_positions`; M and N
                are 1 or more.
            descriptors0, descriptors1: ``M x D`` and ``N x D``.
            depth_confidence: stop after a layer when this share of the keypoints is sure of itself; ``None``: never.
            width_confidence: after each layer, drop keypoints that are this sure to have no match; ``None``: never.
        """
        x0, x1 = self.input_proj(descriptors0), self.input_proj(descriptors1)
        # Angles of many turns: narrow types would lose their fractions.
        with torch.autocast(x0.device.type, enabled=False):
            encoding0, encoding1 = self.posenc(positions0), self.posenc(positions1)
        total = len(x0) + len(x1)
        kept0 = kept1 = None
        last = len(self.transformers) - 1
        for i, layer in enumerate(self.transformers):
            x0, x1 = layer(x0, x1, encoding0, encoding1)
            if i == last:
                break
            confidence0 = confidence1 = None
            threshold = 0.8 + 0.1 * math.exp(-4.0 * i / (last + 1))
            if depth_confidence is not None:
                confidence0, confidence1 = self.token_confidence[i](x0), self.token_confidence[i](x1)
                unsure = (confidence0 < threshold).sum() + (confidence1 < threshold).sum()
                if 1.0 - float(unsure) / total > depth_confidence:
                    break
            if width_confidence is not None:
                x0, encoding0, kept0 = self._pruned(i, x0, encoding0, kept0, confidence0, threshold, width_confidence)
                x1, encoding1, kept1 = self._pruned(i, x1, encoding1, kept1, confidence1, threshold, width_confidence)
                if not len(x0) or not len(x1):
                    return Assignment(x0.new_zeros((len(x0), len(x1))), kept0, kept1, i + 1)
        return Assignment(self.log_assignment[i](x0, x1), kept0, kept1, i + 1)

    def _pruned(
        self,
        layer: int,
        x: Tensor,
        encoding: Tensor,
        kept: Tensor | None,
        confidence: Tensor | None,
        threshold: float,
        width_confidence: float,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return descriptors, encodings and indices without the keypoints that surely have no match."""
        if len(x) <= _PRUNED_FROM.get(x.device.type, -1):
            return x, encoding, kept
        assignment: Any = self.log_assignment[layer]
        keep = assignment.matchability_of(x) > 1 - width_confidence
        if confidence is not None:
            keep |= confidence <= threshold  # who is not sure yet may still find a match
        (rows,) = keep.nonzero(as_tuple=True)
        if len(rows) == len(x):
            return x, encoding, kept
        return x[rows], encoding[:, rows], rows if kept is None else kept[rows]


def normalised_positions(keypoints: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Put the middle of the image at the origin and half its longer side at 1, as the weights expect.

    Args:
        keypoints: ``N x 2`` (x, y) pixels.
        image_size: (height, width) in pixels.
    """
    height, width = image_size
    x, y = keypoints.unbind(-1)
    half = max(height, width) / 2
    return torch.stack(((x - width / 2) / half, (y - height / 2) / half), dim=-1)


class _PositionalEncoding(nn.Module):
    """Learned Fourier features, as rotations of pairs of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Wr = nn.Linear(inputs, outputs // 2, bias=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Return ``2 x N x D``: cosines and sines, each twice."""
        angles = self.Wr(positions)
        return torch.stack((angles.cos(), angles.sin())).repeat_interleave(2, dim=-1)


def _rotated(x: Tensor, encoding: Tensor) -> Tensor:
    """Return ``heads x N x D`` with each pair of channels turned by its angle."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * encoding[0] + torch.stack((-odd, even), dim=-1).flatten(-2) * encoding[1]


class _FeedForward(nn.Sequential):
    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


class _SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused = is_enabled("fused_attention")
        self.Wqkv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.ffn = _FeedForward(dim)

    def forward(self, x: Tensor, encoding: Tensor) -> Tensor:
        # N x 3D, query, key and value of a channel side by side.
        q, k, v = self.Wqkv(x).unflatten(-1, (self.heads, -1, 3)).permute(3, 1, 0, 2)
        q, k = _rotated(q, encoding).to(v.dtype), _rotated(k, encoding).to(v.dtype)
        context = attention(q[None], k[None], v[None].contiguous(), fused=self.fused)[0]
        message = self.out_proj(context.transpose(0, 1).flatten(1))
        return x + self.ffn(torch.cat((x, message), dim=-1))


class _CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused = is_enabled("fused_attention")
        self.to_qk = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)
        self.ffn = _FeedForward(dim)

    def forward(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        q0, v0, q1, v1 = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(0, 1)[None].contiguous()
            for x in (x0, x1)
            for project in (self.to_qk, self.to_v)
        )
        messages = (attention(q0, q1, v1, fused=self.fused), attention(q1, q0, v0, fused=self.fused))
        y0, y1 = (self.to_out(m[0].transpose(0, 1).flatten(1)) for m in messages)
        return x0 + self.ffn(torch.cat((x0, y0), dim=-1)), x1 + self.ffn(torch.cat((x1, y1), dim=-1))


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(dim, heads)
        self.cross_attn = _CrossAttention(dim, heads)

    def forward(self, x0: Tensor, x1: Tensor, encoding0: Tensor, encoding1: Tensor) -> tuple[Tensor, Tensor]:
        return self.cross_attn(self.self_attn(x0, encoding0), self.self_attn(x1, encoding1))


class _MatchAssignment(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.matchability = nn.Linear(dim, 1)
        self.final_proj = nn.Linear(dim, dim)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return ``M x N`` log-probability: softmax over rows times softmax over columns, times that both can be
        matched.
        """
        scale = x0.shape[-1] ** -0.25
        similarity = (self.final_proj(x0) * scale) @ (self.final_proj(x1) * scale).T
        scores = similarity.log_softmax(dim=1) + similarity.log_softmax(dim=0)
        return scores + F.logsigmoid(self.matchability(x0)) + F.logsigmoid(self.matchability(x1)).T

    def matchability_of(self, x: Tensor) -> Tensor:
        """Return ``N`` probability that a keypoint has a match."""
        return self.matchability(x).sigmoid()[:, 0]


class _TokenConfidence(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.Linear(dim, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``N`` probability that a keypoint's assignment will not change any more."""
        return self.token(x)[:, 0]
