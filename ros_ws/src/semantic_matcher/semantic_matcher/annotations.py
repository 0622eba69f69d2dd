"""Keypoints and matches as foxglove_msgs/ImageAnnotations, which Foxglove draws on the camera's own images.

That package is optional. Its coordinates have their origin at the *corner* of the top-left pixel, half a pixel up and
left of ours. Fields: foxglove_msgs/msg/ImageAnnotations.msg and PointsAnnotation.msg.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semantic_matcher_core.viz import palette

if TYPE_CHECKING:
    from types import ModuleType

    from std_msgs.msg import Header

    from semantic_matcher_core.streams import MatchedPair

_CENTRE_TO_CORNER = 0.5
_KEYPOINT_SIZE_PX = 2.0
_LINE_WIDTH_PX = 1.5


@dataclass(frozen=True)
class _Colour:
    r: float
    g: float
    b: float
    a: float


def _shade(colour: palette.Colour, opacity: float) -> _Colour:
    red, green, blue = (value / 255 for value in colour)
    return _Colour(red, green, blue, opacity)


_KEYPOINT = _shade(palette.KEYPOINT, 0.8)
_MATCH = _shade(palette.amount(1.0), 0.9)
_INLIER = _shade(palette.INLIER, 0.9)
_OUTLIER = _shade(palette.OUTLIER, 0.6)


def foxglove_messages() -> ModuleType | None:
    """Return ``foxglove_msgs.msg``, or ``None`` where it is not installed."""
    try:
        return importlib.import_module("foxglove_msgs.msg")
    except ModuleNotFoundError as error:
        # Something else that it needs and that is missing is a broken installation, which must not look like none.
        if error.name not in ("foxglove_msgs", "foxglove_msgs.msg"):
            raise
        return None


def annotations_message(pair: MatchedPair, header: Header, messages: ModuleType) -> Any:
    """Return what is to be drawn on the current image of a pair.

    Keypoints are ``POINTS``. Matches are a ``LINE_LIST`` with a segment for each match, from the place in the reference
    image (previous, left, stored) to the place in the current one. With a geometric check, inliers are blue and
    outliers, in a list of their own, vermilion, as everywhere (:mod:`semantic_matcher_core.viz.palette`).

    Args:
        pair: frames with their matches.
        header: the current image's; its stamp is what Foxglove synchronises with.
        messages: :func:`foxglove_messages`.
    """
    kinds = messages.PointsAnnotation
    matches = pair.matches
    segments = np.stack([_corner(matches.keypoints0), _corner(matches.keypoints1)], axis=1)
    drawn = [_points(messages, header, kinds.POINTS, _corner(pair.current.features.keypoints[0]), _KEYPOINT)]
    if matches.inlier is None:
        parts = [(segments, _MATCH)]
    else:
        inlier = matches.inlier.cpu().numpy().astype(bool)
        parts = [(segments[~inlier], _OUTLIER), (segments[inlier], _INLIER)]
    drawn += [_points(messages, header, kinds.LINE_LIST, p.reshape(-1, 2), colour) for p, colour in parts if len(p)]
    message = messages.ImageAnnotations(points=drawn)
    if hasattr(message, "timestamp"):
        # Newer releases have one stamp for all, which comes before those of the parts.
        message.timestamp = header.stamp
    return message


def _corner(keypoints: Any) -> np.ndarray:
    return keypoints.cpu().numpy().astype(np.float64) + _CENTRE_TO_CORNER


def _points(messages: ModuleType, header: Header, kind: int, xy: np.ndarray, colour: _Colour) -> Any:
    point, shade = messages.Point2, messages.Color(**vars(colour))
    return messages.PointsAnnotation(
        timestamp=header.stamp,
        type=kind,
        points=[point(x=x, y=y) for x, y in xy.tolist()],
        outline_color=shade,
        # Foxglove fills points, and strokes lines.
        fill_color=shade if kind == messages.PointsAnnotation.POINTS else messages.Color(),
        thickness=_KEYPOINT_SIZE_PX if kind == messages.PointsAnnotation.POINTS else _LINE_WIDTH_PX,
    )
