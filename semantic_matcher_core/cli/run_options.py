"""Options of the commands that work on recordings. Names and defaults are those of the nodes' parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from semantic_matcher_core.streams import TemporalPairing

_PAIRING = "Pairing"
_OUTPUT = "Output"


@dataclass(frozen=True)
class PairingOptions:
    """Which image is matched with which."""

    mode: Annotated[
        str,
        typer.Option(
            help="temporal: with an earlier image of the same camera. stereo: left with right. "
            "reference: with the images of --reference.",
            rich_help_panel=_PAIRING,
        ),
    ] = "temporal"
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="Mode reference: an image to match with; repeatable.", show_default=False, rich_help_panel=_PAIRING
        ),
    ] = None
    reference_policy: Annotated[
        str,
        typer.Option(
            help="Mode temporal: match with the previous image; with one that serves for every_nth images; or with a "
            "keyframe that serves until too little of it is found again.",
            rich_help_panel=_PAIRING,
        ),
    ] = "previous"
    every_nth: Annotated[
        int,
        typer.Option(min=1, help="Policy every_nth: images that a reference serves for.", rich_help_panel=_PAIRING),
    ] = 5
    min_inlier_share: Annotated[
        float,
        typer.Option(
            help="Policy keyframe: replace it when a smaller share of the keypoints is matched.",
            rich_help_panel=_PAIRING,
        ),
    ] = 0.25
    min_overlap: Annotated[
        float,
        typer.Option(
            help="Policy keyframe: replace it when a smaller share of its area is matched.", rich_help_panel=_PAIRING
        ),
    ] = 0.4
    sync: Annotated[
        str,
        typer.Option(
            help="Mode stereo: approximate, left and right nearest in time are a pair; exact, those of equal stamps.",
            rich_help_panel=_PAIRING,
        ),
    ] = "approximate"
    slop: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Sync approximate: seconds that the stamps of a pair may differ, below half the frame period; 0: as "
            "the frame period has it.",
            rich_help_panel=_PAIRING,
        ),
    ] = 0.0

    rotation: Annotated[
        str,
        typer.Option(
            help="Mode reference: how images may be turned against those of --reference: upright; quarter, looked for "
            "at four turns; any, at eight.",
            rich_help_panel=_PAIRING,
        ),
    ] = "upright"

    def temporal(self) -> TemporalPairing:
        """The policy of temporal mode.

        Raises:
            ConfigError: an unknown policy, or a value out of range.
        """
        from semantic_matcher_core.streams import TemporalPairing

        return TemporalPairing(self.reference_policy, self.every_nth, self.min_inlier_share, self.min_overlap)


@dataclass(frozen=True)
class OutputOptions:
    """What is written."""

    descriptors: Annotated[
        bool, typer.Option("--descriptors", help="Write descriptors as well; they are large.", rich_help_panel=_OUTPUT)
    ] = False
    write_images: Annotated[
        str,
        typer.Option(
            help="jpeg: write the images beside the results. none: leave them out.",
            rich_help_panel=_OUTPUT,
        ),
    ] = "jpeg"
    hdf5: Annotated[
        bool,
        typer.Option(
            "--hdf5", help="Also write OUT.features.h5 and OUT.matches.h5 in hloc's layout.", rich_help_panel=_OUTPUT
        ),
    ] = False
    colmap: Annotated[
        bool,
        typer.Option(
            "--colmap", help="Also write OUT.colmap/: a COLMAP database and its images.", rich_help_panel=_OUTPUT
        ),
    ] = False
    namespace: Annotated[
        str, typer.Option(help="Put before all topics, as a node's namespace is.", rich_help_panel=_OUTPUT)
    ] = ""
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output of another run.", rich_help_panel=_OUTPUT)
    ] = False


@dataclass(frozen=True)
class ProcessOptions:
    """How the machine is used."""

    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Recordings worked on side by side, one process each.")
    ] = 1
    threads: Annotated[
        int,
        typer.Option(
            min=0, help="CPU threads of each process. (default: torch's choice, or a fair share)", show_default=False
        ),
    ] = 0
