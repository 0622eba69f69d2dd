"""``python -m training.train_compact CONFIG.yaml … [key=value …]``: distil the bundled extractor.

Several configurations are trained side by side, on the same views. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.atomic import make_folder
from training.cli import deliver, run_app, say

if TYPE_CHECKING:
    import torch

app = typer.Typer(add_completion=False, rich_markup_mode=None)
# The catalogue's name of the bundled extractor's file.
BUNDLED_FILE = "compact_extractor.safetensors"


@app.command()
def train(
    configs: Annotated[list[str], typer.Argument(help="YAML files, and section.key=value for all, e.g. steps=500.")],
    minutes: Annotated[float | None, typer.Option(help="Time budget, loading included.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to copy the weights to.")] = None,
) -> None:
    """Train the extractor as YAML files say."""
    from training.strict_mapping import load_dataclass
    from training.student.config import StudentConfig
    from training.student.train import train_students

    overrides = [text for text in configs if "=" in text]
    files = [text for text in configs if "=" not in text]
    if not files:
        raise ConfigError("name a YAML file, e.g. training/configs/compact.yaml")
    settings = [load_dataclass(StudentConfig, file, overrides) for file in files]
    if output is not None:
        make_folder(output)
    where = training_device(device)
    made = train_students(settings, device=where, report=say, minutes=minutes)
    for file, setting in zip(made, settings, strict=True):
        # One alone makes a folder of weights that can be used as it is; of several each has its name.
        deliver(file, output, BUNDLED_FILE if len(made) == 1 else f"{setting.name}.safetensors")


def training_device(name: str) -> torch.device:
    """Return the device of a name, set up for a process that trains and does nothing else."""
    import torch

    from semantic_matcher_core.device import resolve_device

    where = resolve_device(name)
    if where.type == "cuda":
        # Shapes never change, and losses need no full float32 product.
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    return where


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
