"""All stages of a training of the bundled variant, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.io.images import list_images
from training.compact.config import CompactConfig
from training.compact.extractor_stage import train_extractor
from training.compact.package import package
from training.compact.reasoner_stage import train_reasoner
from training.compact.teacher import lessons
from training.compact.validation import validation_pairs
from training.compact.views import load_pictures, split
from training.errors import DataError


def train_all(config: CompactConfig, target: Path, *, report: Callable[[str], None]) -> list[Path]:
    """Teacher, extractor, reasoner, package.

    Args:
        config: of the training.
        target: folder of the packaged weights.
        report: takes lines of progress.

    Returns:
        The packaged files.

    Raises:
        DataError: too few photographs.
        WeightsNotFoundError: the teacher's weights are not here.
        CheckpointError: the run's folder holds a training with other settings.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = resolve_device("auto")
    files = list_images(config.data.root)
    train, held = split(files, config.data.holdout)
    if not train or not held:
        raise DataError(f"{config.data.root} has {len(files)} photographs, too few to train on and to validate")
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_output(folder / "split.yaml") as temporary:
        names = {"train": [f.name for f in train], "validation": [f.name for f in held]}
        temporary.write_text(yaml.safe_dump(names), encoding="utf-8")
    pictures = load_pictures(train, config.data.picture_side)
    pairs = validation_pairs(load_pictures(held, config.data.picture_side), config.data)
    taught = lessons(
        pictures,
        config.teacher,
        folder / f"{config.teacher.extractor}.safetensors",
        device=device,
        progress=lambda done: report(f"teacher {done}/{len(pictures)}") if done % 100 == 0 else None,
    )
    start = None if config.start_from is None else Path(config.start_from)
    extractor = train_extractor(
        config, pictures, taught, pairs, device=device, report=report, initial=start and start / "extractor"
    )
    reasoner = train_reasoner(
        config, pictures, extractor, pairs, device=device, report=report, initial=start and _last_reasoner(start)
    )
    if config.refinement.steps:
        larger = load_pictures(train, config.refinement.picture_side)
        reasoner = train_reasoner(
            config.refined(),
            larger,
            extractor,
            pairs,
            device=device,
            report=report,
            name="refinement",
            initial=folder / "reasoner",
        )
    return package(config, extractor, reasoner, target)


def _last_reasoner(run: Path) -> Path:
    """The stage of a run that trained its reasoner last."""
    refinement = run / "refinement"
    return refinement if refinement.is_dir() else run / "reasoner"
