"""Stand-ins with few parameters for every published extractor and encoder, and zips and weights for them.

What the real networks compute is tested elsewhere; here it matters which weights arrive where. The stand-ins take the
place of the real ones in the two tables, under the same names and with the same weights entries.
"""

from __future__ import annotations

import io
import sys
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.extractors import create_extractor, registry
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics import SemanticEncoder, create_semantic_encoder
from semantic_matcher_core.semantics import encoder as encoders
from semantic_matcher_core.types import Features
from semantic_matcher_core.weights import Entry, get_entry, list_entries
from tests.core.weights_server import WeightsServer, sha256, weights_server, write_catalogue

ENCODER_DIMS = {"dinov2_vits14": 6, "dinov2_vitb14": 8, "dinov2_vitl14": 10, "dinov2_vitg14": 12}
EXTRACTOR_DIMS = {"xfeat": 12, "superpoint": 14, "alike-n": 16, "aliked-n16": 18, "dedode-B": 20, "dedode-G": 22}
PUBLISHED = {name: registry.BUILT_IN[name] for name in EXTRACTOR_DIMS}
_STRIDE = 8


class TinyEncoder(SemanticEncoder):
    """One linear layer per patch."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.feature_dim = ENCODER_DIMS[name]
        self.patch = nn.Conv2d(3, self.feature_dim, self.patch_size, stride=self.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.patch(images)


class TinyExtractor(Extractor):
    """Keypoints on a grid, the strongest first; each published weights file is one submodule, or the whole."""

    def __init__(self, max_keypoints: int = 2048, *, model: str, detection_threshold: float = 0.0) -> None:
        super().__init__(max_keypoints)
        self.name = model
        self.descriptor_dim = EXTRACTOR_DIMS[model]
        self.detection_threshold = detection_threshold
        weights = PUBLISHED[model].weights
        if isinstance(weights, str):
            self.net = nn.Conv2d(3, self.descriptor_dim, 9, _STRIDE, 4)
            return
        self.detector = nn.Conv2d(3, 1, 9, _STRIDE, 4)
        self.descriptor = nn.Conv2d(3, self.descriptor_dim, 9, _STRIDE, 4)
        self.dinov2 = TinyEncoder(weights["dinov2"]) if weights and "dinov2" in weights else None

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        maps = self._maps(images)
        strength, order = maps.square().sum(1).flatten(1).sort(dim=1, descending=True)
        order = order[:, : self.max_keypoints]
        width = maps.shape[-1]
        descriptors = maps.flatten(2).transpose(1, 2).gather(1, order[..., None].expand(-1, -1, maps.shape[1]))
        return Features(
            torch.stack([order % width, order // width], dim=-1).float() * _STRIDE,
            strength[:, : self.max_keypoints],
            nn.functional.normalize(descriptors, dim=-1),
            (images.shape[-2], images.shape[-1]),
        )

    def _maps(self, images: Tensor) -> Tensor:
        if isinstance(PUBLISHED[self.name].weights, str):
            return self.net(images)
        maps = self.descriptor(images) * self.detector(images)
        return maps if self.dinov2 is None else maps + self.dinov2(images).mean()


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins into the tables of extractors and encoders."""
    for package in ("extractors", "semantics"):
        module = types.ModuleType(f"semantic_matcher_core.{package}._tiny")
        module.TinyExtractor, module.TinyEncoder = TinyExtractor, TinyEncoder  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, entry in PUBLISHED.items():
        tiny = replace(entry, module="_tiny", factory="TinyExtractor", options={"model": name})
        monkeypatch.setitem(registry.BUILT_IN, name, tiny)
    for name in ENCODER_DIMS:
        monkeypatch.setitem(encoders._ENCODERS, name, ("_tiny", "TinyEncoder"))


@cache
def _part_weights() -> dict[str, bytes]:
    """By name of the catalogue entry, a weights file for each part that a published variant needs."""
    files: dict[str, bytes] = {}
    for index, name in enumerate(ENCODER_DIMS):
        torch.manual_seed(index)
        files[name] = saved(TinyEncoder(name).state_dict())
    for index, (name, entry) in enumerate(PUBLISHED.items()):
        torch.manual_seed(100 + index)
        extractor = TinyExtractor(model=name)
        if isinstance(entry.weights, str):
            files[entry.weights] = saved(extractor.state_dict())
        else:
            for part, weights in (entry.weights or {}).items():
                # Descriptors of both sizes share one published detector, which must then fit both here as well.
                if weights not in files:
                    files[weights] = saved(extractor.get_submodule(part).state_dict())
    return files


def reasoner_of(entry: Entry, seed: int) -> Reasoner:
    """A random reasoner with the layers of a published variant and small dimensions."""
    torch.manual_seed(seed)
    config = ReasonerConfig(
        EXTRACTOR_DIMS[entry.descriptor],
        ENCODER_DIMS[entry.dino],
        features_dim=8 * (1 + seed % 3),
        n_attention_layers=entry.layers or 5,
        num_heads=1 + seed % 2,
        semantic_conditioning=seed % 3 != 0,
        fix_dino_size=56,
    )
    return Reasoner(config).eval()


def published_zip(
    entry: Entry, reasoner: Reasoner, extractor_name: str | None = None, *, detection_threshold: float = 0.25
) -> bytes:
    """A zip as it is published: one folder, configuration, two checkpoints with optimizer state and foreign parts."""
    c = reasoner.config
    config = {
        "dino": {"weights": entry.dino, "allow_resize": True},
        "extractor": {
            "model_name": extractor_name or entry.descriptor,
            "max_num_keypoints": 48,
            "detection_threshold": detection_threshold,
            "force_num_keypoints": True,
            "pretrained": True,
            "nms_radius": 2,
        },
        "reasoning": {
            "extractor_features_dim": c.extractor_features_dim,
            "semantic_features_dim": c.semantic_features_dim,
            "features_dim": c.features_dim,
            "n_attention_layers": c.n_attention_layers,
            "num_heads": c.num_heads,
            "attention": "full",
        },
        "semantic_interpolation_mode": "bicubic",
        "attention_progression": "alternating",
        "semantic_conditioning": c.semantic_conditioning,
        "fix_dino_size": c.fix_dino_size,
        "reasoning_triplet": False,
    }
    foreign = {"dino.cls_token": torch.rand(1, 1, 384), "extractor.net.weight": torch.rand(3)}
    state = {**reasoner.state_dict(), **foreign}
    content = {"optimizer": {"state": {0: {"exp_avg": torch.rand(1000)}}}, "epoch": 2, "iter": 1024000, "batch": 16}
    older = {k: torch.zeros_like(v) for k, v in state.items()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{entry.name}/", b"")
        file.writestr(f"{entry.name}/model_config.yaml", yaml.safe_dump(config))
        for name, values, date in (
            ("checkpoint_2_1024000.pt", state, (2024, 6, 2, 0, 0, 0)),
            ("checkpoint_9_9.pt", older, (2024, 6, 1, 0, 0, 0)),
        ):
            file.writestr(zipfile.ZipInfo(f"{entry.name}/{name}", date), saved({"state_dict": values, **content}))
    return archive.getvalue()


def saved(content: Any) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Published:
    """All that is published, with the stand-ins' weights, on a local server.

    Attributes:
        entries: what the catalogue must say of it.
        reasoners: what was put into the zips, by variant.
    """

    def __init__(self, server: WeightsServer) -> None:
        self.server = server
        self.entries: dict[str, dict[str, Any]] = {}
        self.reasoners = _reasoners()
        for name, content in _part_weights().items():
            url = server.serve(get_entry(name).file, content)
            self.entries[name] = {"url": url, "size": len(content), "sha256": sha256(content)}
        for name, content in _zips().items():
            self.serve_zip(name, content)

    def serve_zip(self, name: str, content: bytes) -> None:
        # No hash, as nobody publishes one.
        self.entries[name] = {"url": self.server.serve(f"{name}.zip", content)}

    def direct(self, name: str) -> SemanticMatcher:
        """The same model from its parts, without zip or configuration file."""
        entry = get_entry(name)
        extractor = create_extractor(entry.descriptor, 48, device="cpu", detection_threshold=0.25)
        encoder = create_semantic_encoder(entry.dino, device="cpu")
        return SemanticMatcher.from_parts(
            extractor, encoder, self.reasoners[name], device="cpu", registration="published"
        )


@contextmanager
def published_server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Published]:
    """The stand-ins in the tables, their weights on a local server, and a catalogue that points there."""
    install(monkeypatch)
    with weights_server() as server:
        everything = Published(server)
        write_catalogue(monkeypatch, folder, everything.entries)
        yield everything


@cache
def _reasoners() -> dict[str, Reasoner]:
    published = [entry for entry in list_entries("variant") if not entry.bundled]
    return {entry.name: reasoner_of(entry, index) for index, entry in enumerate(published)}


@cache
def _zips() -> dict[str, bytes]:
    # As published configurations spell it.
    spelled = {"aliked-n16": "aliked-n"}
    return {
        name: published_zip(get_entry(name), reasoner, spelled.get(get_entry(name).descriptor))
        for name, reasoner in _reasoners().items()
    }
