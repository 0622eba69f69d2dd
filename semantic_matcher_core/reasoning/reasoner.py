"""The descriptor reasoner (Cadar et al., ACCV 2024, arXiv 2410.09533).

Parameters carry the names of the published checkpoints (``ReasoningBase`` of verlab/DescriptorReasoning_ACCV_2024).
There is no positional encoding: keypoints only choose where the semantic map is sampled, and order carries no meaning.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.layers import attention, side_by_side
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.precision import to_stream, to_weight
from semantic_matcher_core.reasoning.config import ReasonerConfig


class Reasoner(nn.Module):
    """Local descriptors attend to semantic features.

    With p the projected semantic features and e the projected descriptors, the texture branch starts from x = e and
    its queries are p (even layers) and e (odd ones) in turn; the semantic branch starts from x = p, and its queries are
    always p. Keys and values are x, which every block updates.

    Args:
        config: dimensions and options.
    """

    narrow_weights = "all"
    # Only the direction of its outputs is trained, not their length: the first bundled one reached 7 million, and
    # float16 made no match of it.
    wide_range = True

    def __init__(self, config: ReasonerConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.features_dim
        self.dino_reprojection = nn.Linear(config.semantic_features_dim, dim)
        self.extractor_reprojection = nn.Linear(config.extractor_features_dim, dim)
        self.texture_attentions = self._branch()
        self.semantic_attentions = self._branch()
        # In the published layout, and read by nothing, there or here.
        self.joint_features = nn.Linear(2 * dim, dim)

    def forward(
        self,
        descriptors: Tensor,
        semantic: Tensor,
        valid: Tensor | None = None,
        *,
        semantic_branch: bool | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute reasoned descriptors: the last layer's outputs, not normalised.

        Args:
            descriptors: ``B x N x De`` local descriptors, N from 0 up.
            semantic: ``B x N x Ds`` L2-normalised semantic features at the same keypoints.
            valid: ``B x N`` bool, false for padding, or ``None`` where every row is real (attention then runs
                unmasked). Padding changes no real row, whatever it holds.
            semantic_branch: compute the semantic output; ``None`` for only where matching uses it
                (``config.semantic_conditioning``).

        Returns:
            ``B x N x F`` texture output, and ``B x N x F`` semantic output or ``None``; rows of padding are zero.

        Raises:
            ShapeError: shapes are not as above.
        """
        return self.forward_layers(descriptors, semantic, valid, semantic_branch=semantic_branch)[-1]

    def forward_layers(
        self,
        descriptors: Tensor,
        semantic: Tensor,
        valid: Tensor | None = None,
        *,
        semantic_branch: bool | None = None,
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Compute :meth:`forward` for every layer, first to last, for deep supervision."""
        self._check(descriptors, semantic, valid)
        if semantic_branch is None:
            semantic_branch = self.config.semantic_conditioning
        semantic_query = self.dino_reprojection(to_weight(semantic, self.dino_reprojection.weight))
        texture_query = self.extractor_reprojection(to_weight(descriptors, self.extractor_reprojection.weight))
        real = attended = None
        if valid is not None:
            real = valid[..., None]
            semantic_query, texture_query = _blank(semantic_query, real), _blank(texture_query, real)
            # A softmax over nothing is not a number: an image that is all padding attends to its zeros.
            attended = (valid | ~valid.any(dim=1, keepdim=True))[:, None, None]

        def outputs(blocks: nn.ModuleList, queries: tuple[Tensor, Tensor], x: Tensor) -> list[Tensor]:
            kept = []
            for i, block in enumerate(blocks):
                x = block(queries[i % 2], x, attended)
                kept.append(_blank(x, real))
            return kept

        def texture() -> list[Tensor]:
            return outputs(self.texture_attentions, (semantic_query, texture_query), texture_query)

        if not semantic_branch:
            return [(x, None) for x in texture()]
        # Neither branch fills a GPU.
        textures, meanings = side_by_side(
            texture,
            lambda: outputs(self.semantic_attentions, (semantic_query, semantic_query), semantic_query),
            semantic.device,
            list,
        )
        return list(zip(textures, meanings, strict=True))

    def _branch(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(_Block(config.features_dim, config.num_heads) for _ in range(config.n_attention_layers))

    def _check(self, descriptors: Tensor, semantic: Tensor, valid: Tensor | None) -> None:
        config = self.config
        for name, tensor, dim in (
            ("descriptors", descriptors, config.extractor_features_dim),
            ("semantic", semantic, config.semantic_features_dim),
        ):
            if tensor.ndim != 3 or tensor.shape[-1] != dim or tensor.shape[:2] != descriptors.shape[:2]:
                raise ShapeError(f"{name} is {tuple(tensor.shape)}, expected B x N x {dim} with B and N of descriptors")
        if valid is not None and (valid.dtype != torch.bool or valid.shape != descriptors.shape[:2]):
            raise ShapeError(
                f"valid is {tuple(valid.shape)} {valid.dtype}, expected {tuple(descriptors.shape[:2])} torch.bool"
            )


def _blank(rows: Tensor, real: Tensor | None) -> Tensor:
    return rows if real is None else torch.where(real, rows, 0)


class _Block(nn.Module):
    """x + mlp([fc(attention(query, x)); x])."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(dim, heads)
        self.fc = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, query: Tensor, x: Tensor, attended: Tensor | None) -> Tensor:
        narrow = to_weight(x, self.fc.weight)
        message = self.fc(self.attention(query, narrow, attended))
        # With narrow weights x is float32 from the first block on: what the blocks add up keeps its digits.
        return to_stream(x, self.fc.weight) + self.mlp(torch.cat((message, narrow), dim=-1))


class _Attention(nn.Module):
    """Multi-head attention with the parameter layout of ``torch.nn.MultiheadAttention``, without its weights output."""

    narrow_weights = "own"

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused = is_enabled("fused_attention")
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, x: Tensor, attended: Tensor | None) -> Tensor:
        dim = x.shape[-1]
        q = F.linear(query, self.in_proj_weight[:dim], self.in_proj_bias[:dim])
        k, v = F.linear(x, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, dim=-1)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))  # B x heads x N x dim/heads
        message = attention(q, k, v, attended, fused=self.fused)
        return self.out_proj(message.transpose(1, 2).flatten(2))
