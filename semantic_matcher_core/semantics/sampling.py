"""Semantic features at keypoints.

Convention:
    Keypoints are (x, y) pixel indices of the image as given: (0, 0) is the *centre* of the top-left pixel, so the
    image covers -0.5 … W - 0.5. The map's cells tile the image the encoder saw; ``grid_sample`` with
    ``align_corners=False`` puts -1 and +1 at the outer edges of the outermost cells. There are two ways from one to
    the other:

    - ``"exact"``: ``2 (kp + 0.5) / size - 1`` on each axis. The centre of a pixel is where it is, whatever the size.
    - ``"published"``: ``2 kp s / (patch * cells) - 1`` with one scale s, resized height over height, for both axes.
      It takes the pixel index for a distance from the image's edge, which is half a pixel too far left and up. It
      also forgets that the resize to multiples of the patch squeezes the image: of 1296 x 968, made 896 x 669 and
      then 896 x 658, the point sampled is 669 / 658 - 1 = 1.7 % of its y too far down. Weights trained with that
      want it.

    Where ``"published"`` samples the last pixel's keypoint (W - 1, H - 1), in pixels of the image as given, less where
    it is: 640 x 480 (-0.5, -0.5), as for every size that resizes to multiples without rounding; 1296 x 968
    (-1.0, +15.7); 641 x 480 (-1.4, +8.2); 1242 x 375 (-2.9, +5.1); 33 x 97 (+0.7, -0.5). ``"exact"``: 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semantic_matcher_core.constants import constant
from semantic_matcher_core.errors import ShapeError, check_choice
from semantic_matcher_core.semantics.interpolation import sample_points
from semantic_matcher_core.settings import REGISTRATIONS

INTERPOLATION_MODES = ("bicubic", "bilinear", "nearest")


def sample_at_keypoints(
    feature_map: Tensor,
    keypoints: Tensor,
    image_size: tuple[int, int],
    *,
    patch_size: int,
    scale: float,
    registration: str,
    mode: str = "bicubic",
) -> Tensor:
    """Return features of a map at keypoints, L2-normalised.

    What lies outside the map counts as zero, and a keypoint with nothing but that under it gets a zero vector.

    Args:
        feature_map: ``B x C x h x w``, one vector per patch.
        keypoints: ``B x N x 2`` (x, y) in pixels of the image as given.
        image_size: ``(H, W)`` of the image as given.
        patch_size: side of a patch in pixels of the resized image.
        scale: second result of :func:`~semantic_matcher_core.semantics.resize_for_encoder`; not used by ``"exact"``.
        registration: ``"exact"`` or ``"published"``, see the module's convention.
        mode: ``"bicubic"``, ``"bilinear"`` or ``"nearest"``.

    Returns:
        ``B x N x C`` in the dtype of ``keypoints``.

    Raises:
        ConfigError: ``registration`` or ``mode`` is unknown.
        ShapeError: shapes are not as above or batch sizes differ.
    """
    check_choice("registration", registration, REGISTRATIONS)
    check_choice("interpolation mode", mode, INTERPOLATION_MODES)
    if feature_map.ndim != 4:
        raise ShapeError(f"feature_map must be B x C x h x w, got {tuple(feature_map.shape)}")
    if keypoints.ndim != 3 or keypoints.shape[-1] != 2 or keypoints.shape[0] != feature_map.shape[0]:
        raise ShapeError(f"keypoints must be {feature_map.shape[0]} x N x 2 like the map, got {tuple(keypoints.shape)}")
    if registration == "exact":
        height, width = image_size
        grid = 2 * (keypoints + 0.5) / constant((width, height), keypoints) - 1
    else:
        rows, columns = feature_map.shape[-2:]
        grid = 2 * (keypoints * scale / (constant((columns, rows), keypoints) * patch_size)) - 1
    # The map follows the positions' dtype: half precision has no pixels to spare.
    sampled = sample_points(feature_map.to(grid.dtype), grid, mode)
    if sampled.requires_grad:
        return F.normalize(sampled, dim=-1)
    # The same in place: memory that is new costs more than the division.
    return sampled.div_(torch.linalg.vector_norm(sampled, dim=-1, keepdim=True).clamp_(min=1e-12))
