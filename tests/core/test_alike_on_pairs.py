"""ALIKE and ALIKED with their published weights: how many matches of real pairs are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from semantic_matcher_core.extractors import create_extractor
from tests.core.extractor_checks import epipolar_inliers, homography_inliers, mutual_matches, read_rgb


# Mutual matches and homography inliers on the indoor pair, epipolar inliers on the pumpkin pair: 620 466 225,
# 646 503 226, 682 513 241, 661 470 263 measured with 1024 keypoints for ALIKE, 732 549 301,
# 727 555 341, 751 553 359, 748 596 280 for ALIKED.
@pytest.mark.parametrize(
    ("model", "matches", "homography", "epipolar"),
    [
        ("alike-t", 560, 420, 180),
        ("alike-s", 580, 450, 180),
        ("alike-n", 610, 460, 190),
        ("alike-l", 590, 420, 210),
        ("aliked-t16", 660, 490, 240),
        ("aliked-n16", 660, 500, 270),
        ("aliked-n16rot", 680, 500, 290),
        ("aliked-n32", 680, 540, 220),
    ],
)
def test_published_weights_match_real_pairs(shared: Path, model, matches, homography, epipolar):
    extractor = create_extractor(model, 1024, weights=shared / "weights", device="cpu", detection_threshold=0.0)
    indoor = [extractor.extract(read_rgb(shared / "golden" / f"tum_{i}.png")) for i in (0, 1)]
    points = mutual_matches(*indoor)
    assert len(points[0]) >= matches
    assert homography_inliers(*points) >= homography
    pumpkin = [extractor.extract(read_rgb(shared / "data" / "pairs" / f"pumpkin{i}.png")) for i in (1, 2)]
    assert epipolar_inliers(*mutual_matches(*pumpkin)) >= epipolar
