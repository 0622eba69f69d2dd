"""``python -m training.train_dalf``: DALF from a folder of any images, two stages by default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semantic_matcher_core.errors import ConfigError
from training.cli import console, run_command, say


def train(
    data: Annotated[Path, typer.Option(help="Folder of images; any will do.")],
    output: Annotated[Path, typer.Option(help="Folder for checkpoints and TensorBoard figures.")],
    mode: Annotated[
        str,
        typer.Option(help="two-stage (ts1, then ts-fl), or one of ts1, ts2, ts-fl, end2end-backbone, -tps, -full."),
    ] = "two-stage",
    pretrained: Annotated[Path | None, typer.Option(help="First-stage weights, for ts2 and ts-fl alone.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each stage; published figures without it.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pairs in a step; 12 or 6 as published.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="1e-3 or 2e-4 as published.")] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Steps for one update of the weights.")] = 4,
    height: Annotated[int, typer.Option(min=64, help="Of the training views.")] = 200,
    width: Annotated[int, typer.Option(min=64, help="Of the training views.")] = 300,
    dry_run: Annotated[bool, typer.Option(help="Over-fit one batch: reward and accuracy must rise.")] = False,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 32000,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 5000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
) -> None:
    """Train DALF. A run that was stopped goes on from its last checkpoint when started again."""
    from training.dalf.trainer import DalfTraining

    if mode == "two-stage" and pretrained is not None:
        raise ConfigError("two stages begin anew; with first-stage weights, train the second alone: --mode ts-fl")
    settings = DalfTraining(
        "ts1" if mode == "two-stage" else mode,
        output,
        pretrained,
        steps,
        batch_size,
        learning_rate,
        accumulate,
        (height, width),
        dry_run,
        seed,
        save_every,
        device,
    )
    if mode != "two-stage":
        final = _run(settings, data)
    else:
        first = _run(replace(settings, output=output / "ts1"), data)
        # The published second stage has a seed of its own.
        final = _run(replace(settings, mode="ts-fl", output=output / "ts-fl", pretrained=first, seed=2 * seed), data)
    say(f"weights: {final}")
    say(f"try them: semantic-matcher match A.png B.png --descriptor dalf --dino none --weights {final.parent}")


def _run(settings: Any, data: Path) -> Path:
    from semantic_matcher_core.io.images import list_images
    from training.dalf.trainer import DalfTrainer

    trainer = DalfTrainer(settings, list_images(data))
    if trainer.finished:
        say(
            f"{settings.mode} is finished, {trainer.final_path}: nothing is learnt; give another --output to train anew"
        )
        return trainer.final_path
    writer = _figures(settings.output)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(settings.mode, total=settings.total_steps)

        def report(step: int, result: Any) -> None:
            text = f"{settings.mode}  found again {result.reward:.0f}  accuracy {result.accuracy:.2f}"
            bars.update(task, completed=step, description=text)
            for name in ("reward", "accuracy", "keypoints", "descriptor_loss"):
                writer.add_scalar(name, getattr(result, name), step)
            writer.add_scalar("loss", result.loss.item(), step)

        final = trainer.run(report)
    writer.close()
    return final


def _figures(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "figures"))


if __name__ == "__main__":
    run_command(train)
