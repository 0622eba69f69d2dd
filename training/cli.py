"""What the training commands share: known errors are one line and exit code 1."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from semantic_matcher_core.errors import SemanticMatcherError, of_the_machine
from semantic_matcher_core.io.atomic import atomic_output

# Names of files and scenes may look like rich's markup.
console = Console(stderr=True, markup=False)


def say(line: str) -> None:
    """Print a line of progress, as it is."""
    console.print(line, highlight=False, soft_wrap=True)


def deliver(weights: Path, folder: Path | None, name: str) -> None:
    """Copy the weights of a run into a folder under a name, where a folder is given, and say where they lie."""
    if folder is not None:
        with atomic_output(folder / name) as temporary:
            shutil.copyfile(weights, temporary)
        weights = folder / name
    say(f"wrote {weights} ({weights.stat().st_size / 1e6:.2f} MB)")


def run_app(app: typer.Typer) -> None:
    """Run a typer application; anything but an error raised on purpose, or one of the machine, shows its traceback."""
    try:
        app()
    except Exception as error:
        reason = _sentence(error) if isinstance(error, SemanticMatcherError) else of_the_machine(error)
        reason = reason or _of_a_worker(error)
        if not reason:
            raise
        console.print(f"error: {reason}", style="red", highlight=False, soft_wrap=True)
        sys.exit(1)


def _sentence(error: Exception) -> str:
    # A worker of torch's DataLoader sends its traceback, whose last line has the name and what was said.
    text = str(error)
    return text.strip().splitlines()[-1].partition(": ")[2] if "\nOriginal Traceback (" in text else text


def _of_a_worker(error: Exception) -> str:
    # The words of torch's DataLoader, which raises nothing of its own.
    if not isinstance(error, RuntimeError) or not str(error).startswith("DataLoader worker (pid"):
        return ""
    return (
        "a process that prepares pairs was killed (out of memory?): fewer data.workers, or smaller images, take less; "
        "--resume goes on where the run stopped"
    )


def run_command(command: Callable[..., Any]) -> None:
    """Run a function as a command of its own."""
    app = typer.Typer(add_completion=False)
    app.command()(command)
    run_app(app)
