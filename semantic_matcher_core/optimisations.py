"""What makes things faster, one switch each.

None changes what comes out beyond what its own test allows; each is on where it applies. For measuring, and for finding
out whether one of them is at fault, ``SEMANTIC_MATCHER_DISABLE=name,name`` (or ``all``) in the environment turns them
off.
"""

from __future__ import annotations

import os

from semantic_matcher_core.errors import ConfigError

VARIABLE = "SEMANTIC_MATCHER_DISABLE"
NAMES = {
    "narrow_search": "precision bf16 on the CPU: nearest neighbours from bfloat16 products, exact by a bound",
    "cuda_graphs": "CUDA: the networks of an image size recorded once and replayed",
    "streams": "CUDA: extractor and semantic encoder side by side on two streams",
    "pinned_upload": "CUDA: images copied as uint8 from pinned memory, without waiting",
    "fused_search": "CUDA: product of similarities and its maxima in one Triton kernel, without the matrix",
}


def is_enabled(name: str) -> bool:
    """Whether an optimisation may be used; read from the environment at each call.

    Raises:
        ConfigError: the environment names one that does not exist.
    """
    disabled = [item.strip() for item in os.environ.get(VARIABLE, "").split(",") if item.strip()]
    unknown = [item for item in disabled if item not in NAMES and item != "all"]
    if unknown:
        raise ConfigError(f"{VARIABLE} names {', '.join(unknown)}; there are all, {', '.join(NAMES)}")
    return name not in disabled and "all" not in disabled
