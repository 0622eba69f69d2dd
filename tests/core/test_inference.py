"""Inference changes no network, threads may share one, and a forked process ends with a sentence instead of hanging."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors import Extractor
from semantic_matcher_core.extractors.dalf import Dalf
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.inference import evaluating, view
from tests.conftest import make_textured_image
from tests.core.extractor_checks import randomize
from tests.core.test_extractor_contract import NAMES, build, marked

PICTURE = make_textured_image(93, 126, 4)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def modes(module: nn.Module) -> list[bool]:
    return [child.training for child in module.modules()]


@pytest.mark.parametrize("name", marked(NAMES))
def test_an_extractor_that_trains_is_not_moved_by_inference(name: str) -> None:
    extractor = build(name)
    expected = extractor.extract(PICTURE)
    before = state(extractor)
    extractor.train()
    try:
        found = extractor.extract(PICTURE)
        keypoints, _ = extractor.detectAndCompute(PICTURE)
        assert all(modes(extractor))
    finally:
        extractor.eval()
    assert len(keypoints) == expected.keypoints.shape[1]
    for field in ("keypoints", "scores", "descriptors"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field
    for key, value in state(extractor).items():
        assert torch.equal(value, before[key]), key


def test_features_may_be_changed_and_learned_from() -> None:
    matcher = SemanticMatcher.from_parts(build("compact"), device="cpu")
    with torch.inference_mode():
        image = torch.from_numpy(PICTURE).permute(2, 0, 1) / 255
        features = matcher.extract(image[None])
        assert not matcher.match(features, features).confidence.is_inference()
    features.keypoints.add_(0.5)
    weight = torch.ones(features.descriptors.shape[-1], requires_grad=True)
    (features.descriptors * weight).sum().backward()
    assert weight.grad is not None and not features.descriptors.requires_grad


def test_a_view_shares_weights_and_keeps_the_modes() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)))
    network[1].eval()
    other = evaluating(network)
    assert modes(network) == [True, True, False, False, False]
    assert not any(modes(other)) and other is not network
    network[0].weight.data.fill_(3)
    network[1][0].running_mean.fill_(5)
    assert torch.equal(other[0].weight, network[0].weight)
    assert torch.equal(other[1][0].running_mean, network[1][0].running_mean)
    assert evaluating(network.eval()) is network
    assert view(network) is not network


def test_a_module_used_twice_stays_one() -> None:
    shared = nn.Linear(2, 2)
    other = view(nn.ModuleList([shared, shared]))
    assert other[0] is other[1] and other[0] is not shared


def random_dalf() -> Dalf:
    dalf = Dalf(200, threshold=-1e6)
    randomize(dalf, 0)
    return dalf.eval().requires_grad_(False)


def test_threads_ask_one_extractor_for_different_things() -> None:
    dalf = random_dalf()
    calls = [{"top_k": k, "multi_scale": scales} for k in (20, 90) for scales in (False, True)]

    def run(options: dict) -> np.ndarray:
        return dalf.detectAndCompute(PICTURE, **options)[1]

    alone = [run(options) for options in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, expected in zip(pool.map(run, calls), alone, strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (dalf.max_keypoints, dalf.threshold, dalf.multi_scale) == (200, -1e6, False)


def test_other_options_leave_the_extractor_as_it_is() -> None:
    extractor: Extractor = random_dalf()
    fewer = extractor.configured(max_keypoints=7)
    assert fewer.extract(PICTURE).keypoints.shape[1] == 7
    assert extractor.max_keypoints == 200
    assert next(fewer.parameters()) is next(extractor.parameters())
    with pytest.raises(ConfigError, match="'sift' has no detection_threshold"):
        Sift(10).configured(detection_threshold=0.1)


FORK = """
import multiprocessing
import numpy as np
import torch
from semantic_matcher_core import SemanticMatcher

image = (np.random.default_rng(0).random((64, 80, 3)) * 255).astype(np.uint8)
matcher = SemanticMatcher.from_pretrained("plain:compact", device="cpu", max_keypoints=50)
torch.set_num_threads(2)

def work(what, one):
    if one:
        torch.set_num_threads(1)
    if what == "extract":
        return len(matcher.extract(image).keypoints[0])
    if what == "part":
        return len(matcher.extractor.extract(image).keypoints[0])
    return len(SemanticMatcher.from_pretrained("plain:sift", device="cpu").match_images(image, image))

def ask(how, one=False):
    with multiprocessing.get_context(how).Pool(1) as pool:
        for what in ("extract", "part", "build"):
            try:
                print(what, pool.starmap(work, [(what, one)])[0] > 0, flush=True)
            except Exception as error:
                print(what, type(error).__name__, error, flush=True)

if __name__ == "__main__":
    for state in ("loaded", "used"):
        if state == "used":
            matcher.match_images(image, image)
        ask("fork")
        ask("fork", one=True)
    ask("spawn")
"""


def test_a_fork_ends_with_a_sentence(tmp_path) -> None:
    """Of a process that has loaded a matcher, and of one that has used it."""
    script = tmp_path / "forking.py"
    script.write_text(FORK)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 15, done.stdout + done.stderr
    for start in (0, 6):
        refused, on_one_thread = lines[start : start + 3], lines[start + 3 : start + 6]
        assert all("ForkError" in line and "get_context('spawn')" in line for line in refused), refused
        assert on_one_thread == ["extract True", "part True", "build True"]
    assert lines[12:] == ["extract True", "part True", "build True"]


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_torch_compile_around_a_matcher_leaves_it_as_it_is(kind: str) -> None:
    picture = (np.random.default_rng(0).random((12, 16)) * 255).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    given = picture if kind == "array" else torch.from_numpy(picture)[None].float() / 255
    matcher = SemanticMatcher.from_pretrained("plain:sift", device="cpu")

    def sum_of_places(image: object) -> torch.Tensor:
        return matcher.extract(image).keypoints.sum() * 2

    expected = sum_of_places(given)
    assert expected > 0
    assert torch.equal(torch.compile(sum_of_places, backend="eager")(given), expected)
    assert torch.equal(torch.compile(matcher.extract, backend="eager")(given).keypoints.sum() * 2, expected)
