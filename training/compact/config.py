"""What a training of the bundled variant is: dataclasses, read from YAML; unknown keys are errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.compact import DESCRIPTOR_DIM, WIDTHS
from training.strict_mapping import load_dataclass


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how views of them differ.

    Attributes:
        root: folder of photographs.
        holdout: every so many-th of them, by name, is kept for validation and never trained on.
        picture_side: pictures are made smaller so that their short side is at most this, in pixels.
        view_size: side of the square views, in pixels; a multiple of 32.
        difficulty, bend_probability: see ``training.data.warped.WarpConfig``.
        turn_probability: share of pairs whose second view is also turned by any angle.
        validation_pairs: fixed pairs of the held-out pictures, half of them turned by any angle.
    """

    root: str
    holdout: int = 20
    picture_side: int = 288
    view_size: int = 256
    difficulty: float = 0.5
    bend_probability: float = 0.3
    turn_probability: float = 0.4
    validation_pairs: int = 60

    def __post_init__(self) -> None:
        if self.view_size < 32 or self.view_size % 32:
            raise ConfigError(f"data.view_size must be a multiple of 32 from 32 up, got {self.view_size}")
        if self.holdout < 2:
            raise ConfigError(f"data.holdout must be 2 or more, got {self.holdout}")
        if self.validation_pairs < 2:
            raise ConfigError(f"data.validation_pairs must be 2 or more, got {self.validation_pairs}")


@dataclass(frozen=True)
class TeacherConfig:
    """Whose keypoints and descriptors are distilled.

    Attributes:
        extractor: of the registry.
        keypoints: of each picture, at most.
        weights: folder or file of its weights, or ``None`` for the usual places.
    """

    extractor: str = "aliked-n32"
    keypoints: int = 1000
    weights: str | None = None


@dataclass(frozen=True)
class ExtractorConfig:
    """Training of the extractor.

    Attributes:
        steps, batch: optimisation steps, and pairs in each.
        lr, weight_decay: of AdamW; the rate rises over the first twentieth and falls along a cosine to nothing.
        points: correspondences of each pair that descriptors are compared at.
        temperature: of the dual softmax between the two views.
        distillation: weight of the distance to the teacher's descriptors; 0 for none.
        detection: weight of the loss of the scores.
        widths, descriptor_dim: of the network, see ``CompactNetwork``. The package's limit is 12 MB.
    """

    steps: int = 6000
    batch: int = 6
    lr: float = 2e-3
    weight_decay: float = 1e-4
    points: int = 512
    temperature: float = 0.05
    distillation: float = 1.0
    detection: float = 1.0
    widths: tuple[int, int, int, int, int] = WIDTHS
    descriptor_dim: int = DESCRIPTOR_DIM


@dataclass(frozen=True)
class ReasonerStageConfig:
    """Joint training of context encoder and reasoner on the frozen extractor's features.

    Attributes:
        steps, batch, lr, weight_decay: as for the extractor.
        keypoints: of each view, at most.
        features_dim, n_attention_layers, num_heads, semantic_conditioning: see ``ReasonerConfig``.
        long_side: at which the context encoder sees an image, in use.
        view_size, picture_side, turn_probability: of this stage's data; ``None``: as in ``data``.
    """

    steps: int = 3000
    batch: int = 6
    lr: float = 1e-3
    weight_decay: float = 1e-4
    keypoints: int = 512
    features_dim: int = 128
    n_attention_layers: int = 4
    num_heads: int = 4
    semantic_conditioning: bool = True
    long_side: int = 448
    view_size: int | None = None
    picture_side: int | None = None
    turn_probability: float | None = None

    def data(self, common: DataConfig) -> DataConfig:
        """The data of this stage, from what all stages share."""
        own = {name: getattr(self, name) for name in ("view_size", "picture_side", "turn_probability")}
        return replace(common, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class RefinementConfig:
    """What differs where encoder and reasoner are trained on, with more of each picture and more keypoints.

    Attributes:
        steps: 0 for none.
        batch, lr, keypoints, view_size, picture_side, turn_probability: as for the reasoner.
    """

    steps: int = 0
    batch: int = 2
    lr: float = 3e-4
    keypoints: int = 1024
    view_size: int = 384
    picture_side: int = 336
    turn_probability: float = 0.25


@dataclass(frozen=True)
class CompactConfig:
    """A whole training.

    Attributes:
        name: names the run's folder.
        folder: where runs are kept.
        seed: with the step it decides everything random.
        precision: ``bf16`` or ``fp32``: what the networks compute in.
        threads: of the main process; ``None`` for torch's choice.
        workers: processes that prepare views; 0 for none.
        save_every, validate_every: steps.
        start_from: folder of a finished run whose networks this one starts from, with data and rates of its own;
            ``None``: from nothing.
    """

    data: DataConfig
    name: str = "compact"
    folder: str = "runs"
    start_from: str | None = None
    seed: int = 0
    precision: str = "bf16"
    threads: int | None = None
    workers: int = 1
    save_every: int = 250
    validate_every: int = 500
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    extractor: ExtractorConfig = field(default_factory=ExtractorConfig)
    reasoner: ReasonerStageConfig = field(default_factory=ReasonerStageConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError(f"precision must be bf16 or fp32, got {self.precision!r}")
        if self.start_from is not None and Path(self.start_from).resolve() == self.run_folder.resolve():
            raise ConfigError(f"start_from is this run's own folder, {self.start_from}; give this run another name")

    @property
    def run_folder(self) -> Path:
        """Everything a run writes lies below it."""
        return Path(self.folder) / self.name

    def decisive(self, stage: ExtractorConfig | ReasonerStageConfig, data: DataConfig) -> dict[str, Any]:
        """What of this decides the result of a stage on its data. Where the pictures lie changes nothing."""
        settings = {"data": asdict(data), **asdict(stage), "seed": self.seed}
        del settings["data"]["root"]
        return settings if self.start_from is None else {**settings, "start_from": self.start_from}

    def refined(self) -> CompactConfig:
        """The same with the reasoner's stage as the refinement has it."""
        return replace(self, reasoner=replace(self.reasoner, **asdict(self.refinement)))


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> CompactConfig:
    """A configuration from a YAML file.

    Args:
        path: the file.
        overrides: ``section.key=value`` each, value as in YAML.

    Raises:
        ConfigError: unreadable, an unknown key, or a value of the wrong type or out of range.
    """
    return load_dataclass(CompactConfig, path, overrides)
