"""What of a matcher becomes a graph: the networks, with any batch, image size and number of keypoints.

Everything else (resizing, selection, sampling, matching) stays in torch: it depends on values, or costs little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.dense import DenseExtractor
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.reasoning import Reasoner
from semantic_matcher_core.semantics.compact_context import CompactContext
from semantic_matcher_core.semantics.dinov2 import DinoV2

_SAMPLED = 256


@dataclass(frozen=True)
class Graph:
    """One network as a graph.

    Attributes:
        name: ``extractor``, ``semantic_encoder`` or ``reasoner``; also the file's.
        module: from the inputs to a tensor or a tuple of tensors.
        weights: the module that holds its parameters.
        inputs: their names.
        dynamic: for each input the dimensions that are free.
        examples: inputs of different sizes; the first is traced, all are checked.
    """

    name: str
    module: nn.Module
    weights: nn.Module
    inputs: tuple[str, ...]
    dynamic: tuple[tuple[int, ...], ...]
    examples: tuple[tuple[Tensor, ...], ...]


def graphs_of(matcher: SemanticMatcher, *, extractor: bool = True) -> list[Graph]:
    """The networks of a matcher: of the extractor, and of the semantic encoder and the reasoner where it has them.

    Args:
        matcher: as built.
        extractor: its network too.

    Raises:
        ConfigError: the extractor or the semantic encoder has no network that can be a graph.
    """
    graphs = [_extractor_graph(matcher.extractor)] if extractor else []
    if matcher.semantic_encoder is not None and matcher.reasoner is not None:
        if not isinstance(matcher.semantic_encoder, (DinoV2, CompactContext)):
            raise ConfigError(
                f"semantic encoder {matcher.semantic_encoder.name!r} cannot be exported; DINOv2 and compact_context can"
            )
        graphs += [_encoder_graph(matcher.semantic_encoder), _reasoner_graph(matcher.reasoner)]
    return graphs


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and some values of all parameters: equal for equal weights, quick for large ones."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        flat = tensor.detach().flatten()
        step = max(1, len(flat) // _SAMPLED)
        digest.update(flat[::step].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


class _Dense(nn.Module):
    def __init__(self, extractor: DenseExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        # The class's own: the instance's may already be another runtime.
        return type(self.extractor).dense(self.extractor, images)


class _DenseAtPositions(_Dense):
    def forward(self, images: Tensor, positions: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return type(self.extractor).dense(self.extractor, images, positions)


class _Encode(nn.Module):
    def __init__(self, encoder: DinoV2) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor, positions: Tensor) -> Tensor:
        return type(self.encoder).encode(self.encoder, images, positions)


class _EncodeImages(nn.Module):
    def __init__(self, encoder: CompactContext) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return type(self.encoder).encode(self.encoder, images)


class _Reason(nn.Module):
    def __init__(self, reasoner: Reasoner) -> None:
        super().__init__()
        self.reasoner = reasoner

    def forward(self, descriptors: Tensor, semantic: Tensor) -> tuple[Tensor, ...]:
        texture, semantic_out = type(self.reasoner).forward(self.reasoner, descriptors, semantic)
        return (texture,) if semantic_out is None else (texture, semantic_out)


def _extractor_graph(extractor: Extractor) -> Graph:
    if not isinstance(extractor, DenseExtractor):
        raise ConfigError(
            f"extractor {extractor.name!r} cannot be exported; those with one dense network can: compact, xfeat, "
            "superpoint, alike, aliked, dedode, disk"
        )
    step, channels = extractor.dense_step, extractor.dense_channels
    sizes = ((2, 3, 4), (1, 5, 2), (1, 2, 7), (3, 4, 4))
    # As in the encoder's graph, a position encoding is given: resizing it depends on the size.
    examples = tuple(
        tuple(tensor.detach() for tensor in extractor.dense_inputs(images))
        for images in (torch.rand(b, channels, h * step, w * step, generator=_random()) for b, h, w in sizes)
    )
    if len(examples[0]) == 1:
        return Graph("extractor", _Dense(extractor), extractor, ("images",), ((0, 2, 3),), examples)
    names = ("images", "positions")
    return Graph("extractor", _DenseAtPositions(extractor), extractor, names, ((0, 2, 3), (1,)), examples)


def _encoder_graph(encoder: DinoV2 | CompactContext) -> Graph:
    if isinstance(encoder, CompactContext):
        sizes = ((2, 6, 8), (1, 5, 9), (1, 2, 3))
        patch = encoder.patch_size
        seen = tuple((torch.randn(b, 3, h * patch, w * patch, generator=_random()),) for b, h, w in sizes)
        return Graph("semantic_encoder", _EncodeImages(encoder), encoder, ("images",), ((0, 2, 3),), seen)

    # The position encoding is resized in torch, and given: the resizing itself depends on the size.
    def example(batch: int, rows: int, columns: int) -> tuple[Tensor, ...]:
        sides = (rows * encoder.patch_size, columns * encoder.patch_size)
        images = torch.rand(batch, 3, *sides, generator=_random())
        return images, encoder.interpolate_pos_encoding(rows, columns).detach()

    examples = (example(2, 5, 7), example(1, 12, 9), example(1, 2, 3))
    names = ("images", "positions")
    return Graph("semantic_encoder", _Encode(encoder), encoder, names, ((0, 2, 3), (1,)), examples)


def _reasoner_graph(reasoner: Reasoner) -> Graph:
    config = reasoner.config

    def example(batch: int, keypoints: int) -> tuple[Tensor, ...]:
        descriptors = torch.randn(batch, keypoints, config.extractor_features_dim, generator=_random())
        semantic = torch.randn(batch, keypoints, config.semantic_features_dim, generator=_random())
        return nn.functional.normalize(descriptors, dim=-1), nn.functional.normalize(semantic, dim=-1)

    examples = (example(2, 50), example(1, 333), example(1, 1))
    names = ("descriptors", "semantic")
    return Graph("reasoner", _Reason(reasoner), reasoner, names, ((0, 1), (0, 1)), examples)


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def outputs_of(result: Any) -> Iterator[Tensor]:
    """The tensors that a graph's module gives."""
    yield from ((result,) if isinstance(result, Tensor) else result)
