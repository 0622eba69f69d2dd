"""What a distillation is: dataclasses, read from YAML; unknown keys are errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.extractors.compact_network import Architecture
from training.strict_mapping import Above0, Count, From0, Range, Share, Weight


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
    holdout: Annotated[int, Range(2)] = 20
    side: Annotated[int, Range(32)] = 720
    view: int = 320
    shares: tuple[Weight, Weight, Weight] = (0.6, 0.4, 0.0)
    scale: tuple[Above0, Above0] = (0.35, 1.2)
    turn: Share = 0.3
    tilt: Annotated[float, Range(0, 180)] = 30.0
    trusted: Annotated[float, Range(0, 180)] = 180.0
    difficulty: Share = 0.5
    pool: Count = 12000
    chunk: Count = 32
    uses: Above0 = 6.0
    cross: Count = 256
    unrepeated: Share = 1.0

    def __post_init__(self) -> None:
        if self.view < 32 or self.view % 32:
            raise ConfigError(f"data.view must be a multiple of 32 from 32 up, got {self.view}")
        if self.scale[0] > self.scale[1]:
            raise ConfigError(f"data.scale must be the least and the greatest, got {list(self.scale)}")
        if self.chunk > self.pool:
            raise ConfigError(f"data.pool must hold a data.chunk ({self.chunk}) at least, got {self.pool}")
        if not sum(self.shares):
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
    keypoints: Count = 512
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

    cosine: Weight = 2.0
    contrast: Weight = 0.2
    pair: Weight = 0.3
    across: Weight = 0.1
    detection: Weight = 1.0
    place: Weight = 0.0
    temperature: Above0 = 0.05


@dataclass(frozen=True)
class LightConfig:
    """Changes of light and sensor (``training.student.light``).

    Attributes:
        strength: factor of every change; 0 for none.
        none: share of views left as they are.
    """

    strength: Weight = 1.0
    none: Share = 0.1


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
    seed: From0 = 0
    steps: Count = 20_000
    batch: Count = 32
    lr: Above0 = 2e-3
    average: Share = 0.998
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
    weight_decay: Weight = 1e-4
    network: Architecture = field(default_factory=Architecture)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, ("bf16", "fp32"))
        sizes = self.network
        if (
            min(*sizes.widths, *sizes.depths, sizes.fused, sizes.hidden, sizes.descriptor_dim) < 1
            or sizes.positions < 0
        ):
            raise ConfigError(f"network: every size must be 1 or more (positions 0 or more), got {sizes.to_mapping()}")


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
    steps: Count = 400
    batch: Count = 4
    lr: Above0 = 3e-4
    average: Share = 0.98
    start_from: str = "bundled"
    score_lr: Above0 = 4e-3
    deep_lr: Above0 = 2e-4
    keypoints: Annotated[int, Range(2)] = 2048
    temperature: Above0 = 0.025
    shape: Weight = 0.3
