"""The same work written the straightforward way, to measure against.

This is how the published descriptor-reasoning code does it (facts: arXiv 2410.09533 and its repository): one image at a
time, attention weights returned, every layer's outputs cloned and kept, both branches always computed, similarity
matrices written out and searched once per direction. XFeat and DINOv2 run through kornia's own classes, whose attention
materialises its full matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from semantic_matcher_core.extractors.xfeat import XFeat
    from semantic_matcher_core.reasoning import Reasoner
    from semantic_matcher_core.semantics.dinov2 import DinoV2

_DINO_SIZES = {"dinov2_vits14": (384, 12, 6), "dinov2_vitb14": (768, 12, 12), "dinov2_vitl14": (1024, 24, 16)}


def reference_xfeat(extractor: XFeat, device: torch.device) -> Any:
    """Return kornia's ``XFeat`` with the same network weights: its ``detectAndCompute`` loops over images."""
    try:
        from kornia.feature.xfeat import XFeat as KorniaXFeat
    except ModuleNotFoundError as error:
        raise SystemExit(
            "error: the comparison is with kornia's XFeat, which it has from 0.8.3 and Python 3.11 on; see --alone"
        ) from error

    model = KorniaXFeat(top_k=extractor.max_keypoints, detection_threshold=0.0)
    model.net.load_state_dict(extractor.net.state_dict())
    return model.eval().to(device)


def reference_dino(encoder: DinoV2, device: torch.device) -> nn.Module:
    """Return kornia's ``DinoVisionTransformer`` with the same weights; S, B and L."""
    from kornia.feature.dedode.transformer.dinov2 import DinoVisionTransformer

    dim, depth, heads = _DINO_SIZES[encoder.name]
    model = DinoVisionTransformer(
        img_size=518, patch_size=14, embed_dim=dim, depth=depth, num_heads=heads, init_values=1.0, block_chunks=0
    )
    model.load_state_dict(encoder.state_dict())
    return model.eval().to(device)


class ReferenceReasoner(nn.Module):
    """The reasoner with ``nn.MultiheadAttention`` and its weights returned, as published; loads our state dict."""

    class Block(nn.Module):
        def __init__(self, dim: int, heads: int) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
            self.fc = nn.Linear(dim, dim)
            self.mlp = nn.Sequential(
                nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)
            )

        def forward(self, query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            attended, weights = self.attention(query, value, value, need_weights=True)
            attended = self.fc(attended)
            return value + self.mlp(torch.cat([attended, value], dim=-1)), weights

    def __init__(self, reasoner: Reasoner) -> None:
        super().__init__()
        c = reasoner.config
        self.dino_reprojection = nn.Linear(c.semantic_features_dim, c.features_dim)
        self.extractor_reprojection = nn.Linear(c.extractor_features_dim, c.features_dim)
        layers = range(c.n_attention_layers)
        self.texture_attentions = nn.ModuleList([self.Block(c.features_dim, c.num_heads) for _ in layers])
        self.semantic_attentions = nn.ModuleList([self.Block(c.features_dim, c.num_heads) for _ in layers])
        state = {k: v for k, v in reasoner.state_dict().items() if not k.startswith("joint_features.")}
        self.load_state_dict(state)

    def forward(self, descriptors: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        p, e = self.dino_reprojection(semantic), self.extractor_reprojection(descriptors)
        texture, sem, kept = e, p, []
        for i, (texture_block, semantic_block) in enumerate(
            zip(self.texture_attentions, self.semantic_attentions, strict=True)
        ):
            texture, texture_weights = texture_block(p if i % 2 == 0 else e, texture)
            sem, semantic_weights = semantic_block(p, sem)
            kept.append((texture.clone(), sem.clone(), texture_weights, semantic_weights))
        return texture, sem


def reference_match(t0: Tensor, t1: Tensor, s0: Tensor | None, s1: Tensor | None) -> Tensor:
    """Find mutual nearest neighbours over written-out similarity matrices; ``M x 2`` indices of a single pair."""
    similarity = F.normalize(t0, dim=-1) @ F.normalize(t1, dim=-1).transpose(-1, -2)
    if s0 is not None and s1 is not None:
        similarity = similarity * (F.normalize(s0, dim=-1) @ F.normalize(s1, dim=-1).transpose(-1, -2))
    nearest01 = similarity.topk(1, dim=-1).indices[..., 0]
    nearest10 = similarity.transpose(-1, -2).topk(1, dim=-1).indices[..., 0]
    rows = torch.arange(t0.shape[1], device=t0.device)
    mutual = nearest10[0][nearest01[0]] == rows
    return torch.stack([rows[mutual], nearest01[0][mutual]], dim=-1)
