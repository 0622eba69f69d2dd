"""What of a matcher becomes a graph: the networks, with any batch, image size and number of keypoints.

Everything else (resizing, selection, sampling, matching) stays in torch: it depends on values, or costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semantic_matcher_core.extractors.dense import DenseExtractor
from semantic_matcher_core.inference import evaluating
from semantic_matcher_core.networks import Parts
from semantic_matcher_core.networks.onnx import exportable
from semantic_matcher_core.reasoning import Reasoner
from semantic_matcher_core.semantics.encoder import NetworkEncoder


@dataclass(frozen=True)
class Graph:
    """One network as a graph.

    Attributes:
        name: ``extractor``, ``semantic_encoder`` or ``reasoner``; also the file's.
        module: from the inputs to a tuple of tensors; its ``network`` holds the weights.
        inputs: their names.
        dynamic: for each input the dimensions that are free.
        examples: inputs of different sizes; the first is traced, all are checked.
    """

    name: str
    module: _Method
    inputs: tuple[str, ...]
    dynamic: tuple[tuple[int, ...], ...]
    examples: tuple[tuple[Tensor, ...], ...]


def graphs_of(parts: Parts, *, extractor: bool = True) -> list[Graph]:
    """Return the networks of parts: of the extractor, and of semantic encoder and reasoner where there are some.

    Args:
        parts: of a matcher.
        extractor: its network too.

    Raises:
        ConfigError: the extractor or the semantic encoder has no network that can be a graph.
    """
    make: dict[str, Callable[[Any], Graph]] = {
        "extractor": _extractor_graph,
        "semantic_encoder": _encoder_graph,
        "reasoner": _reasoner_graph,
    }
    return [make[name](evaluating(module)) for name, module in exportable(parts, extractor=extractor).items()]


class _Method(nn.Module):
    """A method of a network that takes one tensor, as a module, which is what an exporter takes."""

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, first: Tensor) -> tuple[Tensor, ...]:
        return self._run(first)

    def _run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(outputs_of(getattr(self.network, self.method)(*inputs)))


class _MethodOfTwo(_Method):
    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self._run(first, second)


def _extractor_graph(extractor: DenseExtractor) -> Graph:
    step, channels = extractor.dense_step, extractor.dense_channels
    sizes = ((2, 3, 4), (1, 5, 2), (1, 2, 7), (3, 4, 4))
    seen = (torch.rand(b, channels, h * step, w * step, generator=_random()) for b, h, w in sizes)
    return _image_graph("extractor", extractor, "dense", [extractor.dense_inputs(images) for images in seen])


def _encoder_graph(encoder: NetworkEncoder) -> Graph:
    patch, sizes = encoder.patch_size, ((2, 6, 8), (1, 5, 9), (1, 2, 3))
    seen = (torch.rand(b, 3, h * patch, w * patch, generator=_random()) for b, h, w in sizes)
    return _image_graph("semantic_encoder", encoder, "encode", [encoder.encode_inputs(images) for images in seen])


def _image_graph(name: str, network: nn.Module, method: str, examples: list[tuple[Tensor, ...]]) -> Graph:
    given = tuple(tuple(tensor.detach() for tensor in example) for example in examples)
    if len(given[0]) == 1:
        return Graph(name, _Method(network, method), ("images",), ((0, 2, 3),), given)
    # The position encoding is resized in torch, and given: the resizing itself depends on the size.
    return Graph(name, _MethodOfTwo(network, method), ("images", "positions"), ((0, 2, 3), (1,)), given)


def _reasoner_graph(reasoner: Reasoner) -> Graph:
    config = reasoner.config

    def example(batch: int, keypoints: int) -> tuple[Tensor, ...]:
        descriptors = torch.randn(batch, keypoints, config.extractor_features_dim, generator=_random())
        semantic = torch.randn(batch, keypoints, config.semantic_features_dim, generator=_random())
        return nn.functional.normalize(descriptors, dim=-1), nn.functional.normalize(semantic, dim=-1)

    examples = (example(2, 50), example(1, 333), example(1, 1))
    names = ("descriptors", "semantic")
    return Graph("reasoner", _MethodOfTwo(reasoner, "forward"), names, ((0, 1), (0, 1)), examples)


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def outputs_of(result: Any) -> Iterator[Tensor]:
    """Yield the tensors that a network gives."""
    yield from (tensor for tensor in ((result,) if isinstance(result, Tensor) else result) if tensor is not None)
