"""Export of a matcher's networks to ONNX, each checked against torch in onnxruntime before it counts."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.export.graphs import Graph, graphs_of
from semantic_matcher_core.export.quantization import errors_alone, loss, quantize
from semantic_matcher_core.io.atomic import output_error
from semantic_matcher_core.networks.onnx_files import FORMAT, MANIFEST, require
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.weights.hashing import sha256_of_weights

# Largest difference from torch, relative to the largest value of an output.
TOLERANCE = 1e-4
# A protocol buffer ends at 2 GiB; above, weights go into a file beside the graph.
_ONE_FILE_BYTES = 1_800_000_000


def export_onnx(
    matcher: SemanticMatcher, folder: str | Path, *, overwrite: bool = False, int8: bool = False
) -> dict[str, float]:
    """Write a matcher's networks as ONNX graphs with any batch, image size and number of keypoints.

    Args:
        matcher: on the CPU, in evaluation mode, as built.
        folder: is made, with ``extractor.onnx``, where there is a reasoner ``semantic_encoder.onnx`` and
            ``reasoner.onnx``, and a manifest. It appears whole or not at all.
        overwrite: replace an earlier export in that place.
        int8: products with weights in int8, of DINOv2 and the reasoner
            (:mod:`~semantic_matcher_core.export.quantization`). The extractor is left out: its convolutions would stay
            fp32, and those are faster in torch.

    Returns:
        For each graph the largest difference from torch over its test inputs, relative to the largest value; for an
        int8 graph one less the mean cosine between its vectors and torch's.

    Raises:
        ConfigError: the folder exists, a package is missing, the matcher is not on the CPU, or a part of it cannot be
            exported.
        OutputError: the place is not writable, or the disk is full.
        CheckpointError: a graph computes something else than torch, or int8 loses too much; nothing is written.
    """
    target = Path(folder)
    _check_target(target, overwrite)
    require("onnx", "onnxscript", "onnxruntime")
    if matcher.device.type != "cpu":
        raise ConfigError(f"a matcher is exported from the CPU, not from {matcher.device}; build it with device='cpu'")
    if int8 and not isinstance(matcher.semantic_encoder, DinoV2):
        raise ConfigError(
            f"int8 is for DINOv2, which variant {matcher.variant!r} does not have; export it without int8"
        )
    graphs = graphs_of(matcher.parts, extractor=not int8)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise output_error(target, error) from error
    try:
        differences = {}
        for graph in graphs:
            path = temporary / f"{graph.name}.onnx"
            _write(graph, path)
            if int8:
                quantize(path)
            differences[graph.name] = _checked(graph, path, int8)
        manifest = _manifest(matcher, graphs, differences, int8)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        temporary.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return differences


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not (target / MANIFEST).is_file():
        raise ConfigError(f"{target} exists and is no earlier export; choose another folder")
    if not overwrite:
        raise ConfigError(f"{target} holds an earlier export; choose another folder, or ask to overwrite it")


def _write(graph: Graph, path: Path) -> None:
    free = tuple(dict.fromkeys(dimensions, torch.export.Dim.DYNAMIC) for dimensions in graph.dynamic)
    # torch warns once for each operator of torchvision, which nothing here uses, and of its own future.
    hints = "torch.onnx._internal.exporter._registration"
    with errors_alone(hints), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        program: Any = torch.onnx.export(
            graph.module.eval(),
            graph.examples[0],
            dynamo=True,
            dynamic_shapes=free,
            input_names=list(graph.inputs),
            verbose=False,
        )
    size = sum(p.numel() * p.element_size() for p in graph.module.network.parameters())
    program.save(str(path), external_data=size > _ONE_FILE_BYTES)


def _checked(graph: Graph, path: Path, int8: bool) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for example in graph.examples:
        with torch.inference_mode():
            expected = [tensor.numpy() for tensor in graph.module(*example)]
        given = {name: tensor.numpy() for name, tensor in zip(graph.inputs, example, strict=True)}
        for ours, theirs in zip(expected, session.run(None, given), strict=True):
            if int8:
                worst = max(worst, loss(ours, theirs, graph.name))
                continue
            difference = float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-6))
            if ours.shape != theirs.shape or not difference <= TOLERANCE:
                sizes = ", ".join(str(tuple(tensor.shape)) for tensor in example)
                raise CheckpointError(
                    f"the ONNX graph of the {graph.name} differs from torch by {difference:.2g} of the largest value "
                    f"for inputs {sizes} (at most {TOLERANCE} is allowed); nothing is written"
                )
            worst = max(worst, difference)
    return worst


def _manifest(
    matcher: SemanticMatcher, graphs: list[Graph], differences: dict[str, float], int8: bool
) -> dict[str, Any]:
    from semantic_matcher_core.version import __version__

    return {
        "format": FORMAT,
        "version": __version__,
        "variant": matcher.variant,
        # As diagnostics and the description of an offline run have it.
        "weights_sha256": sha256_of_weights(matcher),
        "extractor": matcher.extractor.name,
        "semantic_encoder": getattr(matcher.semantic_encoder, "name", None),
        "precision": "int8" if int8 else "fp32",
        "graphs": {
            graph.name: {
                "file": f"{graph.name}.onnx",
                "inputs": list(graph.inputs),
                "weights": sha256_of_weights(graph.module.network),
                "difference": differences[graph.name],
            }
            for graph in graphs
        },
    }
