"""Graphs whose matrix products with weights run in int8."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from semantic_matcher_core.errors import CheckpointError

# Of every output vector with that of the fp32 graph, on average.
LEAST_COSINE = 0.98


def quantize(path: Path) -> None:
    """Make the weights of a graph's matrix products int8, one scale per channel; activations get theirs as they come.

    Convolutions, attention between tokens, norms and sums stay float32. The file is replaced, and so is one with its
    weights beside it: a quarter of DINOv2 G fits into one file.

    Args:
        path: of a float32 graph.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = path.with_suffix(".int8.onnx")
    # onnxruntime advises, in the log, to fuse nodes beforehand, which changes none of what is quantised.
    with errors_alone(None):
        quantize_dynamic(
            path,
            small,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    small.replace(path)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def loss(expected: np.ndarray, found: np.ndarray, name: str) -> float:
    """Return one less the mean cosine between vectors: of a map ``B x C x H x W``, or of rows ``B x N x C``.

    Raises:
        CheckpointError: they have less in common than is of use.
    """
    axis = 1 if expected.ndim == 4 else -1
    lengths = np.linalg.norm(expected, axis=axis) * np.linalg.norm(found, axis=axis)
    cosine = float(np.mean((expected * found).sum(axis=axis) / np.maximum(lengths, 1e-12)))
    if not cosine >= LEAST_COSINE:
        raise CheckpointError(
            f"in int8 the vectors of the {name} have a mean cosine of {cosine:.3f} with those of fp32 "
            f"(at least {LEAST_COSINE} is wanted); export it without int8"
        )
    return 1 - cosine


@contextmanager
def errors_alone(name: str | None) -> Iterator[None]:
    """Let a logger (``None`` for the root) say nothing below an error meanwhile."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
