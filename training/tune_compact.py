"""``python -m training.tune_compact CONFIG.yaml [key=value …]``: the bundled extractor's last stage.

Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semantic_matcher_core.io.atomic import make_folder
from training.cli import deliver, run_command, say
from training.train_compact import BUNDLED_FILE, training_device


def tune(
    config: Annotated[Path, typer.Argument(help="YAML file, e.g. training/configs/compact-tune.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. steps=500.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget, loading included.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to copy the weights to.")] = None,
) -> None:
    """Tune which keypoints the extractor takes, and how it describes them, by what is matched rightly."""
    from training.strict_mapping import load_dataclass
    from training.student.config import TuneConfig
    from training.student.tune import tune as run

    if output is not None:
        make_folder(output)
    file = run(
        load_dataclass(TuneConfig, config, overrides or ()), device=training_device(device), report=say, minutes=minutes
    )
    deliver(file, output, BUNDLED_FILE)


if __name__ == "__main__":
    run_command(tune)
