"""DeDoDe against kornia's own classes on shared random weights."""

from __future__ import annotations

import kornia
import pytest
import torch
from kornia.feature import DeDoDe as KorniaDeDoDe
from kornia.feature.dedode import encoder as kornia_encoder
from kornia.feature.dedode.transformer import dinov2 as kornia_dinov2
from torch.nn import functional as F

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors import create_extractor, registry
from semantic_matcher_core.extractors.dedode import DeDoDe
from semantic_matcher_core.semantics import dinov2
from semantic_matcher_core.weights import get_entry
from semantic_matcher_core.weights.loading import Undrawn
from tests.core.extractor_checks import as_tensor, randomize_dedode

pytestmark = pytest.mark.xdist_group("dedode")  # two networks with many weights, made once


@pytest.fixture(scope="module")
def extractor() -> DeDoDe:
    with Undrawn():
        dedode = DeDoDe(200)
    return randomize_dedode(dedode)


@pytest.fixture(scope="module")
def reference(extractor) -> KorniaDeDoDe:
    with Undrawn():
        model = KorniaDeDoDe("L", "B")
    model.detector.load_state_dict(extractor.detector.state_dict())
    model.descriptor.load_state_dict(extractor.descriptor.state_dict())
    return model.eval()


@pytest.mark.parametrize(("height", "width"), [(56, 84), (45, 75), (17, 20)])
@torch.no_grad()
def test_equals_kornia(extractor, reference, height, width, textured):
    images = as_tensor(textured(height, width, 1), textured(height, width, 2))
    features = extractor(images)
    keypoints, scores, descriptors = reference(images, n=200)
    assert features.keypoints.shape == (2, 200, 2) and features.valid is None
    torch.testing.assert_close(features.keypoints, keypoints - 0.5, atol=1e-4, rtol=0)
    torch.testing.assert_close(features.scores, scores, atol=0, rtol=1e-4)
    torch.testing.assert_close(features.descriptors, F.normalize(descriptors, dim=-1), atol=1e-4, rtol=0)


@torch.no_grad()
def test_raw_descriptors_equal_kornia(extractor, reference, textured):
    """The published reasoners were trained on descriptors that are not normalised."""
    image = as_tensor(textured(42, 70))
    raw = extractor.configured(max_keypoints=50, normalize_descriptors=False)
    descriptors = reference(image, n=50)[2]
    assert float(descriptors.norm(dim=-1).std()) > 0
    scale = float(descriptors.abs().max())
    torch.testing.assert_close(raw(image).descriptors, descriptors, atol=1e-4 * scale, rtol=0)


@torch.no_grad()
def test_mask_is_applied_before_the_best_are_taken(extractor, textured):
    image = as_tensor(textured(40, 60))
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[:, 10:20, 30:40] = True
    features = extractor(image, mask)
    assert int(features.counts) == 100
    x, y = features.keypoints[0].long().unbind(-1)
    assert mask[0, y, x].all()
    nothing = extractor(image, torch.zeros_like(mask))
    assert nothing.keypoints.shape == (1, 0, 2) and nothing.descriptors.shape == (1, 0, 256)


def save_published_files(extractor: DeDoDe, folder) -> None:
    torch.save(extractor.detector.state_dict(), folder / get_entry("dedode-detector-L-upright").file)
    torch.save(extractor.descriptor.state_dict(), folder / get_entry("dedode-descriptor-B-upright").file)


def test_two_published_files_load_strictly(extractor, tmp_path):
    save_published_files(extractor, tmp_path)
    loaded = create_extractor("dedode-B", 30, weights=tmp_path, device="cpu")
    assert loaded.name == "dedode-B"
    for name, tensor in extractor.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
    one_file = tmp_path / get_entry("dedode-detector-L-upright").file
    with pytest.raises(ConfigError, match=r"2 files.*give the folder"):
        create_extractor("dedode-B", weights=one_file, device="cpu")


def test_names():
    assert registry.BUILT_IN["dedode-G"].weights == {
        "detector": "dedode-detector-L-upright",
        "descriptor": "dedode-descriptor-G-upright",
        "dinov2": "dinov2_vitl14",
    }
    for alias in ("dedode", "dedode_B", "dedode_G"):
        assert registry.ALIASES[alias] in registry.BUILT_IN


@pytest.mark.slow
@pytest.mark.skipif(kornia.__version__ < "0.9", reason="kornia before 0.9 fetches a backbone for its own")
@torch.no_grad()
def test_g_equals_kornia_and_fetches_nothing(monkeypatch, textured):
    def refuse(*_, **__):
        raise AssertionError("a constructor must not fetch weights")

    monkeypatch.setattr(kornia_encoder, "load_state_dict_from_url", refuse)
    # Two of DINOv2's blocks: the others are the same.
    monkeypatch.setitem(dinov2._ARCHITECTURES, "dinov2_vitl14", dinov2._Architecture(1024, 2, 16))
    original = kornia_dinov2.DinoVisionTransformer
    monkeypatch.setattr(kornia_dinov2, "DinoVisionTransformer", lambda **given: original(**given | {"depth": 2}))
    extractor = randomize_dedode(DeDoDe(60, descriptor="G"))
    # kornia's backbone is built from a state dict that it would fetch: here it gets ours.
    weights = extractor.dinov2.state_dict()
    monkeypatch.setattr(kornia_encoder, "load_state_dict_from_url", lambda *_, **__: weights)
    reference = KorniaDeDoDe("L", "G")
    reference.detector.load_state_dict(extractor.detector.state_dict())
    reference.descriptor.load_state_dict(extractor.descriptor.state_dict())
    image = as_tensor(textured(45, 75))
    features = extractor(image)
    keypoints, scores, descriptors = reference.eval()(image, n=60)
    torch.testing.assert_close(features.keypoints, keypoints - 0.5, atol=1e-4, rtol=0)
    torch.testing.assert_close(features.scores, scores, atol=0, rtol=1e-4)
    torch.testing.assert_close(features.descriptors, F.normalize(descriptors, dim=-1), atol=2e-4, rtol=0)


def test_reasoners_get_raw_descriptors_unless_configured(monkeypatch):
    """What a checkpoint's configuration makes of the extractor, without building it."""
    from types import SimpleNamespace

    from semantic_matcher_core import loading

    calls = []
    monkeypatch.setattr(
        loading, "create_extractor", lambda name, limit, **options: calls.append((name, limit, options))
    )
    published = {"max_num_keypoints": 77, "detection_threshold": 0.0, "nms_radius": 2, "force_num_keypoints": True}
    for options in (published, {**published, "normalize_descriptors": True}):
        loading.create_configured_extractor(SimpleNamespace(extractor_name="dedode-B", extractor_options=options))
    (name, limit, first), (_, _, second) = calls
    assert (name, limit, first["normalize_descriptors"]) == ("dedode-B", 77, False)
    assert second["normalize_descriptors"] is True
    assert "nms_radius" not in first
