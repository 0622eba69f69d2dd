"""What became of a template in an image, made into messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Point
from semantic_matcher_msgs.msg import TemplateTrack
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from semantic_matcher.messages import set_array
from semantic_matcher_core.registration.lattice import lattice_points_of, resampled
from semantic_matcher_core.viz import palette

if TYPE_CHECKING:
    from std_msgs.msg import Header

    from semantic_matcher_core.registration import FrameRegistration
    from semantic_matcher_core.registration.pair import Agreement

_LINE_WIDTH_PX = 1.5
_KNOWN, _EXTRAPOLATED = (
    ColorRGBA(r=red / 255, g=green / 255, b=blue / 255, a=opacity)
    for (red, green, blue), opacity in ((palette.INLIER, 1.0), (palette.KEYPOINT, 0.5))
)


def track_message(result: FrameRegistration, name: str, header: Header, columns: int) -> TemplateTrack:
    """Return where the template is; see ``TemplateTrack.msg``.

    Args:
        result: of the image that ``header`` is of.
        name: what the template is called.
        columns: points across of the grid; rows follow from the template's shape.
    """
    height, width = result.template.features.image_size
    message = TemplateTrack(
        header=header,
        template_name=name,
        template_width=width,
        template_height=height,
        matches=len(result.matches),
    )
    if result.fit is None or result.agreement is None:
        return message
    grid, known = _grid(result, columns)
    message.tracked = True
    message.confidence = confidence_of(result.agreement)
    message.inliers = result.fit.inliers
    message.residual_px = result.fit.residual_px
    message.error = result.agreement.error if np.isfinite(result.agreement.error) else 0.0
    message.coverage = result.agreement.coverage
    message.rows, message.columns = grid.shape[:2]
    set_array(message, "xy", grid, "f")
    set_array(message, "known", known, "B")
    return message


def confidence_of(agreement: Agreement | None) -> float:
    """Return the correlation of template and rectified image, from 0 to 1; 0 where the template was not found."""
    if agreement is None or not np.isfinite(agreement.correlation):
        return 0.0
    return float(np.clip(agreement.correlation, 0.0, 1.0))


def grid_marker(result: FrameRegistration, header: Header, columns: int, metres_per_pixel: float) -> Marker:
    """Return the grid as lines in the image plane, x right and y down in the frame of ``header``; a deletion where not
    found.

    Lines where the map is known are blue, as inliers are, the others grey.
    """
    marker = Marker(header=header, ns="template", id=0, type=Marker.LINE_LIST)
    if result.fit is None:
        marker.action = Marker.DELETE
        return marker
    marker.action = Marker.ADD
    marker.pose.orientation.w = 1.0
    marker.scale.x = _LINE_WIDTH_PX * metres_per_pixel
    grid, known = _grid(result, columns)
    points = [[Point(x=float(x), y=float(y), z=0.0) for x, y in row] for row in grid * metres_per_pixel]
    rows, across = grid.shape[:2]
    ends = [((r, c), (r, c + 1)) for r in range(rows) for c in range(across - 1)]
    ends += [((r, c), (r + 1, c)) for r in range(rows - 1) for c in range(across)]
    for first, second in ends:
        colour = _KNOWN if known[first] and known[second] else _EXTRAPOLATED
        marker.points += [points[first[0]][first[1]], points[second[0]][second[1]]]
        marker.colors += [colour, colour]
    return marker


def _grid(result: FrameRegistration, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``R x C x 2`` pixels of the image, and ``R x C`` bool: where the map is known."""
    assert result.lattice is not None and result.agreement is not None
    size = result.template.features.image_size
    rows = max(2, round((columns - 1) * (size[0] - 1) / max(1, size[1] - 1)) + 1)
    x, y = np.round(lattice_points_of(size, rows, columns)).astype(int).transpose(2, 0, 1)
    return resampled(result.lattice, rows, columns), result.agreement.support[y, x]
