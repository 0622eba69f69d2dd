"""The calling convention of verlab/DALF_CVPR_2023, for code that moves over.

    from semantic_matcher_core.compat import DALF

    dalf = DALF()
    keypoints, descriptors = dalf.detectAndCompute(image)  # list of cv2.KeyPoint, N x 128 float32

Same image, same weights: the same numbers, plateaus and border included. What differs:

- Weights that are not here are an error with the command that fetches them; nothing is downloaded unless
  ``fetch=True``, and checkpoints are read without running code in them. Their tensors say which mode they were trained
  in, whatever the file is called.
- Any number of keypoints works: with none the list is empty and the descriptors are 0 x 128.
- A path that cannot be read raises :class:`~semantic_matcher_core.errors.ImageError`.
- With ``MS``, keypoints lie at ``(k + 0.5) / scale - 0.5``, where the published code has ``k / scale``; they are sorted
  by response over all scales; and the map is that of the image as given, not that of the smallest scale.
- ``mask`` is heeded.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.dalf import Dalf

# What the published code gives every keypoint.
_SIZE, _ANGLE = 6.0, 0.0


class DALF:
    """The published extractor.

    Args:
        model: a weights file, or a folder to search before the usual places; ``None`` for the usual places.
        dev: where to run.
        fixed_tps: sample patches on the undeformed polar grid.
        fetch: download weights that are not here.

    Raises:
        WeightsNotFoundError: weights are not here; the message has the command that fetches them.
        CheckpointError: the file is no DALF checkpoint.
        DeviceError: there is no such device.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        dev: str | torch.device = "cpu",
        fixed_tps: bool = False,
        *,
        fetch: bool = False,
    ) -> None:
        self.dev = resolve_device(dev)
        extractor = create_extractor(
            "dalf", weights=model, device=self.dev, fetch=fetch, remove_borders=0, margin=None, max_side=None
        )
        assert isinstance(extractor, Dalf)
        self.net = extractor
        if fixed_tps:
            self.net.tps_net.basis.zero_()

    def detectAndCompute(
        self,
        og_img: np.ndarray | str | Path,
        mask: np.ndarray | None = None,
        top_k: int = 2048,
        return_map: bool = False,
        threshold: float = 25.0,
        MS: bool = False,
    ) -> tuple[list[cv2.KeyPoint], np.ndarray] | tuple[list[cv2.KeyPoint], np.ndarray, np.ndarray]:
        """Return keypoints and descriptors of one image.

        Args:
            og_img: ``H x W x 3`` or ``H x W`` uint8 (RGB or BGR, of which only the mean counts), or a path.
            mask: ``H x W``, zero where no keypoints are wanted.
            top_k: keep at most this many, the best by heat.
            return_map: give the heat map as well.
            threshold: least heat of a keypoint.
            MS: look at 1/6, 1/4 and 1/2 of the size, too.

        Returns:
            Keypoints (their response is the heat, divided by the largest), ``N x D`` float32 descriptors, and with
            ``return_map`` the ``H x W`` heat map.

        Raises:
            ImageError: the image or the mask cannot be used.
        """
        found = self.net.detectAndCompute(
            og_img, mask, top_k=top_k, threshold=threshold, return_map=return_map, multi_scale=MS
        )
        for keypoint in found[0]:
            keypoint.size, keypoint.angle = _SIZE, _ANGLE
        return found

    def detect(self, img: np.ndarray | str | Path) -> list[cv2.KeyPoint]:
        """Return the keypoints alone."""
        return self.detectAndCompute(img)[0]
