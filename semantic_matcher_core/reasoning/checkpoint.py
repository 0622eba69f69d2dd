"""The published checkpoint folder: ``model_config.yaml`` and one or more weights files.

A weights file is a state dict, or ``{"state_dict", "optimizer", "epoch", "iter", "batch"}`` with one in it; see
verlab/DescriptorReasoning_ACCV_2024, ``load_reasoning_from_checkpoint`` and ``train_multigpu_reasoning.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from semantic_matcher_core.errors import CheckpointError, ConfigError, OutputError
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.io.yaml_text import load_yaml
from semantic_matcher_core.reasoning.config import ModelConfig
from semantic_matcher_core.reasoning.reasoner import Reasoner
from semantic_matcher_core.weights.loading import Undrawn, load_strictly, read_state_dict
from semantic_matcher_core.weights.places import CONFIG_FILE, WEIGHTS_SUFFIXES

# Parts that training kept in the same state dict.
_FOREIGN = ("dino.", "extractor.", "semantic_reconstruction.")


def load_reasoner(folder: str | Path, weights: str | Path | None = None) -> tuple[Reasoner, ModelConfig]:
    """Return the reasoner in a checkpoint folder, on the CPU and in evaluation mode, and what the folder says of its
    parts.

    Args:
        folder: with ``model_config.yaml`` and at least one ``.pt`` or ``.safetensors``.
        weights: which of these is read; ``None`` for the newest.

    Raises:
        CheckpointError: something is missing, damaged or unsafe, or weights and configuration do not fit.
    """
    folder = Path(folder)
    newest = find_checkpoint_file(folder)
    weights = newest if weights is None else Path(weights)
    content = _read_yaml(folder / CONFIG_FILE)
    state = {name: value for name, value in read_state_dict(weights).items() if not name.startswith(_FOREIGN)}
    dimensions = _dimensions(state)
    try:
        config = ModelConfig.from_mapping(content, dimensions)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
    for name, found in dimensions.items():
        said = getattr(config.reasoner, name)
        if said != found:
            raise CheckpointError(f"{folder / CONFIG_FILE} says {name} {said}, but {weights} was made with {found}")
    with Undrawn():
        reasoner = Reasoner(config.reasoner)
    load_strictly(reasoner, state, str(weights))
    return reasoner.eval(), config


def find_checkpoint_file(folder: str | Path) -> Path:
    """Return the newest weights file of a checkpoint folder, by modification time (then by number in the name).

    Raises:
        CheckpointError: there is no such folder, no weights file in it, or no ``model_config.yaml`` beside it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a checkpoint folder; give a folder with {CONFIG_FILE} and a .pt")
    # Hidden files are some program's unfinished work.
    files = [f for f in folder.iterdir() if f.suffix in WEIGHTS_SUFFIXES and f.is_file() and not f.name.startswith(".")]
    if not (folder / CONFIG_FILE).is_file():
        inner = sorted(f.parent.name for f in folder.glob(f"*/{CONFIG_FILE}"))
        hint = f"; did you mean {folder / inner[0]}?" if inner else ""
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}, which says what its weights are{hint}")
    if not files:
        raise CheckpointError(
            f"{folder} has no weights file ({' or '.join(WEIGHTS_SUFFIXES)}) beside its {CONFIG_FILE}"
        )
    return max(files, key=lambda f: (f.stat().st_mtime_ns, _numbers(f.name), f.name))


def save_checkpoint(
    folder: str | Path,
    reasoner: Reasoner,
    config: ModelConfig,
    *,
    epoch: int = 0,
    iteration: int = 0,
    batch: int = 0,
    optimizer: Mapping[str, Any] | None = None,
) -> Path:
    """Write the published layout, which :func:`load_reasoner` and the published code both read.

    Args:
        folder: made where it is not there; earlier checkpoints in it stay.
        reasoner: whose weights are written.
        config: of the whole model; its ``reasoner`` must be the reasoner's.
        epoch, iteration, batch: counters that training keeps; the first two name the file.
        optimizer: state dict of the optimizer.

    Returns:
        ``<folder>/checkpoint_<epoch>_<iteration>.pt``. Both files are written whole or not at all.

    Raises:
        ConfigError: the two configurations differ.
        OutputError: the folder cannot be written.
    """
    if config.reasoner != reasoner.config:
        raise ConfigError(f"the model's configuration {config.reasoner} is not the reasoner's {reasoner.config}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the checkpoint folder {folder}: {error.strerror or error}") from error
    with atomic_output(folder / CONFIG_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(config.to_mapping(), sort_keys=False), encoding="utf-8")
    path = folder / f"checkpoint_{epoch}_{iteration}.pt"
    content = {
        "state_dict": {name: value.detach().cpu() for name, value in reasoner.state_dict().items()},
        "optimizer": dict(optimizer or {}),
        "epoch": epoch,
        "iter": iteration,
        "batch": batch,
    }
    with atomic_output(path) as temporary:
        torch.save(content, temporary)
    return path


def _read_yaml(path: Path) -> Any:
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise CheckpointError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def _dimensions(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return what the weights say of their configuration, by name; what they lack is told when they are loaded."""
    found: dict[str, int] = {}
    for key, name in (
        ("extractor_reprojection.weight", "extractor_features_dim"),
        ("dino_reprojection.weight", "semantic_features_dim"),
    ):
        if key in state and state[key].ndim == 2:
            found["features_dim"], found[name] = state[key].shape
    layers = [int(match[1]) for name in state if (match := re.match(r"texture_attentions\.(\d+)\.", name))]
    if layers:
        found["n_attention_layers"] = 1 + max(layers)
    return found


def _numbers(name: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", name)]
