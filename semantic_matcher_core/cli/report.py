"""``semantic-matcher report``: a page about a file of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    results: Annotated[
        Path,
        typer.Argument(
            help="What `semantic-matcher bag` wrote, or a bag that a recorder made of the nodes' topics.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="HTML page to write. (default: beside the results, as .html)", show_default=False
        ),
    ] = None,
) -> None:
    """Make one HTML page of a file of results: counts, inliers, latency, coverage, and the telling pairs drawn.

    The page holds all that it shows, every pair on a time line, so that it can be mailed; it loads nothing.

    Example:

      semantic-matcher report matches.mcap -o report.html
    """
    from semantic_matcher_core.cli.progress import spinner
    from semantic_matcher_core.errors import ConfigError

    target = output or results.with_suffix(".html")
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output {target} must end in .html")
    from semantic_matcher_core.viz.report import write_report

    with spinner("reading the results"):
        write_report(results, target)
    typer.echo(f"wrote {target}")
