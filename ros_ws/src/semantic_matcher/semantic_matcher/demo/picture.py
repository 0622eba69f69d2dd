"""The picture that the demo leaves: a pair of images with its matches, for each matcher. No ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semantic_matcher.demo.evaluation import Match


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of images.

    Attributes:
        title: what stands above it (ASCII).
        topics: topics of the reference and the current image in the recording.
        match: the matches of the pair.
        good: ``M`` bool, drawn blue; the others vermilion.
    """

    title: str
    topics: tuple[str, str]
    match: Match
    good: np.ndarray


def write_picture(path: Path, recording: Path, panels: list[Panel]) -> None:
    """Draw the panels below one another into a PNG file.

    Args:
        path: the PNG file.
        recording: MCAP file with the images, as CompressedImage on ``<topic>/compressed``.
        panels: what to draw.

    Raises:
        BagError, ImageError, OutputError: images cannot be read, or the file cannot be written.
    """
    import cv2
    import torch

    from semantic_matcher_core.io.images import write_image
    from semantic_matcher_core.types import Matches
    from semantic_matcher_core.viz.matches import draw_matches

    rows = []
    for panel in panels:
        match = panel.match
        stamps = (match.reference_stamp_ns, match.stamp_ns)
        images = _images(recording, dict.fromkeys(zip(panel.topics, stamps, strict=True)))
        count = len(match.points0)
        matches = Matches(
            torch.arange(count)[:, None].expand(-1, 2),
            torch.from_numpy(match.points0),
            torch.from_numpy(match.points1),
            torch.from_numpy(match.confidence),
            inlier=torch.from_numpy(panel.good),
        )
        first, second = (images[key] for key in zip(panel.topics, stamps, strict=True))
        rows.append(draw_matches(first, second, matches, title=panel.title, height=480, max_lines=120))
    width = max(row.shape[1] for row in rows)
    padded = [cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT) for row in rows]
    write_image(path, np.concatenate(padded))


def _images(recording: Path, wanted: dict[tuple[str, int], None]) -> dict[tuple[str, int], np.ndarray]:
    """Return images by topic and stamp."""
    from semantic_matcher_core.io.bags import BagReader

    found = {}
    with BagReader(recording) as bag:
        for image in bag.images(sorted({f"{topic}/compressed" for topic, _ in wanted})):
            key = (image.topic.removesuffix("/compressed"), image.stamp_ns)
            if key in wanted:
                found[key] = image.decode()
    return found
