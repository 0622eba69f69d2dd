"""``semantic-matcher export``: a variant's networks for another runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from semantic_matcher_core.cli.flatten import flattened
from semantic_matcher_core.cli.options import ModelOptions


@flattened
def export_command(
    model: ModelOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write. (default: where --backend onnx looks for this variant)"),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="onnx is the only one.")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="DINOv2 and the reasoner in int8; the extractor stays in torch.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a variant's networks as ONNX graphs, each checked against torch.

    Batch, image size and number of keypoints are free. Then run any command with --backend onnx.

    Examples:

      semantic-matcher export --variant xfeat

      semantic-matcher export --variant xfeat --int8 --overwrite

      semantic-matcher match A.jpg B.jpg --variant xfeat --backend onnx -o matches.png
    """
    from semantic_matcher_core.errors import ConfigError

    if format_ != "onnx":
        raise ConfigError(f"unknown --format {format_!r}; onnx is the only one")
    if model.precision != "fp32":
        raise ConfigError(f"graphs are exported in fp32, not in {model.precision}")
    if model.onnx_folder is not None:
        raise ConfigError("--onnx-folder is where graphs are read from; an export writes them to --output")
    name = model.name()
    free = ("device", "backend", "max_keypoints", "semantic_size", "detection_threshold")
    for option in free:
        if getattr(model, option) != getattr(ModelOptions, option):
            typer.echo(f"note: --{option.replace('_', '-')} has no effect on an export", err=True)
    model = replace(model, **{option: getattr(ModelOptions, option) for option in free})

    from semantic_matcher_core.cli.progress import spinner
    from semantic_matcher_core.export import export_onnx, onnx_folder

    folder = output or onnx_folder(name)
    with spinner("loading the model"):
        matcher = replace(model, device="cpu").load()
    with spinner("exporting, and checking against torch"):
        differences = export_onnx(matcher, folder, overwrite=overwrite, int8=int8)
    for graph, difference in differences.items():
        if int8:
            typer.echo(f"{folder / graph}.onnx: int8, mean cosine {1 - difference:.5f} with torch")
        else:
            typer.echo(f"{folder / graph}.onnx: within {difference:.1e} of torch")
