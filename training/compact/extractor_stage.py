"""The first stage: the extractor, from two views of each picture and a teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from semantic_matcher_core.extractors.compact import Compact, CompactNetwork
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.layers import folded, standardised
from training.compact.config import CompactConfig
from training.compact.extractor_loss import extractor_losses, marks
from training.compact.run_state import StageFolder, load_initial, take_step
from training.compact.teacher import Lesson
from training.compact.validation import validate
from training.compact.views import ViewPairBatches, ViewPairs

_VALIDATION_KEYPOINTS = 512


def train_extractor(
    config: CompactConfig,
    pictures: Sequence[Tensor],
    lessons: Sequence[Lesson],
    held_out: dict[str, list[ViewPairs]],
    *,
    device: torch.device,
    report: Callable[[str], None],
    build: Callable[[], nn.Module] | None = None,
    initial: Path | None = None,
) -> Path:
    """Train, going on from a checkpoint where there is one.

    Args:
        config: of the whole training.
        pictures, lessons: to train on, and what the teacher sees in each.
        held_out: pairs to validate on.
        device: where the network runs.
        report: takes a line of progress.
        build: makes another network with the outputs of ``CompactNetwork``, for comparison.
        initial: folder of the stage whose last checkpoint this one starts from; ``None`` to start anew.

    Returns:
        The weights, batch normalisation folded in, as half-precision safetensors.

    Raises:
        CheckpointError: a checkpoint in the folder is of another configuration, or that of ``initial`` is missing or
            of another network.
        DataError: the loss is no longer finite.
    """
    stage = config.extractor
    settings = {**config.decisive(stage, config.data), "teacher": config.teacher.extractor}
    folder = StageFolder(config.run_folder / "extractor", settings)
    if folder.final.is_file():
        return folder.final
    torch.manual_seed(config.seed)
    network = build() if build else CompactNetwork(stage.widths, stage.descriptor_dim, batch_norm=True)
    if initial is not None:
        load_initial(network, initial)
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), stage.lr, weight_decay=stage.weight_decay)
    start, spent = folder.restore(network, optimizer)
    began = time.monotonic() - spent
    for step, pairs in enumerate(batches(config, pictures, stage.batch, start, stage.steps, config.seed), start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage.lr, step, stage.steps)
        found = marks(pairs, [lessons[i] for i in pairs.pictures])
        images = standardised(pairs.images).to(device).contiguous(memory_format=torch.channels_last)
        network.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            descriptor_map, logits = network(images)
        losses = extractor_losses(
            descriptor_map.float().cpu(),
            logits.float().cpu(),
            pairs,
            found,
            points=stage.points,
            temperature=stage.temperature,
            generator=torch.Generator().manual_seed(config.seed + step),
        )
        loss = losses.matching + stage.distillation * losses.distillation + stage.detection * losses.detection
        done = step + 1
        take_step(optimizer, loss, "extractor", done)
        if done % 50 == 0:
            values = {name: round(value.item(), 4) for name, value in losses._asdict().items()}
            folder.log(done, values)
            report(f"extractor {done}/{stage.steps}, {time.monotonic() - began:.0f} s: {values}")
        if done % config.validate_every == 0 or done == stage.steps:
            figures = validate(extractor_of(folded(network), device).extract, held_out)
            folder.log(done, {"validation": figures})
            report(f"extractor {done}: {summary(figures)}")
        if done % config.save_every == 0 or done == stage.steps:
            folder.save(done, time.monotonic() - began, network, optimizer)
    state = {name: value.half().cpu().contiguous() for name, value in folded(network).state_dict().items()}
    with atomic_output(folder.final) as temporary:
        save_file(state, temporary)
    return folder.final


def extractor_of(network: nn.Module, device: torch.device) -> Compact:
    """An extractor with a folded network, as validation uses it."""
    extractor = Compact(_VALIDATION_KEYPOINTS)
    extractor.net = network.eval()
    return extractor.to(device)


def batches(
    config: CompactConfig, pictures: Sequence[Tensor], batch: int, start: int, steps: int, seed: int
) -> Iterator[ViewPairs]:
    """The batches of steps ``start`` to ``steps``: the same ones, whatever the number of workers."""
    data = ViewPairBatches(pictures, config.data, batch=batch, seed=seed, length=steps)
    loader: Any = DataLoader(
        data, batch_size=None, sampler=range(start, steps), num_workers=config.workers, collate_fn=None
    )
    return iter(loader)


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Up over the first twentieth, down along a cosine."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def summary(figures: dict[str, dict[str, float]]) -> str:
    """A line of validation figures."""
    return "; ".join(f"{kind}: {f['correct']:.0f} correct, {f['precision']:.1%}" for kind, f in figures.items())
