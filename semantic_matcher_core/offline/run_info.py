"""How a file of results was made: what tells one run from another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.io.images import read_bytes
from semantic_matcher_core.io.names import readable

if TYPE_CHECKING:
    from semantic_matcher_core.offline.exports import Exports
    from semantic_matcher_core.offline.options import RunOptions
    from semantic_matcher_core.offline.sources import ImageSource
    from semantic_matcher_core.pipeline import SemanticMatcher


def model_settings(matcher: SemanticMatcher) -> dict[str, Any]:
    """Return everything but the weights that decides what a matcher gives, by its place in the matcher.

    These are its settings, and all plain values among the public attributes of every network in it, found by going
    through them: an option that is added to any of them is in here without being named.
    """
    found: dict[str, Any] = {
        "": {
            "kind": type(matcher).__name__,
            "backend": matcher.backend,
            **asdict(matcher.settings),
            **_plain_attributes(matcher),
        }
    }
    for name, module in matcher.named_modules():
        # Layers of torch are as the networks' code, which the weights fit, makes them.
        if name and not type(module).__module__.startswith("torch."):
            found[name] = {"kind": type(module).__name__, **_plain_attributes(module)}
    return json.loads(json.dumps(found, default=repr, sort_keys=True))


def _plain_attributes(module: Any) -> dict[str, Any]:
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if is_dataclass(value) and not isinstance(value, type):
        return _is_plain([getattr(value, f.name) for f in fields(value)])
    return value is None or isinstance(value, (bool, int, float, str, Path))


def run_info(
    source: ImageSource,
    matcher: SemanticMatcher,
    options: RunOptions,
    references: tuple[Path, ...],
    exports: Exports | None = None,
    calibration: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """Return what identifies a run: with the same, and the same software, it gives the same file."""
    from semantic_matcher_core.version import __version__
    from semantic_matcher_core.weights.hashing import sha256_of_weights

    info: dict[str, Any] = {
        "program": f"semantic-matcher {__version__}",
        "source": {
            "name": readable(source.path.resolve().name),
            "streams": list(source.streams),
            "digest": source.digest(),
            **source.settings(),
        },
        "variant": matcher.variant,
        "weights_sha256": sha256_of_weights(matcher),
        "precision": matcher.precision,
        "model": model_settings(matcher),
        "networks": matcher.networks.origin,
        "options": asdict(options),
        "references": [
            {"name": readable(p.name), "sha256": hashlib.sha256(read_bytes(p)).hexdigest()} for p in references
        ],
    }
    if options.mask:
        info["options"]["mask"] = [hashlib.sha256(read_bytes(path)).hexdigest() for path in options.mask]
    else:
        del info["options"]["mask"]
    if calibration:
        info["calibration"] = [hashlib.sha256(read_bytes(path, "calibration")).hexdigest() for path in calibration]
    if exports is not None and exports.any:
        info["exports"] = exports.settings()
    return json.loads(json.dumps(info))


def environment(matcher: SemanticMatcher) -> dict[str, Any]:
    """Return what may change a result in its last digits: parts made elsewhere do not fit."""
    import cv2
    import numpy as np
    import torch

    from semantic_matcher_core.optimisations import NAMES, is_enabled

    return {
        "optimisations": [name for name in NAMES if is_enabled(name)],
        "device": str(matcher.device.type),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }
