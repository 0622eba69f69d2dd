"""semantic_matcher: match images with local features and semantics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.errors import did_you_mean
from semantic_matcher_core.version import __version__ as __version__

if TYPE_CHECKING:
    from semantic_matcher_core.extractors import create_extractor as create_extractor
    from semantic_matcher_core.extractors import list_extractors as list_extractors
    from semantic_matcher_core.geometry.camera import Camera as Camera
    from semantic_matcher_core.io.camera_file import read_calibration as read_calibration
    from semantic_matcher_core.io.images import read_image as read_image
    from semantic_matcher_core.matching.verification import verify as verify
    from semantic_matcher_core.motion.localisation import Localiser as Localiser
    from semantic_matcher_core.motion.localisation import plane_view as plane_view
    from semantic_matcher_core.motion.metric import metric_pose as metric_pose
    from semantic_matcher_core.motion.odometry import Odometry as Odometry
    from semantic_matcher_core.motion.pose import Pose as Pose
    from semantic_matcher_core.motion.relative import relative_pose as relative_pose
    from semantic_matcher_core.motion.view import depth_view as depth_view
    from semantic_matcher_core.motion.view import mono_view as mono_view
    from semantic_matcher_core.motion.view import stereo_view as stereo_view
    from semantic_matcher_core.pipeline import SemanticMatcher as SemanticMatcher
    from semantic_matcher_core.types import Features as Features
    from semantic_matcher_core.types import Matches as Matches
    from semantic_matcher_core.variants import list_variants as list_variants
    from semantic_matcher_core.viz.matches import draw_matches as draw_matches

# Imported on first use: `semantic-matcher --help` and `import semantic_matcher_core` must not pay for torch.
_PUBLIC = {
    "Camera": "geometry.camera",
    "Features": "types",
    "Localiser": "motion.localisation",
    "Matches": "types",
    "Odometry": "motion.odometry",
    "Pose": "motion.pose",
    "SemanticMatcher": "pipeline",
    "create_extractor": "extractors",
    "depth_view": "motion.view",
    "draw_matches": "viz.matches",
    "list_extractors": "extractors",
    "list_variants": "variants",
    "metric_pose": "motion.metric",
    "mono_view": "motion.view",
    "plane_view": "motion.localisation",
    "read_calibration": "io.camera_file",
    "read_image": "io.images",
    "relative_pose": "motion.relative",
    "stereo_view": "motion.view",
    "verify": "matching.verification",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        hint = did_you_mean(name, _PUBLIC.keys())
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{'; ' if hint else ''}{hint}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
