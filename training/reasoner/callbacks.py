"""What is kept of a run: the state to resume from, the best weights, and pictures."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import RichProgressBar

from semantic_matcher_core.errors import CheckpointError
from semantic_matcher_core.io.atomic import output_error
from semantic_matcher_core.reasoning import save_checkpoint
from semantic_matcher_core.types import Matches
from semantic_matcher_core.viz.matches import draw_matches
from training.reasoner.batch import Batch, Pair, collate
from training.reasoner.config import ExperimentConfig
from training.reasoner.data import PairData
from training.reasoner.metrics import match_errors
from training.reasoner.module import ReasonerTraining
from training.reasoner.supervision import CORRECT_PX

RESUME_FILE = "resume.ckpt"
BEST_FOLDER = "best"
LAST_FOLDER = "last"
_PLOTTED_VALIDATION_PAIRS = 4


class ResumeState(L.Callback):
    """Keeps ``resume.ckpt``: weights, optimizer, schedule, scaler, step, and the states of all random generators.

    The place in the stream of pairs follows from the step (see :class:`~training.reasoner.sampler.StepSampler`). The
    file is replaced whole, so a run may be killed at any moment.

    Args:
        folder: of the run.
        every: steps.
        config: of the experiment, which a resumed run must share.
    """

    def __init__(self, folder: Path, every: int, config: ExperimentConfig) -> None:
        self._path = folder / RESUME_FILE
        self._every = every
        self._config = config
        self._saved = -1
        self._generators: dict[str, Any] | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not _validates_now(trainer, self._config):
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # After validation, not before it, so that a resumed run neither repeats nor misses one.
        if trainer.state.fn == "fit":
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["experiment"] = self._config.to_mapping()
        checkpoint["random_generators"] = generator_states()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        check_same_experiment(checkpoint.get("experiment", {}), self._config.to_mapping())
        self._generators = checkpoint["random_generators"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._generators is not None:
            set_generator_states(self._generators)
            self._generators = None

    def _save(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if step == self._saved or (step % self._every and step != self._config.run.steps):
            return
        self._saved = step
        temporary = self._path.with_name(f".{RESUME_FILE}.part")
        try:
            trainer.save_checkpoint(temporary, weights_only=False)  # with the optimizer's state
            if trainer.is_global_zero:
                os.replace(temporary, self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise output_error(self._path, error) from error


class BestWeights(L.Callback):
    """Writes weights in the published layout: ``best/`` whenever validation beats all before, ``last/`` at the end.

    Args:
        config: of the experiment.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self._config = config
        self.value = -1.0
        self.step = -1

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.step = state_dict["value"], state_dict["step"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ReasonerTraining)
        value = pl_module.latest[self._config.run.best_by]
        if trainer.state.fn != "fit" or value <= self.value:
            return
        self.value, self.step = value, trainer.global_step
        if trainer.is_global_zero:
            written = self._write(BEST_FOLDER, trainer, pl_module)
            for older in written.parent.glob("checkpoint_*.pt"):
                if older != written:
                    older.unlink()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            assert isinstance(pl_module, ReasonerTraining)
            self._write(LAST_FOLDER, trainer, pl_module)

    def _write(self, folder: str, trainer: L.Trainer, module: ReasonerTraining) -> Path:
        run = self._config.run
        seen = trainer.global_step * run.accumulation * run.batch_size * trainer.world_size
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, PairData) and data.train is not None
        return save_checkpoint(
            self._config.folder / folder,
            module.reasoner,
            module.model_config,
            epoch=seen // len(data.train),
            iteration=trainer.global_step,
            batch=seen,
            # Of no use in weights to match with, and twice as large; what goes on from the last has it.
            optimizer=trainer.optimizers[0].state_dict() if folder == LAST_FOLDER and trainer.optimizers else None,
        )


class TrainingBar(RichProgressBar):
    """Steps and loss; Lightning's own counts epochs, of which a stream of pairs has none, and names a log version."""

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"


class MatchPlots(L.Callback):
    """Pictures of matches in TensorBoard: a training pair every N steps, and some validation pairs each time.

    Correct matches are blue, wrong ones vermilion; those whose truth is unknown are left out.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step % self._every == 0 and trainer.is_global_zero:
            self._plot("train", trainer, pl_module, [batch.places[0]])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            count = min(_PLOTTED_VALIDATION_PAIRS, len(data.validation))
            self._plot("validation", trainer, pl_module, [(0, i * len(data.validation) // count) for i in range(count)])

    def _plot(self, split: str, trainer: L.Trainer, module: L.LightningModule, places: list[tuple[int, int]]) -> None:
        assert isinstance(module, ReasonerTraining) and trainer.logger is not None
        source = getattr(trainer.datamodule, split)  # type: ignore[attr-defined]
        writer = trainer.logger.experiment  # type: ignore[attr-defined]
        was_training = module.training
        module.eval()
        for number, place in enumerate(places):
            pair: Pair = source[place]
            picture, matches, inliers = picture_of_matches(module, pair, source.images(place))
            name = f"{split}_matches/{number}" if split == "validation" else "train_matches"
            writer.add_image(name, picture, trainer.global_step, dataformats="HWC")
            writer.add_scalar(f"{name}/matches", matches, trainer.global_step)
            writer.add_scalar(f"{name}/inliers", inliers, trainer.global_step)
        module.train(was_training)


@torch.no_grad()
def picture_of_matches(
    module: ReasonerTraining, pair: Pair, images: tuple[torch.Tensor, torch.Tensor]
) -> tuple[np.ndarray, int, int]:
    """Return a picture of a pair's matches, and how many there are and are correct, of those whose truth is known."""
    batch = collate([pair]).to(module.device)
    with torch.autocast(module.device.type, enabled=False):
        view0, view1 = module.complete(batch.view0, batch.size), module.complete(batch.view1, batch.size)
        warped, positives = module.truth(batch, view0, view1)
        judged = module.judge(view0, view1, batch, warped, positives)
    index0 = ((judged.matches0[0] >= 0) & warped.valid[0]).nonzero()[:, 0]
    index1 = judged.matches0[0, index0]
    errors = match_errors(judged.matches0, warped, judged.features1.keypoints)[0, index0]
    matches = Matches(
        torch.stack([index0, index1], dim=1),
        judged.features0.keypoints[0, index0],
        judged.features1.keypoints[0, index1],
        judged.confidence[0, index0],
        inlier=errors <= CORRECT_PX,
    ).to("cpu")
    pixels = [(image.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy() for image in images]
    inliers = int((errors <= CORRECT_PX).sum())
    return draw_matches(pixels[0], pixels[1], matches, title=pair.name), len(matches), inliers


def generator_states() -> dict[str, Any]:
    """Return states of Python's, NumPy's and torch's global random generators, as tensors and plain containers."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - others' code draws from it
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Put back what :func:`generator_states` gave."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


# May differ between a run and its continuation without changing a weight.
_FREE = {
    "output", "name", "run.steps", "run.log_every", "run.plot_every", "run.save_every", "run.progress", "data.workers",
    "data.root", "model.weights",
}  # fmt: skip


def check_same_experiment(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume what would not continue the same run.

    Raises:
        CheckpointError: a setting that decides the weights differs.
    """
    before, after = _flat(saved), _flat(now)
    for key in sorted(before.keys() | after.keys()):
        if key not in _FREE and before.get(key) != after.get(key):
            raise CheckpointError(
                f"cannot resume: {key} was {before.get(key)!r} and is {after.get(key)!r}; set it back, or start a run "
                "of another name (model.initial starts from given weights)"
            )


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _validates_now(trainer: L.Trainer, config: ExperimentConfig) -> bool:
    return trainer.global_step % config.run.validation_steps == 0
