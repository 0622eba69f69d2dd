"""``semantic-matcher bag``, ``video`` and ``images``: the nodes' work on recordings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semantic_matcher_core.cli.flatten import flattened
from semantic_matcher_core.cli.options import (
    FullScaleOption,
    MaskOptions,
    MatchingOptions,
    ModelOptions,
    OrientationOption,
)
from semantic_matcher_core.cli.run_options import CalibrationOptions, OutputOptions, PairingOptions, ProcessOptions

if TYPE_CHECKING:
    from semantic_matcher_core.offline.jobs import Job
    from semantic_matcher_core.offline.sources import ImageSource


@dataclass(frozen=True)
class _Options:
    """What the three commands have in common."""

    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="MCAP file to write; with several inputs a folder, made if needed, that gets one file for each.",
        ),
    ]
    pairing: PairingOptions
    matching: MatchingOptions
    calibration: CalibrationOptions
    masks: MaskOptions
    outputs: OutputOptions
    model: ModelOptions
    processes: ProcessOptions


@dataclass(frozen=True)
class _Input:
    """One recording: what messages call it, what its output is called, how it is opened, its images where known."""

    name: str
    stem: str
    open_source: Callable[[], ImageSource]
    images: int | None = None


@flattened
def bag_command(
    bags: Annotated[
        list[Path], typer.Argument(help="Bags: rosbag2 folders, .mcap or .db3 files, or ROS 1 .bag files.")
    ],
    options: _Options,
    image_topic: Annotated[
        list[str] | None,
        typer.Option(
            "--image-topic",
            "-t",
            help="Image topic, raw or compressed; repeatable. Mode stereo: left, then right. "
            "(default: the bag's only one)",
        ),
    ] = None,
    depth_topic: Annotated[
        str,
        typer.Option(
            help="With --odometry: topic of the depth that is registered to the images (16UC1, 32FC1, or "
            "compressedDepth)."
        ),
    ] = "",
    image_full_scale: FullScaleOption = 0.0,
) -> None:
    """Match the images of bags, as the ROS nodes do, into MCAP files.

    No ROS is needed. The results open in Foxglove, play with `ros2 bag play`, and become a page with
    `semantic-matcher report`. A run that was cut off goes on with the same command.

    Examples:

      semantic-matcher bag drive.mcap -o matches.mcap --image-topic /camera/image_raw

      semantic-matcher bag drive/ -o matches.mcap --mode stereo -t /left/image_rect -t /right/image_rect --slop 0.01

      semantic-matcher bag walk.mcap -o walk.mcap -t /camera/color/image_raw \
        --odometry --depth-topic /camera/aligned_depth_to_color/image_raw

      semantic-matcher bag day1/ day2/ day3.bag -o results/ -t /camera/image_raw/compressed --jobs 3
    """
    from semantic_matcher_core.offline.sources import BagSource

    topics = tuple(image_topic or ())
    full_scale = image_full_scale or None
    open_bag = partial(BagSource, topics=topics, depth=depth_topic, full_scale=full_scale)
    inputs = [_Input(str(bag), _stem(bag), partial(open_bag, bag)) for bag in bags]
    _run(inputs, options)


@flattened
def video_command(
    videos: Annotated[list[Path], typer.Argument(help="Videos. Mode stereo: the left and the right one.")],
    options: _Options,
    every: Annotated[int, typer.Option(min=1, help="Take each N-th frame.")] = 1,
) -> None:
    """Match the frames of videos into MCAP files.

    Examples:

      semantic-matcher video drive.mp4 -o matches.mcap --every 3

      semantic-matcher video left.mp4 right.mp4 -o matches.mcap --mode stereo --slop 0.01
    """
    from semantic_matcher_core.offline.sources import VideoSource

    groups = [tuple(videos)] if options.pairing.mode == "stereo" else [(video,) for video in videos]
    inputs = [_Input(str(group[0]), _stem(group[0]), partial(VideoSource, group, every)) for group in groups]
    _run(inputs, options)


@flattened
def images_command(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, or patterns in quotes, in their order in time. "
            "Mode stereo: two folders or patterns, left and right."
        ),
    ],
    options: _Options,
    fps: Annotated[float, typer.Option(help="Images a second, for the time stamps.")] = 10.0,
    stamps_from_names: Annotated[
        bool,
        typer.Option(
            "--stamps-from-names",
            help="Take time stamps from the names: seconds (1311868169.16.png), milli-, micro- or nanoseconds.",
        ),
    ] = False,
    depth: Annotated[
        str,
        typer.Option(
            help="With --odometry: folder or pattern of the depth images (16 bits, or floats in metres), one for each "
            "image in order, or with --stamps-from-names those nearest in time."
        ),
    ] = "",
    orientation: OrientationOption = "exif",
    image_full_scale: FullScaleOption = 0.0,
) -> None:
    """Match a sequence of image files into an MCAP file.

    The MCAP file holds images and keypoints upright; --hdf5 and --colmap hold pixels of the files as they are stored.

    Examples:

      semantic-matcher images frames/ -o matches.mcap --reference-policy keyframe

      semantic-matcher images left/ right/ -o matches.mcap --mode stereo

      semantic-matcher images shots/ -o shots.mcap --colmap

      semantic-matcher images rgb/ -o walk.mcap --odometry --depth depth/ --depth-units 5000 --calibration camera.yaml
    """
    from semantic_matcher_core.cli.inputs import collect_images
    from semantic_matcher_core.offline.sources import FilesSource

    # Named by their paths below one folder, which is COLMAP's image folder.
    everything = collect_images(images, tell=False)
    root = everything[0][1]
    for _ in everything[0][0].split("/"):
        root = root.parent
    groups = [[name] for name in images] if options.pairing.mode == "stereo" else [images]
    sequences = [collect_images(group, root=root) for group in groups]
    source = partial(
        FilesSource,
        sequences,
        depths=collect_images([depth]) if depth else [],
        fps=fps,
        stamps_from_names=stamps_from_names,
        orientation=orientation,
        full_scale=image_full_scale or None,
    )
    folder = sequences[0][0][1].parent
    inputs = [_Input(str(folder), folder.name, source, len(everything))]
    # They are files already: COLMAP takes their folder instead of a copy.
    _run(inputs, options, copy_images=False)


def _run(inputs: list[_Input], options: _Options, *, copy_images: bool = True) -> None:
    from semantic_matcher_core.cli.progress import JobBars
    from semantic_matcher_core.offline.jobs import JobHooks, run_jobs, shard

    jobs, processes = _jobs(inputs, options, copy_images), options.processes
    mine = shard(jobs)
    if processes.jobs > 1 and len(jobs) == 1:
        typer.echo("note: --jobs has no effect on a single recording", err=True)
    with JobBars([job.name for job in mine]) as bars:
        hooks = JobHooks(progress=bars.progress, notice=bars.notice, ended=bars.ended)
        outcomes = run_jobs(mine, workers=processes.jobs, threads=processes.threads, hooks=hooks)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(jobs) == 1 and failed and failed[0].error is not None:
        raise failed[0].error
    for outcome in failed:
        of = "" if str(outcome.error).startswith(outcome.job.name) else f"{outcome.job.name}: "
        typer.echo(f"error: {of}{outcome.error}", err=True)
    if failed:
        raise typer.Exit(1)


def _jobs(inputs: list[_Input], options: _Options, copy_images: bool) -> list[Job]:
    from semantic_matcher_core.errors import ConfigError
    from semantic_matcher_core.io.images import with_folders
    from semantic_matcher_core.offline.exports import Exports
    from semantic_matcher_core.offline.jobs import Job
    from semantic_matcher_core.offline.options import RunOptions

    pairing, matching, outputs = options.pairing, options.matching, options.outputs
    chosen: dict[str, Any] = {
        "pairing": pairing.temporal(),
        "slop_s": pairing.slop,
        "geometry": matching.kind(calibrated=True),
        "mask": tuple(path for path in options.masks.mask or () if path),
        "points": options.calibration.publish_points,
        "images": outputs.write_images,
    }
    # All others are called as they are here.
    for group in (pairing, matching, options.calibration, outputs):
        chosen |= {f.name: getattr(group, f.name) for f in fields(RunOptions) if hasattr(group, f.name)} | chosen
    run_options = RunOptions(**chosen)
    references = tuple(with_folders(pairing.reference or ()))
    if (pairing.mode == "reference") != bool(references):
        raise ConfigError("--mode reference and --reference IMAGE belong together")
    model = options.model.on_local_device()
    model.name()
    load = partial(model.load, matching)
    camera = outputs.camera()
    jobs = []
    for item, path in zip(inputs, _output_files(inputs, options.output), strict=True):
        exports = Exports(
            features=path.with_suffix(".features.h5") if outputs.hdf5 else None,
            matches=path.with_suffix(".matches.h5") if outputs.hdf5 else None,
            colmap=path.with_suffix(".colmap") if outputs.colmap else None,
            colmap_images=copy_images,
            pairs=outputs.pair_choice(item.images),
            camera=camera,
        )
        jobs.append(
            Job(
                item.name,
                item.open_source,
                load,
                path,
                run_options,
                references,
                exports,
                outputs.overwrite,
                tuple(options.calibration.calibration or ()),
            )
        )
    return jobs


def _stem(path: Path) -> str:
    path = Path(os.path.abspath(path))  # a link has a name of its own
    return path.name if path.is_dir() else path.stem


def _output_files(inputs: Sequence[_Input], output: Path) -> list[Path]:
    from semantic_matcher_core.errors import ConfigError, OutputError
    from semantic_matcher_core.io.atomic import check_output, output_error

    if output.suffix == ".mcap":
        if len(inputs) > 1:
            raise ConfigError(f"--output {output} is one file for {len(inputs)} inputs; give a folder")
        check_output(output)
        return [output]
    if (output.suffix or str(output) == "-") and not output.is_dir():
        raise ConfigError(f"--output {output} must end in .mcap, or be a folder")
    stems = [item.stem for item in inputs]
    double = {stem for stem in stems if stems.count(stem) > 1}
    if double:
        raise ConfigError(f"several inputs are called {', '.join(sorted(double))}; run them one by one")
    try:
        output.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise OutputError(f"cannot make folder {output}: {output.parent} does not exist; create it first") from error
    except OSError as error:
        raise output_error(output, error) from error
    return [output / f"{stem}.mcap" for stem in stems]
