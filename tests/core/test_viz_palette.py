"""The palette: what must be told apart is, by people who see no red or no green too."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.viz import palette

# Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency (2009),
# severity 1.0; for linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
NORMAL = np.eye(3)
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
ROOT = Path(__file__).resolve().parents[2]


def lab(colour: tuple[int, int, int] | np.ndarray, sight: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour as somebody sees it."""
    value = np.asarray(colour, float) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(sight @ linear, 0, 1) / (XYZ @ np.ones(3))
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(first: tuple[int, int, int], second: tuple[int, int, int], sight: np.ndarray) -> float:
    return float(np.linalg.norm(lab(first, sight) - lab(second, sight)))


def test_the_simulation_is_one() -> None:
    # Red and green of equal lightness are far apart, and for a deuteranope nearly the same.
    red, green = (200, 80, 60), (80, 138, 60)
    assert distance(red, green, NORMAL) > 80 > 35 > distance(red, green, DEUTERANOPIA)
    # What has no colour stays as it is.
    assert distance((128, 128, 128), (128, 128, 128), DEUTERANOPIA) == 0
    assert abs(lab((128, 128, 128), DEUTERANOPIA)[1:]).max() < 1


@pytest.mark.parametrize("sight", [NORMAL, DEUTERANOPIA, PROTANOPIA])
def test_inliers_outliers_and_sure_matches_differ(sight: np.ndarray) -> None:
    meanings = {"inlier": palette.INLIER, "outlier": palette.OUTLIER, "sure": palette.amount(1.0)}
    for (a, first), (b, second) in itertools.combinations(meanings.items(), 2):
        assert distance(first, second, sight) > 35, (a, b)
    assert distance(palette.INLIER, palette.OUTLIER, sight) > 70
    assert distance(palette.KEYPOINT, palette.OUTLIER, sight) > 40


@pytest.mark.parametrize("sight", [NORMAL, DEUTERANOPIA, PROTANOPIA])
def test_more_is_lighter(sight: np.ndarray) -> None:
    lightness = [lab(colour, sight)[0] for colour in palette.amount_colours(np.linspace(0, 1, 12))]
    assert (np.diff(lightness) > 2).all() and lightness[-1] - lightness[0] > 55


def test_amounts() -> None:
    colours = palette.amount_colours(np.array([[-1.0, 0.0, np.nan], [1.0, 7.0, 0.5]]))
    assert colours.shape == (2, 3, 3) and colours.dtype == np.uint8
    assert len({tuple(c) for c in colours[0]}) == 1 and np.array_equal(colours[1, 0], colours[1, 1])


@pytest.mark.parametrize("theme", palette.THEMES.values())
def test_text_is_read_on_its_background(theme: palette.Theme) -> None:
    for colour in (theme.text, theme.faint):
        assert abs(lab(colour, NORMAL)[0] - lab(theme.background, NORMAL)[0]) > 45


def css(colour: palette.Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def test_rviz_and_foxglove_use_the_same_colours() -> None:
    package = ROOT / "ros_ws" / "src" / "semantic_matcher"
    rviz = (package / "rviz" / "semantic_matcher.rviz").read_text(encoding="utf-8")
    for key, share in (("Min", 0.0), ("Max", 1.0)):
        assert f"{key} Color: {'; '.join(map(str, palette.amount(share)))}" in rviz
    assert "Use rainbow: true" not in rviz
    layout = json.loads((package / "config" / "foxglove_layout.json").read_text(encoding="utf-8"))
    colours: dict[str, set[str]] = {}
    meanings: dict[str, set[str]] = {}

    def visit(node: object) -> None:
        if isinstance(node, dict):
            if "color" in node and "label" in node:
                meaning = node["label"].rpartition("/")[2]
                colours.setdefault(node["label"], set()).add(node["color"])
                meanings.setdefault(node["color"], set()).add(meaning)
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    visit(layout)
    assert colours and all(len(values) == 1 for values in colours.values())
    assert colours["matches"] == {css(palette.amount(1.0))}
    assert colours["keypoints"] == {css(palette.KEYPOINT)}
    reserved = {css(palette.INLIER), css(palette.OUTLIER)}
    assert not reserved & set(meanings)
