"""``semantic-matcher view``: results on a time line, in Rerun."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semantic_matcher_core.cli.options import ResultsArgument


def view_command(
    results: ResultsArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a recording (.rrd) instead of opening a window.")
    ] = None,
) -> None:
    """Show images, keypoints, matches, points and trajectory of a file of results on a time line, in Rerun.

    It needs rerun-sdk: pip install rerun-sdk.

    Examples:

      semantic-matcher view matches.mcap

      semantic-matcher view matches.mcap -o matches.rrd
    """
    from semantic_matcher_core.cli.outputs import check_output_option
    from semantic_matcher_core.cli.progress import spinner
    from semantic_matcher_core.viz.rerun_log import view, write_rrd

    check_output_option("--output", output, (".rrd",), [results])
    with spinner("reading the results"):
        count = view(results) if output is None else write_rrd(results, output)
    typer.echo(f"{count} entries" + ("" if output is None else f"\nwrote {output}"))
