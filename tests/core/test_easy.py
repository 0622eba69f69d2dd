"""The adapter of easy-local-features, on stand-ins with that package's interface."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torch import Tensor

from semantic_matcher_core.errors import ConfigError, UnknownNameError
from semantic_matcher_core.extractors import create_extractor, registry
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.types import Features
from tests.core.extractor_checks import assert_well_formed


class Base:
    """What the package's base class promises (easy_local_features.feature.basemodel.BaseExtractor)."""

    method_type = "detect_describe"
    has_detector = True

    def __init__(self, conf: dict) -> None:
        self.conf = conf
        self.devices: list[torch.device] = []

    def to(self, device):
        self.devices.append(torch.device(device))
        return self


def brightest(image: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    grey = image[0].mean(0)
    scores, index = grey.flatten().topk(min(limit, grey.numel()))
    return torch.stack((index % grey.shape[1], index // grey.shape[1]), -1).float(), scores


class Scored(Base):
    """Batched results with scores, in no particular order; pixel centres at .5, as its name is SuperPoint's."""

    def detectAndCompute(self, image, return_dict=False):
        assert isinstance(image, Tensor) and image.shape[:2] == (1, 3) and return_dict
        keypoints, scores = brightest(image, self.conf["top_k"])
        descriptors = torch.cat((keypoints, torch.ones(len(keypoints), 3)), 1) + 1
        flipped = [t.flip(0)[None] for t in (keypoints + 0.5, descriptors, scores)]
        return dict(zip(("keypoints", "descriptors", "scores"), flipped, strict=True))


class Unscored(Base):
    """DELF's way: no scores, arrays without a batch dimension; nothing on a dark picture."""

    def detectAndCompute(self, image, return_dict=False):
        keypoints, scores = brightest(image, self.conf["top_k"])
        keypoints = keypoints[scores > 0.1].numpy()
        return {"keypoints": keypoints, "descriptors": np.ones((len(keypoints), 40), np.float64)}


class DescriptorOnly(Base):
    """RELF's way: needs keypoints; gives keypoints and descriptors, some dropped and in another order."""

    method_type = "descriptor_only"
    has_detector = False

    def compute(self, image, keypoints):
        keypoints = keypoints.flip(1)[:, ::2]
        return keypoints, torch.cat((keypoints, torch.ones(1, keypoints.shape[1], 1022)), -1)


class Matcher(Base):
    method_type = "end2end_matcher"
    has_detector = False


METHODS = {"superpoint": Scored, "delf": Unscored, "relf": DescriptorOnly, "roma": Matcher, "plain": Scored}


@pytest.fixture
def package(monkeypatch) -> types.ModuleType:
    module = types.ModuleType("easy_local_features")
    module.available_methods = list(METHODS)

    def import_by_name(name):
        if name == "needy":
            raise ImportError("Please install `mmcv` to use it")
        # The package looks for a method in two places, and takes a dependency that is missing for a missing method.
        if name not in METHODS:
            try:
                raise ModuleNotFoundError(
                    "No module", name="wget" if name == "alike" else f"{module.__name__}.feature.baseline_{name}"
                )
            except ModuleNotFoundError:
                try:
                    raise ModuleNotFoundError("No module", name=f"{module.__name__}.matching.baseline_{name}")
                except ModuleNotFoundError:
                    raise ValueError(f"Could not find module {name}")  # noqa: B904
        return METHODS[name]

    module.importByName = import_by_name
    monkeypatch.setitem(sys.modules, "easy_local_features", module)
    return module


class Grid(Extractor):
    """A detector with known keypoints and scores, in place of SuperPoint."""

    name, descriptor_dim = "grid", 2

    def forward(self, images, masks=None):
        keypoints = torch.tensor([[3.0, 1.0], [6.0, 2.0], [1.0, 5.0]]).expand(len(images), -1, -1)
        if images.max() == 0:
            keypoints = keypoints[:, :0]
        scores = torch.tensor([[0.9, 0.5, 0.2]]).expand(len(images), -1)[:, : keypoints.shape[1]]
        return Features(keypoints, scores, keypoints, tuple(images.shape[-2:]))


@pytest.fixture
def grid(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "superpoint", registry.ExtractorEntry("base", "Grid"))
    monkeypatch.setattr("semantic_matcher_core.extractors.base.Grid", Grid, raising=False)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def test_detect_and_describe(package, image):
    extractor = create_extractor("easy:superpoint", 10, device="cpu")
    assert (extractor.name, extractor.descriptor_dim) == ("easy:superpoint", 5)
    features = extractor.extract(image)
    assert_well_formed(features, 1, (9, 12), 5, 10)
    expected, scores = brightest(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, 10)
    # Which of equally bright pixels comes first is open.
    assert {tuple(k) for k in features.keypoints[0].tolist()} == {tuple(k) for k in expected.tolist()}
    torch.testing.assert_close(features.scores[0], scores)
    with_centres_at_zero = create_extractor("easy:superpoint", 10, device="cpu", half_pixel=False).extract(image)
    torch.testing.assert_close(with_centres_at_zero.keypoints, features.keypoints + 0.5)


def test_batch_mask_and_nothing_found(package, image):
    extractor = create_extractor("delf", 10, device="cpu")
    assert (extractor.name, extractor.descriptor_dim) == ("easy:delf", 40)
    features = extractor.extract(np.stack([image, np.zeros_like(image)]))
    assert_well_formed(features, 2, (9, 12), 40, 10)
    assert features.counts.tolist() == [10, 0]
    assert (features.scores[0] == 1).all()
    mask = np.zeros((9, 12), np.uint8)
    mask[:, :6] = 1
    masked = extractor.extract(image, mask)
    assert 0 < int(masked.counts) < 10
    assert masked.keypoints[..., 0].max() < 6
    assert extractor.extract(image, np.zeros((9, 12), np.uint8)).keypoints.shape == (1, 0, 2)
    keypoints, descriptors = extractor.detectAndCompute(np.zeros_like(image))
    assert list(keypoints) == [] and descriptors.shape == (0, 40)


def test_descriptor_only_describes_another_extractors_keypoints(package, grid, image):
    extractor = create_extractor("relf", 10, device="cpu")
    assert extractor.descriptor_dim == 1024
    features = extractor.extract(image)
    # It kept the first and the last of three, backwards; scores come along, and rows are sorted by them.
    torch.testing.assert_close(features.keypoints[0], torch.tensor([[3.0, 1.0], [1.0, 5.0]]))
    torch.testing.assert_close(features.scores[0], torch.tensor([0.9, 0.2]))
    # It saw pixel centres at .5, as the published code feeds it.
    ratio = features.descriptors[0, :, :2] / features.descriptors[0, :, 2:3]
    torch.testing.assert_close(ratio, torch.tensor([[3.5, 1.5], [1.5, 5.5]]))
    nothing = extractor.extract(np.zeros_like(image))
    assert_well_formed(nothing, 1, (9, 12), 1024, 10)
    assert nothing.keypoints.shape == (1, 0, 2)


def test_configuration_reaches_the_method(package):
    extractor = create_extractor("easy:plain", 7, device="cpu", conf={"nms_radius": 3})
    assert extractor.method.conf == {"top_k": 7, "nms_radius": 3}
    assert "conf" in registry.accepted_options("easy:plain")


def test_the_method_moves_along(package):
    extractor = create_extractor("easy:plain", device="cpu")
    assert extractor.device == torch.device("cpu")
    torch.nn.Sequential(extractor).to("meta")
    assert extractor.device == torch.device("meta") == extractor.method.devices[-1]


def test_unknown_method_matcher_and_missing_dependency(package):
    with pytest.raises(UnknownNameError, match=r"'nope'.*superpoint"):
        create_extractor("easy:nope", device="cpu")
    with pytest.raises(ConfigError, match=r"'easy:alike' needs the Python module 'wget'"):
        create_extractor("easy:alike", device="cpu")
    with pytest.raises(ConfigError, match="end2end matcher"):
        create_extractor("easy:roma", device="cpu")
    with pytest.raises(ConfigError, match="mmcv"):
        create_extractor("easy:needy", device="cpu")


def test_no_descriptor_dimension(package, monkeypatch):
    monkeypatch.setattr(Unscored, "detectAndCompute", lambda *_, **__: {"keypoints": [], "descriptors": []})
    monkeypatch.setitem(METHODS, "blind", Unscored)
    with pytest.raises(ConfigError, match="descriptor_dim"):
        create_extractor("easy:blind", device="cpu")
    assert create_extractor("easy:blind", device="cpu", descriptor_dim=9).descriptor_dim == 9


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_local_features", None)
    with pytest.raises(ConfigError, match="pip install easy-local-features"):
        create_extractor("relf", device="cpu")
