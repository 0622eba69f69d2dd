"""``python -m training.train_reasoner CONFIG.yaml [key=value …]``: train a reasoner.

Under ``torchrun`` or SLURM's ``srun`` it trains on all processes that were started.
"""

from __future__ import annotations

import logging
import warnings
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
    from training.reasoner.config import ExperimentConfig
    from training.strict_mapping import load_dataclass

    experiment = load_dataclass(ExperimentConfig, config, overrides or ())
    from training.reasoner import run

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # The stream of pairs goes on where it was, which Lightning cannot know; its own use of torch is not ours.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    result = run.train(experiment, resume=resume)
    if result.is_writer:
        console.print(run.summary(result), highlight=False, soft_wrap=True)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
