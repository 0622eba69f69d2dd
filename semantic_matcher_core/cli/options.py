"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semantic_matcher_core.cli.from_table import FROM_TABLE, from_table
from semantic_matcher_core.options import GEOMETRY, MASKS, MATCHING, MODEL
from semantic_matcher_core.settings import BACKENDS, GEOMETRY_BACKENDS, MatcherConfig

if TYPE_CHECKING:
    from semantic_matcher_core.pipeline import SemanticMatcher


@from_table("Matching", MATCHING, GEOMETRY)
class MatchingOptions:
    """Which matches are kept, and how they are checked."""

    geometry: Annotated[
        str,
        typer.Option(
            help="Check which matches fit one motion: none; homography (flat scenes, or a camera that only turns); "
            "fundamental (any rigid scene); for recordings also essential (the same, of calibrated cameras)."
        ),
    ] = "none"
    geometry_threshold: Annotated[
        float, typer.Option(help="With --geometry: how far an inlier may be off, in pixels.")
    ] = 2.0
    geometry_backend: str = FROM_TABLE
    matcher: str = FROM_TABLE
    guided: str = FROM_TABLE
    mutual: bool = FROM_TABLE
    max_distance: float | None = FROM_TABLE
    ratio: float | None = FROM_TABLE
    min_similarity: float | None = FROM_TABLE
    filter_threshold: float | None = FROM_TABLE
    depth_confidence: float | None = FROM_TABLE
    width_confidence: float | None = FROM_TABLE

    def config(self) -> MatcherConfig:
        """Return the options of the matcher.

        Raises:
            ConfigError: an option out of range, or of another matcher.
        """
        given = {item.name: getattr(self, item.name, None) for item in fields(MatcherConfig)}
        return MatcherConfig(**{name: value for name, value in given.items() if value is not None})

    def kind(self, *, calibrated: bool = False) -> str | None:
        """Return the kind of check for :func:`~semantic_matcher_core.matching.verification.verify`; ``None`` for none.

        Args:
            calibrated: ``essential`` is possible.

        Raises:
            ConfigError: an unknown kind or backend, one that is not installed, or a threshold that is not positive.
        """
        from semantic_matcher_core.errors import ConfigError, check_choice

        kinds = ["none", "homography", "fundamental", *(["essential"] if calibrated else [])]
        if self.geometry not in kinds:
            raise ConfigError(f"unknown --geometry {self.geometry!r}; use {', '.join(kinds[:-1])} or {kinds[-1]}")
        if not self.geometry_threshold > 0:
            raise ConfigError(f"--geometry-threshold must be above 0 pixels, got {self.geometry_threshold}")
        check_choice("--geometry-backend", self.geometry_backend, GEOMETRY_BACKENDS)
        if self.geometry == "none":
            return None
        if self.geometry_backend == "poselib":
            from semantic_matcher_core.geometry.robust import check_poselib

            check_poselib("--geometry-backend magsac")
        return self.geometry


@from_table("Images", MASKS)
class MaskOptions:
    """Where keypoints are wanted."""

    mask: list[str] | None = FROM_TABLE


@from_table("Model", MODEL)
class ModelOptions:
    """What matches, and where it runs."""

    variant: Annotated[
        str | None,
        typer.Option(
            "--variant",
            "-v",
            help="What matches: a name of `semantic-matcher variants`, plain:EXTRACTOR (no semantics; plain:sift needs "
            "no weights), or the path of a checkpoint folder or zip. (default: plain:compact, which comes with it)",
        ),
    ] = None
    descriptor: str | None = FROM_TABLE
    dino: str | None = FROM_TABLE
    weights: Annotated[Path | None, typer.Option(help="A folder to look for weights in first.")] = None
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download weights that are not here; otherwise no network.")
    ] = False
    device: str = FROM_TABLE
    precision: str = FROM_TABLE
    max_keypoints: Annotated[
        int | None,
        typer.Option(
            "--max-keypoints",
            "-k",
            min=1,
            help="Keypoints per image. (default: what the variant was made for; 2048 for plain)",
        ),
    ] = None

    semantic_size: int | None = FROM_TABLE
    detection_threshold: float | None = FROM_TABLE
    backend: str = FROM_TABLE
    onnx_folder: Annotated[
        Path | None, typer.Option(help="With --backend onnx: where the graphs are, if not where `export` puts them.")
    ] = None

    def name(self) -> str:
        """Return the variant that the options mean.

        Raises:
            ConfigError: ``--variant`` and ``--descriptor`` or ``--dino`` together, or there is no such variant.
        """
        from semantic_matcher_core.errors import ConfigError
        from semantic_matcher_core.variants import resolve_variant

        if self.variant and (self.descriptor or self.dino):
            raise ConfigError("give --variant, or --descriptor and --dino, not both")
        return resolve_variant(self.variant, self.descriptor, self.dino)

    def on_local_device(self) -> ModelOptions:
        """Return the same, with ``auto`` made the GPU of this process under ``torchrun`` (LOCAL_RANK)."""
        local_rank = os.environ.get("LOCAL_RANK")
        if self.device != "auto" or local_rank is None:
            return self
        import torch

        return replace(self, device=f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")

    def load(self, matching: MatchingOptions | None = None) -> SemanticMatcher:
        """Return the matcher, its weights loaded.

        Raises:
            SemanticMatcherError: see ``SemanticMatcher.from_pretrained``.
        """
        # Names first: a mistyped one should not wait for torch.
        name = self.name()
        matching = matching or MatchingOptions()
        config = matching.config()
        folder = self._graphs(name)
        from semantic_matcher_core.allocator import reuse_large_blocks
        from semantic_matcher_core.pipeline import SemanticMatcher

        reuse_large_blocks()

        chosen: dict[str, Any] = {"semantic_size": self.semantic_size, "detection_threshold": self.detection_threshold}
        return SemanticMatcher.from_pretrained(
            name,
            device=self.device,
            precision=self.precision,
            max_keypoints=self.max_keypoints,
            weights=self.weights,
            fetch=self.fetch,
            backend=self.backend,
            onnx_folder=folder,
            matching=config,
            **{name: value for name, value in chosen.items() if value is not None},
        )

    def _graphs(self, name: str) -> Path | None:
        """Return the folder of the variant's ONNX graphs, or ``None`` for another backend."""
        from semantic_matcher_core.errors import ConfigError, check_choice

        check_choice("--backend", self.backend, BACKENDS)
        if self.backend != "onnx":
            if self.onnx_folder is not None:
                raise ConfigError("--onnx-folder is for --backend onnx; give both")
            return None
        from semantic_matcher_core.networks.onnx_files import onnx_folder

        return self.onnx_folder or onnx_folder(name)


OrientationOption = Annotated[
    str,
    typer.Option(
        help="How images are looked at. exif: upright, as their EXIF tag says and viewers show them. stored: as they "
        "lie in the file."
    ),
]

FullScaleOption = Annotated[
    float,
    typer.Option(
        "--image-full-scale",
        min=0.0,
        help="Value of 16-bit and float images that becomes white, e.g. 4096 for 12 bits; 0 for what fits the image.",
    ),
]

ResultsArgument = Annotated[
    Path, typer.Argument(help="What `semantic-matcher bag` wrote, or a bag that a recorder made of the nodes' topics.")
]
