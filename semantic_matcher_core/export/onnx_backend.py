"""A matcher whose networks run in onnxruntime; the rest of the pipeline is the same code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semantic_matcher_core.errors import CheckpointError, ConfigError, DeviceError
from semantic_matcher_core.export.graphs import fingerprint, graphs_of
from semantic_matcher_core.export.onnx_export import FORMAT, MANIFEST, require
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.reasoning import Reasoner

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def use_onnx(
    matcher: SemanticMatcher, folder: str | Path, *, providers: list[str] | None = None, threads: int | None = None
) -> SemanticMatcher:
    """Let a matcher's networks run in onnxruntime, on graphs exported from the same weights.

    Args:
        matcher: is changed in place; keeps its device and its options.
        folder: of :func:`~semantic_matcher_core.export.export_onnx`.
        providers: onnxruntime's execution providers, by preference; ``None`` for the one of the matcher's device.
        threads: of each network on the CPU; ``None`` for as many as torch uses.

    Returns:
        The matcher.

    Raises:
        ConfigError: onnxruntime is not installed, the folder is no export, or the matcher is not in fp32.
        CheckpointError: the export is of another extractor, encoder or other weights, or is damaged.
        DeviceError: onnxruntime here cannot run on the matcher's device.
    """
    require("onnxruntime")
    folder = Path(folder)
    if matcher.precision != "fp32":
        raise ConfigError(f"ONNX graphs are fp32, but the matcher has precision {matcher.precision!r}; use 'fp32'")
    exported, precision = _read_manifest(folder, matcher.variant)
    # An export to int8 leaves the extractor as it is.
    graphs = {graph.name: graph for graph in graphs_of(matcher, extractor=precision != "int8")}
    if set(graphs) != set(exported):
        raise CheckpointError(
            f"{folder} holds {', '.join(sorted(exported))}, but the matcher needs {', '.join(sorted(graphs))}; "
            "export it again"
        )
    for name, graph in graphs.items():
        if exported[name].get("weights") != fingerprint(graph.weights):
            raise CheckpointError(f"{folder} was exported from other weights of the {name}; export it again")
    chosen = providers or [_provider(matcher.device)]
    runs = {name: OnnxGraph(folder / f"{name}.onnx", graph.inputs, chosen, threads) for name, graph in graphs.items()}
    # Set on the instances: the classes, and what was built before, stay as they are.
    if "extractor" in runs:
        matcher.extractor.dense = runs["extractor"]  # type: ignore[assignment]
    if matcher.semantic_encoder is not None and matcher.reasoner is not None:
        matcher.semantic_encoder.encode = _First(runs["semantic_encoder"])  # type: ignore[assignment]
        matcher.reasoner.forward = OnnxReasoner(matcher.reasoner, runs["reasoner"])  # type: ignore[method-assign]
    return matcher


class OnnxGraph:
    """A graph as a function of tensors: float32 in, float32 out on the device of the first input.

    Args:
        path: of the ``.onnx`` file.
        inputs: names, in the order of the arguments.
        providers, threads: see :func:`use_onnx`.
    """

    def __init__(self, path: Path, inputs: tuple[str, ...], providers: list[str], threads: int | None) -> None:
        self._arguments = (path, inputs, providers, threads)
        self._open()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = {
            name: tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            for name, tensor in zip(self._inputs, tensors, strict=True)
        }
        return tuple(torch.from_numpy(array).to(tensors[0].device) for array in self._session.run(None, given))

    def __getstate__(self) -> dict[str, Any]:
        # A session can be neither copied nor pickled; it is opened anew.
        return {"arguments": self._arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._arguments = state["arguments"]
        self._open()

    def _open(self) -> None:
        import onnxruntime

        path, self._inputs, providers, threads = self._arguments
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


class OnnxReasoner:
    """A reasoner's forward pass through its graph; see ``Reasoner.forward`` for arguments and results.

    The graph has no mask: images of a batch with padding go one after the other.
    """

    def __init__(self, reasoner: Reasoner, run: OnnxGraph) -> None:
        self._dim = reasoner.config.features_dim
        self._conditioned = reasoner.config.semantic_conditioning
        self._run = run

    def __call__(
        self,
        descriptors: Tensor,
        semantic: Tensor,
        valid: Tensor | None = None,
        *,
        semantic_branch: bool | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        if semantic_branch is not None and semantic_branch != self._conditioned:
            raise ConfigError("the exported reasoner computes the branches that matching uses, and no others")
        outputs = [
            descriptors.new_zeros((*descriptors.shape[:2], self._dim)) for _ in range(2 if self._conditioned else 1)
        ]
        if valid is None and descriptors.shape[1] > 0:
            outputs = list(self._run(descriptors, semantic))
        elif valid is not None:
            for i, count in enumerate(valid.sum(dim=1).tolist()):
                if count:
                    for output, rows in zip(
                        outputs, self._run(descriptors[i : i + 1, :count], semantic[i : i + 1, :count]), strict=True
                    ):
                        output[i, :count] = rows[0]
        return outputs[0], outputs[1] if self._conditioned else None


class _First:
    def __init__(self, run: OnnxGraph) -> None:
        self._run = run

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self._run(*tensors)[0]


def _provider(device: torch.device) -> str:
    if device.type not in _PROVIDERS:
        raise DeviceError(f"no onnxruntime provider is known for device {device}; name it in `providers`")
    return _PROVIDERS[device.type]


def _read_manifest(folder: Path, variant: str) -> tuple[dict[str, dict[str, Any]], str]:
    """What it says of each graph, and what they compute in."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(
            f"{folder} is no export (it has no {MANIFEST}); make one: "
            f"semantic-matcher export --variant {shlex.quote(variant)} -o {shlex.quote(str(folder))}"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        written_as = manifest["format"]
        precision = str(manifest.get("precision", "fp32"))
        graphs = {str(name): dict(values) for name, values in manifest["graphs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged; export it again") from error
    if written_as != FORMAT:
        raise CheckpointError(f"{path} has format {written_as!r}, expected {FORMAT!r}; export it again")
    return graphs, precision
