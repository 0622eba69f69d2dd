"""The bundled variant: its networks' formulas, and that its weights match pictures better than descriptors of old."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.extractors.compact_network import Architecture, CompactNetwork
from semantic_matcher_core.layers import folded, standardised
from semantic_matcher_core.semantics import create_semantic_encoder
from semantic_matcher_core.semantics.compact_context import CompactContext
from semantic_matcher_core.weights.places import BUNDLED
from tests.conftest import make_textured_image

LIMIT_BYTES = 12_000_000


def test_it_is_small() -> None:
    files = list(BUNDLED.rglob("*.safetensors"))
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES


def with_statistics(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return network.eval()


@pytest.mark.parametrize("build", [CompactNetwork, CompactContext])
def test_folding_changes_nothing(build: type[nn.Module]) -> None:
    trained = with_statistics(build(batch_norm=True))
    images = torch.randn(2, 3, 64, 96)
    plain = build()
    plain.load_state_dict(folded(trained).state_dict())
    with torch.inference_mode():
        expected, found = trained(images), plain.eval()(images)
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (expected, found)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert any(isinstance(m, nn.BatchNorm2d) for m in trained.modules()), "the original is left as it was"


def straightforward(network: CompactNetwork, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps and logits by plain layers one after the other, none of them in place."""

    def doubled(maps: Tensor) -> Tensor:
        return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)

    def conv(module: nn.Module, maps: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(maps, module.weight, module.bias, padding=padding)

    half = conv(network.stride2[0][0], F.pixel_unshuffle(images, 2)).relu()
    for step in network.stride2[1:]:
        half = conv(step[0], half).relu()
    quarter = network.stride4(half)
    eighth = network.stride8(quarter)
    sixteenth = network.stride16(eighth)
    coarse = network.from16(sixteenth) + doubled(network.from32(network.stride32(sixteenth)))
    coarse = network.fuse(network.from8(eighth) + doubled(coarse))
    fine = (quarter + doubled(network.to4(coarse))).relu()
    hidden = conv(network.score[0][0], (half + doubled(network.to2(fine))).relu()).relu()
    logits = F.pixel_shuffle(conv(network.score[1], hidden, 0), 2)
    return fine, coarse, logits


@pytest.mark.parametrize("depth", [1, 2])
def test_the_network_is_its_formula(depth: int) -> None:
    torch.manual_seed(0)
    network = CompactNetwork(Architecture(widths=(8, 12, 16, 20, 24), depths=(depth, 1, 2, 1, 1), fused=12)).eval()
    images = torch.randn(2, 3, 64, 96)
    weights = [weight for name, weight in network.named_parameters() if not name.startswith("head")]
    expected = straightforward(network, images)
    # Training goes through the same code.
    slopes = torch.autograd.grad(sum(maps.square().sum() for maps in expected), weights)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = network.to(memory_format=layout)(images.contiguous(memory_format=layout))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        found_slopes = torch.autograd.grad(sum(maps.square().sum() for maps in found), weights)
        torch.testing.assert_close(found_slopes, slopes, atol=1e-3, rtol=1e-3)


def test_standardised_images_forget_exposure_and_contrast() -> None:
    image = torch.rand(1, 3, 40, 56)
    both = standardised(torch.cat([image, 0.3 * image + 0.2]))
    torch.testing.assert_close(both[0], both[1], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(both[0].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert torch.isfinite(standardised(torch.zeros(1, 3, 8, 8))).all()


@pytest.mark.parametrize("size", [(16, 16), (48, 80), (160, 32)])
def test_the_context_encoder_takes_any_multiple_of_its_patch(size: tuple[int, int]) -> None:
    encoder = create_semantic_encoder("compact_context", device="cpu")
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        both, alone = encoder(images), encoder(images[1:])
    assert both.shape == (2, 128, size[0] // 16, size[1] // 16)
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)


def seen_from_elsewhere(picture: np.ndarray, seed: int, degrees: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A view of a picture by a camera that moved and turned, in another light; and the homography to it."""
    generator = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners * 0.85 + 0.06 * width * generator.uniform(-1, 1, (4, 2)).astype(np.float32)
    turn = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0), [0, 0, 1]])
    homography = turn @ cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    view = cv2.warpPerspective(picture, homography, (width, height), borderMode=cv2.BORDER_REFLECT)
    dim = 255 * (cv2.GaussianBlur(view, (0, 0), 0.8) / 255.0) ** 1.4 + generator.normal(0, 4, view.shape)
    return dim.clip(0, 255).astype(np.uint8), homography


def correct_matches(
    matcher: SemanticMatcher, picture: np.ndarray, seed: int, degrees: float = 0.0, rotation: str = "upright"
) -> tuple[int, float]:
    """How many matches are within 3 px of the truth, and which share."""
    view, homography = seen_from_elsewhere(picture, seed, degrees)
    matches = matcher.match_images(picture, view, rotation=rotation)
    expected = cv2.perspectiveTransform(matches.keypoints0.numpy()[:, None].astype(np.float64), homography)[:, 0]
    correct = np.linalg.norm(expected - matches.keypoints1.numpy(), axis=1) <= 3
    return int(correct.sum()), float(correct.mean())


@pytest.fixture(scope="module")
def matcher() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained(device="cpu", max_keypoints=800)


def test_the_default_is_the_extractor_alone_and_a_reasoner_can_be_had(matcher: SemanticMatcher) -> None:
    assert matcher.variant == "plain:compact" and matcher.reasoner is None
    whole = SemanticMatcher.from_pretrained("compact", device="cpu", max_keypoints=800)
    assert whole.variant == "compact" and whole.reasoner is not None and whole.semantic_encoder is not None
    counts = {}
    for name, which in (("whole", whole), ("plain", matcher)):
        counts[name] = sum(correct_matches(which, make_textured_image(330, 450, seed), seed)[0] for seed in range(2))
    # It is no default because it is not ahead, but it is of use.
    assert counts["whole"] > 0.9 * counts["plain"], counts
    # And it is not the extractor under another name: its context tells keypoints apart.
    semantic = whole.extract(make_textured_image(330, 450, 0)).semantic
    assert semantic is not None and float((semantic @ semantic.mT).std()) > 1e-3


def test_it_matches_upright_and_with_a_second_look_however_turned(matcher: SemanticMatcher) -> None:
    found = {}
    for seed in range(3):
        picture = make_textured_image(330, 450, seed)
        for degrees, rotation in ((0, "upright"), (20, "upright"), (90, "quarter"), (45, "any")):
            figures = correct_matches(matcher, picture, seed, degrees, rotation)
            found[degrees] = found.get(degrees, np.zeros(2)) + np.array(figures) / 3
    assert found[0][0] > 300 and found[0][1] > 0.75, found
    assert found[20][0] > 0.5 * found[0][0], found
    assert found[90][0] > 0.5 * found[0][0], found
    assert found[45][0] > 0.35 * found[0][0], found


@pytest.mark.parametrize("change", ["dark", "gamma", "warm", "gradient"])
def test_other_light_leaves_the_matches(matcher: SemanticMatcher, change: str) -> None:
    picture = make_textured_image(330, 450, 5)
    light = picture / 255.0
    if change == "dark":
        light = 0.25 * light + np.random.default_rng(0).normal(0, 0.02, light.shape)
    elif change == "gamma":
        light = light**2.2
    elif change == "warm":
        light = light * (1.0, 0.75, 0.4)
    else:
        light = light * np.linspace(0.2, 1.0, 450)[None, :, None]
    matches = matcher.match_images(picture, (light * 255).clip(0, 255).astype(np.uint8))
    near = (matches.keypoints0 - matches.keypoints1).norm(dim=-1) < 2
    assert near.sum() > 250 and near.float().mean() > 0.6, (int(near.sum()), float(near.float().mean()))


def test_photographs_match_better_than_with_sift(shared) -> None:
    from semantic_matcher_core.io.images import list_images, read_image

    # Every twentieth photograph was never trained on.
    pictures = [read_image(path) for path in list_images(shared / "data" / "photos")[::20][:8]]
    totals = {}
    for name in ("compact", "plain:sift"):
        matcher = SemanticMatcher.from_pretrained(name, device="cpu", max_keypoints=1024)
        totals[name] = sum(correct_matches(matcher, picture, i)[0] for i, picture in enumerate(pictures))
    assert totals["compact"] > 1.2 * totals["plain:sift"], totals


@pytest.mark.parametrize("value", [0, 110, 255])
def test_nothing_is_found_where_nothing_is_seen(value: int) -> None:
    matcher = SemanticMatcher.from_pretrained("plain:compact", device="cpu")
    image = np.full((120, 160, 3), value, np.uint8)
    assert matcher.extract(image).keypoints.shape == (1, 0, 2)
    image[:, 80:] = make_textured_image(120, 80, 3)
    keypoints = matcher.extract(image).keypoints[0]
    assert len(keypoints) > 20
    assert keypoints[:, 0].min() > 80 - 17, "none in the flat half, but where the other can be seen"
