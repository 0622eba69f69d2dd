"""From a ``.sens`` recording to a scene folder, every 15th frame as published."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from training.errors import DataError
from training.scannet.sens import SensFile, SensFrame

EVERY = 15
_PARTS = ("color", "depth", "poses", "intrinsics")


def is_extracted(folder: Path) -> bool:
    """Return whether a scene's folder is complete: ``intrinsics`` is moved into place last."""
    return (folder / "intrinsics").is_dir()


def extract_scene(sens_path: str | Path, every: int = EVERY) -> int:
    """Extract a recording into its own folder; how many frames.

    JPEG colour is copied as recorded, not compressed again. Everything is written to a hidden folder and moved when
    complete, so that an interrupted run leaves nothing that looks finished.

    Raises:
        DataError: the recording is damaged; nothing is left.
    """
    sens_path = Path(sens_path)
    folder = sens_path.parent
    work = folder / ".extracting"
    shutil.rmtree(work, ignore_errors=True)
    try:
        for part in _PARTS:
            (work / part).mkdir(parents=True)
        count = 0
        with SensFile(sens_path) as sens:
            for frame in sens.frames(every):
                _write_frame(work, sens, frame)
                count += 1
            for name, matrix in (
                ("intrinsic_color", sens.header.intrinsic_colour),
                ("extrinsic_color", sens.header.extrinsic_colour),
                ("intrinsic_depth", sens.header.intrinsic_depth),
                ("extrinsic_depth", sens.header.extrinsic_depth),
            ):
                np.savetxt(work / "intrinsics" / f"{name}.txt", matrix, fmt="%f")
        for part in _PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
            (work / part).rename(folder / part)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return count


def _write_frame(work: Path, sens: SensFile, frame: SensFrame) -> None:
    if sens.header.colour_compression == "jpeg":
        sens.colour(frame)  # raises where it cannot be decoded
        (work / "color" / f"{frame.index}.jpg").write_bytes(frame.colour)
    else:
        _save(work / "color" / f"{frame.index}.jpg", cv2.cvtColor(sens.colour(frame), cv2.COLOR_RGB2BGR))
    _save(work / "depth" / f"{frame.index}.png", sens.depth(frame))
    np.savetxt(work / "poses" / f"{frame.index}.txt", frame.pose, fmt="%f")


def _save(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image):
        raise DataError(f"{path} cannot be written")
