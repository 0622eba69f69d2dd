"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from semantic_matcher_core.pipeline import SemanticMatcher

_MODEL = "Model"
_MATCHING = "Matching"

VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant",
        "-v",
        help="What matches: a name of `semantic-matcher variants`, plain:EXTRACTOR (no semantics; plain:sift needs no "
        "weights), or the path of a checkpoint folder or zip. (default: xfeat)",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
DescriptorOption = Annotated[
    str | None,
    typer.Option(
        help="Instead of --variant: the local feature, e.g. xfeat, aliked, superpoint.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
DinoOption = Annotated[
    str | None,
    typer.Option(
        help="With --descriptor: the semantic encoder, e.g. dinov2_vits14 or B; none for no semantics.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(help="A folder to look for weights in first.", show_default=False, rich_help_panel=_MODEL),
]
FetchOption = Annotated[
    bool,
    typer.Option("--fetch", help="Download weights that are not here; otherwise no network.", rich_help_panel=_MODEL),
]
DeviceOption = Annotated[
    str, typer.Option(help="auto (CUDA where there is one), cpu, cuda or cuda:1 …", rich_help_panel=_MODEL)
]
PrecisionOption = Annotated[
    str, typer.Option(help="What the networks compute in: fp32, bf16, or fp16 (GPU).", rich_help_panel=_MODEL)
]
MaxKeypointsOption = Annotated[
    int | None,
    typer.Option(
        "--max-keypoints",
        "-k",
        min=1,
        help="Keypoints per image. (default: what the variant was made for; 2048 for plain)",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
RatioOption = Annotated[
    float | None,
    typer.Option(
        help="Lowe's ratio test: keep a match only when it is this much nearer than the second best, e.g. 0.8.",
        show_default=False,
        rich_help_panel=_MATCHING,
    ),
]
MinSimilarityOption = Annotated[
    float | None,
    typer.Option(
        help="Keep only matches at least this similar, at most 1.", show_default=False, rich_help_panel=_MATCHING
    ),
]
GeometryOption = Annotated[
    str,
    typer.Option(
        help="Check which matches fit one motion: none; homography (flat scenes, or a camera that only turns); "
        "fundamental (any rigid scene).",
        rich_help_panel=_MATCHING,
    ),
]
ThresholdOption = Annotated[
    float,
    typer.Option(help="With --geometry: how far an inlier may be off, in pixels.", rich_help_panel=_MATCHING),
]
OrientationOption = Annotated[
    str,
    typer.Option(
        help="exif: turn images as their EXIF tag says, as viewers do. stored: leave pixels as they lie in the file, "
        "as COLMAP does.",
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """The options of one run that choose and place the model."""

    variant: str | None
    descriptor: str | None
    dino: str | None
    weights: Path | None
    fetch: bool
    device: str
    precision: str
    max_keypoints: int | None
    ratio: float | None = None
    min_similarity: float | None = None

    def name(self) -> str:
        """The variant that the options mean.

        Raises:
            ConfigError: ``--variant`` and ``--descriptor`` or ``--dino`` together, or there is no such variant.
        """
        from semantic_matcher_core.errors import ConfigError
        from semantic_matcher_core.variants import resolve_variant

        if self.variant and (self.descriptor or self.dino):
            raise ConfigError("--variant names the whole; leave out --descriptor and --dino, or --variant")
        return resolve_variant(self.variant, self.descriptor, self.dino)

    def load(self) -> SemanticMatcher:
        """The matcher, its weights loaded.

        Raises:
            SemanticMatcherError: see ``SemanticMatcher.from_pretrained``.
        """
        # Names first: a mistyped one should not wait for torch.
        name = self.name()
        from semantic_matcher_core.matching import MatcherConfig
        from semantic_matcher_core.pipeline import SemanticMatcher

        matching = MatcherConfig(ratio=self.ratio, min_similarity=self.min_similarity)
        return SemanticMatcher.from_pretrained(
            name,
            device=self.device,
            precision=self.precision,
            max_keypoints=self.max_keypoints,
            weights=self.weights,
            fetch=self.fetch,
            matching=matching,
        )


def check_geometry(kind: str, threshold: float) -> str | None:
    """The kind of geometric check for :func:`~semantic_matcher_core.matching.verification.verify`; ``None`` for none.

    Raises:
        ConfigError: neither none, homography nor fundamental, or a threshold that is not positive.
    """
    from semantic_matcher_core.errors import ConfigError

    if kind not in ("none", "homography", "fundamental"):
        raise ConfigError(f"unknown --geometry {kind!r}; use none, homography or fundamental")
    if not threshold > 0:
        raise ConfigError(f"--threshold must be above 0 pixels, got {threshold}")
    return None if kind == "none" else kind
