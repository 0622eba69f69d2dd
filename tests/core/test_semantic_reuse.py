"""A semantic map that serves for several frames: when it is made, and where it is looked up."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semantic_matcher_core import SemanticMatcher, extraction
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.geometry.homography import warp_points
from semantic_matcher_core.networks import Networks
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics import SemanticEncoder
from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.settings import Settings
from semantic_matcher_core.streams import SemanticReuse, TemporalPairing, TemporalStream
from semantic_matcher_core.streams.frames import SemanticFeatureMatcher, SteppingFeatureMatcher, TurningFeatureMatcher

Render = Callable[..., np.ndarray]


class MeanColour(SemanticEncoder):
    """The mean colour of each patch; it counts the images it saw."""

    name = "mean-colour"
    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, images: Tensor) -> Tensor:
        self.runs += 1
        return nn.functional.avg_pool2d(images, self.patch_size)


def build() -> tuple[SemanticMatcher, MeanColour]:
    torch.manual_seed(0)
    encoder = MeanColour().eval()
    reasoner = Reasoner(ReasonerConfig(128, 3, features_dim=32, n_attention_layers=2)).eval()
    return SemanticMatcher.from_parts(Sift(300), encoder, reasoner, device="cpu", semantic_size=448), encoder


@pytest.mark.parametrize("protocol", [SteppingFeatureMatcher, TurningFeatureMatcher, SemanticFeatureMatcher])
def test_what_streams_ask_of_a_matcher_is_found_on_every_python(protocol: type) -> None:
    matcher, _ = build()
    assert isinstance(matcher, protocol)
    # Python 3.12 and later look members up statically.
    names = [name for base in protocol.__mro__ for name in vars(base) if not name.startswith("_")]
    assert len(names) >= 3
    for name in names:
        inspect.getattr_static(matcher, name)


@pytest.fixture(scope="module")
def frames(textured: Render) -> list[np.ndarray]:
    """A camera that moves 5 px right and 3 px down per frame over a picture."""
    scene = textured(300, 400, seed=5)
    return [scene[3 * i : 3 * i + 240, 5 * i : 5 * i + 320].copy() for i in range(9)]


@pytest.mark.parametrize(("every", "runs"), [(1, 9), (2, 5), (4, 3), (100, 1)])
@pytest.mark.parametrize("policy", ["previous", "every_nth"])
def test_the_encoder_runs_for_every_nth_frame(frames: list[np.ndarray], every: int, runs: int, policy: str) -> None:
    matcher, encoder = build()
    stream = TemporalStream(matcher, TemporalPairing(policy, every_nth=3), semantic_every=every)
    for frame in frames:
        stream.process(frame)
    assert encoder.runs == runs


@pytest.mark.parametrize("policy", ["previous", "every_nth", "keyframe"])
def test_the_map_is_looked_up_where_the_motion_says(
    frames: list[np.ndarray], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher, _ = build()
    stream = TemporalStream(matcher, TemporalPairing(policy, every_nth=3), semantic_every=100)
    places: list[tuple[Tensor, Tensor]] = []
    real = extraction.sample

    def sample(networks: Networks, settings: Settings, semantic_map: SemanticMap, where: Tensor) -> Tensor:
        places.append((where, torch.empty(0)))
        return real(networks, settings, semantic_map, where)

    monkeypatch.setattr(extraction, "sample", sample)
    found = [stream.process(frame)[0].features.keypoints for frame in frames]
    last = len(frames) - 1
    # The motion from the first frame, as far as the last but one: that of the last is not known when it comes.
    inside = (found[last][0] + torch.tensor([40.0, 24.0]) < torch.tensor([310.0, 230.0])).all(dim=1)
    shift = (places[last][0] - found[last])[0, inside].median(dim=0).values
    steps = shift / torch.tensor([5.0, 3.0])
    assert (steps - steps.mean()).abs().max() < 0.1
    assert abs(float(steps.mean()) - 7) < 0.2


def test_every_frame_its_own_is_the_plain_stream(frames: list[np.ndarray]) -> None:
    plain, reusing = (TemporalStream(build()[0], semantic_every=every) for every in (1, 1))
    reusing.semantic_every = 1
    for frame in frames[:3]:
        first, second = plain.process(frame)[0].features, reusing.process(frame)[0].features
        assert first.reasoned is not None and second.reasoned is not None
        torch.testing.assert_close(first.reasoned, second.reasoned, atol=0, rtol=0)


def test_a_still_camera_gives_the_features_of_its_own_map(frames: list[np.ndarray]) -> None:
    matcher, encoder = build()
    stream = TemporalStream(matcher, semantic_every=50)
    own = matcher.extract(frames[0])
    for _ in range(5):
        reused = stream.process(frames[0])[0].features
    assert own.reasoned is not None and reused.reasoned is not None
    torch.testing.assert_close(reused.reasoned, own.reasoned, atol=1e-4, rtol=0)
    assert encoder.runs <= 3


def test_lost_motion_and_another_size_make_a_new_map(frames: list[np.ndarray], textured: Render) -> None:
    matcher, encoder = build()
    stream = TemporalStream(matcher, semantic_every=100)
    for frame in frames[:4]:
        stream.process(frame)
    before = encoder.runs
    stream.process(frames[4])
    assert encoder.runs == before
    stream.process(textured(240, 320, seed=99))  # looked up in the old map, but matches nothing
    stream.process(frames[5])
    assert encoder.runs == before + 1
    stream.process(textured(200, 300, seed=5))
    assert encoder.runs == before + 2
    stream.reset()
    stream.process(textured(200, 300, seed=5))
    assert encoder.runs == before + 3


@pytest.mark.parametrize("how", ["path", "text", "grey", "tensor", "batch"])
def test_images_come_in_every_form(frames: list[np.ndarray], how: str, tmp_path: Path) -> None:
    def given(index: int) -> object:
        frame = frames[index]
        if how in ("path", "text"):
            path = tmp_path / f"{index}.png"
            cv2.imwrite(str(path), frame[..., ::-1])
            return path if how == "path" else str(path)
        if how == "grey":
            return frame[..., 0].copy()
        tensor = torch.from_numpy(frame).permute(2, 0, 1)
        return tensor if how == "tensor" else tensor[None].float() / 255

    matcher, encoder = build()
    stream = TemporalStream(matcher, semantic_every=2)
    pairs = [stream.process(given(i))[1] for i in range(5)]
    assert encoder.runs == 3
    assert all(pair is not None and len(pair.matches) > 50 for pair in pairs[1:])


def test_without_a_semantic_encoder_nothing_changes(frames: list[np.ndarray]) -> None:
    stream = TemporalStream(SemanticMatcher.from_parts(Sift(100), device="cpu"), semantic_every=5)
    _, pair = [stream.process(frame) for frame in frames[:2]][1]
    assert pair is not None and len(pair.matches) > 20


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_only_whole_numbers_from_one_up(every: object) -> None:
    with pytest.raises(ConfigError, match="semantic_every"):
        SemanticReuse(every)  # type: ignore[arg-type]


def test_points_are_warped_and_kept_inside() -> None:
    points = torch.tensor([[[0.0, 0.0], [10.0, 20.0], [99.0, 49.0]]])
    motion = torch.tensor([[1.0, 0.0, 5.0], [0.0, 1.0, -3.0], [0.0, 0.0, 1.0]])
    expected = torch.tensor([[[5.0, 0.0], [15.0, 17.0], [99.0, 46.0]]])
    torch.testing.assert_close(warp_points(points, motion, (50, 100)), expected)
    assert warp_points(points[:, :0], motion, (50, 100)).shape == (1, 0, 2)
