"""``python -m training.train_student CONFIG.yaml [key=value …]``: distil the bundled extractor.

Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import shutil
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
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. steps=500")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget, loading included.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the weights go, too.")] = None,
) -> None:
    """Train the extractor as a YAML file says."""
    from semantic_matcher_core.device import resolve_device
    from training.student.config import read_config
    from training.student.train import train_student

    settings = read_config(config, overrides or ())
    file = train_student(settings, device=resolve_device(device), report=_say, minutes=minutes)
    if output is not None:
        shutil.copyfile(file, output)
    _say(f"wrote {output or file} ({file.stat().st_size / 1e6:.2f} MB)")


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
