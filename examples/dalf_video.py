"""Register a video of a bending surface onto its first frame, with DALF.

    python examples/dalf_video.py video.mp4 -o registered.mp4 --every 4
    python examples/dalf_video.py                    # a waving photograph that this script makes itself

With --fetch it downloads the weights, once. The same from a shell: semantic-matcher register video.mp4 -o out.mp4
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

import semantic_matcher_core as smc
from semantic_matcher_core.errors import SemanticMatcherError
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.io.video import VideoWriter
from semantic_matcher_core.registration import register_video

PHOTOGRAPH = Path(__file__).parents[1] / "ros_ws/src/semantic_matcher/semantic_matcher/demo/grace_hopper.jpg"


def waving_photograph(path: Path, frames: int = 12) -> None:
    """Write a video of a photograph (the demo's), waving like a flag."""
    flat = read_image(PHOTOGRAPH)
    y, x = np.mgrid[: flat.shape[0], : flat.shape[1]].astype(np.float32)
    with VideoWriter(path, fps=10) as writer:
        for frame in range(frames):
            height = 14 * math.sin(2 * math.pi * frame / frames)
            dx, dy = (height * np.sin(axis / 60 + frame / 3) for axis in (y, x))
            writer.write(cv2.remap(flat, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("registered.mp4"))
    parser.add_argument("--every", type=int, default=1, help="take each N-th frame")
    parser.add_argument("--weights", type=Path, help="a folder to search for weights first")
    parser.add_argument("--fetch", action="store_true", help="download weights that are not here")
    args = parser.parse_args()

    matcher = smc.SemanticMatcher.from_pretrained("plain:dalf", weights=args.weights, fetch=args.fetch)
    figures = args.output.with_suffix(".csv")
    with tempfile.TemporaryDirectory() as folder:
        video = args.video
        if video is None:
            video = Path(folder) / "waving.avi"
            waving_photograph(video)
        summary = register_video(
            matcher,
            video,
            args.output,
            csv_path=figures,
            every=args.every,
            progress=lambda done: print(f"\r{done} frames", end="", flush=True),
        )
    print(f"\n{summary.registered} of {summary.frames} frames registered, {summary.inliers:.0f} inliers on average")
    print(f"mean grey-level difference to the template {summary.error_before:.1f} before, {summary.error:.1f} after")
    print(f"wrote {args.output} and {figures}")


if __name__ == "__main__":
    try:
        main()
    except SemanticMatcherError as error:
        sys.exit(f"error: {error}")
