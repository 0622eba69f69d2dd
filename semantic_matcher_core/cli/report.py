"""``semantic-matcher report``: a page about a file of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semantic_matcher_core.cli.options import ResultsArgument


def report_command(
    results: ResultsArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML page to write. (default: beside the results, as .html)")
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            help="Where the camera really was, drawn beside the odometry of the results: a TUM text file (stamp tx ty "
            "tz qx qy qz qw), or a bag with a topic of Odometry, poses or transforms."
        ),
    ] = None,
    ground_truth_topic: Annotated[
        str, typer.Option(help="Topic of --ground-truth, where the bag has several of poses.")
    ] = "",
) -> None:
    """Make one HTML page of a file of results: counts, inliers, latency, coverage, and the telling pairs drawn.

    The page holds all that it shows, every pair on a time line, so that it can be mailed; it loads nothing.

    Example:

      semantic-matcher report matches.mcap -o report.html

      semantic-matcher report walk.mcap --ground-truth groundtruth.txt
    """
    from semantic_matcher_core.cli.outputs import check_output_option
    from semantic_matcher_core.cli.progress import spinner
    from semantic_matcher_core.errors import ConfigError

    target = output or results.with_suffix(".html")
    check_output_option("--output", target, (".html", ".htm"), [results, ground_truth])
    if ground_truth_topic and ground_truth is None:
        raise ConfigError("--ground-truth-topic names a topic of the bag of --ground-truth; give both")
    from semantic_matcher_core.io.names import readable
    from semantic_matcher_core.io.trajectory import read_trajectory
    from semantic_matcher_core.viz.report import write_report
    from semantic_matcher_core.viz.trajectory import Truth

    with spinner("reading the results"):
        truth = None
        if ground_truth is not None:
            name = " ".join(filter(None, [readable(ground_truth.name), ground_truth_topic]))
            truth = Truth(name, *read_trajectory(ground_truth, ground_truth_topic))
        write_report(results, target, truth=truth)
    typer.echo(f"wrote {target}")
