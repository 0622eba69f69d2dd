"""``semantic-matcher index``: find images of the same object, also where it bends."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from semantic_matcher_core.cli.flatten import flattened
from semantic_matcher_core.cli.registration_options import DeformableModelOptions

app = typer.Typer(
    help="Find images of the same object, also where it bends.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("build")
@flattened
def build_command(
    images: Annotated[
        list[str], typer.Argument(help="Folders of images, files, or patterns in quotes ('left/*.png').")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Index to write (.h5).")],
    model: DeformableModelOptions,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Take what has not changed from the index that is there.")
    ] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Name unreadable images and go on, instead of stopping.")
    ] = False,
    clusters: Annotated[int, typer.Option(min=1, help="Size of the codebook that is learned from the images.")] = 64,
    max_side: Annotated[int, typer.Option(min=32, help="Look at images no larger than this.")] = 1600,
) -> None:
    """Index images by their local features.

    The index is a features file as well (`semantic-matcher extract`, hloc): queries verify candidates with it, and the
    images are not needed any more.

    Examples:

      semantic-matcher index build photos/ -o photos.h5

      semantic-matcher index build photos/ -o photos.h5 --update
    """
    from semantic_matcher_core.cli.inputs import collect_images
    from semantic_matcher_core.cli.outputs import check_output_option
    from semantic_matcher_core.io.names import HDF5_SUFFIXES

    model.name()
    files = collect_images(images, recursive=recursive)
    check_output_option("--output", output, HDF5_SUFFIXES, [path for _, path in files])

    from semantic_matcher_core.cli.progress import counted, progress_bar, spinner
    from semantic_matcher_core.retrieval import RetrievalIndex, build_index

    with ExitStack() as stack:
        previous = stack.enter_context(RetrievalIndex(output)) if update and output.exists() else None
        with spinner("loading the model"):
            matcher = model.load()
        advance = stack.enter_context(progress_bar("indexing", len(files)))
        report = build_index(
            matcher,
            files,
            output,
            clusters=clusters,
            max_side=max_side,
            skip_unreadable=skip_unreadable,
            previous=previous,
            progress=advance,
        )
    for problem in report.skipped:
        typer.echo(f"skipped: {problem}", err=True)
    notes = f", {report.reused} of them as before" if update else ""
    notes += f", skipped {len(report.skipped)} unreadable" if report.skipped else ""
    typer.echo(f"wrote {output}: {counted(report.indexed, 'image')}{notes} ({matcher.variant} on {matcher.device})")


@app.command("query")
@flattened
def query_command(
    index: Annotated[Path, typer.Argument(help="Index to search.")],
    image: Annotated[Path, typer.Argument(help="Image of what is looked for.")],
    model: DeformableModelOptions,
    top: Annotated[int, typer.Option("--top", "-n", min=1, help="Number of images to name.")] = 10,
    verify: Annotated[
        int, typer.Option(min=0, help="Check the matches of this many of the most similar images; 0 checks none.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Name the images that show what this one shows, best first.

    Images whose matches agree with one smooth deformation come first, the most inliers leading; the others follow by
    similarity. The index says which variant matches.

    Examples:

      semantic-matcher index query photos.h5 shirt.jpg

      semantic-matcher index query photos.h5 shirt.jpg --top 3 --json
    """
    from semantic_matcher_core.errors import ConfigError
    from semantic_matcher_core.io.images import read_image

    picture = read_image(image)

    from semantic_matcher_core.cli.progress import spinner
    from semantic_matcher_core.retrieval import RetrievalIndex

    with RetrievalIndex(index) as opened:
        if model.variant or model.descriptor or model.dino:
            if model.name() != opened.variant:
                raise ConfigError(f"index {index} was built with variant {opened.variant}, not {model.name()}")
        else:
            model = replace(model, variant=opened.variant)
        with spinner("loading the model"):
            matcher = model.load()
        with spinner("searching"):
            hits = opened.query(matcher, picture, top=top, verify=verify)
    if as_json:
        typer.echo(json.dumps([{**asdict(hit), "verified": hit.verified} for hit in hits], indent=2))
        return
    width = max(len(hit.name) for hit in hits)
    typer.echo(f"{'image':{width}}  inliers  matches  similarity")
    for hit in hits:
        inliers, matches = ("-" if value is None else str(value) for value in (hit.inliers, hit.matches))
        typer.echo(f"{hit.name:{width}}  {inliers:>7}  {matches:>7}  {hit.similarity:10.3f}")
