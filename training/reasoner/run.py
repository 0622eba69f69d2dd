"""From a configuration to trained weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.io.atomic import atomic_output, make_folder
from semantic_matcher_core.semantics import SemanticEncoder
from training.reasoner.callbacks import BEST_FOLDER, RESUME_FILE, BestWeights, MatchPlots, ResumeState, TrainingBar
from training.reasoner.config import ExperimentConfig
from training.reasoner.data import PairData
from training.reasoner.module import ReasonerTraining
from training.state import read_state


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run.

    Attributes:
        folder: of the run.
        best: checkpoint folder in the published layout, or ``None`` where validation never gave anything.
        best_value, best_step: the deciding validation figure, and when it was reached.
        final, untrained, plain: validation figures at the end, before the first step, and of the local descriptors
            matched as they are.
        is_writer: whether this process is the one that wrote the folder, of several.
    """

    folder: Path
    best: Path | None
    best_value: float
    best_step: int
    final: dict[str, float]
    untrained: dict[str, float]
    plain: dict[str, float]
    is_writer: bool = True


def train(
    config: ExperimentConfig,
    *,
    resume: bool = False,
    extractor: Extractor | None = None,
    semantic_encoder: SemanticEncoder | None = None,
    callbacks: tuple[L.Callback, ...] = (),
) -> TrainingResult:
    """Train a reasoner.

    Args:
        config: of the experiment.
        resume: go on from the run folder's ``resume.ckpt``; the result is that of a run never interrupted.
        extractor, semantic_encoder: to be used instead of those the configuration names.
        callbacks: of Lightning, besides the training's own.

    Raises:
        ConfigError: the run folder holds a run already and ``resume`` is off, or settings do not fit each other.
        CheckpointError: there is nothing to resume, or it is of another experiment.
        DataError: data are missing, damaged or do not fit.
        TrainingDiverged: loss or gradients are not finite.
    """
    folder = config.folder
    state = folder / RESUME_FILE
    if resume and not state.is_file():
        raise CheckpointError(f"nothing to resume: {state} does not exist")
    if not resume and state.is_file():
        raise ConfigError(f"{folder} holds a run already; continue it with --resume, or set another `name`")
    if resume:
        # Lightning reads it late, and says of a damaged one only that.
        read_state(state, ("state_dict", "experiment", "random_generators"))
    make_folder(folder)

    data = PairData(config, extractor, semantic_encoder)
    module = ReasonerTraining(config, extractor, semantic_encoder)
    best = BestWeights(config)
    own: list[L.Callback] = [best, ResumeState(folder, config.run.save_every, config)]
    if config.run.plot_every:
        own.append(MatchPlots(config.run.plot_every))
    if config.run.progress:
        own.append(TrainingBar())
    try:
        trainer = _trainer(config, [*callbacks, *own])
    except (MisconfigurationException, TypeError, ValueError) as error:
        # Lightning knows which devices and nodes there are.
        raise ConfigError(f"Lightning cannot run so: {error} (run.accelerator, run.devices, run.nodes)") from error

    if resume:
        trainer.fit(module, datamodule=data, ckpt_path=str(state), weights_only=True)
    else:
        if trainer.is_global_zero:
            with atomic_output(folder / "config.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(config.to_mapping(), sort_keys=False), encoding="utf-8")
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.fit(module, datamodule=data)
    return TrainingResult(
        folder,
        folder / BEST_FOLDER if best.step >= 0 else None,
        best.value,
        best.step,
        module.latest,
        module.untrained or {},
        module.plain or {},
        trainer.is_global_zero,
    )


def _trainer(config: ExperimentConfig, callbacks: list[L.Callback]) -> L.Trainer:
    run = config.run
    devices, nodes = placement(run.devices, run.nodes)
    several = nodes > 1 or devices not in (1, "1")
    return L.Trainer(
        max_steps=run.steps,
        accelerator=run.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if several and devices != "auto" else "auto",
        precision=run.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=run.accumulation,
        gradient_clip_val=config.optimizer.gradient_clip,
        deterministic=run.deterministic,
        log_every_n_steps=run.log_every,
        # In parts, counted through: the stream of pairs knows no end of an epoch.
        val_check_interval=run.validation_steps * run.accumulation,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=run.progress,
        logger=TensorBoardLogger(str(config.folder), name="", version="tensorboard"),
        default_root_dir=str(config.folder),
        callbacks=callbacks,
    )


def placement(devices: str | int, nodes: str | int) -> tuple[str | int, int]:
    """Choose devices per node and nodes, from what started this process where they are ``auto``."""
    environment = os.environ
    if "LOCAL_WORLD_SIZE" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        started = (local, int(environment["WORLD_SIZE"]) // local)
    elif "SLURM_NTASKS_PER_NODE" in environment:
        started = (int(environment["SLURM_NTASKS_PER_NODE"]), int(environment.get("SLURM_NNODES", "1")))
    else:
        started = None
    chosen_nodes = (started[1] if started else 1) if nodes == "auto" else nodes
    if not isinstance(chosen_nodes, int):
        raise ConfigError(f"run.nodes must be a number or auto, got {nodes!r}")
    return (started[0] if started and devices == "auto" else devices), chosen_nodes


def summary(result: TrainingResult) -> str:
    """Return a few lines for people."""

    def line(name: str, values: dict[str, Any]) -> str:
        shown = ", ".join(f"{key} {values[key]:.3f}" for key in ("precision", "recall", "correct") if key in values)
        return f"{name:<18}{shown}"

    lines = [
        line("plain descriptors", result.plain),
        line("untrained", result.untrained),
        line("at the end", result.final),
        f"best at step {result.best_step}: {result.best}",
        f"use it: semantic-matcher match A.jpg B.jpg -o matches.png --variant {result.best}",
    ]
    if result.best is None:
        lines[-2:] = ["no weights were kept: validation gave nothing"]
    return "\n".join(lines)
