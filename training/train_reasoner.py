"""``python -m training.train_reasoner CONFIG.yaml [key=value …]``: train a reasoner.

Under ``torchrun`` or SLURM's ``srun`` it trains on all processes that were started.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from training.cli import console, run_app

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file; see training/configs.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. optimizer.lr=0.0002")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run, exactly.")] = False,
) -> None:
    """Train a reasoner as a YAML file says."""
    from training.reasoner.config import load_config

    experiment = load_config(config, overrides or ())
    from training.reasoner import run

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    result = run.train(experiment, resume=resume)
    if result.is_writer:
        console.print(run.summary(result), highlight=False, soft_wrap=True)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
