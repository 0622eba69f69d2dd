"""What a reasoner experiment is: dataclasses, read from YAML; unknown keys are errors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.semantics.sampling import INTERPOLATION_MODES
from training.strict_mapping import Above0, Count, From0, Range, Share, Weight

SOURCES = ("scenes", "photos", "rendered")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
# Networks halve images up to five times.
_Side = Annotated[int, Range(32)]
METRICS = ("precision", "recall", "correct")


@dataclass(frozen=True)
class PhotosConfig:
    """Pairs made of single images by random warps (``data.source: photos``; ``data.root`` is the folder).

    Attributes:
        validation_root: folder of other images for validation; without one, every ``holdout``-th image of the root.
        holdout: see above.
        view_size: ``[height, width]`` of the views.
        difficulty, bend_probability, photometric: see ``training.data.warped.WarpConfig``.
        pairs_per_epoch: ``None``: one for each image.
    """

    validation_root: str | None = None
    holdout: Annotated[int, Range(2)] = 10
    view_size: tuple[_Side, _Side] = (320, 320)
    difficulty: Share = 0.3
    bend_probability: Share = 0.5
    photometric: bool = True
    pairs_per_epoch: Count | None = None


@dataclass(frozen=True)
class RenderedConfig:
    """Rooms rendered on first use into ``data.root`` (``data.source: rendered``).

    Attributes:
        rooms, validation_rooms: scene files of each split.
        pairs_per_room: image pairs in each.
        view_size: ``[height, width]``.
        textures: folder of images to paper the walls with; ``None`` for coloured noise.
        patterns: of the noise, how many.
        tiles: where not 0, each wall is a mosaic of that many tiles along 2 m, all with the same grey pattern and
            each in a colour of its own, which local descriptors of grey images confuse.
    """

    rooms: Count = 8
    validation_rooms: Count = 2
    pairs_per_room: Count = 20
    view_size: tuple[_Side, _Side] = (256, 256)
    textures: str | None = None
    patterns: Count = 8
    tiles: From0 = 0


@dataclass(frozen=True)
class DataConfig:
    """Where pairs and features come from.

    Attributes:
        source: ``scenes`` (HDF5 files in the published layout), ``photos`` or ``rendered``.
        root: folder of the data set, of the photos, or that rendered rooms are kept in.
        train_split, validation_split: sub-folders with the scene files.
        extractor_cache, semantic_cache: folders below ``<root>/features`` with exported features; ``None`` computes
            them on the fly. Photos have none, because no view occurs twice.
        make_caches: export what is missing of them before training starts.
        on_damage: ``fail``, or ``skip`` to name and leave out scenes that are damaged or do not fit their features.
        validation_pairs: at most this many, evenly spread.
        workers: processes that prepare pairs; 0 for none.
    """

    source: str
    root: str
    train_split: str = "train"
    validation_split: str = "val"
    extractor_cache: str | None = None
    semantic_cache: str | None = None
    make_caches: bool = False
    on_damage: str = "fail"
    validation_pairs: Count = 500
    workers: From0 = 4
    photos: PhotosConfig = field(default_factory=PhotosConfig)
    rendered: RenderedConfig = field(default_factory=RenderedConfig)

    def __post_init__(self) -> None:
        check_choice("data.source", self.source, SOURCES)
        check_choice("data.on_damage", self.on_damage, ("fail", "skip"))
        if self.semantic_cache and not self.extractor_cache:
            raise ConfigError(
                "data.semantic_cache needs data.extractor_cache: its maps are sampled at keypoints when they are read"
            )
        if self.source == "photos" and self.extractor_cache:
            raise ConfigError("data.extractor_cache: photos are warped anew each time, so there is nothing to cache")


@dataclass(frozen=True)
class ModelSection:
    """What is trained, and on what. The sizes of descriptors are read from the data.

    Attributes:
        extractor: name for ``create_extractor``.
        extractor_options: ``detection_threshold``, ``nms_radius``, ``normalize_descriptors``.
        max_keypoints: per image.
        semantic_encoder: name for ``create_semantic_encoder`` (or ``colour-context`` for smoke runs).
        weights: folder to search for the weights of the two before the usual places.
        initial: checkpoint folder to start from; ``None`` for random weights.

    The others are those of :class:`~semantic_matcher_core.reasoning.ReasonerConfig`.
    """

    extractor: str = "xfeat"
    extractor_options: dict[str, Any] = field(default_factory=dict)
    max_keypoints: Count = 2048
    semantic_encoder: str = "dinov2_vits14"
    weights: str | None = None
    initial: str | None = None
    features_dim: Count = 256
    n_attention_layers: Count = 5
    num_heads: Count = 1
    semantic_conditioning: bool = True
    deep_supervision: bool = True
    semantic_interpolation_mode: str = "bicubic"
    fix_dino_size: Annotated[int, Range(-1)] = -1

    def __post_init__(self) -> None:
        check_choice("model.semantic_interpolation_mode", self.semantic_interpolation_mode, INTERPOLATION_MODES)
        if self.features_dim % self.num_heads:
            raise ConfigError(
                f"model.num_heads {self.num_heads} does not divide model.features_dim {self.features_dim}"
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam. ``lr`` becomes ``final_lr`` over ``decay_steps`` exponentially, where both are given."""

    lr: Above0 = 1e-4
    weight_decay: Weight = 1e-5
    final_lr: Above0 | None = None
    decay_steps: Count | None = None
    gradient_clip: Above0 | None = None

    def __post_init__(self) -> None:
        if (self.final_lr is None) != (self.decay_steps is None):
            raise ConfigError("optimizer.final_lr and optimizer.decay_steps are only of use together")


@dataclass(frozen=True)
class RunConfig:
    """How long, on what, and what is kept.

    Attributes:
        steps: optimizer steps.
        batch_size: pairs per process and step part.
        accumulation: step parts whose gradients make one optimizer step.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        devices: per node; ``auto`` for all, or for what torchrun or SLURM started.
        nodes: ``auto`` likewise.
        deterministic: only operations that give the same bits each time.
        log_every, plot_every, validate_every, save_every: in steps; 0 switches plots off. The last step is saved, and a
            run of fewer steps than ``validate_every`` is validated at its end.
        best_by: which validation figure decides the best checkpoint: ``precision``, ``recall`` or ``correct``.
        progress: whether to draw a progress bar.
    """

    steps: Count = 100_000
    batch_size: Count = 2
    accumulation: Count = 1
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: str | Count = "auto"
    nodes: str | Count = "auto"
    deterministic: bool = False
    log_every: Count = 10
    plot_every: From0 = 100
    validate_every: Count = 1000
    save_every: Count = 1000
    best_by: str = "precision"
    progress: bool = True

    def __post_init__(self) -> None:
        check_choice("run.precision", self.precision, PRECISIONS)
        check_choice("run.best_by", self.best_by, METRICS)
        check_choice("run.accelerator", self.accelerator, ("auto", "cpu", "gpu"))

    @property
    def validation_steps(self) -> int:
        """Steps between two validations."""
        return min(self.validate_every, self.steps)


@dataclass(frozen=True)
class ExperimentConfig:
    """A whole experiment.

    Attributes:
        data: where pairs and features come from.
        name: of the folder below ``output``.
        output: folder for runs.
        seed: weights, order of pairs, and random pairs follow from it.
    """

    data: DataConfig
    name: str = "reasoner"
    output: str = "runs"
    seed: From0 = 0
    model: ModelSection = field(default_factory=ModelSection)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def folder(self) -> Path:
        """Where everything of this run is written."""
        return Path(self.output, self.name)

    def to_mapping(self) -> dict[str, Any]:
        """Return the settings as plain containers, which YAML and checkpoints hold; tuples become lists."""
        return yaml.safe_load(yaml.safe_dump(_plain(asdict(self))))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
