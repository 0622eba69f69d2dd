"""The colours of everything that is drawn; each means one thing, in pictures, reports, RViz and Foxglove alike.

    - **blue**: an inlier, a match that the geometric check agrees with;
    - **vermilion**, and a cross instead of a dot: an outlier;
    - **dark blue to yellow** (cividis): how much of something, above all the similarity of a match: yellow is most;
    - **grey**: a keypoint without a match, or what is only there for orientation.

Blue and vermilion are those of Okabe and Ito (2008); cividis is Nuñez, Anderton and Renslow's (PLOS ONE 13(7), 2018).
Both stay apart for people who see no red or no green, which a test checks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

INLIER: Colour = (86, 180, 233)
OUTLIER: Colour = (213, 94, 0)
KEYPOINT: Colour = (170, 178, 190)
# Points out one thing that the picture is about: a chosen keypoint, the edge of what is supported.
MARK: Colour = (255, 255, 255)
HALO: Colour = (0, 0, 0)
# The dark end of cividis is left out: on a dark picture it could not be seen.
_LEAST, _MOST = 0.18, 1.0


@dataclass(frozen=True)
class Theme:
    """What surrounds a picture.

    Attributes:
        background, text, faint: RGB of the surroundings, of text, and of text that matters less.
    """

    background: Colour
    text: Colour
    faint: Colour


THEMES = {
    "dark": Theme((24, 26, 30), (236, 238, 242), (158, 164, 174)),
    "light": Theme((255, 255, 255), (27, 31, 36), (92, 100, 112)),
}


def amount_colours(share: np.ndarray) -> np.ndarray:
    """Colour amounts, from dark blue (0) to yellow (1).

    Args:
        share: numbers of any shape; what is outside 0 to 1, or no number, is clipped (to 0).

    Returns:
        uint8 RGB of that shape and one axis more.

    Example:
        >>> amount_colours(np.array([0.0, 1.0])).tolist()
        [[47, 66, 109], [254, 232, 56]]
    """
    share = np.clip(np.nan_to_num(np.asarray(share, np.float64)), 0, 1)
    if not share.size:
        return np.zeros((*share.shape, 3), np.uint8)
    levels = np.round((_LEAST + share * (_MOST - _LEAST)) * 255).astype(np.uint8)
    return cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_CIVIDIS)[:, 0, ::-1].reshape(*share.shape, 3)


def amount(share: float) -> Colour:
    """Return the colour of one amount."""
    red, green, blue = amount_colours(np.array(share)).tolist()
    return red, green, blue
