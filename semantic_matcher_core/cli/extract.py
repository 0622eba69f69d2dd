"""``semantic-matcher extract``: keypoints and descriptors of many images into one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semantic_matcher_core.cli.flatten import flattened
from semantic_matcher_core.cli.options import FullScaleOption, MaskOptions, ModelOptions, OrientationOption


@flattened
def extract_command(
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders of images, or patterns in quotes ('left/*.png').")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HDF5 file to write (.h5).")],
    model: ModelOptions,
    masks: MaskOptions,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")] = False,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Images are named by their path below this folder. (default: the folder that all of them share)"
        ),
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Name unreadable images and go on, instead of stopping.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Store descriptors in 16 bits: half the size.")] = False,
    orientation: OrientationOption = "exif",
    image_full_scale: FullScaleOption = 0.0,
) -> None:
    """Write keypoints and descriptors of many images into one HDF5 file.

    The file is laid out as hloc does: one group per image with keypoints, scores, descriptors and image_size, and with
    reasoned and semantic descriptors where the variant has a reasoner. Keypoints are pixels of the file as it is
    stored, as hloc and COLMAP read it. The file appears when all is done.

    Examples:

      semantic-matcher extract photos/ -o features.h5

      semantic-matcher extract 'left/*.png' 'right/*.png' -o features.h5 --variant plain:sift

    Read it with: semantic_matcher_core.io.features_file.FeaturesReader
    """
    from semantic_matcher_core.cli.inputs import collect_images
    from semantic_matcher_core.cli.outputs import check_output_option
    from semantic_matcher_core.errors import ImageError
    from semantic_matcher_core.io.masks import read_masks
    from semantic_matcher_core.io.names import HDF5_SUFFIXES

    model.name()
    files = collect_images(images, recursive=recursive, root=root)
    check_output_option("--output", output, HDF5_SUFFIXES, [path for _, path in files])
    (mask,) = read_masks(masks.mask or (), 1)

    from semantic_matcher_core.cli.progress import counted, progress_bar, spinner
    from semantic_matcher_core.io.exif import read_exif
    from semantic_matcher_core.io.features_file import FeaturesWriter
    from semantic_matcher_core.io.images import decode_image, read_bytes
    from semantic_matcher_core.io.stored import as_stored

    with spinner("loading the model"):
        matcher = model.load()
    skipped = empty = 0
    with (
        FeaturesWriter(output, variant=matcher.variant, half=half) as writer,
        progress_bar("extracting", len(files)) as advance,
    ):
        for done, (key, path) in enumerate(files, start=1):
            try:
                data = read_bytes(path)
                image = decode_image(data, name=str(path), orientation=orientation, full_scale=image_full_scale or None)
                wanted = None if mask is None else mask.of_size((image.shape[0], image.shape[1]))
            except ImageError as error:
                if not skip_unreadable:
                    raise ImageError(f"{error} (--skip-unreadable goes on without it)") from error
                typer.echo(f"skipped: {error}", err=True)
                skipped += 1
            else:
                turn = read_exif(data).orientation if orientation == "exif" else 1
                features = matcher.extract(image, wanted)[0].to("cpu")
                empty += features.keypoints.shape[1] == 0
                writer.write(key, as_stored(features, turn))
            advance(done)
        if writer.count == 0:
            raise ImageError(f"none of the {len(files)} images could be read; nothing is written")
    note = f", {empty} without keypoints" if empty else ""
    note += f", skipped {skipped} unreadable" if skipped else ""
    typer.echo(
        f"wrote {output}: {counted(len(files) - skipped, 'image')}{note} ({matcher.variant} on {matcher.device})"
    )
