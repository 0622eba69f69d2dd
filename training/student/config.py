"""What a distillation is: dataclasses, read from YAML; unknown keys are errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.extractors.compact_network import Architecture
from training.strict_mapping import load_dataclass


@dataclass(frozen=True)
class DataConfig:
    """Pictures and views.

    Attributes:
        photos: folder of photographs.
        labels: label files of real pairs (``training.label_pairs``); their pictures serve as photographs too.
        holdout: every N-th photograph, by name, is kept for validation and never trained on.
        side: long side that pictures are kept at, at most, in pixels.
        view: side of the square views; a multiple of 32.
        shares: of warped photographs, rendered scenes and labelled pairs among the views.
        scale: least and greatest size of a view's pixel pattern, as a factor of the picture's.
        turn: share of views whose both sides are turned by one random angle.
        tilt: greatest angle between the two sides, in degrees.
        trusted: angle between them up to which the teacher's descriptors of the second side are a target; beyond it the
            side learns from the first alone, since an upright teacher no longer sees the same there.
        difficulty: of perspective, shift and zoom between the two sides, 0 … 1.
        pool: pairs that are kept on the device.
        chunk: pairs that are made at once.
        uses: how often a pair is looked at before it is replaced, on average, once the pool is full.
        cross: corresponding points of each pair.
        unrepeated: the score, 0 … 1, to be given to a keypoint that the teacher sees in one view and not again at its
            place in the other; 1 for all alike.
    """

    photos: str
    labels: tuple[str, ...] = ()
    holdout: int = 20
    side: int = 720
    view: int = 320
    shares: tuple[float, float, float] = (0.6, 0.4, 0.0)
    scale: tuple[float, float] = (0.35, 1.2)
    turn: float = 0.3
    tilt: float = 30.0
    trusted: float = 180.0
    difficulty: float = 0.5
    pool: int = 12000
    chunk: int = 32
    uses: float = 6.0
    cross: int = 256
    unrepeated: float = 1.0

    def __post_init__(self) -> None:
        if self.view < 32 or self.view % 32:
            raise ConfigError(f"data.view must be a multiple of 32 from 32 up, got {self.view}")
        if self.holdout < 2:
            raise ConfigError(f"data.holdout must be 2 or more, got {self.holdout}")
        if not 0 <= self.unrepeated <= 1:
            raise ConfigError(f"data.unrepeated must be within 0 and 1, got {self.unrepeated}")
        if min(self.shares) < 0 or not sum(self.shares):
            raise ConfigError(f"data.shares must be three shares of which one is above 0, got {list(self.shares)}")
        if self.shares[2] and not self.labels:
            raise ConfigError("data.shares gives labelled pairs a share, but data.labels names no file")


@dataclass(frozen=True)
class TeacherConfig:
    """Whose keypoints and descriptors are distilled, always of the same view, clean.

    Attributes:
        extractor: of the registry.
        keypoints: of each view.
        weights: folder or file of its weights, or ``None`` for the usual places.
    """

    extractor: str = "aliked-n16"
    keypoints: int = 512
    weights: str | None = None


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses.

    Attributes:
        cosine: distance of each descriptor from the teacher's of the same point of the same view.
        contrast: the same as a choice among all keypoints of the view (InfoNCE).
        pair: dual softmax between the two views, right matches known by geometry.
        across: the teacher's own similarities between the two views, as soft target.
        detection: of the scores.
        place: distance in pixels of the sub-pixel keypoints from the teacher's.
        temperature: of all softmaxes.
    """

    cosine: float = 2.0
    contrast: float = 0.2
    pair: float = 0.3
    across: float = 0.1
    detection: float = 1.0
    place: float = 0.0
    temperature: float = 0.05


@dataclass(frozen=True)
class LightConfig:
    """Changes of light and sensor (``training.student.light``).

    Attributes:
        strength: factor of every change; 0 for none.
        none: share of views left as they are.
    """

    strength: float = 1.0
    none: float = 0.1


@dataclass(frozen=True)
class RunConfig:
    """What every training of the extractor is told.

    Attributes:
        data: pictures and views.
        name, folder: the run lies in ``<folder>/<name>``.
        seed: with the step it decides everything random.
        steps, batch: optimisation steps, and pairs in each. With a time budget the schedule follows the clock.
        lr: highest learning rate of AdamW; it rises over the first 2 % and falls along a cosine.
        average: of the weights that are kept, for each step (exponential moving average).
        light: changes of light.
    """

    data: DataConfig
    name: str = "student"
    folder: str = "runs"
    seed: int = 0
    steps: int = 20_000
    batch: int = 32
    lr: float = 2e-3
    average: float = 0.998
    light: LightConfig = field(default_factory=LightConfig)

    @property
    def run_folder(self) -> Path:
        """Everything a run writes lies below it."""
        return Path(self.folder) / self.name


@dataclass(frozen=True)
class StudentConfig(RunConfig):
    """A whole distillation.

    Attributes:
        start_from: checkpoint or weights to begin with, of the same architecture; ``bundled`` for the extractor that
            comes with the package.
        precision: ``bf16`` or ``fp32``: what the network computes in.
        weight_decay: of AdamW.
        network, teacher, loss: what learns, from whom, and how.
    """

    start_from: str | None = None
    precision: str = "bf16"
    weight_decay: float = 1e-4
    network: Architecture = field(default_factory=Architecture)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, ("bf16", "fp32"))


@dataclass(frozen=True)
class TuneConfig(RunConfig):
    """The last stage, on the network's own keypoints (``training.student.tune``); there is no teacher.

    Attributes:
        start_from: weights to tune, as they are used; ``bundled`` for the extractor that comes with the package.
        lr, score_lr, deep_lr: of the descriptor head, of the score's layers, and of those from stride 8 on.
        keypoints: candidates of each view.
        temperature: of the dual softmax.
        shape: weight of the loss that holds the score's shape round each keypoint.
    """

    name: str = "tuned"
    steps: int = 400
    batch: int = 4
    lr: float = 3e-4
    average: float = 0.98
    start_from: str = "bundled"
    score_lr: float = 4e-3
    deep_lr: float = 2e-4
    keypoints: int = 2048
    temperature: float = 0.025
    shape: float = 0.3

    def __post_init__(self) -> None:
        if self.keypoints < 2:
            raise ConfigError(f"keypoints must be 2 or more, got {self.keypoints}")


def read_tune_config(path: str | Path, overrides: Sequence[str] = ()) -> TuneConfig:
    """Return a configuration of the last stage, as :func:`read_config` does."""
    return load_dataclass(TuneConfig, path, overrides)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> StudentConfig:
    """Return a configuration from a YAML file.

    Args:
        path: the file.
        overrides: ``section.key=value`` each, value as in YAML.

    Raises:
        ConfigError: unreadable, an unknown key, or a value of the wrong type or out of range.
    """
    return load_dataclass(StudentConfig, path, overrides)
