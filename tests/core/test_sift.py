"""SIFT against OpenCV called directly, and against blobs whose place is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.sift import Sift, root_sift


def opencv(image: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (OpenCV's), responses and raw descriptors."""
    keypoints, descriptors = cv2.SIFT.create(**options).detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    return np.array([k.pt for k in keypoints]), np.array([k.response for k in keypoints]), descriptors


def blob(centre: tuple[float, float], sigma: float, side: int = 160) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.rint(40 + 180 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))).astype(np.uint8)


def test_opencv_gets_sizes_and_angles_as_its_own(textured):
    image = textured(120, 161)
    ours = Sift(10**5).detectAndCompute(image, None)[0]
    theirs = cv2.SIFT.create().detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)[0]
    assert len(ours) > 20
    for given in (lambda k: k.size, lambda k: k.angle):
        np.testing.assert_allclose(sorted(map(given, ours)), sorted(map(given, theirs)), atol=1e-3)


def test_same_keypoints_and_descriptors_as_opencv(textured):
    image = textured(120, 161)
    places, responses, descriptors = opencv(image)
    features = Sift(10**5).extract(image)
    assert features.keypoints.shape == (1, len(places), 2)
    # Each of ours is one of OpenCV's, a quarter of a pixel up and left, and none is used twice.
    order = np.lexsort((features.descriptors[0].numpy()[:, 0], *features.keypoints[0].numpy().T))
    expected = np.sqrt(descriptors / descriptors.sum(axis=1, keepdims=True))
    theirs = np.lexsort((expected[:, 0], *places.T))
    np.testing.assert_allclose(features.keypoints[0].numpy()[order], places[theirs] - 0.25, atol=1e-4)
    np.testing.assert_allclose(features.scores[0].numpy()[order], responses[theirs], atol=0)
    np.testing.assert_allclose(features.descriptors[0].numpy()[order], expected[theirs], atol=1e-6)


@pytest.mark.parametrize("sigma", [2.0, 4.0, 8.0])
def test_keypoints_lie_at_the_centre_of_blobs(sigma):
    """Pixel centres are whole numbers: no octave may be off by a fraction of its own pixel."""
    errors = []
    for centre in ((80.0, 80.0), (80.3, 79.6), (79.75, 80.5), (80.5, 80.5), (81.1, 78.9)):
        features = Sift(1).extract(blob(centre, sigma))
        errors.append(features.keypoints[0, 0].numpy() - np.array(centre))
    assert np.abs(errors).max() < 0.08
    assert np.abs(np.mean(errors, axis=0)).max() < 0.04  # uncorrected, this is 0.25


def test_shifted_image_gives_shifted_keypoints():
    image = blob((70.3, 81.8), 3.0)
    moved = np.roll(image, (16, 32), axis=(0, 1))
    first, second = Sift(1).extract(image), Sift(1).extract(moved)
    torch.testing.assert_close(second.keypoints - first.keypoints, torch.tensor([[[32.0, 16.0]]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(second.descriptors, first.descriptors, atol=0.05, rtol=0)


def test_best_responses_are_kept_in_order(textured):
    image = textured(120, 161)
    everything = Sift(10**5).extract(image)
    assert (everything.scores.diff() <= 0).all()
    for count in (1, 7, 100):
        some = Sift(count).extract(image)
        assert torch.equal(some.keypoints, everything.keypoints[:, :count])
        assert torch.equal(some.descriptors, everything.descriptors[:, :count])


def test_equal_responses_are_ordered_by_place():
    image = np.full((200, 200), 40, np.uint8)
    for y in (30, 90, 150):
        for x in (30, 90, 150):
            image[y - 20 : y + 21, x - 20 : x + 21] = blob((20, 20), 3.0, 41)
    keypoints = Sift(9, orientations="upright").extract(image).keypoints[0]
    scores = Sift(9, orientations="upright").extract(image).scores[0]
    for score in scores.unique():
        tied = keypoints[scores == score].tolist()
        assert tied == sorted(tied, key=lambda place: (place[1], place[0]))


def test_upright_gives_each_place_once(textured):
    image = textured(120, 161)
    everything = Sift(10**5).extract(image)
    upright = Sift(10**5, orientations="upright").extract(image)
    several = {tuple(k) for k in everything.keypoints[0].tolist()}
    assert len(several) < everything.keypoints.shape[1]
    assert {tuple(k) for k in upright.keypoints[0].tolist()} == several
    assert upright.keypoints.shape[1] == len(several)


def test_upright_descriptors_change_with_rotation_and_others_do_not(textured):
    image = textured(128, 128, 5)
    turned = np.ascontiguousarray(np.rot90(image))

    def matched_share(extractor: Sift) -> float:
        f0, f1 = extractor.extract(image), extractor.extract(turned)
        nearest = (f0.descriptors[0] @ f1.descriptors[0].T).argmax(dim=1)
        x, y = f0.keypoints[0].unbind(-1)
        place = torch.stack((y, 127 - x), dim=-1)  # rot90 turns counter-clockwise
        return ((f1.keypoints[0][nearest] - place).norm(dim=-1) < 1.5).float().mean().item()

    assert matched_share(Sift(200)) > 0.8
    assert matched_share(Sift(200, orientations="upright")) < 0.3


@pytest.mark.parametrize("orientations", ["all", "upright"])
def test_mask(textured, orientations):
    image = textured(120, 161)
    mask = np.zeros((120, 161), np.uint8)
    mask[:, 80:] = 1
    extractor = Sift(60, orientations=orientations)
    everything, masked = Sift(10**5, orientations=orientations).extract(image), extractor.extract(image, mask)
    kept = everything.keypoints[0, :, 0].round() >= 80
    assert 60 < kept.sum() < len(kept)
    assert torch.equal(masked.keypoints[0], everything.keypoints[0][kept][:60])
    assert torch.equal(masked.descriptors[0], everything.descriptors[0][kept][:60])
    assert extractor.extract(image, np.zeros_like(mask)).keypoints.shape == (1, 0, 2)


def test_images_of_a_batch_differ_in_count(textured):
    pictures = np.stack([textured(64, 96), np.zeros((64, 96, 3), np.uint8), textured(64, 96, 2) // 8 + 100])
    batch = Sift(500).extract(pictures)
    assert batch.valid is not None
    for picture, features in zip(pictures, batch, strict=True):
        single = Sift(500).extract(picture)
        for name in ("keypoints", "scores", "descriptors"):
            assert torch.equal(getattr(features, name), getattr(single, name))
    assert batch.counts[1] == 0


def test_options_reach_opencv(textured):
    image = textured(120, 161)
    options = {"contrast_threshold": 0.08, "edge_threshold": 5.0, "octave_layers": 4, "sigma": 1.4}
    names = {"contrastThreshold": 0.08, "edgeThreshold": 5.0, "nOctaveLayers": 4, "sigma": 1.4}
    places, responses, _ = opencv(image, **names)
    features = Sift(10**5, **options).extract(image)
    assert len(places) != len(opencv(image)[0])
    np.testing.assert_allclose(features.scores[0], np.sort(responses)[::-1], atol=0)


def test_root_sift_keeps_zero_rows_finite():
    rows = root_sift(np.array([[0, 0, 0, 0], [4, 0, 0, 12], [1e-30, 0, 0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0, 0, 0, 0], [0.5, 0, 0, np.sqrt(0.75)], [1, 0, 0, 0]], atol=1e-6)
    assert rows.dtype == np.float32


@pytest.mark.parametrize(
    "options",
    [
        {"contrast_threshold": -1.0},
        {"edge_threshold": 0.0},
        {"octave_layers": 0},
        {"sigma": 0.0},
        {"sigma": float("nan")},
        {"orientations": "one"},
    ],
)
def test_wrong_options_are_refused(options):
    ((option, value),) = options.items()
    with pytest.raises(ConfigError, match=rf"{option}.*{value!r}"):
        Sift(**options)


@pytest.mark.parametrize("orientations", ["all", "upright"])
def test_scales_and_orientations_are_opencvs(textured, orientations):
    picture = textured(120, 160, 2)
    features = Sift(4000, orientations=orientations).extract(picture)
    found = cv2.SIFT.create().detect(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), None)
    expected = {(round(k.pt[0] - 0.25, 3), round(k.pt[1] - 0.25, 3), round(k.size, 3)) for k in found}
    assert features.scales.dtype == features.orientations.dtype == torch.float32
    rows = torch.cat((features.keypoints[0], features.scales[0, :, None]), dim=1)
    assert {tuple(round(v, 3) for v in row) for row in rows.tolist()} <= expected
    assert len(rows) > 50
    angles = {round(float(np.deg2rad(k.angle)), 3) for k in found} if orientations == "all" else {0.0}
    assert {round(v, 3) for v in features.orientations[0].tolist()} <= angles
    # Twice the bound of the side, half the picture: scales are those of the image as given.
    half = Sift(4000, max_side=80).extract(picture)
    assert half.scales.min() > 2 * features.scales.min() * 0.9
