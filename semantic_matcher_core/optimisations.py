"""What makes things faster, one switch each.

None changes what comes out beyond rounding, which its own test bounds; each is on where it applies. For measuring, and
for finding out whether one of them is at fault, ``SEMANTIC_MATCHER_DISABLE=name,name`` (or ``all``) in the environment
turns them off.
"""

from __future__ import annotations

import os

from semantic_matcher_core.errors import ConfigError

VARIABLE = "SEMANTIC_MATCHER_DISABLE"
NAMES = {
    "fused_attention": "attention that never holds its N x N weights (read when a network is built)",
    "channels_last": "CPU: convolutions with the channels of a pixel side by side (read when a network is built)",
    "folded_norms": "DALF, and XFeat on a CPU: batch normalisation folded into the convolutions before it",
    "candidate_ranking": "CPU: keypoints are ranked among the local maxima alone",
    "sliding_maximum": "maxima of windows by doubling the window, instead of by max-pooling",
    "grouped_maxima": "CPU: maxima of groups first, without their places, which is vectorised",
    "nearby_search": "CPU: guided search looks again only at what lies near an expected place",
    "cuda_graphs": "CUDA: the networks of an image size recorded once and replayed",
    "single_wait": "CUDA: a frame of a stream extracted and matched with one wait for the card",
    "streams": "CUDA: extractor and semantic encoder side by side on two streams",
}


def is_enabled(name: str) -> bool:
    """Return whether an optimisation may be used; read from the environment at each call.

    Raises:
        ConfigError: the environment names one that does not exist.
    """
    disabled = [item.strip() for item in os.environ.get(VARIABLE, "").split(",") if item.strip()]
    unknown = [item for item in disabled if item not in NAMES and item != "all"]
    if unknown:
        raise ConfigError(f"{VARIABLE} names {', '.join(unknown)}; there are all, {', '.join(NAMES)}")
    return name not in disabled and "all" not in disabled
