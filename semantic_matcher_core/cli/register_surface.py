"""``semantic-matcher register-surface``: the shape of a bending surface in one RGB-D image, brought into another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from semantic_matcher_core.cli.flatten import flattened
from semantic_matcher_core.cli.registration_options import DeformableModelOptions, RegistrationOptions


@flattened
def register_surface_command(
    image0: Annotated[Path, typer.Argument(help="First image.")],
    depth0: Annotated[Path, typer.Argument(help="Its depth, pixel by pixel.")],
    image1: Annotated[Path, typer.Argument(help="Second image.")],
    depth1: Annotated[Path, typer.Argument(help="Its depth.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Mesh to write (.ply), deformed.")],
    intrinsics: Annotated[str, typer.Option(help="Camera as FX,FY,CX,CY in pixels, without distortion.")],
    registration: RegistrationOptions,
    model: DeformableModelOptions,
    intrinsics1: Annotated[str | None, typer.Option(help="Camera of the second image. (default: the same)")] = None,
    rest: Annotated[Path | None, typer.Option(help="Also write the mesh as the first image shows it.")] = None,
    depth_units: Annotated[
        float, typer.Option(help="Values per metre of 16-bit depth: 1000 for millimetres.")
    ] = 1000.0,
    step: Annotated[int, typer.Option(min=1, help="A vertex every N pixels.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
) -> None:
    """Deform the surface that one RGB-D image shows into its shape in another.

    Depth is a 16-bit image, or metres as a floating-point TIFF or .npy, of the size of its image. Vertices keep the
    colours of the first image; the deformed mesh is in the frame of the second camera (x right, y down, z forward).

    Example:

      semantic-matcher register-surface a.png a_depth.png b.png b_depth.png --intrinsics 525,525,319.5,239.5 -o b.ply
    """
    from semantic_matcher_core.cli.outputs import check_output_option
    from semantic_matcher_core.errors import MissingPackageError

    read = [image0, depth0, image1, depth1, registration.mask]
    check_output_option("--output", output, (".ply",), read)
    check_output_option("--rest", rest, (".ply",), [*read, output])
    K0 = _matrix(intrinsics, "--intrinsics")
    K1 = None if intrinsics1 is None else _matrix(intrinsics1, "--intrinsics1")
    registration.config()
    model.name()

    import numpy as np

    from semantic_matcher_core.cli.progress import spinner
    from semantic_matcher_core.io.depth import read_depth
    from semantic_matcher_core.io.images import read_image
    from semantic_matcher_core.io.masks import read_mask
    from semantic_matcher_core.io.ply import write_ply

    # Depth has no EXIF tag to turn by: pixels are taken as they lie in the file.
    pictures = [read_image(path, orientation="stored") for path in (image0, image1)]
    depths = [read_depth(path, units_per_metre=depth_units) for path in (depth0, depth1)]
    mask = None
    if registration.mask is not None:
        mask = read_mask(registration.mask, orientation="stored").pixels
    try:
        from semantic_matcher_core.registration.surface import SurfaceConfig, register_surfaces
    except ModuleNotFoundError as error:
        if error.name != "scipy":
            raise
        raise MissingPackageError("surfaces need scipy, not installed here: pip install scipy") from error

    with spinner("loading the model"):
        matcher = model.load()
    with spinner("registering"):
        result = register_surfaces(
            matcher,
            pictures[0],
            depths[0],
            pictures[1],
            depths[1],
            np.array(K0),
            None if K1 is None else np.array(K1),
            mask=mask,
            config=registration.config(),
            surface=SurfaceConfig(step_px=step),
        )
    mesh = result.mesh
    write_ply(output, result.deformed, mesh.faces, mesh.colours)
    if rest is not None:
        write_ply(rest, mesh.vertices, mesh.faces, mesh.colours)
    figures = {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "correspondences": result.correspondences,
        "residual_m": result.residual_m,
        "rigid_residual_m": result.rigid_residual_m,
    }
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    typer.echo(
        f"wrote {output}: {len(mesh.vertices)} vertices, {result.correspondences} correspondences, median residual "
        f"{result.rigid_residual_m * 1e3:.1f} mm rigid -> {result.residual_m * 1e3:.1f} mm deformed "
        f"({matcher.variant} on {matcher.device})"
    )


def _matrix(text: str, option: str) -> list[list[float]]:
    from semantic_matcher_core.errors import ConfigError

    try:
        fx, fy, cx, cy = (float(value) for value in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} is four numbers FX,FY,CX,CY, got {text!r}") from None
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
