"""Annotations and pictures as they are built. No ROS graph; the messages of foxglove_msgs are stood in for."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.streams import Frame, MatchedPair
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.viz import palette

annotations = pytest.importorskip("semantic_matcher.annotations")

STAMP = SimpleNamespace(sec=12, nanosec=34)
HEADER = SimpleNamespace(stamp=STAMP, frame_id="cam")


@dataclass
class _Point2:
    x: float = 0.0
    y: float = 0.0


@dataclass
class _Color:
    r: float = 0.0
    g: float = 0.0
    b: float = 0.0
    a: float = 0.0


@dataclass
class _PointsAnnotation:
    POINTS = 1
    LINE_LOOP = 2
    LINE_STRIP = 3
    LINE_LIST = 4
    timestamp: Any = None
    type: int = 0
    points: list[_Point2] = field(default_factory=list)
    outline_color: _Color = field(default_factory=_Color)
    outline_colors: list[_Color] = field(default_factory=list)
    fill_color: _Color = field(default_factory=_Color)
    thickness: float = 0.0


@dataclass
class _ImageAnnotations:
    circles: list[Any] = field(default_factory=list)
    points: list[_PointsAnnotation] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)


@dataclass
class _NewerImageAnnotations(_ImageAnnotations):
    timestamp: Any = None


def foxglove(newer: bool = False) -> Any:
    """The classes of foxglove_msgs.msg that are used, with the same fields and constants."""
    kind = _NewerImageAnnotations if newer else _ImageAnnotations
    return SimpleNamespace(Point2=_Point2, Color=_Color, PointsAnnotation=_PointsAnnotation, ImageAnnotations=kind)


def pair_of(xy0: list[tuple[float, float]], xy1: list[tuple[float, float]], inlier: list[bool] | None) -> MatchedPair:
    """Frames of 20 x 30 pixels whose keypoints are all matched, apart from one at (0, 0) of the current one."""
    points0, points1 = (torch.tensor(xy, dtype=torch.float32).reshape(-1, 2) for xy in (xy0, xy1))
    keypoints1 = torch.cat([points1, torch.zeros(1, 2)])

    def frame(keypoints: torch.Tensor) -> Frame:
        n = len(keypoints)
        features = Features(keypoints[None], torch.ones(1, n), torch.ones(1, n, 4) / 2, (20, 30))
        return Frame(0, np.full((20, 30, 3), 90, np.uint8), features, HEADER)

    index = torch.arange(len(points0))
    matches = Matches(
        torch.stack([index, index], dim=1),
        points0,
        points1,
        torch.ones(len(points0)),
        inlier=None if inlier is None else torch.tensor(inlier, dtype=torch.bool),
    )
    return MatchedPair(frame(points0), frame(keypoints1), matches)


def xy(annotation: _PointsAnnotation) -> list[tuple[float, float]]:
    return [(p.x, p.y) for p in annotation.points]


def test_keypoints_and_lines_have_their_origin_at_the_corner() -> None:
    pair = pair_of([(1, 2), (10.25, 4)], [(3, 2), (11.25, 5)], None)
    keypoints, lines = annotations.annotations_message(pair, HEADER, foxglove()).points
    assert (keypoints.type, lines.type) == (_PointsAnnotation.POINTS, _PointsAnnotation.LINE_LIST)
    # The centre of the top-left pixel is half a pixel from its corner.
    assert xy(keypoints) == [(3.5, 2.5), (11.75, 5.5), (0.5, 0.5)]
    # One segment per match, from the reference to the current image.
    assert xy(lines) == [(1.5, 2.5), (3.5, 2.5), (10.75, 4.5), (11.75, 5.5)]
    assert keypoints.timestamp is lines.timestamp is STAMP
    for drawn in (keypoints, lines):
        assert drawn.thickness > 0 and drawn.outline_color.a > 0


def test_inliers_and_outliers_differ_in_colour() -> None:
    pair = pair_of([(1, 2), (5, 5), (7, 7)], [(2, 2), (6, 5), (8, 9)], [True, False, True])
    _, outliers, inliers = annotations.annotations_message(pair, HEADER, foxglove()).points
    assert xy(outliers) == [(5.5, 5.5), (6.5, 5.5)]
    assert xy(inliers) == [(1.5, 2.5), (2.5, 2.5), (7.5, 7.5), (8.5, 9.5)]
    for drawn, colour in ((inliers, palette.INLIER), (outliers, palette.OUTLIER)):
        shade = drawn.outline_color
        assert [round(255 * v) for v in (shade.r, shade.g, shade.b)] == list(colour)


@pytest.mark.parametrize("inlier", [None, []])
def test_without_matches_keypoints_remain(inlier: list[bool] | None) -> None:
    (keypoints,) = annotations.annotations_message(pair_of([], [], inlier), HEADER, foxglove()).points
    assert xy(keypoints) == [(0.5, 0.5)]


def test_newer_releases_have_one_stamp_for_all() -> None:
    pair = pair_of([(1, 2)], [(2, 2)], None)
    assert annotations.annotations_message(pair, HEADER, foxglove(newer=True)).timestamp is STAMP


def test_the_package_is_optional_but_not_when_it_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "foxglove_msgs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "foxglove_msgs", ModuleType("foxglove_msgs"))
    assert annotations.foxglove_messages() is None
    monkeypatch.delitem(sys.modules, "foxglove_msgs")
    package = tmp_path / "foxglove_msgs"
    (package / "msg").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "msg" / "__init__.py").write_text("import no_such_type_support\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_type_support"):
        annotations.foxglove_messages()
    monkeypatch.delitem(sys.modules, "foxglove_msgs")
    (package / "msg" / "__init__.py").write_text("ImageAnnotations = 7\n")
    assert annotations.foxglove_messages().ImageAnnotations == 7
    for name in ("foxglove_msgs", "foxglove_msgs.msg"):
        monkeypatch.delitem(sys.modules, name)


class _Output:
    """As the node's: builds only what is wanted."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.messages: list[Any] = []

    def publish(self, build: Any) -> bool:
        if self.wanted:
            self.messages.append(build())
        return self.wanted


@pytest.mark.ros
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_the_picture_is_drawn_once_and_only_for_somebody(
    ros: None, monkeypatch: pytest.MonkeyPatch, raw: bool, compressed: bool, enabled: bool
) -> None:
    from std_msgs.msg import Header

    from semantic_matcher import views

    drawn = []
    draw = views.draw_matches
    monkeypatch.setattr(views, "draw_matches", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
    outputs = {"debug_image": _Output(raw), "debug_image/compressed": _Output(compressed)}
    settings = SimpleNamespace(
        publish_debug_image=enabled,
        publish_annotations=True,
        debug_max_matches=10,
        debug_height=120,
        debug_jpeg_quality=95,
    )
    pair = pair_of([(1, 2), (5, 5)], [(2, 2), (6, 5)], None)
    current = Frame(0, pair.current.image, pair.current.features, Header(frame_id="cam"))
    node = SimpleNamespace(model=SimpleNamespace(variant="test"), settings=settings, outputs=outputs)
    views.publish_views(node, "", MatchedPair(pair.reference, current, pair.matches), "temporal")
    assert len(drawn) == (enabled and (raw or compressed))
    assert len(outputs["debug_image"].messages) == (enabled and raw)
    assert len(outputs["debug_image/compressed"].messages) == (enabled and compressed)
    for message in outputs["debug_image/compressed"].messages:
        assert message.format == "rgb8; jpeg compressed bgr8" and message.header.frame_id == "cam"
        pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        # OpenCV reads BGR: a picture with its channels swapped would be far off.
        difference = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(int) - drawn[0]
        assert pixels.shape == drawn[0].shape and np.abs(difference).mean() < 4


def test_a_picture_that_cannot_be_made_costs_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from semantic_matcher import views

    published: list[str] = []
    errors: list[tuple[str, str]] = []

    class Listened:
        def __init__(self, name: str) -> None:
            self.name = name

        def publish(self, build: Any) -> bool:
            build()
            published.append(self.name)
            return True

    names = ("debug_image", "debug_image/compressed")
    node = SimpleNamespace(
        settings=SimpleNamespace(publish_debug_image=True, publish_annotations=False, debug_jpeg_quality=80),
        outputs={name: Listened(name) for name in names},
        report_error=lambda text, details="": errors.append((text, details)),
    )
    pair = pair_of([(1, 2)], [(3, 2)], None)
    # Too wide for a JPEG, and no trouble for the raw picture.
    monkeypatch.setattr(views, "_draw", lambda *_: np.zeros((8, 70_000, 3), np.uint8))
    views.publish_views(node, "", pair, "temporal")
    assert published == ["debug_image"]
    assert errors == [(f"~/debug_image/compressed was not made: {errors[0][0].partition(': ')[2]}", "")]
    assert "up to 65500 a side" in errors[0][0]

    def broken(*_: Any) -> Any:
        raise IndexError("a defect of ours")

    monkeypatch.setattr(views, "_draw", broken)
    errors.clear()
    views.publish_views(node, "", pair, "temporal")
    assert published == ["debug_image"] and len(errors) == 2
    assert all("IndexError('a defect of ours')" in text and "Traceback" in details for text, details in errors)
