"""``semantic-matcher register``: an image or a video of a surface that bends, onto a template."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semantic_matcher_core.cli.flatten import flattened
from semantic_matcher_core.cli.options import OrientationOption
from semantic_matcher_core.cli.registration_options import DeformableModelOptions, RegistrationOptions, VideoOptions

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class _Options:
    """All but the images."""

    output: Annotated[Path, typer.Option("--output", "-o", help="Picture (.png, .jpg) or video (.mp4) to write.")]
    registration: RegistrationOptions
    video: VideoOptions
    model: DeformableModelOptions
    warped: Annotated[
        Path | None, typer.Option(help="For an image: also write it alone, as it lies on the template.")
    ] = None
    height: Annotated[int, typer.Option(min=32, max=2160, help="Height of each panel in pixels.")] = 360
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False
    orientation: OrientationOption = "exif"

    def mask(self) -> np.ndarray | None:
        """Read the template's mask."""
        from semantic_matcher_core.io.masks import read_mask

        path = self.registration.mask
        return None if path is None else read_mask(path, orientation=self.orientation).pixels


@flattened
def register_command(
    template: Annotated[Path, typer.Argument(help="Image to register onto; or a video, for its first frame.")],
    options: _Options,
    target: Annotated[Path | None, typer.Argument(help="Image or video that shows the template, bent.")] = None,
) -> None:
    """Register an image or a video of a surface that bends onto a template.

    Matches are checked against one smooth deformation and a thin-plate spline is fitted to them. The picture shows
    template, image, the image on the template, and their difference.

    Examples:

      semantic-matcher register poster.jpg photo.jpg -o registered.png

      semantic-matcher register video.mp4 -o registered.mp4

      semantic-matcher register poster.jpg video.mp4 -o registered.mp4 --smooth
    """
    from semantic_matcher_core.cli.outputs import check_output_option
    from semantic_matcher_core.errors import ConfigError
    from semantic_matcher_core.io.atomic import check_output
    from semantic_matcher_core.io.images import IMAGE_SUFFIXES
    from semantic_matcher_core.io.video import VIDEO_SUFFIXES

    output, warped, video = options.output, options.warped, options.video
    is_video = (target or template).suffix.lower() in VIDEO_SUFFIXES
    if target is None and not is_video:
        raise ConfigError(
            f"{template} is no video ({' '.join(sorted(VIDEO_SUFFIXES))}); give an image to register, too"
        )
    if is_video != (output.suffix.lower() in VIDEO_SUFFIXES):
        name = "registered.mp4" if is_video else "registered.png"
        raise ConfigError(
            f"of {target or template} a {'video' if is_video else 'picture'} is made: give -o {name}, not {output}"
        )
    if is_video and warped is not None:
        raise ConfigError("--warped is for a single image; the video shows each frame on the template")
    if not is_video and video != VideoOptions():
        raise ConfigError("--csv, --smooth and --every are for videos")
    inputs = [template, target, options.registration.mask]
    check_output_option("--output", output, sorted(VIDEO_SUFFIXES if is_video else IMAGE_SUFFIXES), inputs)
    check_output_option("--warped", warped, sorted(IMAGE_SUFFIXES), [*inputs, output])
    if is_video:
        check_output(video.csv or output.with_suffix(".csv"), [*inputs, output, warped])
    options.registration.config()
    options.model.name()
    if target is None:
        _register_video(None, template, options)
    elif is_video:
        _register_video(template, target, options)
    else:
        _register_pair(template, target, options)


def _register_pair(template: Path, target: Path, options: _Options) -> None:
    from semantic_matcher_core.cli.progress import spinner
    from semantic_matcher_core.io.images import read_image, write_image
    from semantic_matcher_core.registration import register_pair
    from semantic_matcher_core.viz.registration import draw_registration

    output = options.output
    image0, image1 = (read_image(path, orientation=options.orientation) for path in (template, target))
    mask = options.mask()
    with spinner("loading the model"):
        matcher = options.model.load()
    with spinner("registering"):
        result = register_pair(matcher, image0, image1, mask=mask, config=options.registration.config())
    fit, agreement = result.fit, result.agreement
    text = (
        f"{fit.inliers} of {len(fit.matches)} matches, grey error {agreement.error_before:.1f} -> "
        f"{agreement.error:.1f}, coverage {agreement.coverage:.0%}"
    )
    picture = draw_registration(image0, image1, agreement, fit.lattice, summary=text, height=options.height)
    write_image(output, picture)
    if options.warped is not None:
        write_image(options.warped, agreement.warped)
    figures = {
        "matches": len(fit.matches),
        "inliers": fit.inliers,
        "residual_px": fit.residual_px,
        "bending_energy": fit.bending_energy,
        "error": agreement.error,
        "error_before": agreement.error_before,
        "correlation": agreement.correlation,
        "coverage": agreement.coverage,
    }
    said = f"wrote {output}: {text} ({matcher.variant} on {matcher.device})"
    typer.echo(_json(figures) if options.as_json else said)


def _register_video(template: Path | None, target: Path, options: _Options) -> None:
    from semantic_matcher_core.cli.progress import progress_bar, spinner
    from semantic_matcher_core.io.images import read_image
    from semantic_matcher_core.io.video import video_info
    from semantic_matcher_core.registration import OneEuroFilter, Template, register_video

    output, video = options.output, options.video
    count = video_info(target).frame_count
    image = None if template is None else read_image(template, orientation=options.orientation)
    mask = options.mask()
    config = options.registration.config()
    with spinner("loading the model"):
        matcher = options.model.load()
    still = None if image is None else Template.from_image(matcher, image, mask=mask, config=config)
    figures = video.csv or output.with_suffix(".csv")
    with progress_bar("registering", None if count is None else -(-count // video.every)) as advance:
        summary = register_video(
            matcher,
            target,
            output,
            template=still,
            mask=mask,
            csv_path=figures,
            smoothing=OneEuroFilter() if video.smooth else None,
            every=video.every,
            height=options.height,
            config=config,
            progress=advance,
        )
    if options.as_json:
        typer.echo(_json({**asdict(summary), "factor": summary.factor}))
        return
    typer.echo(
        f"wrote {output} and {figures}: {summary.registered} of {summary.frames} frames registered, mean grey error "
        f"{summary.error_before:.1f} -> {summary.error:.1f} ({summary.factor:.2f} times lower), "
        f"{summary.inliers:.0f} inliers, coverage {summary.coverage:.0%} ({matcher.variant} on {matcher.device})"
    )


def _json(figures: dict[str, float]) -> str:
    """Write figures as JSON, which has no NaN: what is not a number is null."""
    return json.dumps({name: value if math.isfinite(value) else None for name, value in figures.items()}, indent=2)
