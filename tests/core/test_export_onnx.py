"""Networks as ONNX graphs: written and checked, and a pipeline that runs on them."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import CheckpointError, ConfigError, DeviceError
from semantic_matcher_core.export import export_onnx, onnx_export, quantization
from semantic_matcher_core.export.graphs import Graph, graphs_of
from semantic_matcher_core.extractors import Extractor
from semantic_matcher_core.extractors.alike import Alike
from semantic_matcher_core.extractors.aliked import Aliked
from semantic_matcher_core.extractors.disk import Disk
from semantic_matcher_core.extractors.edgepoint2 import EdgePoint2
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.extractors.superpoint import SuperPoint
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.weights.hashing import sha256_of_weights
from tests.core.extractor_checks import randomize, randomize_dedode, shallow_dedode

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(p) is None for p in ("onnx", "onnxscript", "onnxruntime")),
        reason="onnx, onnxscript and onnxruntime are not all installed",
    ),
    pytest.mark.xdist_group("onnx"),  # for what they have traced is of use to all
]

EXTRACTORS = {
    "xfeat": lambda: XFeat(80, detection_threshold=0.0),
    "superpoint": lambda: SuperPoint(80, detection_threshold=0.0),
    "alike-l": lambda: Alike(80, model="alike-l", detection_threshold=0.0),
    "aliked-t16": lambda: Aliked(80, model="aliked-t16", detection_threshold=0.0),
    "disk": lambda: Disk(80),
    "edgepoint2-s32": lambda: EdgePoint2(80, model="edgepoint2-s32", detection_threshold=0.0),
    "dedode-G": lambda: randomize_dedode(shallow_dedode(80, descriptor="G")),
}
# It comes with random weights that give logits of a useful range, and takes long to build and to trace. What B has, G
# has, too.
DEDODE = "dedode-G"


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> dict[str, Path]:
    return {}


@pytest.fixture(autouse=True)
def each_network_is_traced_once(traced, tmp_path_factory, monkeypatch):
    """Tracing takes nearly all the time; the same network with the same weights gives the same graph."""
    write = onnx_export._write

    def write_once(graph: Graph, path: Path) -> None:
        network = graph.module.network
        key = f"{type(network).__name__} {getattr(network, 'config', '')} {sha256_of_weights(network)}"
        if key not in traced:
            write(graph, path)
            traced[key] = tmp_path_factory.mktemp("traced") / path.name
            shutil.copy(path, traced[key])
        else:
            shutil.copy(traced[key], path)

    monkeypatch.setattr(onnx_export, "_write", write_once)


def use_onnx(matcher: SemanticMatcher, folder: Path, **options: object) -> SemanticMatcher:
    return matcher.with_backend("onnx", onnx_folder=folder, **options)


def plain(name: str, seed: int = 1) -> SemanticMatcher:
    torch.manual_seed(seed)
    extractor: Extractor = EXTRACTORS[name]()
    if name != DEDODE:
        randomize(extractor, seed)
    return SemanticMatcher.from_parts(extractor, device="cpu", variant=f"plain:{name}")


def reasoned(conditioned: bool = True, seed: int = 1) -> SemanticMatcher:
    extractor, encoder = plain("xfeat", seed).extractor, shallow_dinov2(seed)
    config = ReasonerConfig(64, 384, features_dim=32, n_attention_layers=2, semantic_conditioning=conditioned)
    return SemanticMatcher.from_parts(extractor, encoder, Reasoner(config), device="cpu", semantic_size=112)


def shallow_dinov2(seed: int) -> DinoV2:
    torch.manual_seed(seed)
    encoder = DinoV2("dinov2_vits14")
    encoder.blocks = encoder.blocks[:2]
    return encoder


def assert_close(matcher: SemanticMatcher, expected: SemanticMatcher, images: np.ndarray) -> None:
    ours, theirs = matcher.extract(images), expected.extract(images)
    for a, b in zip(ours, theirs, strict=True):
        # Equal scores but for the last bits may change places.
        distance = torch.cdist(a.keypoints[0].double(), b.keypoints[0].double())
        partner = distance.argmin(dim=0)
        assert (distance.min(dim=0).values < 1e-2).float().mean() > 0.95
        for name in ("descriptors", "reasoned", "semantic"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            if x is not None:
                cosine = (x[0, partner] * y[0]).sum(-1)
                assert cosine.median() > 0.9999
                assert (x[0, partner] - y[0]).abs().median() < 1e-4


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == DEDODE else name for name in EXTRACTORS]
)
def test_extractors_run_on_their_graphs(name, tmp_path, textured):
    matcher = plain(name)
    differences = export_onnx(matcher, tmp_path / "graphs")
    assert list(differences) == ["extractor"] and 0 <= differences["extractor"] < onnx_export.TOLERANCE
    assert sorted(p.name for p in (tmp_path / "graphs").iterdir()) == ["extractor.onnx", "manifest.json"]
    other = use_onnx(plain(name), tmp_path / "graphs")
    # Sizes and batches that the export never saw.
    for height, width in ((93, 126), (160, 70)):
        pictures = np.stack([textured(height, width, seed) for seed in (1, 2)])
        assert_close(other, matcher, pictures)
    assert other.extract(np.zeros((1, 1, 3), np.uint8)).image_size == (1, 1)


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_whole_pipeline_runs_on_graphs(conditioned, tmp_path, textured):
    matcher = reasoned(conditioned)
    differences = export_onnx(matcher, tmp_path / "graphs")
    assert list(differences) == ["extractor", "semantic_encoder", "reasoner"]
    other = use_onnx(reasoned(conditioned), tmp_path / "graphs")
    # The same weights, but another number of outputs.
    with pytest.raises(CheckpointError, match="branches"):
        use_onnx(reasoned(not conditioned), tmp_path / "graphs")
    first, second = textured(96, 130, 1), textured(96, 130, 1)[4:, 8:]
    assert_close(other, matcher, first[None])
    # A batch whose images have different numbers of keypoints: padding goes through the reasoner.
    mask = np.ones((96, 130), np.uint8)
    mask[:, 60:] = 0
    features = other.extract(np.stack([first, first]), np.stack([np.ones_like(mask), mask]))
    expected = matcher.extract(np.stack([first, first]), np.stack([np.ones_like(mask), mask]))
    assert features.counts.tolist() == expected.counts.tolist()
    if features.valid is not None:
        assert not features.reasoned[~features.valid].any()
    nothing = other.extract(first, np.zeros_like(mask))
    assert nothing.reasoned.shape == (1, 0, 32)
    matches, wanted = other.match_images(first, second), matcher.match_images(first, second)
    # By place, because keypoints of equal score may have changed rows; random descriptors are so alike that the nearest
    # of some is a toss-up, but how near it is, is not.
    ours, theirs = (
        dict(zip(map(tuple, m.keypoints0.round().tolist()), m.confidence.tolist(), strict=True))
        for m in (matches, wanted)
    )
    common = [(ours[place], theirs[place]) for place in ours.keys() & theirs.keys()]
    assert len(common) > 0.6 * len(theirs) > 5
    np.testing.assert_allclose(*np.array(common).T, atol=1e-3, rtol=0)


def test_the_bundled_variant_runs_on_graphs(tmp_path, textured):
    def build() -> SemanticMatcher:
        return SemanticMatcher.from_pretrained("compact", device="cpu", max_keypoints=150)

    differences = export_onnx(build(), tmp_path / "graphs")
    assert 0 <= max(differences.values()) < onnx_export.TOLERANCE
    other = use_onnx(build(), tmp_path / "graphs")
    assert_close(other, build(), np.stack([textured(93, 126, seed) for seed in (1, 2)]))
    assert other.extract(np.zeros((1, 1, 3), np.uint8)).image_size == (1, 1)
    first, second = textured(150, 202, 1), textured(150, 202, 1)[6:, 9:]
    ours, theirs = other.match_images(first, second), build().match_images(first, second)
    pairs = [
        {tuple(row) for row in torch.cat([m.keypoints0, m.keypoints1], dim=1).round().tolist()} for m in (ours, theirs)
    ]
    assert len(pairs[0] & pairs[1]) > 0.97 * len(pairs[1]) > 50


def test_torch_is_not_used_where_the_graph_is(tmp_path, textured, monkeypatch):
    matcher = plain("superpoint")
    export_onnx(matcher, tmp_path / "graphs")
    expected = matcher.extract(textured(64, 80))
    other = use_onnx(matcher, tmp_path / "graphs")
    assert (matcher.backend, other.backend) == ("eager", "onnx") and other.extractor is matcher.extractor
    torch.testing.assert_close(matcher.extract(textured(64, 80)).scores, expected.scores, atol=0, rtol=0)
    monkeypatch.setattr(matcher.extractor.net, "forward", None)
    features = other.extract(textured(64, 80))
    torch.testing.assert_close(features.scores, expected.scores, atol=1e-5, rtol=0)
    dense = other.networks.dense
    assert dense is not None
    for again in (copy.deepcopy(other).networks.dense, pickle.loads(pickle.dumps(dense))):
        for a, b in zip(again(torch.ones(1, 1, 16, 16)), dense(torch.ones(1, 1, 16, 16)), strict=True):
            assert torch.equal(a, b)


def test_other_weights_and_damage_are_refused(tmp_path):
    folder = tmp_path / "graphs"
    export_onnx(plain("superpoint"), folder)
    with pytest.raises(CheckpointError, match="other weights of the extractor"):
        use_onnx(plain("superpoint", seed=2), folder)
    with pytest.raises(CheckpointError, match="other weights"):
        use_onnx(plain("disk"), folder)
    with pytest.raises(CheckpointError, match=r"holds extractor, but the matcher needs extractor, reasoner"):
        use_onnx(reasoned(), folder)
    with pytest.raises(DeviceError, match="NoSuchProvider"):
        use_onnx(plain("superpoint"), folder, providers=["NoSuchProvider"])
    half = plain("superpoint").with_settings(precision="bf16")
    with pytest.raises(ConfigError, match="bf16"):
        use_onnx(half, folder)
    (folder / "extractor.onnx").write_bytes((folder / "extractor.onnx").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"extractor\.onnx is damaged"):
        use_onnx(plain("superpoint"), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": "other"}))
    with pytest.raises(CheckpointError, match="format 'other'"):
        use_onnx(plain("superpoint"), folder)
    (folder / "manifest.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="damaged"):
        use_onnx(plain("superpoint"), folder)
    with pytest.raises(ConfigError, match="is no export"):
        use_onnx(plain("superpoint"), tmp_path)


def test_folders_appear_whole_and_are_not_overwritten_unasked(tmp_path, monkeypatch):
    matcher = plain("superpoint")
    folder = tmp_path / "graphs"
    with monkeypatch.context() as context, pytest.raises(CheckpointError, match="differs from torch"):
        context.setattr(onnx_export, "TOLERANCE", -1.0)
        export_onnx(matcher, folder)
    assert list(tmp_path.iterdir()) == []
    export_onnx(matcher, folder)
    with pytest.raises(ConfigError, match="earlier export"):
        export_onnx(matcher, folder)
    export_onnx(matcher, folder, overwrite=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="no earlier export"):
        export_onnx(matcher, tmp_path / "other", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graphs", "other"]


def test_what_cannot_be_exported_says_so(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"'sift' cannot be exported.*xfeat"):
        export_onnx(SemanticMatcher.from_parts(Sift(), device="cpu"), tmp_path / "graphs")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ConfigError, match="pip install onnxscript"):
        export_onnx(plain("superpoint"), tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []


def test_dinov2_and_reasoner_in_int8(tmp_path, textured):
    matcher = reasoned()
    exact = export_onnx(matcher, tmp_path / "exact")
    differences = export_onnx(matcher, tmp_path / "int8", int8=True)
    assert 0 < differences["semantic_encoder"] < 0.01
    assert 0 < differences["reasoner"] < 0.01
    assert list(exact) == ["extractor", *differences]
    sizes = [(tmp_path / folder / "semantic_encoder.onnx").stat().st_size for folder in ("exact", "int8")]
    assert sizes[1] < 0.4 * sizes[0]
    assert sorted(p.name for p in (tmp_path / "int8").iterdir()) == [
        "manifest.json", "reasoner.onnx", "semantic_encoder.onnx",
    ]  # fmt: skip
    other = use_onnx(reasoned(), tmp_path / "int8")
    image = torch.rand(2, 3, 84, 112, generator=torch.Generator().manual_seed(3))
    ours, theirs = other.networks.encode(image), matcher.semantic_encoder(image)
    assert not torch.allclose(ours, theirs, atol=1e-6)  # it is the int8 graph that ran
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=1).min() > 0.99
    first, second = textured(96, 130, 1), textured(96, 130, 1)[4:, 8:]
    features, expected = other.extract(first), matcher.extract(first)
    assert torch.equal(features.keypoints, expected.keypoints)
    assert (features.reasoned * expected.reasoned).sum(-1).min() > 0.99
    assert len(other.match_images(first, second)) > 5


def test_an_extractor_without_a_network_is_no_obstacle_to_int8(tmp_path, textured):
    def build() -> SemanticMatcher:
        encoder = shallow_dinov2(1)
        config = ReasonerConfig(128, 384, features_dim=32, n_attention_layers=1, semantic_conditioning=False)
        reasoner = Reasoner(config)
        return SemanticMatcher.from_parts(Sift(60), encoder, reasoner, device="cpu", semantic_size=56)

    export_onnx(build(), tmp_path / "graphs", int8=True)
    on_graphs = use_onnx(build(), tmp_path / "graphs")
    assert len(on_graphs.match_images(textured(80, 90, 1), textured(80, 90, 1))) > 5
    manifest = json.loads((tmp_path / "graphs" / "manifest.json").read_text())
    # One hash of a model's weights, whoever tells it.
    assert manifest["weights_sha256"] == sha256_of_weights(build()) == sha256_of_weights(on_graphs)
    assert on_graphs.networks.origin and not build().networks.origin
    (tmp_path / "graphs" / "manifest.json").write_text(json.dumps({**manifest, "precision": "fp32"}))
    with pytest.raises(ConfigError, match="'sift' cannot be exported"):
        use_onnx(build(), tmp_path / "graphs")


def test_int8_is_refused_where_it_has_no_place_or_loses_too_much(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"int8 is for DINOv2, which variant 'plain:superpoint' does not have"):
        export_onnx(plain("superpoint"), tmp_path / "graphs", int8=True)
    monkeypatch.setattr(quantization, "LEAST_COSINE", 0.9999999)
    with pytest.raises(CheckpointError, match="export it without int8"):
        export_onnx(reasoned(), tmp_path / "graphs", int8=True)
    assert list(tmp_path.iterdir()) == []


def test_hashes_tell_weights_apart():
    def hashes(matcher: SemanticMatcher) -> list[str]:
        return [sha256_of_weights(graph.module.network) for graph in graphs_of(matcher.parts)]

    assert len(set(hashes(reasoned()))) == 3
    assert hashes(reasoned()) == hashes(reasoned())
    assert hashes(reasoned()) != hashes(reasoned(seed=2))
