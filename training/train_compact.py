"""``python -m training.train_compact CONFIG.yaml [key=value …]``: train the bundled variant, from photographs alone.

Interrupted, the same command goes on where it was. Stages that are finished are not repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.cli import run_app

app = typer.Typer(add_completion=False, rich_markup_mode=None)
console = Console(stderr=True)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The YAML file; see training/configs/compact.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. extractor.steps=500")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the packaged weights; default <run>/package.")
    ] = None,
) -> None:
    """Train extractor, context encoder and reasoner as a YAML file says, and package their weights."""
    from training.compact.config import read_config
    from training.compact.run import train_all

    settings = read_config(config, overrides or ())
    files = train_all(settings, output or settings.run_folder / "package", report=_say)
    for file in files:
        _say(f"wrote {file} ({file.stat().st_size / 1e6:.2f} MB)")


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
