"""From the weights of both stages to the files that are bundled."""

from __future__ import annotations

from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

from semantic_matcher_core.errors import OutputError
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.reasoning import ModelConfig
from training.compact.config import CompactConfig
from training.compact.reasoner_stage import reasoner_config

LIMIT_BYTES = 12_000_000


def package(config: CompactConfig, extractor: Path, reasoner: Path, target: Path) -> list[Path]:
    """Write the bundled layout: ``compact_extractor.safetensors``, ``compact_context.safetensors``, and the folder
    ``compact`` with ``model_config.yaml`` and ``reasoner.safetensors``.

    Args:
        config: of the training.
        extractor, reasoner: what the stages returned.
        target: a folder; made where it is not there.

    Returns:
        The files.

    Raises:
        OutputError: together they are larger than is allowed in the package.
    """
    parts = load_file(reasoner)
    contents = {
        "compact_extractor.safetensors": load_file(extractor),
        "compact_context.safetensors": _part(parts, "encoder."),
        "compact/reasoner.safetensors": _part(parts, "reasoner."),
    }
    total = sum(t.numel() * t.element_size() for tensors in contents.values() for t in tensors.values())
    if total > LIMIT_BYTES:
        raise OutputError(f"the weights have {total} bytes, more than {LIMIT_BYTES}; make features_dim or layers fewer")
    (target / "compact").mkdir(parents=True, exist_ok=True)
    files = []
    for name, tensors in contents.items():
        with atomic_output(target / name) as temporary:
            save_file(tensors, temporary)
            temporary.chmod(0o644)  # it is written for its owner alone
        files.append(target / name)
    model = ModelConfig(
        dino_weights="compact_context",
        extractor_name="compact",
        reasoner=reasoner_config(config),
        extractor_options={"max_num_keypoints": 2048},
        registration="exact",
    )
    with atomic_output(target / "compact" / "model_config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(model.to_mapping(), sort_keys=False), encoding="utf-8")
    return [*files, target / "compact" / "model_config.yaml"]


def _part(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
