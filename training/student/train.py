"""The loop: a pool of clean pairs, changes of light, the student, its losses; everything on one device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.compact_network import CompactNetwork
from semantic_matcher_core.extractors.registry import accepted_options
from semantic_matcher_core.layers import folded, standardised
from training.student import beginning
from training.student.config import StudentConfig
from training.student.light import Light
from training.student.loss import Losses, losses
from training.student.pool import PairMaker, Pairs, Pool
from training.student.progress import Schedule, learning_rate, words
from training.student.run import Run
from training.student.views import ViewMaker

_LOG_EVERY, _SAVE_SECONDS = 50, 60.0
# Of the initial pool, in batches: training begins when this many are there.
_FIRST_BATCHES = 8


def train_students(
    configs: Sequence[StudentConfig],
    *,
    device: torch.device,
    report: Callable[[str], None],
    minutes: float | None = None,
) -> list[Path]:
    """Train one student or several on the same views, going on from checkpoints where there are some.

    Several share pictures, teacher, pool and changes of light, which cost more than a student: what differs between
    them (network, losses, rate) is compared at equal data and equal steps.

    Args:
        configs: of the distillations; name, network, losses, rate, average and beginning may differ.
        device: where everything lives.
        report: takes a line of progress.
        minutes: time budget, loading included; the schedule then follows the clock, or the steps where they are over
            first. ``None``: the steps alone.

    Returns:
        The weights of each, batch normalisation folded in, as half-precision safetensors.

    Raises:
        ConfigError: configurations differ in what is shared, or share a name, or descriptors are shorter than the
            teacher's; or the time budget is over before the first step.
        DataError: too few photographs, or the loss is no longer finite.
        CheckpointError: a folder holds a training with other settings, or one that is further on than the others.
        WeightsNotFoundError: the teacher's weights are not here.
    """
    began = time.monotonic()
    common = _common(configs)
    states = [_State(config, device) for config in configs]
    if all(state.finished for state in states):
        for state in states:
            report(state.finished)
        return [state.final for state in states]
    if len({state.step for state in states}) > 1:
        steps = ", ".join(f"{s.config.name} {s.step}" for s in states)
        raise CheckpointError(f"these runs stopped at different steps ({steps}); go on with each alone")
    generator = torch.Generator(device).manual_seed(common.seed * 1_000_003 + states[0].step)
    views = ViewMaker.of_files(common.data, device, generator, report)
    maker = PairMaker(views, _teacher(configs, device), common.teacher.keypoints)
    report(f"{len(views.photos)} photographs, teacher and network on {device}, {time.monotonic() - began:.0f} s")
    validation = _validation(common, maker.teacher, device, report)
    for state in states:
        state.begin(standardised(validation[0][: common.batch].flatten(0, 1)))
    pool = Pool(maker, common.data.pool)
    while pool.filled < min(common.data.pool, _FIRST_BATCHES * common.batch):
        pool.renew(common.data.chunk)
    report(f"first {pool.filled} pairs, {time.monotonic() - began:.0f} s")
    light = Light(common.light.strength, generator)
    renew_every = max(1, round(common.data.chunk * common.data.uses / common.batch))
    since = saved = time.monotonic()
    step = since_step = states[0].step
    schedule = Schedule(common.steps, states[0].share, began, minutes)
    while schedule.goes_on(step):
        share = schedule.share(step)
        pairs = pool.draw(common.batch, generator)
        with torch.no_grad():
            images = light(pairs.images.flatten(0, 1).float() / 255, common.light.none)
            images = standardised(images).contiguous(memory_format=torch.channels_last)
        for state in states:
            state.take_step(images, pairs, share)
        step += 1
        if step % renew_every == 0:
            pool.renew(common.data.chunk)
        if step % _LOG_EVERY == 0:
            now = time.monotonic()
            rate = (step - since_step) / (now - since)
            since, since_step = now, step
            for state in states:
                means = state.log_means()
                if step % (5 * _LOG_EVERY) == 0 or minutes is None:
                    report(f"{state.config.name} {step}, {share:.0%}, {rate:.1f} steps/s{_busy(device)}: {means}")
        if time.monotonic() - saved > _SAVE_SECONDS:
            saved = time.monotonic()
            for state in states:
                state.save()
                report(f"{state.config.name} {step}, saved, validation: {words(state.validate(validation))}")
    for state in states:
        state.share = 1.0
        state.save()
        report(f"{state.config.name} {step}, validation: {words(state.validate(validation))}")
    return [state.finish(folded(state.average)) for state in states]


def _common(configs: Sequence[StudentConfig]) -> StudentConfig:
    """Return what all configurations share, as the first has it."""
    first = configs[0]
    if len({config.run_folder for config in configs}) < len(configs):
        raise ConfigError(f"students need names of their own, got {', '.join(config.name for config in configs)}")
    for config in configs[1:]:
        for name in ("data", "teacher", "light", "batch", "steps", "seed", "precision"):
            if getattr(config, name) != getattr(first, name):
                raise ConfigError(
                    f"{config.name} and {first.name} differ in {name}, which students trained together share"
                )
    return first


class _State(Run):
    """A student and its run."""

    def __init__(self, config: StudentConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        torch.manual_seed(config.seed)
        network = CompactNetwork(config.network, batch_norm=True)
        # Weights in use, whose batch normalisation is put back when there are images.
        self._folded = None if config.start_from is None else beginning.load(network, config.start_from)
        network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            network.parameters(), config.lr, weight_decay=config.weight_decay, fused=device.type == "cuda"
        )
        decisive = {"network": asdict(config.network), "seed": config.seed}
        super().__init__(config, network, optimizer, Losses._fields, decisive)

    def begin(self, images: Tensor) -> None:
        """Put batch normalisation back, before the first step, into weights that had it folded in.

        Args:
            images: ``B x 3 x S x S`` standardised views.
        """
        if self._folded is not None and self.step == 0:
            beginning.unfold(self._folded.to(self.device), self.network, images)
            self.average.load_state_dict(self.network.state_dict())
        self._folded = None

    def take_step(self, images: Tensor, pairs: Pairs, share: float) -> None:
        """Take one optimisation step.

        Args:
            images: ``2 B x 3 x S x S`` the changed and standardised views.
            pairs: what the teacher says of them.
            share: of the schedule.
        """
        config, self.share = self.config, share
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            maps = self.network(images)
        found = losses(self.network, maps, pairs, config.loss)
        self.learn(found.total(config.loss), found, [learning_rate(config.lr, share, self.step)])

    @torch.inference_mode()
    def validate(self, held: tuple[Tensor, Any]) -> dict[str, float]:
        """Measure losses of the averaged network on held-out photographs, under fixed changes of light."""
        images, pairs = held
        network = self.average.eval()
        sums: list[Tensor] = []
        parts = torch.arange(len(pairs), device=self.device).split(self.config.batch)
        for part in parts:
            some = standardised(images[part].flatten(0, 1)).contiguous(memory_format=torch.channels_last)
            sums.append(torch.stack([*losses(network, network(some), pairs[part], self.config.loss)]) * len(part))
        values = dict(zip(Losses._fields, (torch.stack(sums).sum(dim=0) / len(pairs)).tolist(), strict=True))
        self.log({"validation": values})
        return values


def _teacher(configs: Sequence[StudentConfig], device: torch.device) -> Extractor:
    """Return the teacher that students share."""
    config = configs[0].teacher
    # A fixed number of keypoints says more than a threshold that suits other images.
    accepted = accepted_options(config.extractor)
    options: dict[str, Any] = {
        name: value for name, value in (("fixed_size", True), ("detection_threshold", 0.0)) if name in accepted
    }
    teacher = create_extractor(
        config.extractor, config.keypoints, weights=config.weights, device=device, fetch=False, **options
    )
    for student in configs:
        if student.network.descriptor_dim < teacher.descriptor_dim:
            raise ConfigError(
                f"{student.name} has descriptors of {student.network.descriptor_dim} numbers, fewer than its teacher's "
                f"({config.extractor}); set network.descriptor_dim={teacher.descriptor_dim} or more"
            )
    return teacher


def _validation(
    config: StudentConfig, teacher: Extractor, device: torch.device, report: Callable[[str], None]
) -> tuple[Tensor, Any]:
    """Return pairs of held-out photographs under fixed changes of light; drawn on the CPU, they are the same
    everywhere.
    """
    views = ViewMaker.held_out(config.data, device, report)
    maker = PairMaker(views, teacher, config.teacher.keypoints)
    count = min(128, 4 * len(views.photos))
    made = [maker.make(len(part)) for part in torch.arange(count).split(config.data.chunk)]
    pairs = Pairs.joined(made)
    with torch.no_grad():
        images = Light(1.0, views.generator)(pairs.images.flatten(0, 1).float() / 255)
    return images.unflatten(0, (count, 2)), pairs


def _busy(device: torch.device) -> str:
    """Return how busy the GPU is, in words; nothing elsewhere or where that cannot be asked."""
    if device.type != "cuda":
        return ""
    try:
        return f", GPU {torch.cuda.utilization(device)} % busy, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    except (ModuleNotFoundError, RuntimeError):
        return f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
