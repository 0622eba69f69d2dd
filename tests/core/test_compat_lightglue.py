"""LightGlue by the dictionaries of its own code, against kornia, which has the same."""

from __future__ import annotations

import pytest
import torch

from semantic_matcher_core.compat import LightGlue
from semantic_matcher_core.errors import ConfigError, ShapeError
from tests.core.test_lightglue import given_to_kornia, kornias, random_features, random_matcher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, file in (("xfeat", "xfeat-lighterglue.pt"), ("sift", "sift_lightglue.pth")):
        torch.save(random_matcher(name).net.state_dict(), folder / file)
    return folder


@pytest.mark.parametrize("name", ["xfeat", "sift"])
@torch.inference_mode()
def test_equals_kornia(folder, name):
    data = {f"image{i}": given_to_kornia(random_features(name, [n, n], i)) for i, n in enumerate((40, 60))}
    whole = {"depth_confidence": -1, "width_confidence": -1, "filter_threshold": 0.0}
    result = LightGlue(name, weights=folder, device="cpu", **whole)(data)
    model = kornias(random_matcher(name))
    model.conf.filter_threshold = 0.0
    expected = model({k: {**v, "image_size": v["image_size"].expand(2, -1)} for k, v in data.items()})
    for key in ("matches0", "matches1"):
        assert torch.equal(result[key], expected[key]), key
    torch.testing.assert_close(result["matching_scores1"], expected["matching_scores1"] * (result["matches1"] >= 0))
    for b in range(2):
        assert torch.equal(result["matches"][b], expected["matches"][b])
        torch.testing.assert_close(result["scores"][b], expected["scores"][b], atol=1e-4, rtol=1e-3)


def test_what_is_missing_is_named(folder):
    with pytest.raises(ConfigError, match="unknown features 'alike'; use one of superpoint"):
        LightGlue("alike")
    matcher = LightGlue("xfeat", weights=folder, device="cpu")
    data = given_to_kornia(random_features("xfeat", [4], 1))
    del data["image_size"]
    with pytest.raises(ShapeError, match="neither image_size nor image"):
        matcher({"image0": data, "image1": data})
