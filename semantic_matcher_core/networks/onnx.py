"""Networks that run in onnxruntime, on graphs exported from the same weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semantic_matcher_core.errors import CheckpointError, ConfigError, DeviceError
from semantic_matcher_core.extractors.dense import DenseExtractor
from semantic_matcher_core.networks.networks import Networks
from semantic_matcher_core.networks.onnx_files import MANIFEST, read_manifest, require
from semantic_matcher_core.networks.parts import Parts
from semantic_matcher_core.reasoning import ReasonerConfig
from semantic_matcher_core.semantics.encoder import NetworkEncoder
from semantic_matcher_core.weights.hashing import sha256_of, sha256_of_weights

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def onnx_networks(
    parts: Parts,
    folder: str | Path,
    *,
    precision: str = "fp32",
    variant: str = "",
    providers: list[str] | None = None,
    threads: int | None = None,
) -> Networks:
    """Return networks that run in onnxruntime; an extractor that an export to int8 leaves out runs in torch.

    Args:
        parts: whose weights the graphs were exported from.
        folder: of :func:`~semantic_matcher_core.export.export_onnx`.
        precision: of the matcher; graphs are for ``"fp32"``.
        variant: whose graphs they are, for messages.
        providers: onnxruntime's execution providers, by preference; ``None`` for the one of the parts' device.
        threads: of each network on the CPU; ``None`` for as many as torch uses.

    Raises:
        ConfigError: onnxruntime is not installed, the folder is no export, a part has no network that could be a
            graph, or the matcher is not in fp32.
        CheckpointError: the export is of another extractor, encoder or other weights, or is damaged.
        DeviceError: onnxruntime here cannot run on the parts' device.
    """
    require("onnxruntime")
    folder = Path(folder)
    if precision != "fp32":
        raise ConfigError(f"ONNX graphs are fp32, but the matcher has precision {precision!r}; use 'fp32'")
    exported = read_manifest(folder, variant)
    modules = exportable(parts, extractor=exported.precision != "int8")
    if set(modules) != set(exported.weights):
        raise CheckpointError(
            f"{folder} holds {', '.join(sorted(exported.weights))}, but the matcher needs "
            f"{', '.join(sorted(modules))}; export it again"
        )
    for name, module in modules.items():
        if exported.weights[name] != sha256_of_weights(module):
            raise CheckpointError(f"{folder} was exported from other weights of the {name}; export it again")
    chosen = providers or [_provider(parts.device)]
    graphs = {name: OnnxGraph(folder / f"{name}.onnx", chosen, threads) for name in modules}
    dense = encode = reason = None
    if "extractor" in graphs:
        dense = partial(_dense, modules["extractor"], graphs["extractor"])
    if parts.reasoner is not None:
        branches = _branches(parts.reasoner.config)
        if (exported_branches := graphs["reasoner"].outputs) != branches:
            # Weights do not tell: with and without conditioning they are the same.
            raise CheckpointError(
                f"{folder} was exported with {exported_branches} of the reasoner's branches, but the matcher compares "
                f"{branches} (semantic_conditioning); export it again"
            )
        encode = partial(_encode, modules["semantic_encoder"], graphs["semantic_encoder"])
        reason = partial(_reason, parts.reasoner.config, graphs["reasoner"])
    return Networks(parts, "onnx", dense, encode, reason, origin=sha256_of(folder / MANIFEST))


def exportable(parts: Parts, *, extractor: bool = True) -> dict[str, Any]:
    """Return the modules whose networks can be graphs, by the graphs' names.

    Args:
        parts: of a matcher.
        extractor: its network too.

    Raises:
        ConfigError: the extractor or the semantic encoder has no network that can be a graph.
    """
    modules: dict[str, Any] = {}
    if extractor:
        if not isinstance(parts.extractor, DenseExtractor):
            raise ConfigError(
                f"extractor {parts.extractor.name!r} cannot be exported; those with one dense network can: compact, "
                "xfeat, superpoint, alike, aliked, edgepoint2, dedode, disk"
            )
        modules["extractor"] = parts.extractor
    if parts.semantic_encoder is not None:
        if not isinstance(parts.semantic_encoder, NetworkEncoder):
            raise ConfigError(
                f"semantic encoder {parts.semantic_encoder.name!r} cannot be exported; DINOv2 and compact_context can"
            )
        modules |= {"semantic_encoder": parts.semantic_encoder, "reasoner": parts.reasoner}
    return modules


class OnnxGraph:
    """A graph as a function of tensors: float32 in, float32 out on the device of the first input.

    Args:
        path: of the ``.onnx`` file.
        providers, threads: see :func:`onnx_networks`.
    """

    def __init__(self, path: Path, providers: list[str], threads: int | None) -> None:
        import onnxruntime

        self._arguments = (path, providers, threads)
        missing = [name for name in providers if name not in onnxruntime.get_available_providers()]
        if missing:
            raise DeviceError(
                f"onnxruntime here has no {', '.join(missing)}; it has "
                f"{', '.join(onnxruntime.get_available_providers())}. Install a build of onnxruntime for the device"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        # onnxruntime's errors have no common base of their own, nor public names.
        except Exception as error:
            raise CheckpointError(f"{path} is damaged or no ONNX graph: {str(error).splitlines()[0]}") from error
        self._inputs = [given.name for given in self._session.get_inputs()]
        self.outputs = len(self._session.get_outputs())

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = {
            name: tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            for name, tensor in zip(self._inputs, tensors, strict=True)
        }
        return tuple(torch.from_numpy(array).to(tensors[0].device) for array in self._session.run(None, given))

    def __reduce__(self) -> tuple[Any, ...]:
        # A session can be neither copied nor pickled; it is opened anew.
        return OnnxGraph, self._arguments


def _dense(extractor: DenseExtractor, graph: OnnxGraph, images: Tensor) -> tuple[Tensor, ...]:
    return graph(*extractor.dense_inputs(images))


def _encode(encoder: NetworkEncoder, graph: OnnxGraph, images: Tensor) -> Tensor:
    return graph(*encoder.encode_inputs(images))[0]


def _branches(config: ReasonerConfig) -> int:
    return 2 if config.semantic_conditioning else 1


def _reason(
    config: ReasonerConfig, graph: OnnxGraph, descriptors: Tensor, semantic: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Run the reasoner's graph, which has no mask: images of a batch with padding go one after the other."""
    branches = _branches(config)
    outputs = [descriptors.new_zeros((*descriptors.shape[:2], config.features_dim)) for _ in range(branches)]
    if valid is None and descriptors.shape[1] > 0:
        outputs = list(graph(descriptors, semantic))
    elif valid is not None:
        for i, count in enumerate(valid.sum(dim=1).tolist()):
            if count:
                found = graph(descriptors[i : i + 1, :count], semantic[i : i + 1, :count])
                for output, rows in zip(outputs, found, strict=True):
                    output[i, :count] = rows[0]
    return outputs[0], outputs[1] if branches == 2 else None


def _provider(device: torch.device) -> str:
    if device.type not in _PROVIDERS:
        raise DeviceError(f"no onnxruntime provider is known for device {device}; name it in `providers`")
    return _PROVIDERS[device.type]
