"""From a variant's name or path to its parts with their weights, and from a backend's name to networks.

The one place that knows names, weights and backends together.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import CheckpointError, ConfigError, WeightsNotFoundError, check_choice
from semantic_matcher_core.extractors import Extractor, create_extractor
from semantic_matcher_core.extractors.registry import ALIASES, accepted_options, has_weights
from semantic_matcher_core.matching.learned import PUBLISHED, create_lightglue, published_for
from semantic_matcher_core.networks import Networks, Parts
from semantic_matcher_core.networks.compiled import compiled_networks, tensorrt_networks
from semantic_matcher_core.networks.networks import eager_networks
from semantic_matcher_core.networks.onnx_files import onnx_folder as usual_onnx_folder
from semantic_matcher_core.reasoning import ModelConfig, load_reasoner
from semantic_matcher_core.semantics import create_semantic_encoder
from semantic_matcher_core.settings import BACKENDS
from semantic_matcher_core.variants.names import PLAIN, is_path, unknown_variant
from semantic_matcher_core.weights import find_weights, get_entry, list_entries
from semantic_matcher_core.weights.checkpoints import unpack_local

DEFAULT_KEYPOINTS = 2048
# Of the published extractor section. `force_num_keypoints` pads with weak keypoints, which ours never needs.
_EXTRACTOR_OPTIONS = ("detection_threshold", "nms_radius", "normalize_descriptors")


def load_parts(
    name_or_path: str | Path,
    *,
    max_keypoints: int | None = None,
    weights: str | Path | None = None,
    fetch: bool = False,
    device: str | torch.device = "auto",
    lightglue: bool = False,
) -> tuple[Parts, dict[str, Any]]:
    """Build the parts of a variant, on ``device`` and in evaluation mode.

    Everything is built as the checkpoint's own ``model_config.yaml`` says; the catalogue's description is only for
    choosing.

    Args:
        name_or_path: a catalogue name, ``plain:<extractor>``, a checkpoint folder, or a zip of one.
        max_keypoints: keypoints per image; ``None`` for what the configuration says (2048 for plain).
        weights: a folder to search for weights before the usual places; for plain variants also the extractor's file.
        fetch: download what is not here; otherwise nothing touches the network.
        device: see :func:`~semantic_matcher_core.device.resolve_device`.
        lightglue: with the LightGlue of the extractor, which is then built as it was in training.

    Returns:
        The parts, and options for
        :meth:`SemanticMatcher.from_parts <semantic_matcher_core.pipeline.SemanticMatcher.from_parts>`.

    Raises:
        UnknownNameError: no such variant, extractor or semantic encoder.
        ConfigError: LightGlue for a variant with a reasoner, or for an extractor that it was not trained for.
        WeightsNotFoundError: weights are not here; the message has the command that fetches them and the plain
            alternative.
        CheckpointError: the checkpoint is damaged, unsafe, or does not fit its own configuration.
        DownloadError, LicenseNotAcceptedError: fetching failed.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise ConfigError(f"a variant is a name or a path, got {name_or_path!r}; see list_variants()")
    name = str(name_or_path)
    if lightglue:
        check_matcher(name_or_path, "lightglue")
    # A file given as `weights` is the variant's or the extractor's own; the other parts are in the usual places.
    hint = None if weights is None or Path(weights).expanduser().is_file() else weights
    if isinstance(name_or_path, str) and name.startswith(PLAIN):
        extractor_name = name.removeprefix(PLAIN)
        count = DEFAULT_KEYPOINTS if max_keypoints is None else max_keypoints
        extractor_name = ALIASES.get(extractor_name, extractor_name)
        options = published_for(extractor_name).options if lightglue else {}
        own = weights if has_weights(extractor_name) or not lightglue else None
        extractor = create_extractor(extractor_name, count, weights=own, device=device, fetch=fetch, **options)
        matcher = create_lightglue(extractor_name, weights=hint, device=device, fetch=fetch) if lightglue else None
        return Parts(extractor, lightglue=matcher), {"variant": name}
    folder = checkpoint_folder(name_or_path, weights=weights, fetch=fetch)
    reasoner, config = load_reasoner(folder)
    try:
        extractor = create_configured_extractor(
            config, max_keypoints=max_keypoints, weights=hint, fetch=fetch, device=device
        )
        encoder = create_semantic_encoder(config.dino_weights, weights=hint, device=device, fetch=fetch)
    except WeightsNotFoundError as error:
        raise WeightsNotFoundError(f"variant {name!r}: {error}; {_advice(name, config)}") from error
    reasoner = reasoner.requires_grad_(False).to(resolve_device(device))
    return Parts(extractor, encoder, reasoner), {"variant": name, "registration": config.registration}


def check_matcher(name_or_path: str | Path, matcher: str) -> None:
    """Raise where a matcher is of no use to a variant; nothing is loaded.

    Raises:
        ConfigError: LightGlue for a variant with a reasoner, or for an extractor that it was not trained for.
    """
    if matcher != "lightglue":
        return
    name = str(name_or_path)
    if not isinstance(name_or_path, str) or not name.startswith(PLAIN):
        raise ConfigError(
            f"matcher 'lightglue' was trained on descriptors as extractors give them, and variant {name!r} reasons "
            f"about them; take dino 'none' (plain:<extractor>, of {', '.join(PUBLISHED)}), or matcher 'nearest'"
        )
    extractor = name.removeprefix(PLAIN)
    published_for(ALIASES.get(extractor, extractor))


def make_networks(
    parts: Parts,
    backend: str = "eager",
    *,
    precision: str = "fp32",
    variant: str = "",
    onnx_folder: str | Path | None = None,
    **options: Any,
) -> Networks:
    """Make what runs the networks of parts; the parts stay as they are.

    Args:
        parts: on their device, with the weights of ``precision``.
        backend: ``"eager"`` (torch as it is), ``"compile"`` (``torch.compile``; the first image of each size waits for
            the compiler), ``"onnx"`` (onnxruntime, on graphs that ``semantic-matcher export`` made) or ``"tensorrt"``
            (torch-tensorrt, GPU).
        precision: what they compute in.
        variant: their name, by which graphs are found.
        onnx_folder: with ``"onnx"``, where the graphs are; ``None`` for where ``export`` puts those of the variant.
        options: ``providers`` and ``threads`` of onnxruntime, see
            :func:`~semantic_matcher_core.networks.onnx.onnx_networks`.

    Raises:
        ConfigError: no such backend, options of another one, or what it needs is not installed.
        DeviceError: ``"tensorrt"`` without a GPU.
        CheckpointError: the graphs are of other weights.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "onnx":
        from semantic_matcher_core.networks.onnx import onnx_networks

        folder = onnx_folder or usual_onnx_folder(variant)
        return onnx_networks(parts, folder, precision=precision, variant=variant, **options)
    if onnx_folder is not None or options:
        given = ", ".join([*(["onnx_folder"] if onnx_folder is not None else []), *options])
        raise ConfigError(f"{given} is for backend 'onnx', not for {backend!r}")
    if backend == "compile":
        return compiled_networks(parts)
    return tensorrt_networks(parts, precision) if backend == "tensorrt" else eager_networks(parts)


def checkpoint_folder(name_or_path: str | Path, *, weights: str | Path | None = None, fetch: bool = False) -> Path:
    """Return the checkpoint folder that a variant's name or a path means; zips are unpacked into the cache.

    A bare word that is in the catalogue means that entry; write ``./xfeat``, or pass a ``Path``, for a folder so named.

    Raises:
        UnknownNameError, WeightsNotFoundError, CheckpointError, DownloadError: see :func:`load_parts`.
    """
    text = str(name_or_path)
    if not text:
        raise unknown_variant(text)
    path = Path(name_or_path).expanduser()
    if isinstance(name_or_path, str) and text in _published_names():
        try:
            return find_weights(text, weights, fetch=fetch)
        except WeightsNotFoundError as error:
            plain = get_entry(text).descriptor
            raise WeightsNotFoundError(f"{error}; without semantics: variant {PLAIN}{plain}") from error
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix != ".zip":
            raise CheckpointError(f"{path} is no zip; give a folder with model_config.yaml, or a zip of one")
        return unpack_local(path)
    if isinstance(name_or_path, Path) or is_path(text):
        raise WeightsNotFoundError(f"{path} does not exist; give a checkpoint folder, or a zip of one")
    raise unknown_variant(text)


def create_configured_extractor(
    config: ModelConfig,
    *,
    max_keypoints: int | None = None,
    weights: str | Path | None = None,
    fetch: bool = False,
    device: str | torch.device = "auto",
) -> Extractor:
    """Build the extractor that a configuration describes; arguments and errors as for :func:`load_parts`."""
    options = config.extractor_options
    if max_keypoints is None:
        max_keypoints = options.get("max_num_keypoints") or DEFAULT_KEYPOINTS
    # The published section is the same for all extractors; each reads what it has.
    accepted = accepted_options(config.extractor_name)
    chosen = {k: v for k, v in options.items() if k in _EXTRACTOR_OPTIONS and k in accepted and v is not None}
    if "normalize_descriptors" in accepted:
        # The published reasoners were trained on DeDoDe's descriptors as its network gives them.
        chosen.setdefault("normalize_descriptors", False)
    own = weights if has_weights(config.extractor_name) else None
    return create_extractor(config.extractor_name, max_keypoints, weights=own, device=device, fetch=fetch, **chosen)


def _advice(name: str, config: ModelConfig) -> str:
    whole = f"all it needs: semantic-matcher weights fetch {name}; " if name in _published_names() else ""
    return f"{whole}without semantics: variant {PLAIN}{config.extractor_name}"


def _published_names() -> list[str]:
    return [entry.name for entry in list_entries("variant")]
