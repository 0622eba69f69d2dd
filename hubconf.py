"""Entry points for ``torch.hub``.

import torch
model = torch.hub.load("<owner>/<repository>", "reasoning", pretrained="xfeat")
matches = model.match({"image0": image0, "image1": image1})  # B x C x H x W in [0, 1]
matches["matches0"][0], matches["matches1"][0]  # N x 2 (x, y) each
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semantic_matcher_core.compat import Reasoning

dependencies = ["cv2", "kornia", "numpy", "safetensors", "torch", "yaml"]


def reasoning(pretrained: str = "xfeat", **options: Any) -> Reasoning:
    """Descriptor reasoning (Cadar et al., ACCV 2024) with published weights, in the published calling convention.

    What is not on this machine yet is downloaded into semantic_matcher's own cache (``SEMANTIC_MATCHER_HOME``), and
    checked. ``model.matcher`` is the :class:`~semantic_matcher_core.SemanticMatcher` inside.

    Args:
        pretrained: one of :func:`semantic_matcher_core.list_variants`.
        options: of :class:`semantic_matcher_core.compat.Reasoning`, e.g. ``dev="cuda"``, or ``fetch=False`` for no
            download.

    Raises:
        UnknownNameError: no such variant; the message lists those that exist.
        WeightsNotFoundError, DownloadError, LicenseNotAcceptedError, CheckpointError: weights cannot be had or used.
    """
    from semantic_matcher_core.compat import Reasoning, load_reasoning_from_checkpoint
    from semantic_matcher_core.loading import checkpoint_folder

    fetch = options.pop("fetch", True)
    folder = checkpoint_folder(pretrained, weights=options.get("weights"), fetch=fetch)
    return Reasoning(load_reasoning_from_checkpoint(folder)["model"], fetch=fetch, **options)
