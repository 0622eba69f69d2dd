"""The scripts in examples/rtabmap, called as RTAB-Map calls them (its PyDetector.cpp and PyMatcher.cpp).

It appends the script's folder to sys.path, imports the file's stem, calls ``init`` with C integers and floats, wraps
its own memory as arrays, and reads what comes back as raw memory of a certain type.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher, create_extractor
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics import SemanticEncoder

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "rtabmap"
DETECTOR, MATCHER = "rtabmap_semantic_detector", "rtabmap_semantic_matcher"
NPY_FLOAT, NPY_INT = 11, 5


def call(function: object, types: bytes, *arguments: object) -> object:
    """``PyObject_CallFunction``, as C++ does it."""
    c_call = ctypes.pythonapi.PyObject_CallFunction
    c_call.restype = ctypes.py_object
    return c_call(ctypes.py_object(function), types, *arguments)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])
    yield importlib.import_module(DETECTOR), importlib.import_module(MATCHER)
    for name in (DETECTOR, MATCHER):
        del sys.modules[name]


def read(result: object, kind: int, columns: int | None = None) -> np.ndarray:
    """What RTAB-Map reads: it trusts the type, and that rows lie one after the other."""
    assert isinstance(result, np.ndarray) and result.dtype.num == kind and result.ndim == 2
    assert result.flags.c_contiguous
    assert columns is None or result.shape[1] == columns
    return result.copy()


def detected(detector: ModuleType, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    memory = grey.copy()
    result = detector.detect(memory)
    memory[:] = 0
    assert type(result) is tuple and len(result) == 2
    keypoints, descriptors = read(result[0], NPY_FLOAT, 3), read(result[1], NPY_FLOAT)
    # One that does not hold makes RTAB-Map throw both away.
    assert len(keypoints) == len(descriptors) and descriptors.shape[1] > 0
    return keypoints, descriptors


def matched(
    matcher: ModuleType, side0: tuple[np.ndarray, np.ndarray], side1: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    (k0, d0), (k1, d1) = side0, side1
    arguments = [np.ascontiguousarray(a) for a in (k0[:, :2], k1[:, :2], k0[:, 2], k1[:, 2], d0.copy(), d1.copy())]
    result = matcher.match(*arguments, 320, 240)
    for argument in arguments:
        argument[:] = 0
    return read(result, NPY_INT, 2)


@pytest.fixture
def views(textured_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two grey windows of one picture, the second moved by (-9, -6)."""
    grey = textured_image.mean(axis=2).astype(np.uint8)
    return grey[100:340, 100:420].copy(), grey[106:346, 109:429].copy()


def test_plain(
    scripts: tuple[ModuleType, ModuleType],
    views: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    detector, matcher = scripts
    monkeypatch.setenv("SEMANTIC_MATCHER_VARIANT", "plain:sift")
    monkeypatch.setenv("SEMANTIC_MATCHER_MAX_KEYPOINTS", "300")
    call(detector.init, b"i", ctypes.c_int(0))
    sides = [detected(detector, view) for view in views]
    call(
        matcher.init,
        b"ifiis",
        ctypes.c_int(128),
        ctypes.c_double(0.2),
        ctypes.c_int(20),
        ctypes.c_int(0),
        ctypes.c_char_p(b"indoor"),
    )
    found = matched(matcher, *sides)
    assert "plain:sift on cpu" in capfd.readouterr().out

    reference = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=300)
    features = [reference.extract(view) for view in views]
    for (keypoints, descriptors), expected in zip(sides, features, strict=True):
        assert 100 < len(keypoints) <= 300
        np.testing.assert_array_equal(keypoints[:, :2], expected.keypoints[0])
        np.testing.assert_array_equal(keypoints[:, 2], expected.scores[0])
        np.testing.assert_array_equal(descriptors, expected.descriptors[0])
    np.testing.assert_array_equal(found, reference.match(*features).indices)
    moved = sides[1][0][found[:, 1], :2] - sides[0][0][found[:, 0], :2]
    assert (np.linalg.norm(moved - (-9, -6), axis=1) < 2).mean() > 0.8


class _Encoder(SemanticEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.name, self.feature_dim = "test", 8
        self.patch = torch.nn.Conv2d(3, 8, self.patch_size, stride=self.patch_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.patch(images)


def test_with_a_reasoner(
    scripts: tuple[ModuleType, ModuleType], views: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, matcher = scripts
    torch.manual_seed(0)
    config = ReasonerConfig(extractor_features_dim=128, semantic_features_dim=8)
    reference = SemanticMatcher.from_parts(
        create_extractor("sift", max_keypoints=200), _Encoder(), Reasoner(config), device="cpu"
    )
    monkeypatch.setattr(SemanticMatcher, "from_pretrained", lambda *_, **__: reference)
    detector.init(0)
    matcher.init(512, 0.0, 20, 0, "indoor")
    features = [reference.extract(view) for view in views]
    assert features[0].reasoned is not None and features[0].semantic is not None
    sides = [detected(detector, view) for view in views]
    assert sides[0][1].shape[1] == features[0].reasoned.shape[-1] + features[0].semantic.shape[-1]
    expected = reference.match(*features)
    assert len(expected) > 20
    # Both similarities count: the reasoned ones alone match otherwise.
    alone = reference.match(*(replace(f, semantic=None) for f in features))
    assert alone.indices.tolist() != expected.indices.tolist()
    found = matched(matcher, *sides)
    np.testing.assert_array_equal(found, expected.indices[expected.confidence >= 0])


def test_nothing_to_see(
    scripts: tuple[ModuleType, ModuleType], views: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, matcher = scripts
    monkeypatch.setenv("SEMANTIC_MATCHER_VARIANT", "plain:sift")
    detector.init(0)
    matcher.init(128, 0.2, 20, 0, "indoor")
    black = detected(detector, np.zeros((240, 320), np.uint8))
    assert black[0].shape == (0, 3) and black[1].shape == (0, 128)
    assert matched(matcher, black, black).shape == (0, 2)
    assert matched(matcher, detected(detector, views[0]), black).shape == (0, 2)


def test_the_threshold_is_a_similarity(
    scripts: tuple[ModuleType, ModuleType], views: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, matcher = scripts
    monkeypatch.setenv("SEMANTIC_MATCHER_VARIANT", "plain:sift")
    detector.init(0)
    sides = [detected(detector, view) for view in views]
    counts = []
    for threshold in (0.2, 0.99):
        matcher.init(128, threshold, 20, 0, "indoor")
        found = matched(matcher, *sides)
        counts.append(len(found))
        similarity = (sides[0][1][found[:, 0]] * sides[1][1][found[:, 1]]).sum(axis=1)
        assert similarity.min() >= threshold - 1e-5
    assert counts[0] > counts[1] > 0


def test_descriptors_of_another_detector_are_refused(scripts: tuple[ModuleType, ModuleType]) -> None:
    _, matcher = scripts
    keypoints = np.zeros((3, 3), np.float32)
    descriptors = np.full((3, 128), 40.0, np.float32)
    with pytest.raises(ValueError, match="rtabmap_semantic_detector"):
        matched(matcher, (keypoints, descriptors), (keypoints, descriptors))


def test_detect_before_init_is_named(scripts: tuple[ModuleType, ModuleType]) -> None:
    with pytest.raises(RuntimeError, match="init"):
        scripts[0].detect(np.zeros((8, 8), np.uint8))
