"""The training loop of DALF: exact resume, checkpoints that the extractor loads, TensorBoard figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import CheckpointError, ConfigError, check_choice
from semantic_matcher_core.extractors.dalf import MODES, Dalf, mode_of_state_dict
from semantic_matcher_core.io.atomic import atomic_output, make_folder
from semantic_matcher_core.weights import read_state_dict
from training.correspondence import PlanarCorrespondence
from training.dalf.schedule import (
    ACCUMULATE,
    SECOND_STAGE,
    difficulty,
    mismatch_penalty,
    mode_settings,
    penalty_ramp,
)
from training.dalf.step import StepResult, training_step
from training.data.warped import WarpConfig, WarpedPairs
from training.errors import DataError
from training.state import read_state

BEND_PROBABILITY = 0.7
_DRY_RUN_STEPS, _DRY_RUN_BATCH = 1000, 2


@dataclass(frozen=True)
class DalfTraining:
    """A run.

    Attributes:
        mode: one of the six; ``ts2`` and ``ts-fl`` go on from ``pretrained``.
        output: folder for checkpoints and figures.
        pretrained: weights of the first stage (``ts1``).
        steps, batch_size, learning_rate: ``None`` for the mode's published figures.
        accumulate: batches per update of the weights.
        size: ``(height, width)`` of the training views; 200 x 300 as published.
        dry_run: over-fit one batch, as a check that learning works.
        seed: everything random follows from it.
        save_every: steps between checkpoints.
        device: see ``resolve_device``.
    """

    mode: str
    output: Path
    pretrained: Path | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    accumulate: int = ACCUMULATE
    size: tuple[int, int] = (200, 300)
    dry_run: bool = False
    seed: int = 32000
    save_every: int = 5000
    device: str = "auto"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        if self.mode in SECOND_STAGE and self.pretrained is None:
            raise ConfigError(f"mode {self.mode} goes on from a first stage: give its weights (mode ts1) as pretrained")
        if self.mode not in SECOND_STAGE and self.pretrained is not None:
            raise ConfigError(f"mode {self.mode} begins anew: pretrained is for {' and '.join(SECOND_STAGE)} alone")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be a number above 0, got {self.learning_rate}")

    @property
    def total_steps(self) -> int:
        return self.steps or (_DRY_RUN_STEPS if self.dry_run else mode_settings(self.mode).steps)

    @property
    def pairs_per_step(self) -> int:
        return self.batch_size or (_DRY_RUN_BATCH if self.dry_run else mode_settings(self.mode).batch_size)


Report = Callable[[int, StepResult], None]


class DalfTrainer:
    """Trains one mode.

    Args:
        settings: the run.
        images: files, or ``H x W x 3`` uint8 tensors.
    """

    def __init__(self, settings: DalfTraining, images: list[Path] | list[Tensor]) -> None:
        self.settings = settings
        self.images = images
        self.device = resolve_device(settings.device)
        torch.manual_seed(settings.seed)
        self.dalf = Dalf(mode=settings.mode).to(self.device)
        if settings.pretrained is not None:
            load_first_stage(self.dalf, settings.pretrained)
        if settings.mode in SECOND_STAGE:
            self.dalf.net.encoder.requires_grad_(False)
            self.dalf.net.features.requires_grad_(False)
        self.dalf.train()
        rate = settings.learning_rate or mode_settings(settings.mode).learning_rate
        self.optimizer = torch.optim.Adam((p for p in self.dalf.parameters() if p.requires_grad), lr=rate)
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        self.step = 0
        self._overfitted: tuple[Tensor, Tensor, list[PlanarCorrespondence]] | None = None

    @property
    def resume_path(self) -> Path:
        """Where the state of an unfinished run is kept."""
        return self.settings.output / "resume.pt"

    @property
    def final_path(self) -> Path:
        """Where the weights will be."""
        return self.settings.output / f"model_{self.settings.mode}_final.pth"

    @property
    def finished(self) -> bool:
        """Whether an earlier run came to its end there."""
        return self.final_path.is_file() and not self.resume_path.is_file()

    def run(self, report: Report | None = None) -> Path:
        """Train to the end, from where an earlier run with the same output stopped; the weights' path.

        Raises:
            DataError: the loss is not finite; the batch and the weights are saved beside the checkpoints.
        """
        make_folder(self.settings.output)
        if self.resume_path.is_file():
            self._resume()
        for batch in self._batches():
            result = self._train_on(batch)
            self.step += 1
            if report is not None:
                report(self.step, result)
            if self.step % self.settings.save_every == 0:
                self._save_resume()
                self.save(self.settings.output / f"model_{self.settings.mode}_{self.step:06d}.pth")
        self.save(self.final_path)
        self.resume_path.unlink(missing_ok=True)
        return self.final_path

    def save(self, path: Path) -> None:
        """Save the weights alone, in the published state-dict names."""
        state = {name: tensor.cpu() for name, tensor in self.dalf.state_dict().items()}
        with atomic_output(path) as temporary:
            torch.save(state, temporary)

    def _train_on(self, batch: tuple[Tensor, Tensor, list[PlanarCorrespondence]]) -> StepResult:
        settings = self.settings
        result = training_step(
            self.dalf,
            *batch,
            ramp=penalty_ramp(self.step, settings.total_steps),
            wrong_penalty=mismatch_penalty(settings.mode, self.step, settings.total_steps),
            generator=self.generator,
        )
        if not math.isfinite(result.loss.item()):
            path = settings.output / f"not_finite_step_{self.step:06d}.pt"
            state = {"view0": batch[0], "view1": batch[1], "state_dict": self.dalf.state_dict(), "step": self.step}
            with atomic_output(path) as temporary:
                torch.save(state, temporary)
            raise DataError(f"the loss is {result.loss.item()} at step {self.step}; batch and weights are in {path}")
        (result.loss / settings.accumulate).backward()
        # The last update may be of fewer steps: of a run shorter than one it is the only one.
        if (self.step + 1) % settings.accumulate == 0 or self.step + 1 == settings.total_steps:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return result

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, list[PlanarCorrespondence]]]:
        settings = self.settings
        while self.step < settings.total_steps:
            if settings.dry_run:
                if self._overfitted is None:
                    self._overfitted = self._batch(0, 0.2)
                yield self._overfitted
            else:
                yield self._batch(self.step, difficulty(self.step, settings.total_steps))

    def _batch(self, step: int, strength: float) -> tuple[Tensor, Tensor, list[PlanarCorrespondence]]:
        settings = self.settings
        config = WarpConfig(settings.size, strength, BEND_PROBABILITY)
        # The step is the epoch: the pairs of a step are the same however often the run was interrupted.
        pairs = WarpedPairs(self.images, config, seed=settings.seed, length=settings.pairs_per_step)
        pairs.epoch = step
        items = [pairs[i] for i in range(len(pairs))]
        view0 = torch.stack([item[0] for item in items]).to(self.device)
        view1 = torch.stack([item[1] for item in items]).to(self.device)
        return view0, view1, [item[2].to(self.device) for item in items]

    def _save_resume(self) -> None:
        state = {
            "step": self.step,
            "settings": _comparable(self.settings),
            "state_dict": self.dalf.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradients": {n: p.grad for n, p in self.dalf.named_parameters() if p.grad is not None},
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
        }
        with atomic_output(self.resume_path) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        keys = ("step", "settings", "state_dict", "optimizer", "gradients", "generator", "torch_rng")
        state, now = read_state(self.resume_path, keys), _comparable(self.settings)
        other = [f"{key} {value}, not {now[key]}" for key, value in state["settings"].items() if value != now[key]]
        if other:
            raise ConfigError(
                f"{self.resume_path} belongs to a run with other settings ({', '.join(other)}); "
                "delete it, or choose another output folder"
            )
        self.step = state["step"]
        self.dalf.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        parameters = dict(self.dalf.named_parameters())
        for name, gradient in state["gradients"].items():
            parameters[name].grad = gradient.to(self.device)
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])


def load_first_stage(dalf: Dalf, path: Path) -> None:
    """Load weights of another mode: all that both have. The fusion gate of ``ts-fl`` begins as it is.

    Raises:
        CheckpointError: they do not fit.
    """
    state = read_state_dict(path)
    mode_of_state_dict(state)
    own = dalf.state_dict()
    wrong = [name for name in state if name not in own or own[name].shape != state[name].shape]
    missing = [name for name in own if name not in state and not name.startswith("fusion_layer.")]
    if wrong or missing:
        raise CheckpointError(
            f"{path} is no first stage of mode {dalf.mode}: {(wrong or missing)[0]} does not fit"
            f"{f' (and {len(wrong + missing) - 1} more)' if len(wrong + missing) > 1 else ''}"
        )
    dalf.load_state_dict({**own, **state})


def _comparable(settings: DalfTraining) -> dict[str, Any]:
    kept = {k: v for k, v in asdict(settings).items() if k not in ("output", "pretrained", "device", "save_every")}
    return {**kept, "size": list(settings.size)}
