"""The commands and their help. Only what `--help` needs is imported here; a command imports its work when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from semantic_matcher_core.cli import index, weights
from semantic_matcher_core.cli.browse import app_command
from semantic_matcher_core.cli.export import export_command
from semantic_matcher_core.cli.extract import extract_command
from semantic_matcher_core.cli.match import match_command
from semantic_matcher_core.cli.offline import bag_command, images_command, video_command
from semantic_matcher_core.cli.register import register_command
from semantic_matcher_core.cli.register_surface import register_surface_command
from semantic_matcher_core.cli.report import report_command
from semantic_matcher_core.cli.variants import variants_command
from semantic_matcher_core.cli.view import view_command

app = typer.Typer(
    name="semantic-matcher",
    help="Match images with local features and the semantics of a vision foundation model.",
    epilog="Start here, without any download: semantic-matcher match A.jpg B.jpg -o matches.png",
    no_args_is_help=True,
    # A traceback is for defects, and those are reported whole.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from semantic_matcher_core.version import __version__

        typer.echo(f"semantic-matcher {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command("doctor")
def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what this machine has of what semantic_matcher needs, and how to get the rest."""
    from semantic_matcher_core import doctor

    sys.stdout.flush()
    raise typer.Exit(doctor.main(["--json"] if as_json else []))


app.command("match")(match_command)
app.command("extract")(extract_command)
app.command("bag")(bag_command)
app.command("video")(video_command)
app.command("images")(images_command)
app.command("register")(register_command)
app.command("register-surface")(register_surface_command)
app.command("report")(report_command)
app.command("view")(view_command)
app.command("app")(app_command)
app.command("variants")(variants_command)
app.command("export")(export_command)
app.add_typer(index.app, name="index")
app.add_typer(weights.app, name="weights")
