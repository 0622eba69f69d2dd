"""Where exported graphs lie, and what the manifest beside them says. Imports no torch."""

from __future__ import annotations

import importlib.util
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.weights.places import cache_folder

MANIFEST = "manifest.json"
FORMAT = "semantic_matcher onnx 2"


@dataclass(frozen=True)
class Exported:
    """What a manifest says.

    Attributes:
        weights: SHA-256 of the weights that each graph was made of, by the graph's name.
        precision: ``"fp32"`` or ``"int8"``.
    """

    weights: dict[str, str]
    precision: str


def onnx_folder(variant: str) -> Path:
    """Return where the graphs of a variant lie unless another folder is named: in the cache, by the variant's name.

    Raises:
        ConfigError: the variant is a path, which has no name of its own.
    """
    if "/" in variant or "\\" in variant or variant.startswith("."):
        raise ConfigError(f"variant {variant!r} is a path; name the folder of its ONNX graphs")
    return cache_folder() / "onnx" / variant.replace(":", "-")


def require(*packages: str) -> None:
    """Raise where a package is not installed.

    Raises:
        ConfigError: the message has the command that installs it.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}")


def read_manifest(folder: Path, variant: str = "") -> Exported:
    """Read what is said of the graphs in a folder.

    Args:
        folder: of :func:`~semantic_matcher_core.export.export_onnx`.
        variant: whose graphs are wanted, for the command that makes them.

    Raises:
        ConfigError: the folder is no export; the message has the command that makes one.
        CheckpointError: the manifest is damaged, or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        chosen = f" --variant {shlex.quote(variant)}" if variant else ""
        raise ConfigError(
            f"{folder} is no export (it has no {MANIFEST}); make one: "
            f"semantic-matcher export{chosen} -o {shlex.quote(str(folder))}"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        written_as = manifest["format"]
        precision = str(manifest.get("precision", "fp32"))
        weights = {str(name): str(values["weights"]) for name, values in manifest["graphs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged; export it again") from error
    if written_as != FORMAT:
        raise CheckpointError(f"{path} has format {written_as!r}, expected {FORMAT!r}; export it again")
    return Exported(weights, precision)
