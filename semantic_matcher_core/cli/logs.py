"""What the terminal hears: our own messages, and not the chatter of decoders."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Silence OpenCV and FFmpeg, who complain of a damaged file beside our own error; to be called before cv2 comes."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def show_own_logs() -> None:
    """Print what the library logs (downloads, licences) on stderr, as plain lines."""
    logger = logging.getLogger("semantic_matcher_core")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
