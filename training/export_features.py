"""``python -m training.export_features --extractor NAME | --dino NAME``: features of a data set, computed once.

Under ``torchrun`` each process takes its share of the scenes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semantic_matcher_core.errors import ConfigError
from training.cli import console, run_app

if TYPE_CHECKING:
    from training.features.export import ExportReport, Method

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def export(
    data: Annotated[Path, typer.Option(help="Data set: a folder with <split>/<scene>.h5.")],
    extractor: Annotated[
        str | None, typer.Option(help="Local features: xfeat, sift, dalf, aliked-n16, easy:relf … (see the docs).")
    ] = None,
    dino: Annotated[
        str | None, typer.Option(help="Semantic features of this encoder, e.g. dinov2_vits14 or dinov3_vits16.")
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="May be repeated; all that are there without it.")] = None,
    num_keypoints: Annotated[int, typer.Option(min=1, help="Keypoints per image.")] = 2048,
    detection_threshold: Annotated[float | None, typer.Option(help="For extractors that have one.")] = None,
    long_side: Annotated[
        int, typer.Option(min=0, help="Long side at which DINOv2 sees the images; 0: their own, as published.")
    ] = 0,
    method: Annotated[str | None, typer.Option(help="Folder below features/; a published name without it.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    weights: Annotated[Path | None, typer.Option(help="Folder to search for weights before the usual places.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto (fp16 on a GPU, else fp32), fp32, bf16 or fp16.")] = "auto",
    half_storage: Annotated[bool, typer.Option("--half-storage", help="float16 files: half the size.")] = False,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Name damaged scenes and go on.")] = False,
) -> None:
    """Compute features of every image of a data set, in the published layout. An interrupted export goes on where it
    stopped, scene by scene."""
    if (extractor is None) == (dino is None):
        raise ConfigError("give either --extractor or --dino")
    import torch

    from semantic_matcher_core.device import resolve_device, resolve_precision
    from semantic_matcher_core.semantics import create_semantic_encoder
    from training.data.scene_file import scene_files
    from training.features.export import LocalFeatures, SemanticFeatures, export_scenes
    from training.features.parts import build_extractor

    rank, world_size, local_rank = (int(os.environ.get(k, v)) for k, v in _PROCESS.items())
    chosen = resolve_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", local_rank % torch.cuda.device_count())
    name = precision if precision != "auto" else ("fp16" if chosen.type == "cuda" else "fp32")
    dtype = resolve_precision(name, chosen)

    work: Method
    if extractor is not None:
        options = {} if detection_threshold is None else {"detection_threshold": detection_threshold}
        built = build_extractor(extractor, num_keypoints, options, weights=weights, device=chosen)
        work = LocalFeatures(built, extractor)
        published = f"{extractor.replace(':', '_')}-scannet-n{num_keypoints}"
    else:
        assert dino is not None
        encoder = create_semantic_encoder(dino, weights=weights, device=chosen)
        work = SemanticFeatures(encoder, long_side)
        published = f"dino-scannet-{dino}"

    splits = split or [name for name in ("train", "val", "test") if any((data / name).glob("*.h5"))]
    if not splits:
        raise ConfigError(f"{data} has no train/*.h5, val/*.h5 or test/*.h5; check --data")
    damaged: list[str] = []
    for part in splits:
        scenes = scene_files(data, part)[rank::world_size]
        report = export_scenes(
            scenes,
            data / "features" / (method or published) / part,
            work,
            batch_size=batch_size,
            device=chosen,
            precision=dtype,
            half_storage=half_storage,
            skip_damaged=skip_damaged,
            progress=lambda scene, count, rate: console.print(f"{scene}: {count} images, {rate:.1f} images/s"),
        )
        damaged += report.damaged
        console.print(f"{part}: {_summary(report, world_size)}", highlight=False, soft_wrap=True)
    for reason in damaged:
        console.print(f"skipped: {reason}", highlight=False, soft_wrap=True)
    if damaged:
        raise typer.Exit(1)


_PROCESS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def _summary(report: ExportReport, world_size: int) -> str:
    from training.features.export import SCANNET_IMAGES, SCANNET_SCENES

    text = f"{report.written} scenes, {report.images} images; {report.finished_before} scenes were finished before"
    if not report.images:
        return text
    hours = SCANNET_IMAGES / (report.images_per_second * world_size) / 3600
    return (
        f"{text}; {report.images_per_second:.1f} images/s in each of {world_size} process(es). All of ScanNet "
        f"({SCANNET_SCENES} scenes, every 15th of 2.5 million frames: {SCANNET_IMAGES} images): {hours:.1f} h"
    )


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
