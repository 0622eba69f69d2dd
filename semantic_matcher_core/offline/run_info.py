"""How a file of results was made: what tells one run from another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bags import BagReader

if TYPE_CHECKING:
    from semantic_matcher_core.offline.options import RunOptions
    from semantic_matcher_core.offline.sources import ImageSource
    from semantic_matcher_core.pipeline import SemanticMatcher

RUN_INFO_TOPIC = "/semantic_matcher/run"


def read_run_info(path: Path) -> dict[str, Any] | None:
    """How a file was made, or ``None`` where it does not say (a recording of the nodes).

    Raises:
        BagError: the file is no bag, or damaged.
    """
    with BagReader(path) as bag:
        for message in bag.messages([RUN_INFO_TOPIC]):
            try:
                return json.loads(message.message.data)
            except (AttributeError, ValueError) as error:
                raise BagError(f"{path} has something else than a run's description on {RUN_INFO_TOPIC}") from error
    return None


def model_digest(matcher: SemanticMatcher) -> str:
    """SHA-256 of all the matcher's weights, by name; the same on every machine."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(matcher.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        total.update(f"{name}\0{array.dtype}\0{tuple(array.shape)}\0".encode())
        total.update(array.flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def run_info(
    source: ImageSource, matcher: SemanticMatcher, options: RunOptions, references: tuple[Path, ...]
) -> dict[str, Any]:
    from semantic_matcher_core import __version__

    info = {
        "program": f"semantic-matcher {__version__}",
        "source": {"name": source.path.resolve().name, "streams": list(source.streams), "digest": source.digest()},
        "variant": matcher.variant,
        "weights_sha256": model_digest(matcher),
        "precision": matcher.precision,
        "max_keypoints": matcher.extractor.max_keypoints,
        "matching": asdict(matcher.matching),
        "options": asdict(options),
        "references": [{"name": p.name, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in references],
    }
    return json.loads(json.dumps(info))


def environment(matcher: SemanticMatcher) -> dict[str, Any]:
    """What may change a result in its last digits: parts made elsewhere do not fit."""
    import cv2
    import numpy as np
    import torch

    return {
        "device": str(matcher.device.type),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }
