"""A variant of real networks, with random weights in the published layout and under the published names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.weights import get_entry
from tests.core.tiny_parts import published_zip, saved
from tests.core.weights_server import WeightsServer, isolate, sha256, weights_server, write_catalogue


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WeightsServer]:
    isolate(monkeypatch, tmp_path)
    with weights_server() as running:
        yield running


def test_xfeat_with_dinov2_s(
    server: WeightsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, textured: Callable[..., np.ndarray]
) -> None:
    torch.manual_seed(0)
    extractor = XFeat(48, detection_threshold=0.0)
    encoder = DinoV2("dinov2_vits14").eval()
    reasoner = Reasoner(ReasonerConfig(64, 384, features_dim=32, n_attention_layers=3, fix_dino_size=84)).eval()
    variant = get_entry("xfeat-3_layers")
    files = {
        # Published names are those of the bare network.
        "xfeat-extractor": saved(extractor.net.state_dict()),
        "dinov2_vits14": saved(encoder.state_dict()),
        variant.name: published_zip(variant, reasoner, detection_threshold=0.0),
    }
    urls = {name: server.serve(get_entry(name).file, content) for name, content in files.items()}
    write_catalogue(
        monkeypatch, tmp_path, {n: {"url": urls[n], "size": len(c), "sha256": sha256(c)} for n, c in files.items()}
    )

    matcher = SemanticMatcher.from_pretrained(variant.name, device="cpu", fetch=True)
    expected = SemanticMatcher.from_parts(extractor, encoder, reasoner, device="cpu", registration="published")
    scene = textured(200, 260)
    images = scene[:160, :224], scene[32:192, 32:256]
    for image in images:
        features, wanted = matcher.extract(image), expected.extract(image)
        assert features.keypoints.shape == (1, 48, 2)
        assert torch.equal(features.keypoints, wanted.keypoints)
        torch.testing.assert_close(features.reasoned, wanted.reasoned, atol=1e-6, rtol=0)
        torch.testing.assert_close(features.semantic, wanted.semantic, atol=1e-6, rtol=0)
    assert torch.equal(matcher.match_images(*images).indices, expected.match_images(*images).indices)

    server.stop()
    monkeypatch.setenv("SEMANTIC_MATCHER_OFFLINE", "1")
    again = SemanticMatcher.from_pretrained(variant.name, device="cpu", fetch=True)
    assert torch.equal(again.match_images(*images).indices, expected.match_images(*images).indices)
