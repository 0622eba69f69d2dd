"""Settings are one frozen value, parts are never changed, and matchers that share them do not see each other."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, asdict, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semantic_matcher_core import Features, SemanticMatcher
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors import Extractor
from semantic_matcher_core.extractors.compact import Compact
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.networks import Parts
from semantic_matcher_core.networks.compiled import Compiled
from semantic_matcher_core.networks.onnx import OnnxGraph
from semantic_matcher_core.networks.onnx_files import Exported
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.compact_context import CompactContext
from semantic_matcher_core.settings import FUSIONS, PRECISIONS, REGISTRATIONS, MatcherConfig, Settings

Render = Callable[..., np.ndarray]


def parts(seed: int = 0) -> Parts:
    torch.manual_seed(seed)
    config = ReasonerConfig(128, CompactContext.feature_dim, features_dim=64, n_attention_layers=2)
    return Parts(Compact(300).requires_grad_(False), CompactContext().requires_grad_(False), Reasoner(config))


def matcher_of(given: Parts, **options: object) -> SemanticMatcher:
    options = {"device": "cpu", "semantic_size": 160, **options}
    return SemanticMatcher.from_parts(given.extractor, given.semantic_encoder, given.reasoner, **options)


def assert_equal(found: Features, expected: Features) -> None:
    for name in ("keypoints", "scores", "descriptors", "reasoned", "semantic"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.fixture(scope="module")
def image(textured: Render) -> np.ndarray:
    return textured(96, 128, seed=3)


VALUES = {
    "max_keypoints": st.integers(1, 5000),
    "detection_threshold": st.none() | st.floats(0, 0.99),
    "semantic_size": st.integers(1, 4000),
    "registration": st.sampled_from(REGISTRATIONS),
    "precision": st.sampled_from(PRECISIONS),
    "matching": st.builds(
        MatcherConfig,
        mutual=st.booleans(),
        ratio=st.none() | st.floats(0.01, 1),
        max_distance=st.none() | st.floats(0.01, 2),
        min_similarity=st.none() | st.floats(-1, 1),
        fusion=st.sampled_from(FUSIONS),
        band_px=st.none() | st.floats(0, 100),
    ),
}


def test_every_setting_has_values_here() -> None:
    assert set(VALUES) == {item.name for item in fields(Settings)}


@given(st.fixed_dictionaries(VALUES), st.sampled_from(sorted(VALUES)), st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_settings_are_a_key(values: dict, name: str, data: st.DataObject) -> None:
    one, same = Settings(**values), Settings(**copy.deepcopy(values))
    assert one == same and hash(one) == hash(same)
    assert pickle.loads(pickle.dumps(one)) == one
    changed = data.draw(VALUES[name])
    other = replace(one, **{name: changed})
    assert (other == one) == (changed == values[name])
    assert asdict(other)[name] == (asdict(changed) if name == "matching" else changed)
    assert one.of_features == replace(other, **{name: values[name]}).of_features
    with pytest.raises(FrozenInstanceError):
        setattr(one, name, changed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_keypoints": 0}, "max_keypoints must be a whole number from 1 up, got 0"),
        ({"max_keypoints": 2.0}, "max_keypoints"),
        ({"semantic_size": True}, "semantic_size"),
        ({"detection_threshold": float("nan")}, "detection_threshold must be a number or None"),
        ({"registration": "good"}, "unknown registration 'good'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"matching": {"ratio": 0.8}}, "matching must be a MatcherConfig, got dict"),
        ({"keypoints": 5}, r"there is no setting keypoints; did you mean 'max_keypoints'\? there are detection_t"),
        (
            {"ratio": 0.8},
            r"no setting ratio; of semantic_matcher_core.matching: matching=MatcherConfig\(ratio=…\);",
        ),
    ],
)
def test_wrong_settings_are_refused_by_name(given: dict, message: str) -> None:
    matcher = matcher_of(parts())
    with pytest.raises(ConfigError, match=message):
        matcher.with_settings(**given)
    with pytest.raises(ConfigError, match=message):
        matcher_of(parts(), **given)


def test_numbers_of_numpy_are_settings_as_any_others() -> None:
    matching = MatcherConfig(ratio=np.float32(0.5), fusion="sum", weights=(np.float32(2), np.int8(1)))
    settings = Settings(np.int64(100), np.float16(0.25), np.uint16(448), matching=matching)
    same = Settings(100, 0.25, 448, matching=MatcherConfig(ratio=0.5, fusion="sum", weights=(2.0, 1.0)))
    assert settings == same and repr(settings) == repr(same)
    assert json.dumps(asdict(settings)) == json.dumps(asdict(same))


def test_settings_that_parts_have_no_use_for_are_refused() -> None:
    plain = SemanticMatcher.from_parts(Sift(20), device="cpu")
    with pytest.raises(ConfigError, match="'sift' has no detection_threshold"):
        plain.with_settings(detection_threshold=0.2)
    with pytest.raises(ConfigError, match=r"at least one patch \(16 px\), got 15"):
        matcher_of(parts()).with_settings(semantic_size=15)


def test_other_settings_make_another_matcher(image: np.ndarray) -> None:
    shared = parts()
    matcher = matcher_of(shared)
    expected = matcher.extract(image)
    fewer = matcher.with_settings(max_keypoints=9, semantic_size=96, matching=MatcherConfig(ratio=0.9))
    assert (fewer.max_keypoints, fewer.semantic_size, fewer.matching.ratio) == (9, 96, 0.9)
    assert fewer.extract(image).keypoints.shape[1] == 9
    assert_equal(fewer.extract(image), matcher_of(shared, max_keypoints=9, semantic_size=96).extract(image))
    guided = MatcherConfig(guided="always")
    assert matcher.settings == Settings(max_keypoints=300, semantic_size=160, matching=guided)
    assert shared.extractor.max_keypoints == 300
    assert_equal(matcher.extract(image), expected)
    threshold = float(expected.scores[0, 20])
    assert 0 < matcher.with_settings(detection_threshold=threshold).extract(image).keypoints.shape[1] < 300
    assert_equal(matcher.with_settings(detection_threshold=None).extract(image), expected)


@pytest.mark.parametrize("name", [item.name for item in fields(Settings)])
def test_a_setting_is_not_an_attribute_that_somebody_sets(name: str) -> None:
    matcher = matcher_of(parts())
    with pytest.raises(AttributeError, match=rf"with_settings\({name}=…\)"):
        setattr(matcher, name, getattr(matcher, name))


def test_precision_is_lost_for_good(image: np.ndarray) -> None:
    shared = parts()
    exact = matcher_of(shared)
    narrow = exact.with_settings(precision="bf16")
    assert_equal(narrow.extract(image), matcher_of(shared, precision="bf16").extract(image))
    assert shared.reasoner.joint_features.weight.dtype == torch.float32
    with pytest.raises(ConfigError, match="rounded to 'bf16'; build another for 'fp32'"):
        narrow.with_settings(precision="fp32")
    with pytest.raises(ConfigError, match=r"rounded to torch.bfloat16 already, which precision 'fp32' cannot undo"):
        matcher_of(narrow.parts)


def state(given: Parts) -> dict[str, Tensor]:
    modules = {"extractor": given.extractor, "encoder": given.semantic_encoder, "reasoner": given.reasoner}
    return {f"{key}.{n}": v.clone() for key, module in modules.items() for n, v in module.state_dict().items()}


@pytest.mark.parametrize("backend", ["eager", "compile", "onnx"])
def test_there_is_one_door_to_a_backend_and_it_leaves_the_parts_alone(
    backend: str, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    shared = parts()
    plain = matcher_of(shared)
    expected, before = plain.extract(image), state(shared)
    attributes = {id(m): set(vars(m)) for part in vars(shared).values() if part is not None for m in part.modules()}
    calls: list[str] = []
    if backend == "onnx":
        # A graph that computes what torch does; which graphs are made of what is tested with the export.
        def compute(self: OnnxGraph, *tensors: Tensor) -> tuple[Tensor, ...]:
            calls.append(self.name)
            module = {"extractor": "extractor", "semantic_encoder": "semantic_encoder", "reasoner": "reasoner"}
            part = getattr(shared, module[self.name])
            method = {"extractor": "dense", "semantic_encoder": "encode", "reasoner": "forward"}[self.name]
            found = getattr(part, method)(*tensors)
            return (found,) if isinstance(found, Tensor) else found

        from semantic_matcher_core.networks import onnx

        hashes = {name: onnx.sha256_of_weights(m) for name, m in onnx.exportable(shared).items()}
        (tmp_path / "manifest.json").write_text("{}")
        monkeypatch.setattr(onnx, "read_manifest", lambda *_: Exported(hashes, "fp32"))
        monkeypatch.setattr(onnx, "require", lambda *_: None)
        monkeypatch.setattr(OnnxGraph, "__init__", lambda self, path, *_: setattr(self, "name", path.stem))
        monkeypatch.setattr(OnnxGraph, "outputs", 2, raising=False)
        monkeypatch.setattr(OnnxGraph, "__call__", compute)
        other = matcher_of(shared, backend="onnx", onnx_folder=tmp_path)
    elif backend == "compile":
        monkeypatch.setattr(torch, "compile", lambda call, **_: lambda *a: calls.append(call.__name__) or call(*a))
        monkeypatch.setattr("semantic_matcher_core.networks.compiled._require_compiler", lambda device: None)
        other = matcher_of(shared, backend="compile")
        assert isinstance(other.networks.dense, Compiled)
    else:
        other = plain.with_backend("eager")
    assert (plain.backend, other.backend) == ("eager", backend)
    assert_equal(other.extract(image), expected)
    assert len(calls) == (0 if backend == "eager" else 3)
    calls.clear()
    assert_equal(plain.extract(image), expected)
    assert not calls
    assert all(torch.equal(value, before[key]) for key, value in state(shared).items())
    assert attributes == {
        id(m): set(vars(m)) for part in vars(shared).values() if part is not None for m in part.modules()
    }


def test_options_of_another_backend_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="onnx_folder is for backend 'onnx', not for 'eager'"):
        matcher_of(parts(), onnx_folder=tmp_path)


def test_matchers_of_the_same_parts_in_threads_give_what_each_gives_alone(textured: Render) -> None:
    shared = parts()
    images = [textured(96, 128, seed=seed) for seed in (1, 2)]
    monkey = pytest.MonkeyPatch()
    monkey.setattr(torch, "compile", lambda call, **_: call)  # the compiler takes longer than a test may
    monkey.setattr("semantic_matcher_core.networks.compiled._require_compiler", lambda device: None)
    try:
        compiled = matcher_of(shared, backend="compile", max_keypoints=77)
    finally:
        monkey.undo()
    matchers = [
        matcher_of(shared),
        compiled,
        matcher_of(shared, precision="bf16", semantic_size=96),
        matcher_of(shared).with_settings(
            max_keypoints=20, matching=MatcherConfig(fusion="sum"), registration="published"
        ),
    ]

    def run(matcher: SemanticMatcher) -> list[Tensor]:
        matches = matcher.match_images(*images)
        features = matcher.extract(images[0])
        return [matches.indices, matches.confidence, features.keypoints, features.reasoned]

    alone = [run(matcher) for matcher in matchers]
    assert len({len(found[2][0]) for found in alone}) == 3
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            for found, expected in zip(pool.map(run, matchers), alone, strict=True):
                for ours, theirs in zip(found, expected, strict=True):
                    assert torch.equal(ours, theirs)


def test_a_matcher_that_is_told_to_train_gives_the_same_and_learns_nothing(image: np.ndarray) -> None:
    shared = Parts(XFeat(100, detection_threshold=0.0).requires_grad_(False))
    matcher = SemanticMatcher.from_parts(shared.extractor, device="cpu")
    expected, before = matcher.match_images(image, image[:, 8:]), shared.extractor.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    matcher.train()
    found = matcher.match_images(image, image[:, 8:])
    assert shared.extractor.training, "its mode is its owner's"
    matcher.eval()
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(matcher.match_images(image, image[:, 8:]).indices, expected.indices)
    assert all(torch.equal(value, before[key]) for key, value in shared.extractor.state_dict().items())


class Broken(Extractor):
    """An extractor some of whose descriptors are not finite."""

    name = "broken"
    descriptor_dim = 128

    def __init__(self, real: Extractor, rows: dict[int, float]) -> None:
        super().__init__(real.max_keypoints)
        self.real, self.rows = real, rows

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        features = self.real(images, masks)
        for row, value in self.rows.items():
            features.descriptors[0, row, 5] = value
        return features


@pytest.mark.parametrize("rows", [{4: float("nan")}, {0: float("inf"), 9: -float("inf")}])
def test_a_descriptor_that_is_not_finite_is_lost_alone(rows: dict[int, float], textured: Render) -> None:
    shared = parts()
    reasoning = {"semantic_encoder": shared.semantic_encoder, "reasoner": shared.reasoner}
    images = np.stack([textured(96, 128, seed=seed) for seed in (1, 2)])
    for others in ({}, reasoning):
        whole = SemanticMatcher.from_parts(shared.extractor, **others, device="cpu", semantic_size=160).extract(
            images[0]
        )
        matcher = SemanticMatcher.from_parts(Broken(shared.extractor, rows), **others, device="cpu", semantic_size=160)
        found = matcher.extract(images[0])
        kept = [row for row in range(whole.keypoints.shape[1]) if row not in rows]
        assert found.valid is None
        assert torch.equal(found.keypoints, whole.keypoints[:, kept])
        assert torch.equal(found.descriptors, whole.descriptors[:, kept])
        if others:
            assert found.reasoned is not None and found.reasoned.isfinite().all()
        batch = matcher.extract(images)
        assert batch.counts.tolist()[0] == len(kept) < batch.counts.tolist()[1]
        torch.testing.assert_close(batch[0].keypoints, found.keypoints, atol=1e-2, rtol=0)


def test_copies_of_a_matcher_stand_on_their_own(image: np.ndarray) -> None:
    matcher = matcher_of(parts())
    expected = matcher.extract(image)
    for other in (copy.deepcopy(matcher), pickle.loads(pickle.dumps(matcher))):
        assert_equal(other.extract(image), expected)
        assert other.parts.extractor is other.extractor is not matcher.extractor
        nn.init.zeros_(other.reasoner.dino_reprojection.weight)
        assert not torch.equal(other.extract(image).reasoned, expected.reasoned)
    assert_equal(matcher.extract(image), expected)
