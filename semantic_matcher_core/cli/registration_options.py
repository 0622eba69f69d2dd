"""Options of the commands about surfaces that bend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semantic_matcher_core.cli.from_table import from_table
from semantic_matcher_core.cli.options import ModelOptions

if TYPE_CHECKING:
    from semantic_matcher_core.registration import RegistrationConfig

_DEFAULT_VARIANT = "plain:dalf"


@from_table("Model")
class DeformableModelOptions(ModelOptions):
    """What matches, and where it runs; DALF where nothing is said."""

    variant: Annotated[
        str | None,
        typer.Option(
            "--variant",
            "-v",
            help="What matches: plain:EXTRACTOR, or another name of `semantic-matcher variants`. (default: plain:dalf, "
            "which is made for surfaces that bend; plain:sift needs no weights)",
        ),
    ] = None

    def name(self) -> str:
        """Return the variant that the options mean; see :meth:`ModelOptions.name`."""
        return super().name() if self.variant or self.descriptor or self.dino else _DEFAULT_VARIANT


@from_table("Registration")
class RegistrationOptions:
    """How matches become a deformation."""

    mask: Annotated[
        Path | None, typer.Option(help="Image of the template's size that is black where the object is not.")
    ] = None
    threshold: Annotated[
        float,
        typer.Option(
            help="How far matches may be from one smooth deformation: 0.1 is some 10 pixels where they spread over "
            "640 x 480."
        ),
    ] = 0.1
    regularisation: Annotated[float, typer.Option(help="How smooth the spline is; 0 follows every match.")] = 0.01
    min_inliers: Annotated[int, typer.Option(min=3, help="With fewer matches there is no registration.")] = 30
    max_side: Annotated[int, typer.Option(min=32, help="Look for features in images no larger than this.")] = 1600

    def config(self) -> RegistrationConfig:
        """Return the options as the library takes them.

        Raises:
            ConfigError: a value is out of range.
        """
        from semantic_matcher_core.registration.config import RegistrationConfig

        return RegistrationConfig(
            threshold=self.threshold,
            regularisation=self.regularisation,
            min_inliers=self.min_inliers,
            max_side=self.max_side,
        )


@from_table("Video")
class VideoOptions:
    """What is asked of a video besides."""

    csv: Annotated[Path | None, typer.Option(help="Figures of each frame. (default: OUTPUT with the suffix .csv)")] = (
        None
    )
    smooth: Annotated[bool, typer.Option("--smooth", help="Steady the deformation over time.")] = False
    every: Annotated[int, typer.Option(min=1, help="Take each N-th frame.")] = 1
