"""One extracted scene on disk: ``color/<id>.jpg``, ``depth/<id>.png``, ``poses/<id>.txt``, ``intrinsics/*.txt``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semantic_matcher_core.io.depth import read_depth
from semantic_matcher_core.io.images import read_image
from training.errors import DataError

DEPTH_UNITS_PER_METRE = 1000.0


class Scene:
    """Frames of a scene by their number in the recording.

    Args:
        folder: the scene's folder, e.g. ``scans/scene0000_00``.

    Raises:
        DataError: it was not extracted (whole): ``intrinsics`` is written last.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = self.folder.name
        if not (self.folder / "intrinsics" / "intrinsic_color.txt").is_file():
            raise DataError(f"{self.folder} is not extracted; run `python -m training.scannet extract` first")
        self.ids = sorted(int(path.stem) for path in (self.folder / "color").glob("*.jpg"))
        if not self.ids:
            raise DataError(f"{self.folder}/color has no .jpg files")
        self.intrinsics = self._matrix(self.folder / "intrinsics" / "intrinsic_color.txt")[:3, :3]

    def colour(self, frame: int) -> np.ndarray:
        """Return ``H x W x 3`` uint8 RGB."""
        return read_image(self.folder / "color" / f"{frame}.jpg", orientation="stored")

    def depth(self, frame: int) -> np.ndarray:
        """Return ``h x w`` float32 metres at the depth camera's size, 0 where nothing was measured."""
        return read_depth(self.folder / "depth" / f"{frame}.png", units_per_metre=DEPTH_UNITS_PER_METRE)

    def pose(self, frame: int) -> np.ndarray:
        """Return ``4 x 4`` float32 camera to world, metres; not finite where tracking was lost."""
        return self._matrix(self.folder / "poses" / f"{frame}.txt")

    def image_key(self, frame: int) -> str:
        """Return the published key of an image: its path below the data folder, ``/`` being ``_`` in HDF5 files."""
        return "/".join([*self.folder.parts[-2:], "color", f"{frame}.jpg"])

    def _matrix(self, path: Path) -> np.ndarray:
        try:
            matrix = np.loadtxt(path, dtype=np.float32)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is missing or no 4 x 4 matrix") from error
        if matrix.shape != (4, 4):
            raise DataError(f"{path} holds a {matrix.shape} matrix, expected 4 x 4")
        return matrix
