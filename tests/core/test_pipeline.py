"""SemanticMatcher put together from parts, on rendered images with known motion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semantic_matcher_core import Features, Matches, SemanticMatcher, create_extractor, extraction
from semantic_matcher_core.errors import ConfigError, DeviceError, ImageError, ShapeError
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics import SemanticEncoder, resize_for_encoder, sample_at_keypoints
from semantic_matcher_core.semantics.dinov2 import DinoV2

Render = Callable[..., np.ndarray]


class MeanColour(SemanticEncoder):
    """A semantic encoder without weights: the mean colour of each patch, and one. It remembers the sizes it saw."""

    name = "mean-colour"
    feature_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        means = nn.functional.avg_pool2d(images, self.patch_size)
        return torch.cat((means - 0.5, torch.full_like(means[:, :1], 0.1)), dim=1)


def random_reasoner(conditioning: bool = True, semantic_dim: int = 4, size: int = -1) -> Reasoner:
    torch.manual_seed(0)
    config = ReasonerConfig(
        128, semantic_dim, features_dim=64, n_attention_layers=2, semantic_conditioning=conditioning, fix_dino_size=size
    )
    return Reasoner(config).eval()


def identity_reasoner(conditioning: bool) -> Reasoner:
    """Passes descriptors and semantic features through: its blocks add nothing, its projections embed."""
    config = ReasonerConfig(128, 4, features_dim=128, n_attention_layers=1, semantic_conditioning=conditioning)
    reasoner = Reasoner(config).eval()
    with torch.no_grad():
        for branch in (reasoner.texture_attentions, reasoner.semantic_attentions):
            for block in branch:
                block.mlp[-1].weight.zero_()
                block.mlp[-1].bias.zero_()
        for projection in (reasoner.extractor_reprojection, reasoner.dino_reprojection):
            projection.weight.copy_(torch.eye(128)[:, : projection.in_features])
            projection.bias.zero_()
    return reasoner


def make_matcher(reasoner: Reasoner | None = None, max_keypoints: int = 300, **options: object) -> SemanticMatcher:
    encoder = None if reasoner is None else MeanColour()
    if reasoner is not None:
        options = {"semantic_size": 224, **options}
    return SemanticMatcher.from_parts(Sift(max_keypoints), encoder, reasoner, device="cpu", **options)


def as_tensor(*images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def pairs_of(matches: Matches) -> set[tuple[int, int]]:
    return {(i, j) for i, j in matches.indices.tolist()}


@pytest.fixture(scope="module")
def views(textured: Render) -> tuple[np.ndarray, np.ndarray]:
    """Two 240 x 320 views of one picture; what is at (x, y) of the first is at (x - 17, y - 9) of the second."""
    scene = textured(260, 350, seed=3)
    return scene[:240, :320].copy(), scene[9:249, 17:337].copy()


def share_within_3px(matches: Matches) -> float:
    error = matches.keypoints0 - matches.keypoints1 - torch.tensor([17.0, 9.0])
    return float((error.norm(dim=1) <= 3).float().mean())


def test_plain_matches_follow_the_motion(views: tuple[np.ndarray, np.ndarray]) -> None:
    matches = make_matcher().match_images(*views)
    assert len(matches) > 100
    assert share_within_3px(matches) > 0.9
    assert matches.pair is None and matches.batch_size == 1
    assert (matches.confidence <= 1 + 1e-5).all() and (matches.confidence > 0).all()


def test_reasoned_matches_follow_the_motion(views: tuple[np.ndarray, np.ndarray]) -> None:
    # With blocks that add nothing, the reasoner is the descriptors times the colour of the patch.
    matches = make_matcher(identity_reasoner(conditioning=True)).match_images(*views)
    assert len(matches) > 100
    assert share_within_3px(matches) > 0.9


def test_a_reasoner_that_adds_nothing_matches_like_no_reasoner(views: tuple[np.ndarray, np.ndarray]) -> None:
    plain = make_matcher().match_images(*views)
    reasoned = make_matcher(identity_reasoner(conditioning=False)).match_images(*views)
    assert pairs_of(plain) == pairs_of(reasoned)
    torch.testing.assert_close(plain.confidence, reasoned.confidence, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_semantic_similarity_multiplies(views: tuple[np.ndarray, np.ndarray]) -> None:
    matcher = make_matcher(identity_reasoner(conditioning=True))
    sides = [matcher.extract(view) for view in views]
    # The oracle: brute force in numpy from the parts' own outputs.
    similarity = np.ones((sides[0].keypoints.shape[1], sides[1].keypoints.shape[1]))
    for vectors in ("descriptors", "semantic"):
        a, b = (getattr(s, vectors)[0].double().numpy() for s in sides)
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
        similarity *= a @ b.T
    forward, backward = similarity.argmax(axis=1), similarity.argmax(axis=0)
    expected = {(i, int(j)) for i, j in enumerate(forward) if backward[j] == i}
    assert pairs_of(matcher.match(*sides)) == expected
    assert expected != pairs_of(make_matcher().match_images(*views)), "semantics must make a difference here"


@pytest.mark.parametrize("registration", ["exact", "published"])
@torch.inference_mode()
def test_extract_is_its_parts_one_after_another(textured: Render, registration: str) -> None:
    image = textured(97, 133, seed=1)  # resizes to no whole number of patches
    reasoner = random_reasoner()
    matcher = make_matcher(reasoner, registration=registration)
    features = matcher.extract(image)
    resized, scale = resize_for_encoder(as_tensor(image), 224, 14, registration=registration)
    semantic = sample_at_keypoints(
        MeanColour()(resized), features.keypoints, (97, 133), patch_size=14, scale=scale, registration=registration
    )
    torch.testing.assert_close(matcher.semantic_features(as_tensor(image), features), semantic, atol=1e-6, rtol=0)
    texture, meaning = reasoner(features.descriptors, semantic)
    torch.testing.assert_close(features.reasoned, nn.functional.normalize(texture, dim=-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(features.semantic, nn.functional.normalize(meaning, dim=-1), atol=1e-6, rtol=0)
    norms = features.reasoned.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-5, rtol=0)


def test_registrations_differ_where_the_size_is_no_multiple(textured: Render) -> None:
    image = textured(97, 133, seed=1)
    exact, published = (make_matcher(random_reasoner(), registration=r).extract(image) for r in ("exact", "published"))
    assert torch.equal(exact.keypoints, published.keypoints)
    assert not torch.allclose(exact.semantic, published.semantic, atol=1e-3)


@pytest.mark.parametrize("with_reasoner", [False, True])
@torch.inference_mode()
def test_images_of_a_batch_do_not_mix(textured: Render, with_reasoner: bool) -> None:
    flat = np.full((120, 160, 3), 90, dtype=np.uint8)  # has no keypoints
    sparse = flat.copy()  # has fewer than the others
    sparse[:60, :60] = textured(60, 60, seed=5)
    images = [textured(120, 160, seed=4), flat, sparse, textured(120, 160, seed=6)]
    matcher = make_matcher(random_reasoner() if with_reasoner else None, max_keypoints=150)
    batch = matcher.extract(as_tensor(*images))
    counts = batch.counts.tolist()
    assert counts[1] == 0 and len(set(counts)) >= 3, counts
    for b, image in enumerate(images):
        alone = matcher.extract(image)
        together = batch[b]
        assert torch.equal(alone.keypoints, together.keypoints)
        torch.testing.assert_close(alone.descriptors, together.descriptors, atol=1e-6, rtol=0)
        if with_reasoner:
            torch.testing.assert_close(alone.reasoned, together.reasoned, atol=1e-5, rtol=0)
            torch.testing.assert_close(alone.semantic, together.semantic, atol=1e-5, rtol=0)
            assert (batch.reasoned[b, counts[b] :] == 0).all()
    # Each image against the next one: the same matches as one pair at a time.
    shifted = Features.stack([batch[(b + 1) % 4] for b in range(4)])
    matches = matcher.match(batch, shifted)
    assert matches.batch_size == 4
    for b in range(4):
        assert pairs_of(matches.of_pair(b)) == pairs_of(matcher.match(batch[b], batch[(b + 1) % 4]))
    assert len(matches.of_pair(0)) == len(matches.of_pair(1)) == 0
    assert len(matches.of_pair(3)) > 0


@torch.inference_mode()
def test_padding_never_changes_a_result(views: tuple[np.ndarray, np.ndarray]) -> None:
    matcher = make_matcher(random_reasoner(), max_keypoints=200)
    images = [as_tensor(view) for view in views]
    sides = [matcher.extractor(image) for image in images]
    reference = matcher.match_images(*views)
    padded_sides = []
    for image, side, extra in zip(images, sides, (31, 7), strict=True):
        n = side.keypoints.shape[1]

        def pad(t: Tensor, extra: int = extra) -> Tensor:
            return torch.cat((t, t.new_zeros((1, extra, *t.shape[2:]))), dim=1)

        padded = replace(
            side,
            keypoints=pad(side.keypoints),
            scores=pad(side.scores),
            descriptors=pad(side.descriptors),
            scales=None,
            orientations=None,
            valid=torch.arange(n + extra)[None] < n,
        )
        reasoned = extraction.reason(matcher.networks, padded, matcher.semantic_features(image, padded))
        expected = extraction.reason(matcher.networks, side, matcher.semantic_features(image, side))
        torch.testing.assert_close(reasoned.reasoned[:, :n], expected.reasoned, atol=1e-6, rtol=0)
        torch.testing.assert_close(reasoned.semantic[:, :n], expected.semantic, atol=1e-6, rtol=0)
        padded_sides.append(reasoned)
    matches = matcher.match(*padded_sides)
    assert pairs_of(matches) == pairs_of(reference)
    torch.testing.assert_close(matches.confidence, reference.confidence, atol=1e-6, rtol=0)


def test_all_ways_to_give_an_image_agree(textured: Render) -> None:
    matcher = make_matcher(random_reasoner(), max_keypoints=80)
    image = textured(100, 140, seed=2)
    expected = matcher.extract(image)
    wide = np.zeros((100, 200, 3), np.uint8)
    wide[:, 30:170] = image
    for other in (as_tensor(image), as_tensor(image)[0], as_tensor(image).double(), wide[:, 30:170], image[None]):
        assert torch.equal(matcher.extract(other).keypoints, expected.keypoints)
        torch.testing.assert_close(matcher.extract(other).reasoned, expected.reasoned, atol=1e-5, rtol=0)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    torch.testing.assert_close(
        matcher.extract(grey).reasoned, matcher.extract(np.repeat(grey[..., None], 3, axis=2)).reasoned
    )


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (33, 97), (97, 33), (5, 300)])
@torch.inference_mode()
def test_images_of_any_size_work(textured: Render, size: tuple[int, int], views: tuple[np.ndarray, np.ndarray]) -> None:
    matcher = make_matcher(random_reasoner())
    features = matcher.extract(textured(*size) if min(size) > 8 else np.zeros((*size, 3), np.uint8))
    assert features.image_size == size
    assert features.reasoned.shape == (1, features.keypoints.shape[1], 64)
    assert features.reasoned.isfinite().all() and features.semantic.isfinite().all()
    matches = matcher.match(features, matcher.extract(views[0]))  # sizes may differ
    assert len(matches) <= features.keypoints.shape[1]


def test_masks_hold_with_a_reasoner(views: tuple[np.ndarray, np.ndarray]) -> None:
    mask = np.zeros((240, 320), np.uint8)
    mask[60:, :200] = 255
    features = make_matcher(random_reasoner()).extract(views[0], mask)
    x, y = features.keypoints[0].round().long().T
    assert len(x) > 20 and torch.from_numpy(mask)[y, x].all()
    assert features.reasoned.shape[1] == len(x)


def test_the_size_the_encoder_sees(views: tuple[np.ndarray, np.ndarray]) -> None:
    for matcher, expected in (
        (make_matcher(random_reasoner()), (1, 3, 168, 224)),
        (make_matcher(random_reasoner(), semantic_size=140), (1, 3, 112, 140)),
        (make_matcher(random_reasoner(), semantic_size=140, registration="published"), (1, 3, 98, 140)),
        (make_matcher(random_reasoner(size=56)), (1, 3, 42, 56)),  # the checkpoint's own size goes first
    ):
        matcher.extract(views[0])
        assert matcher.semantic_encoder.seen == [expected]


def test_bfloat16_gives_nearly_the_same_matches(views: tuple[np.ndarray, np.ndarray]) -> None:
    full = pairs_of(make_matcher(random_reasoner(conditioning=False)).match_images(*views))
    half_matcher = make_matcher(random_reasoner(conditioning=False), precision="bf16")
    features = half_matcher.extract(views[0])
    assert features.reasoned.dtype == features.descriptors.dtype == features.keypoints.dtype == torch.float32
    half = pairs_of(half_matcher.match_images(*views))
    assert len(full) > 100
    assert len(full & half) > 0.9 * len(full)


@torch.inference_mode()
def test_published_reasoner_with_xfeat_and_dinov2(shared: Path) -> None:
    """The real parts (DINOv2 and reasoner with random weights) on real images, batched and one at a time."""
    from semantic_matcher_core.reasoning import load_reasoner

    reasoner, config = load_reasoner(shared / "golden" / "reasoning_ckpt_i")
    torch.manual_seed(0)
    extractor = create_extractor(
        config.extractor_name, 256, weights=shared / "weights" / "xfeat.pt", device="cpu", detection_threshold=0.0
    )
    matcher = SemanticMatcher.from_parts(
        extractor,
        DinoV2(config.dino_weights),
        reasoner,
        device="cpu",
        semantic_size=224,
        registration="published",
    )
    images = [cv2.imread(str(shared / "golden" / f"xfeat_{n}_640x480.png"))[..., ::-1].copy() for n in ("ref", "tgt")]
    batch = matcher.extract(as_tensor(*images))
    singles = [matcher.extract(image) for image in images]
    for b, single in enumerate(singles):
        torch.testing.assert_close(batch[b].keypoints, single.keypoints, atol=1e-3, rtol=0)
        torch.testing.assert_close(batch[b].reasoned, single.reasoned, atol=1e-4, rtol=0)
    matches = matcher.match(*singles)
    assert len(matches) > 20
    assert pairs_of(matches) == pairs_of(matcher.match_images(*images))


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="give both or neither"):
        SemanticMatcher.from_parts(Sift(), MeanColour(), None, device="cpu")
    with pytest.raises(ConfigError, match="give both or neither"):
        SemanticMatcher.from_parts(Sift(), None, random_reasoner(), device="cpu")
    with pytest.raises(ShapeError, match=r"'mean-colour' gives features of 4 dimensions.*made for 384"):
        make_matcher(random_reasoner(semantic_dim=384))
    with pytest.raises(ShapeError, match=r"'sift' gives descriptors of 128 dimensions.*made for 64"):
        make_matcher(Reasoner(ReasonerConfig(64, 4, features_dim=16)))
    with pytest.raises(ConfigError, match="unknown registration 'good'"):
        make_matcher(registration="good")
    with pytest.raises(ConfigError, match=r"at least one patch \(14 px\), got 13"):
        make_matcher(random_reasoner(), semantic_size=13)
    with pytest.raises(ConfigError, match="unknown precision 'fp8'"):
        make_matcher(precision="fp8")
    with pytest.raises(DeviceError, match="'fp16' needs a GPU"):
        make_matcher(precision="fp16")
    with pytest.raises(DeviceError, match="unknown device 'gpu0'"):
        SemanticMatcher.from_parts(Sift(), device="gpu0")


def test_what_cannot_be_matched_is_refused(views: tuple[np.ndarray, np.ndarray]) -> None:
    plain, reasoned = make_matcher(), make_matcher(random_reasoner())
    with pytest.raises(ShapeError):
        plain.match(plain.extract(views[0]), reasoned.extract(views[1]))
    with pytest.raises(ShapeError):
        plain.match(plain.extract(views[0]), plain.extract(as_tensor(*views)))
    with pytest.raises(ImageError):
        plain.extract(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(ConfigError, match="plain matcher has no semantic encoder"):
        plain.semantic_features(as_tensor(views[0]), plain.extract(views[0]))


def test_parts_hold_no_gradients_back(views: tuple[np.ndarray, np.ndarray]) -> None:
    matcher = make_matcher(random_reasoner())
    assert not matcher.training and not matcher.reasoner.training
    assert not matcher.extract(views[0]).reasoned.requires_grad


def test_images_given_to_match_are_named() -> None:
    matcher = SemanticMatcher.from_pretrained("plain:sift", device="cpu")
    image = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(ShapeError, match=r"got ndarray; for images: match_images"):
        matcher.match(matcher.extract(image), image)


@pytest.mark.parametrize("narrow", [lambda m: m.half(), lambda m: m.double(), lambda m: m.to(torch.bfloat16)])
def test_another_type_of_weights_is_a_precision(narrow: Callable[[SemanticMatcher], object], textured: Render) -> None:
    matcher, image = make_matcher(random_reasoner()), textured(64, 96, seed=1)
    expected = matcher.extract(image)
    with pytest.raises(ConfigError, match=r"with_settings\(precision='bf16'\)"):
        narrow(matcher)
    assert torch.equal(matcher.float().to("cpu").extract(image).reasoned, expected.reasoned)
