"""Registration of a video file: a video of what came of it, and the figures of each frame."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from semantic_matcher_core.errors import ConfigError, RegistrationError
from semantic_matcher_core.io.atomic import atomic_output, check_output
from semantic_matcher_core.io.video import VideoWriter, read_video, video_info
from semantic_matcher_core.registration.config import RegistrationConfig
from semantic_matcher_core.registration.figures import CSV_COLUMNS, FrameFigures, VideoSummary
from semantic_matcher_core.registration.frames import FrameRegistration, register_frames
from semantic_matcher_core.registration.smoothing import OneEuroFilter
from semantic_matcher_core.registration.template import ImageMatcher, Template
from semantic_matcher_core.viz.registration import draw_registration

# Where a file does not say how fast it plays.
_USUAL_FPS = 25.0


def register_video(
    matcher: ImageMatcher,
    video: str | Path,
    output: str | Path,
    *,
    template: Template | None = None,
    mask: np.ndarray | None = None,
    csv_path: str | Path | None = None,
    smoothing: OneEuroFilter | None = None,
    every: int = 1,
    height: int = 360,
    config: RegistrationConfig | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> VideoSummary:
    """Register a video file; what it writes appears whole, when all is done.

    Args:
        video: the file; its first frame is the template unless one is given.
        output: a video of four panels, see :func:`~semantic_matcher_core.viz.registration.draw_registration`.
        template, mask, smoothing, config: see :func:`~semantic_matcher_core.registration.frames.register_frames`.
        csv_path: where the figures of each frame go, see :class:`FrameFigures`.
        every: take each ``every``-th frame.
        height: pixels of the panels.
        progress: called with the number of frames done.

    Returns:
        Means over the frames; the template itself, where it is one of them, is left out.

    Raises:
        ImageError: no such video, or none of its frames decodes.
        RegistrationError: too little texture in the template, or no frame shows it.
        OutputError: an output cannot be written.
    """
    if every < 1:
        raise ConfigError(f"every must be a whole number from 1 up, got {every}")
    if csv_path is not None:
        check_output(Path(csv_path))
    figures: list[FrameFigures] = []
    problem = ""
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(output, (video_info(video).fps or _USUAL_FPS) / every))
        rows = None
        if csv_path is not None:
            path = stack.enter_context(atomic_output(csv_path))
            rows = csv.writer(stack.enter_context(path.open("w", newline="", encoding="utf-8")))
            rows.writerow(CSV_COLUMNS)
        results = register_frames(
            matcher, read_video(video, every=every), template=template, mask=mask, smoothing=smoothing, config=config
        )
        for done, result in enumerate(results, start=1):
            row = result.figures()
            writer.write(_picture(result, row, height))
            if rows is not None:
                rows.writerow(row.row())
            if not result.is_template:
                figures.append(row)
                problem = result.problem or problem
            progress(done)
        summary = VideoSummary.of(figures)
        if summary.frames and not summary.registered:
            raise RegistrationError(f"none of {summary.frames} frames of {video} could be registered: {problem}")
    return summary


def _picture(result: FrameRegistration, row: FrameFigures, height: int) -> np.ndarray:
    caption = f"frame {row.frame}: not registered"
    if row.registered:
        caption = (
            f"frame {row.frame}: {row.inliers} of {row.matches} matches, grey error {row.error_before:.1f} -> "
            f"{row.error:.1f}, coverage {row.coverage:.0%}"
        )
    template, image = result.template.image, result.frame.image
    return draw_registration(template, image, result.agreement, result.lattice, summary=caption, height=height)
