"""Registration of image pairs whose deformation is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError, ImageError, RegistrationError
from semantic_matcher_core.registration import Registration, RegistrationConfig, Template, register_onto, register_pair
from semantic_matcher_core.registration.pair import check_likeness
from semantic_matcher_core.registration.template import extract_features
from semantic_matcher_core.viz.registration import draw_registration
from tests.core.bent_surfaces import best_homography_error, ground_truth, known_bend, render

SIZE = (400, 520)
# What a registration must reach, in pixels; a homography, however good, stays far above it.
BOUND_PX = 1.5


@pytest.fixture(scope="module")
def sift() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu")


@pytest.fixture(scope="module")
def sheet(textured_image: np.ndarray) -> np.ndarray:
    return textured_image[: SIZE[0], : SIZE[1]].copy()


@pytest.fixture(scope="module")
def bent(sheet: np.ndarray) -> np.ndarray:
    return render(sheet, known_bend(SIZE, 20.0))


@pytest.fixture(scope="module")
def registered(sift: SemanticMatcher, sheet: np.ndarray, bent: np.ndarray) -> Registration:
    return register_pair(sift, sheet, bent)


def median_error(result: Registration, strength_px: float) -> float:
    flat, bent = ground_truth(known_bend(SIZE, strength_px), SIZE)
    assert best_homography_error(flat, bent) > 3 * BOUND_PX
    return float((result.to_image(flat) - bent).norm(dim=1).median())


def test_a_bent_sheet_is_registered_where_a_homography_cannot(registered: Registration) -> None:
    assert median_error(registered, 20.0) < BOUND_PX
    assert registered.fit.bending_energy > 0.1


@pytest.mark.parametrize("strength_px", [12.0, 25.0])
def test_dalf_registers_a_bent_sheet(shared: Path, sheet: np.ndarray, strength_px: float) -> None:
    dalf = SemanticMatcher.from_pretrained("plain:dalf", device="cpu", weights=shared / "weights")
    result = register_pair(dalf, sheet, render(sheet, known_bend(SIZE, strength_px)))
    assert median_error(result, strength_px) < BOUND_PX
    assert result.fit.inliers > 0.9 * len(result.fit.matches) > 500


def test_the_image_on_the_template_looks_like_the_template(registered: Registration, sheet: np.ndarray) -> None:
    agreement = registered.agreement
    assert agreement.warped.shape == sheet.shape
    assert agreement.correlation > 0.95
    assert agreement.error < 0.3 * agreement.error_before
    assert 0.7 < agreement.coverage < 1
    inside = agreement.support
    assert np.abs(agreement.warped[inside].astype(float) - sheet[inside]).mean() < 10


def test_an_image_onto_itself_does_not_move(sift: SemanticMatcher, sheet: np.ndarray) -> None:
    result = register_pair(sift, sheet, sheet)
    points = torch.rand(50, 2, dtype=torch.float64) * 300 + 50
    torch.testing.assert_close(result.to_image(points), points, atol=0.01, rtol=0)
    assert abs(result.fit.bending_energy) < 1e-4
    assert result.agreement.error < 1


def test_points_go_there_and_back(registered: Registration) -> None:
    points = torch.rand(100, 2, dtype=torch.float64) * torch.tensor([400.0, 300.0]) + 50
    torch.testing.assert_close(registered.to_template(registered.to_image(points)), points, atol=0.02, rtol=0)


def test_sizes_may_differ_and_grey_is_taken(sift: SemanticMatcher, sheet: np.ndarray, bent: np.ndarray) -> None:
    half = cv2.resize(bent[:380], (260, 190), interpolation=cv2.INTER_AREA)
    result = register_pair(sift, cv2.cvtColor(sheet, cv2.COLOR_RGB2GRAY), half)
    flat, where = ground_truth(known_bend(SIZE, 20.0), SIZE, border=40)
    error = (result.to_image(flat) - ((where + 0.5) / 2 - 0.5)).norm(dim=1)
    assert error.median() < BOUND_PX / 2
    assert result.agreement.warped.shape == (*SIZE, 3)


def test_features_of_large_images_are_taken_from_smaller_ones(
    sift: SemanticMatcher, sheet: np.ndarray, bent: np.ndarray
) -> None:
    large = [cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for image in (sheet, bent)]
    result = register_pair(sift, *large, config=RegistrationConfig(max_side=520))
    flat, where = ground_truth(known_bend(SIZE, 20.0), SIZE)
    error = (result.to_image((flat + 0.5) * 2 - 0.5) - ((where + 0.5) * 2 - 0.5)).norm(dim=1)
    assert error.median() < 2 * BOUND_PX
    assert result.agreement.warped.shape == (2 * SIZE[0], 2 * SIZE[1], 3)


def test_a_photograph_far_larger_than_the_images_is_seen_as_large_as_those(sheet: np.ndarray, bent: np.ndarray) -> None:
    compact = SemanticMatcher.from_pretrained("plain:compact", device="cpu", max_keypoints=300)
    photograph = cv2.resize(sheet, (4 * SIZE[1], 4 * SIZE[0]), interpolation=cv2.INTER_CUBIC)
    template = Template.from_image(compact, photograph)
    assert template.side == 1600
    beside = template.beside(compact, bent, RegistrationConfig())
    assert beside.side == SIZE[1] and beside.beside(compact, bent, RegistrationConfig()) is beside
    assert beside.features.image_size == photograph.shape[:2]
    assert beside.beside(compact, photograph, RegistrationConfig()).side == 1600
    with pytest.raises(RegistrationError, match="matches agree"):  # its features as they were
        register_onto(compact, Template(photograph, compact.extract(photograph)), bent)
    assert register_onto(compact, template, bent).fit.inliers > 150
    own = Template(photograph, template.features)
    assert own.beside(compact, bent, RegistrationConfig()) is own


def test_scales_are_pixels_of_the_image_as_given(sift: SemanticMatcher, sheet: np.ndarray) -> None:
    large = cv2.resize(sheet, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    small, whole = extract_features(sift, large, max(SIZE)), sift.extract(large)
    distance, nearest = torch.cdist(small.keypoints[0], whole.keypoints[0]).min(dim=1)
    same = distance < 1
    assert small.scales is not None and whole.scales is not None and int(same.sum()) > 20
    assert (small.scales[0, same] / whole.scales[0, nearest[same]]).median() == pytest.approx(1, abs=0.05)


def test_a_mask_keeps_the_template_to_the_object(sift: SemanticMatcher, sheet: np.ndarray, bent: np.ndarray) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[100:300, 120:400] = 255
    result = register_pair(sift, sheet, bent, mask=mask)
    keypoints = result.fit.matches.keypoints0
    assert ((keypoints >= torch.tensor([120.0, 100.0])) & (keypoints < torch.tensor([400.0, 300.0]))).all()
    assert result.agreement.support[mask == 0].mean() < 0.02
    flat, where = ground_truth(known_bend(SIZE, 20.0), SIZE)
    inside = ((flat > torch.tensor([140.0, 120.0])) & (flat < torch.tensor([380.0, 280.0]))).all(dim=1)
    assert (result.to_image(flat) - where)[inside].norm(dim=1).median() < BOUND_PX


def test_a_template_serves_many_images(sift: SemanticMatcher, sheet: np.ndarray, registered: Registration) -> None:
    template = Template.from_image(sift, sheet)
    other = register_onto(sift, template, render(sheet, known_bend(SIZE, 15.0, seed=4)))
    again = register_onto(sift, template, render(sheet, known_bend(SIZE, 20.0)))
    torch.testing.assert_close(again.fit.spline.theta, registered.fit.spline.theta)
    assert other.agreement.correlation > 0.95


@pytest.mark.parametrize("picture", ["constant", "ramp"])
def test_a_template_without_texture_is_refused(sift: SemanticMatcher, sheet: np.ndarray, picture: str) -> None:
    flat = np.full((*SIZE, 3), 127, np.uint8)
    if picture == "ramp":
        flat[:] = np.linspace(0, 255, SIZE[1], dtype=np.uint8)[None, :, None]
    with pytest.raises(RegistrationError, match=r"only \d+ keypoints in the template, at least 30"):
        register_pair(sift, flat, sheet)
    with pytest.raises(RegistrationError, match=r"only 0 of 0 matches agree .* may not show the template"):
        register_pair(sift, sheet, flat)


def test_another_object_is_refused(sift: SemanticMatcher, sheet: np.ndarray, textured) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RegistrationError, match="matches agree with one smooth deformation"):
        register_pair(sift, sheet, textured(*SIZE, seed=9))


@pytest.mark.parametrize(
    ("inliers", "correlation", "is_chance"),
    [(30, 0.1, True), (30, float("nan"), True), (30, 0.6, False), (60, -0.5, False), (49, 0.3, True)],
)
def test_few_that_agree_must_look_alike(
    registered: Registration, inliers: int, correlation: float, is_chance: bool
) -> None:
    matches = registered.fit.matches[torch.arange(100)]
    fit = replace(registered.fit, matches=replace(matches, inlier=torch.arange(100) < inliers))
    agreement = replace(registered.agreement, correlation=correlation)
    if is_chance:
        with pytest.raises(RegistrationError, match=f"{inliers} of 100 matches .* agree by chance"):
            check_likeness(fit, agreement)
    else:
        check_likeness(fit, agreement)


def test_what_a_guided_search_finds_in_another_picture_is_refused(sheet: np.ndarray, textured) -> None:  # type: ignore[no-untyped-def]
    compact = SemanticMatcher.from_pretrained("plain:compact", device="cpu")
    config = RegistrationConfig(min_inliers=3)
    for seed in range(3):
        with pytest.raises(RegistrationError, match=r"by chance"):
            register_pair(compact, sheet, textured(*SIZE, seed=20 + seed), config=config)


def test_bad_images_and_options_are_refused(sift: SemanticMatcher, sheet: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"mask is .* expected height x width \(400, 520\)"):
        register_pair(sift, sheet, sheet, mask=np.ones((2, 2), np.uint8))
    with pytest.raises(ImageError, match="float64"):
        register_pair(sift, sheet, sheet / 255.0)
    with pytest.raises(ImageError, match=r"\(0, 5, 3\)"):
        register_pair(sift, np.zeros((0, 5, 3), np.uint8), sheet)
    with pytest.raises(RegistrationError, match="in the template's mask"):
        register_pair(sift, sheet, sheet, mask=np.zeros(SIZE, np.uint8))
    for option in ({"threshold": 0}, {"regularisation": -1}, {"step_px": 0}, {"min_inliers": 2}, {"max_side": 8}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            RegistrationConfig(**option)


@pytest.mark.parametrize("shape", [(1, 10_000, 3), (10_000, 1, 3), (16, 2048, 3), (33, 47, 3)])
def test_pictures_are_bounded_whatever_the_shapes(shape: tuple[int, int, int], sheet: np.ndarray) -> None:
    for template, image in ((np.zeros(shape, np.uint8), sheet), (sheet, np.zeros(shape, np.uint8))):
        picture = draw_registration(template, image, None, None, summary="no registration", height=360)
        assert 720 < picture.shape[0] < 900 and 360 <= picture.shape[1] < 16_000
        assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
