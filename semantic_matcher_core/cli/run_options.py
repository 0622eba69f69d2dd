"""Options of the commands that work on recordings. Names and defaults are those of the nodes' parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semantic_matcher_core.cli.from_table import FROM_TABLE, from_table
from semantic_matcher_core.options import DESCRIPTORS, ODOMETRY, REFERENCE, STEREO, STEREO_RECTIFIED, TEMPORAL

if TYPE_CHECKING:
    from semantic_matcher_core.io.colmap import Intrinsics
    from semantic_matcher_core.offline.pair_choice import PairChoice
    from semantic_matcher_core.streams import TemporalPairing


@from_table("Pairing", TEMPORAL, STEREO, REFERENCE)
class PairingOptions:
    """Which image is matched with which."""

    mode: Annotated[
        str,
        typer.Option(
            help="temporal: with an earlier image of the same camera. stereo: left with right. "
            "reference: with the images of --reference."
        ),
    ] = "temporal"
    reference: Annotated[
        list[Path] | None, typer.Option(help="Mode reference: an image to match with, or a folder of them; repeatable.")
    ] = None
    reference_policy: str = FROM_TABLE
    every_nth: int = FROM_TABLE
    min_inlier_share: float = FROM_TABLE
    min_overlap: float = FROM_TABLE
    sync: str = FROM_TABLE
    slop: float = FROM_TABLE

    rotation: str = FROM_TABLE

    def temporal(self) -> TemporalPairing:
        """Return the policy of temporal mode.

        Raises:
            ConfigError: an unknown policy, or a value out of range.
        """
        from semantic_matcher_core.streams import TemporalPairing

        return TemporalPairing(self.reference_policy, self.every_nth, self.min_inlier_share, self.min_overlap)


@from_table("Calibrated cameras", STEREO_RECTIFIED, ODOMETRY)
class CalibrationOptions:
    """What is known of the cameras, and what it is used for."""

    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            help="A calibration file (YAML of ROS's camera_calibration, OpenCV, EuRoC or Kalibr); repeatable, one for "
            "each camera in order. "
            "(default: the camera_info recorded beside the images)"
        ),
    ] = None
    rectified: Annotated[
        bool,
        typer.Option(
            "--rectified",
            help="The images are rectified: the calibration's P holds for them. Mode stereo: matches keep to their "
            "row, and become points in space.",
        ),
    ] = False
    epipolar_band: float = FROM_TABLE
    publish_points: bool = FROM_TABLE
    min_disparity: float = FROM_TABLE
    odometry: Annotated[
        bool,
        typer.Option(
            "--odometry",
            help="Follow the camera: mode stereo, rectified, or mode temporal with depth. Poses in the output, and as "
            "OUT.tum.txt and OUT.kitti.txt.",
        ),
    ] = False
    depth_units: Annotated[
        float, typer.Option(help="With --odometry: values per metre of 16-bit depth: 1000 for millimetres.")
    ] = 1000.0


@from_table("Output", DESCRIPTORS)
class OutputOptions:
    """What is written."""

    descriptors: Annotated[bool, typer.Option("--descriptors", help="Write descriptors as well; they are large.")] = (
        False
    )
    descriptor_dtype: str = FROM_TABLE
    write_images: Annotated[
        str, typer.Option(help="jpeg: write the images beside the results. none: leave them out.")
    ] = "jpeg"
    hdf5: Annotated[
        bool, typer.Option("--hdf5", help="Also write OUT.features.h5 and OUT.matches.h5 in hloc's layout.")
    ] = False
    colmap: Annotated[
        bool, typer.Option("--colmap", help="Also write OUT.colmap/: a COLMAP database and its images.")
    ] = False
    pairs: Annotated[
        str | None,
        typer.Option(
            help="With --colmap or --hdf5: which pairs of images these hold. matched: those of the run. exhaustive: "
            "all. window: each image with the --pair-window ones before it. list: those of --pair-list. (default: "
            "matched; with --colmap exhaustive up to 100 images, window of more)"
        ),
    ] = None
    pair_window: Annotated[int, typer.Option(min=1, help="With --pairs window: images before each one.")] = 20
    pair_list: Annotated[
        Path | None,
        typer.Option(help="With --pairs list: a text file with two names of images a line, as hloc has it."),
    ] = None
    camera_model: Annotated[
        str | None,
        typer.Option(
            help="With --colmap: COLMAP's camera model of all images, e.g. PINHOLE, OPENCV; with --camera-params. "
            "(default: what camera_info, --calibration or EXIF says, else SIMPLE_RADIAL with a guessed focal length)"
        ),
    ] = None
    camera_params: Annotated[
        str | None, typer.Option(help="With --camera-model: its parameters in COLMAP's order, e.g. 525,525,320,240.")
    ] = None
    namespace: Annotated[str, typer.Option(help="Put before all topics, as a node's namespace is.")] = ""
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output of another run.")] = False

    def pair_choice(self, images: int | None) -> PairChoice:
        """Return which pairs the exports hold.

        Args:
            images: of the recording, where that is known.

        Raises:
            ConfigError: options contradict each other, or the list cannot be read.
        """
        from semantic_matcher_core.errors import ConfigError
        from semantic_matcher_core.offline.pair_choice import PairChoice, read_pairs

        if self.pairs is not None and not (self.colmap or self.hdf5):
            raise ConfigError("--pairs is for --colmap and --hdf5; give one of them")
        if (self.pair_list is not None) != (self.pairs == "list"):
            raise ConfigError("--pairs list and --pair-list FILE belong together")
        if self.pair_list is not None:
            return PairChoice("list", listed=read_pairs(self.pair_list))
        if self.pairs is None:
            return PairChoice.for_colmap(images, self.pair_window) if self.colmap else PairChoice()
        return PairChoice(self.pairs, self.pair_window)

    def camera(self) -> Intrinsics | None:
        """Return the intrinsics that COLMAP is given; ``None`` for none.

        Raises:
            ConfigError: an unknown model, or parameters that are not its own.
        """
        from semantic_matcher_core.errors import ConfigError
        from semantic_matcher_core.io.colmap import Intrinsics

        if self.camera_model is None and self.camera_params is None:
            return None
        if self.camera_model is None or self.camera_params is None or not self.colmap:
            raise ConfigError("--camera-model, --camera-params and --colmap belong together")
        try:
            params = tuple(float(part) for part in self.camera_params.split(","))
        except ValueError as error:
            raise ConfigError(
                f"--camera-params {self.camera_params!r} is no list of numbers; expected e.g. 525,525,320,240"
            ) from error
        return Intrinsics(self.camera_model.upper(), params)


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
