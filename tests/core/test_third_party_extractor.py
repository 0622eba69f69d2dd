"""The worked example of an extractor from outside: installed as a package, found by name, used in another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import cv2
import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError, UnknownNameError
from semantic_matcher_core.extractors import Extractor, create_extractor, list_extractors, registry

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "third_party_extractor"

PROGRAM = """
import json, sys
import numpy as np
import semantic_matcher_core as smc

image, moved = np.load(sys.argv[1]), np.load(sys.argv[2])
assert "orb" in smc.list_extractors()
extractor = smc.create_extractor("orb", max_keypoints=300, device="cpu", fast_threshold=15)
features = extractor.extract(np.stack([image, np.zeros_like(image), moved]))
mask = np.zeros(image.shape[:2], np.uint8)
mask[:, :100] = 1
masked = extractor.extract(image, mask)
mirrored = extractor.extract(np.ascontiguousarray(image[:, ::-1]))
matcher = smc.SemanticMatcher.from_pretrained("plain:orb", device="cpu", max_keypoints=300)
matches = matcher.match_images(image, moved)
print(json.dumps({
    "counts": features.counts.tolist(),
    "norms": features[0].descriptors.norm(dim=-1).aminmax(),
    "masked": masked.keypoints[..., 0].max().item(),
    "keypoints": features[0].keypoints[0].tolist(),
    "mirrored": mirrored.keypoints[0].tolist(),
    "steps": (matches.keypoints1 - matches.keypoints0).tolist(),
}, default=float))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that the example is installed into; built from a copy, because building writes into the source."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "example"
    shutil.copytree(EXAMPLE, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=800)
    return folder


def test_installed_example_is_found_and_works(installed, tmp_path, textured):
    image = textured(240, 321)
    cv2.setRNGSeed(0)
    moved = np.roll(image, (6, 10), axis=(0, 1))
    paths = [tmp_path / "image.npy", tmp_path / "moved.npy"]
    for path, picture in zip(paths, (image, moved), strict=True):
        np.save(path, picture)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(installed), str(REPOSITORY)))}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["counts"][0] > 200 and result["counts"][1] == 0
    np.testing.assert_allclose(result["norms"], 1, atol=1e-5)
    assert result["masked"] < 102
    # Pixel (10, 6) further on: ORB's levels are not whole pixels apart, so not exactly for each.
    steps = np.array(result["steps"])
    assert np.median(np.linalg.norm(steps - (10, 6), axis=1)) < 0.75
    # Half-pixel correct: the mirrored picture has the mirrored keypoints, on average to a tenth of a pixel.
    keypoints, mirrored = np.array(result["keypoints"]), np.array(result["mirrored"])
    mirrored[:, 0] = 320 - mirrored[:, 0]
    distance = np.linalg.norm(keypoints[:, None] - mirrored[None], axis=-1)
    near = distance.min(1) < 2
    offsets = keypoints[near, 0] - mirrored[distance.argmin(1)[near], 0]
    assert near.sum() > 100
    assert abs(offsets.mean()) < 0.1


class _Point:
    """What importlib.metadata gives for an entry point."""

    def __init__(self, name: str, target) -> None:
        self.name, self.value, self._target = name, "package:object", target

    def load(self):
        return self._target


class _Plain(Extractor):
    name, descriptor_dim = "plain", 3

    def __init__(self, max_keypoints: int = 2048, *, sharpness: float = 1.0) -> None:
        super().__init__(max_keypoints)
        self.sharpness = sharpness

    def forward(self, images, masks=None):
        raise NotImplementedError


@pytest.fixture
def points(monkeypatch):
    found = [_Point("plain", _Plain), _Point("wrong", lambda max_keypoints: object()), _Point("xfeat", _Plain)]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.ENTRY_POINT_GROUP else [])


def test_entry_points_come_after_the_built_in_names(points):
    names = list_extractors()
    assert names[-2:] == ["plain", "wrong"]
    assert names.count("xfeat") == 1
    # A third party does not replace a built-in name.
    assert not isinstance(create_extractor("sift", device="cpu"), _Plain)


def test_options_are_checked_and_passed(points):
    extractor = create_extractor("plain", 12, device="cpu", sharpness=2.0)
    assert (extractor.max_keypoints, extractor.sharpness, extractor.training) == (12, 2.0, False)
    assert registry.accepted_options("plain") == {"sharpness"}
    with pytest.raises(ConfigError, match=r"no option 'blur'.*sharpness"):
        create_extractor("plain", device="cpu", blur=1)


def test_what_is_no_extractor_is_refused(points):
    with pytest.raises(ConfigError, match=r"'wrong'.*package:object.*not an Extractor"):
        create_extractor("wrong", device="cpu")
    with pytest.raises(UnknownNameError, match=r"'absent'.*plain"):
        create_extractor("absent")


def test_a_broken_plug_in_breaks_no_other(tmp_path, monkeypatch):
    (tmp_path / "broken_plug_in.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    modules = {"broken": "broken_plug_in", "gone": "no_such_plug_in"}
    points = [EntryPoint(name, f"{module}:Thing", registry.ENTRY_POINT_GROUP) for name, module in modules.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert list_extractors()[-2:] == ["broken", "gone"] and create_extractor("sift").name == "sift"
    for name, reason in (("broken", "RuntimeError: no licence"), ("gone", "ModuleNotFoundError: No module named")):
        for use in (create_extractor, registry.accepted_options):
            with pytest.raises(ConfigError, match=rf"extractor '{name}' .*Thing\) cannot be imported: {reason}"):
                use(name)
